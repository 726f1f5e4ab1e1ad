"""Likeness of molecules: Tanimoto similarity of Morgan fingerprints, radius 2, 2,048 bits (Rogers and Hahn 2010)."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from pgdlab.molecules import qm9
from pgdlab.molecules.reference import scattered, stored

RADIUS, BITS = 2, 2048
LOOKED_AT = 200  # molecules whose nearest training molecule is looked for: their mean is known to about 0.01


@functools.cache
def generator(radius: int = RADIUS, size: int = BITS) -> Any:
    """RDKit's generator of Morgan fingerprints. radius: in bonds; size: in bits."""
    return rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=size)


@functools.lru_cache(maxsize=200_000)
def bits(smiles: str) -> tuple[int, ...]:
    """The bits that are set, of a SMILES that RDKit reads."""
    return tuple(generator().GetFingerprint(Chem.MolFromSmiles(smiles)).GetOnBits())


def internal_diversity(smiles: Sequence[str]) -> float:
    """1 - mean Tanimoto similarity over all pairs of different molecules (Benhenda 2017, arXiv:1708.08227)."""
    dense = np.zeros((len(smiles), BITS), np.float32)
    for row, one in zip(dense, smiles, strict=True):
        row[list(bits(one))] = 1
    both, size = dense @ dense.T, dense.sum(1)
    similarity = both / (size[:, None] + size[None] - both)
    pairs = len(smiles) * (len(smiles) - 1)
    return float(1 - (similarity.sum(dtype=np.float64) - len(smiles)) / pairs)


class Training(NamedTuple):
    """The training molecules by their bits. rows: a sparse (2048, N) matrix; size: bits of each; smiles: of each."""

    rows: Any
    size: Float[Any, " N"]
    smiles: Any


@functools.cache
def training() -> Training:
    """All distinct training molecules (10 s, once). Raises ValueError where the data cannot be read."""
    from scipy.sparse import csr_matrix

    graphs = qm9.load()
    smiles = np.unique(graphs.smiles[qm9.split(graphs.smiles)["train"]])

    def make() -> dict[str, Any]:
        each = [generator().GetFingerprint(Chem.MolFromSmiles(s)).GetOnBits() for s in smiles]
        return {"bits": np.concatenate(each).astype(np.uint16), "size": np.array([len(x) for x in each], np.uint8)}

    found = stored("qm9_train_fingerprints", make)
    start = np.concatenate([[0], np.cumsum(found["size"], dtype=np.int64)])
    matrix = csr_matrix((np.ones(start[-1], np.uint8), found["bits"].astype(np.int32), start), (len(smiles), BITS))
    return Training(matrix.T.tocsr(), found["size"].astype(np.float32), smiles)


def readable() -> bool:
    """Whether training() has the data. Where their package is there but cannot be read, one warning says why."""
    return qm9.has_data() and readable_once()


@functools.cache
def readable_once() -> bool:
    """Tries it."""
    try:
        training()
    except (OSError, ValueError) as error:
        warnings.warn(f"figures of the nearest training molecules are left out: {error}", stacklevel=2)
        return False
    return True


@functools.lru_cache(maxsize=200_000)
def nearest(smiles: str) -> tuple[float, str]:
    """Tanimoto similarity to the nearest training molecule, and its SMILES. Only where the data are readable()."""
    data, own = training(), list(bits(smiles))
    both = np.bincount(data.rows[own].indices, minlength=len(data.size)).astype(np.float32)
    similarity = both / (data.size + len(own) - both)
    best = int(similarity.argmax())
    return float(similarity[best]), str(data.smiles[best])


def mean_nearest(smiles: Sequence[str], most: int = LOOKED_AT) -> float:
    """The mean similarity of nearest() over the first `most`."""
    return float(np.mean([nearest(one)[0] for one in smiles[:most]]))


@functools.cache
def nearest_of_data() -> float:
    """mean_nearest() of 2,000 test molecules, which no base was trained on."""
    found = stored("qm9_test_nearest", lambda: {"mean": np.array(mean_nearest(scattered(), 2000))})
    return float(found["mean"])
