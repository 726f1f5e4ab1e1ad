"""The parts of QM9 that ship: an index of the molecules that were trained on, and a sample of those that were not."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from pgdlab.config.program import program
from pgdlab.molecules import qm9
from pgdlab.molecules.batch import SYMBOLS, Molecules
from pgdlab.molecules.elements import Source
from pgdlab.molecules.index import Known, keys

ASSETS = Path(__file__).parent.parent / "domains" / "assets" / "qm9"
INDEX, REFERENCE = "train_index.npy", "test_sample.smi"
SAMPLE = 5000  # test molecules kept as SMILES, for metrics and panels


def write(folder: Path = ASSETS) -> None:
    """Writes the index of the training split and the sample of the test split. Needs the data package."""
    graphs = qm9.load()
    rows = qm9.split(graphs.smiles)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / INDEX, np.unique(keys(graphs.smiles[rows["train"]])))
    distinct = np.unique(graphs.smiles[rows["test"]])
    chosen = np.sort(np.random.default_rng(1).permutation(len(distinct))[:SAMPLE])
    (folder / REFERENCE).write_text("\n".join(distinct[chosen]) + "\n")


@functools.cache
def training_set() -> Known:
    """The index that ships. Raises ValueError where it is missing."""
    return Known(np.load(_file(INDEX)))


@functools.cache
def test_sample() -> tuple[str, ...]:
    """Canonical SMILES of distinct molecules that no base was trained on."""
    return tuple(_file(REFERENCE).read_text().split())


def _file(name: str) -> Path:
    if not (ASSETS / name).is_file():
        raise ValueError(f"{ASSETS / name} is missing: make it with `{program()} task=molecules`")
    return ASSETS / name


QM9 = Source("qm9", SYMBOLS, qm9.ATOMS, training_set, test_sample)


def source_of(molecules: Molecules) -> Source:
    """What a batch is compared with: QM9, unless it says otherwise."""
    return molecules.source or QM9
