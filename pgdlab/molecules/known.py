"""The parts of QM9 that ship: an index of the molecules that were trained on, and a sample of those that were not."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt64

from pgdlab.molecules import qm9

ASSETS = Path(__file__).parent.parent / "domains" / "assets" / "qm9"
INDEX, REFERENCE = "train_index.npy", "test_sample.smi"
SAMPLE = 5000  # test molecules kept as SMILES, for metrics and panels


def keys(smiles: Iterable[str]) -> UInt64[Any, " N"]:
    """64 bits of BLAKE2b of every canonical SMILES: two of 120,000 molecules agree with probability 4e-10."""
    digests = b"".join(hashlib.blake2b(s.encode(), digest_size=8).digest() for s in smiles)
    return np.frombuffer(digests, np.uint64)


class Known:
    """The training set as a sorted array of keys."""

    def __init__(self, sorted_keys: UInt64[Any, " N"]) -> None:
        self.keys = sorted_keys

    def __contains__(self, smiles: str) -> bool:
        return bool(self.contains([smiles])[0])

    def contains(self, smiles: Iterable[str]) -> Bool[Any, " N"]:
        """Which canonical SMILES (without stereo) are training molecules."""
        asked = keys(smiles)
        at = np.searchsorted(self.keys, asked).clip(max=len(self.keys) - 1)
        return self.keys[at] == asked


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
        raise ValueError(f"{ASSETS / name} is missing: make it with `python run.py task=molecules`")
    return ASSETS / name
