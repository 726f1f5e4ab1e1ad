"""Which images a folder holds: their classes (subfolders) and, where it says so, their split (train/ and test/)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
SPLITS = ("train", "test")


class File(NamedTuple):
    """An image file. name: its path inside the folder, with slashes; label: its class; split: train, test, or None where the
    folder does not say; size (bytes) and changed (nanoseconds): whether it is still the file that was read."""

    name: str
    label: int
    split: str | None
    size: int
    changed: int


class Listing(NamedTuple):
    """The image files of a folder, sorted by name, and its classes; none where there are no subfolders to name them."""

    folder: Path
    files: tuple[File, ...]
    classes: tuple[str, ...]


def listing(folder: Path) -> Listing:
    """Looks through a folder. One subfolder is no class; hidden files are not looked at.

    Raises ValueError where the folder is missing, has no image, or has images where their class cannot be told.
    """
    if not folder.is_dir():
        what = "is a file; it must be a folder of images" if folder.is_file() else "does not exist"
        raise ValueError(f"domain.path is {str(folder)!r}, which {what}")
    inside = {path.name for path in subfolders(folder)}
    parts: dict[str | None, Path] = {None: folder}
    if inside >= set(SPLITS):
        if others := sorted(inside - set(SPLITS)):
            raise ValueError(
                f"{folder} has train/ and test/, which are splits, and {', '.join(others)} beside them: leave the two alone, "
                "with the classes inside of both, or have classes only"
            )
        parts = {split: folder / split for split in SPLITS}
    found = {split: by_class(part) for split, part in parts.items()}
    classes = sorted({name for part in found.values() for name in part})
    if len(classes) > 1 and "" in classes:
        raise ValueError(
            f"{folder} has train/ and test/, but only one of them has a subfolder a class: both must, or none"
        )
    named = tuple(classes) if len(classes) > 1 else ()
    rows = [(path, classes.index(name), split) for split, part in found.items() for name in part for path in part[name]]
    files = [described(path, folder, label, split) for path, label, split in rows]
    return Listing(folder, tuple(sorted(files)), named)


def described(path: Path, folder: Path, label: int, split: str | None) -> File:
    """A file as it is now."""
    now = path.stat()
    return File(path.relative_to(folder).as_posix(), label, split, now.st_size, now.st_mtime_ns)


def subfolders(folder: Path) -> list[Path]:
    """Those that are not hidden, by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def by_class(folder: Path) -> dict[str, list[Path]]:
    """Class -> its images, however deep in the subfolder of that name; "" where there are no subfolders with images."""
    loose, nested = [], {}
    for path in folder.iterdir():
        if path.is_dir() and not path.name.startswith("."):
            nested[path.name] = images(path.rglob("*"))
        elif path in images([path]):
            loose.append(path)
    nested = {name: paths for name, paths in nested.items() if paths}
    if loose and nested:
        raise ValueError(
            f"{folder} has {len(loose)} images beside the subfolders {', '.join(sorted(nested)[:5])}, which name classes: put "
            "them into a subfolder too, or all images into one folder for no classes"
        )
    if not loose and not nested:
        raise ValueError(f"{folder} has no image ({', '.join(SUFFIXES)}); {others(folder)}")
    return nested or {"": loose}


def images(paths: Iterable[Path]) -> list[Path]:
    """Those that have an image's suffix and are not hidden."""
    return [p for p in paths if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()]


def others(folder: Path) -> str:
    """What else a folder has, in words."""
    kinds = Counter(path.suffix or path.name for path in folder.rglob("*") if path.is_file())
    shown = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))
    return f"it has {kinds.total()} other files ({shown})" if kinds else "it is empty"
