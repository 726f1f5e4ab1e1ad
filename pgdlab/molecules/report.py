"""Files that a run on molecules leaves: panels, a table, conformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from pgdlab.molecules import tables
from pgdlab.molecules.batch import Molecules
from pgdlab.molecules.panels import panels
from pgdlab.rollout.trajectory import Samples


def report(decode: Callable[[Tensor], Molecules], groups: dict[str, Samples], folder: Path) -> list[Path]:
    """properties.png (the data and all groups), molecules.csv (every sample of all groups) and conformers.sdf (valid
    molecules of the last group)."""
    molecules = {name: decode(group.sample) for name, group in groups.items()}
    rows = []
    for name, group in groups.items():
        rows += [a | b for a, b in zip(numbered(name, group), tables.rows(molecules[name]), strict=True)]
    conformers = folder / "conformers.sdf"
    written, failed = tables.write_sdf(list(molecules.values())[-1], conformers)
    left = f"; {failed} could not be embedded" if failed else ""
    print(f"{written} conformers in {conformers}{left}; properties in {folder / 'molecules.csv'}")
    return [panels(molecules, folder / "properties.png"), tables.write_csv(rows, folder / "molecules.csv"), conformers]


def numbered(name: str, group: Samples) -> list[dict[str, Any]]:
    """The first columns: policy, sample (the same number is the same noise), condition, and reward where it is known."""
    reward: list[Any] = [None] * len(group.cond) if group.reward is None else group.reward.tolist()
    cells = enumerate(zip(group.cond.tolist(), reward, strict=True))
    return [
        {"policy": name, "sample": i, "cond": c, "reward": None if r is None or r != r else round(r, 6)}
        for i, (c, r) in cells
    ]
