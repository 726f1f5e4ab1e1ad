"""Public tables of people's preferences, read from files on this machine: ImageRewardDB's rankings and Pick-a-Pic's pairs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pgdlab.preferences.pairs import Answer, PairFile, Pairs

Layout = Literal["pairs", "image_reward_db", "pick_a_pic"]


def read(paths: Sequence[str], layout: Layout) -> Pairs:
    """The pairs of files. Raises ValueError where there are none, or a column is missing."""
    found = itertools.chain.from_iterable(answers(Path(path).expanduser(), layout) for path in paths)
    return Pairs.of(found, " and ".join(paths))


def answers(path: Path, layout: Layout) -> Iterable[Answer]:
    """Those of one file."""
    if layout == "pairs":
        return PairFile(path).answers()
    return {"image_reward_db": rankings, "pick_a_pic": picks}[layout](records(path), path)


def records(path: Path) -> list[dict[str, Any]]:
    """The rows of a .parquet, .json (a list) or .jsonl file."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise ValueError(f"reading {path} needs the package pyarrow: pip install pyarrow") from error
        return list(pyarrow.parquet.read_table(path).to_pylist())
    try:
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else []
        found = [json.loads(line) for line in lines] if lines else json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not read as JSON: {error}") from error
    if not (isinstance(found, list) and all(isinstance(row, dict) for row in found)):
        raise ValueError(f"{path} must hold a list of rows")
    return found


def require(rows: Sequence[dict[str, Any]], names: Sequence[str], path: Path) -> None:
    """Raises ValueError for a row that lacks a column."""
    for number, row in enumerate(rows, 1):
        for name in names:
            if row.get(name) is None:
                raise ValueError(
                    f"{path}, row {number} has no {name}; there are {', '.join(sorted(row)) or 'no columns'}"
                )


def rankings(rows: Sequence[dict[str, Any]], path: Path) -> Iterator[Answer]:
    """Of every prompt all pairs of its images; rank 1 is the best, equal ranks are ties (Xu et al. 2023, arXiv:2304.05977).
    A row an image, as in metadata-*.parquet (image_path, prompt_id, prompt, rank). A prompt with one image has no pair."""
    require(rows, ("image_path", "prompt_id", "prompt", "rank"), path)
    by_prompt: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt_id"], []).append(row)
    for images in by_prompt.values():
        for a, b in itertools.combinations(images, 2):
            better = (a["rank"] < b["rank"]) + (a["rank"] == b["rank"]) / 2
            first, second = ((path.parent / x["image_path"]).resolve() for x in (a, b))
            yield Answer(first, second, better, str(a["prompt"]))


def picks(rows: Sequence[dict[str, Any]], path: Path) -> Iterator[Answer]:
    """jpg_0 and jpg_1 (the files' bytes), caption, label_0 (1, 0, or 1/2 for a tie) of the rows with has_label (Kirstain et al.
    2023, arXiv:2305.01569)."""
    labelled = [row for row in rows if row.get("has_label", True)]
    require(labelled, ("jpg_0", "jpg_1", "caption", "label_0"), path)
    for number, row in enumerate(labelled, 1):
        share = float(row["label_0"])
        if share not in (0.0, 0.5, 1.0):
            raise ValueError(f"{path}, row {number}: label_0 is {share}; it must be 0, 0.5 or 1")
        if row["jpg_0"] != row["jpg_1"]:
            yield Answer(bytes(row["jpg_0"]), bytes(row["jpg_1"]), share, str(row["caption"]))
