"""reference.safetensors: features of real images, which the figures of an image domain are compared with."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

LEAST = 2  # rows of each class: a distance between sets wants more than one


def read_reference(path: Path, features: int, classes: int) -> dict[str, Tensor]:
    """The file's tensors, in fp32 but for the labels. features: of a row.

    Raises ValueError, which names the file, where it is damaged, lacks a part, or a part has another shape, too few rows or
    numbers that are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read ({error}): put the file back, or make it anew") from error
    for wrong in (fault(found, split, features, classes) for split in ("train", "test")):
        if wrong:
            raise ValueError(f"{path} {wrong}: put the file back, or make it anew")
    near = found.get("nearest")
    if near is None or near.ndim != 1 or not len(near) or not near.isfinite().all():
        raise ValueError(f"{path} has no list of finite distances under nearest: put the file back, or make it anew")
    return {name: x if x.dtype == torch.uint8 else x.float() for name, x in found.items()}


def fault(found: dict[str, Tensor], split: str, features: int, classes: int) -> str:
    """What is wrong with the features and labels of a split; "" for nothing."""
    rows, labels = found.get(f"{split}_features"), found.get(f"{split}_labels")
    if rows is None or labels is None:
        return f"has no {split}_features or no {split}_labels"
    if rows.ndim != 2 or rows.shape[1] != features or labels.shape != rows.shape[:1]:
        return f"has {split}_features {tuple(rows.shape)} and {split}_labels {tuple(labels.shape)}, not (N, {features}) and (N,)"
    if not rows.isfinite().all():
        return f"has {split}_features that are not finite"
    counts = torch.bincount(labels.long(), minlength=classes)
    if len(counts) > classes or counts.min() < LEAST:
        return f"has {int(counts.min())} rows of a class in {split}_labels; each of the {classes} classes needs {LEAST}"
    return ""
