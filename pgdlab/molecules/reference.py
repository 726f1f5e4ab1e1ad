"""Reference figures of the data that samples are compared with, computed once and kept."""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import rdkit
from jaxtyping import Float

from pgdlab.molecules import qm9
from pgdlab.molecules.elements import Source
from pgdlab.molecules.known import QM9
from pgdlab.molecules.properties import NAMES, properties


def stored(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Arrays from <name>.npz beside the prepared data, made where it is missing or broken; not kept where it cannot be."""
    path = qm9.cache(name)
    try:
        with np.load(path, allow_pickle=False) as found:
            return dict(found)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # not there, or cut off
        arrays = make()
    qm9.keep(path, arrays)
    return arrays


@functools.cache
def held_out_properties(source: Source = QM9) -> dict[str, Float[Any, " N"]]:
    """logp, tpsa, sa, qed and weight of a source's test molecules (of QM9's 4 s, once, kept in a file)."""

    def make() -> dict[str, Any]:
        rows = [properties(s)[: len(NAMES)] for s in source.test()]
        return dict(zip(NAMES, np.array(rows).T, strict=True))

    return stored(f"qm9_test_properties_rdkit{rdkit.__version__}", make) if source is QM9 else make()


def scattered(source: Source = QM9) -> list[str]:
    """The test molecules, which are sorted, in a fixed random order."""
    order = np.random.default_rng(0).permutation(len(source.test()))
    return [source.test()[i] for i in order]
