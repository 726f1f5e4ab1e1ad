"""Reference figures of the data that samples are compared with, computed once and kept."""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import rdkit
from jaxtyping import Float

from pgdlab.molecules import known, qm9
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
def test_properties() -> dict[str, Float[Any, " N"]]:
    """logp, tpsa, sa, qed and weight of the test sample that ships (4 s, once)."""

    def make() -> dict[str, Any]:
        rows = [properties(s)[: len(NAMES)] for s in known.test_sample()]
        return dict(zip(NAMES, np.array(rows).T, strict=True))

    return stored(f"qm9_test_properties_rdkit{rdkit.__version__}", make)


def scattered() -> list[str]:
    """The test sample, which is sorted, in a fixed random order."""
    order = np.random.default_rng(0).permutation(len(known.test_sample()))
    return [known.test_sample()[i] for i in order]
