"""Tensors in files that memory is mapped to: only what is read takes memory, and the files are gone with the process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
from jaxtyping import UInt8
from torch import Tensor

from pgdlab.config.runs import naming

ALIGNED = 64  # bytes: where a tensor of any dtype may begin


def mapped(tensors: Iterable[Tensor], aligned: int = 1) -> tuple[UInt8[Tensor, " N"], list[int]]:
    """The bytes of tensors in a file, and where each begins. The file is one of the temporary folder (TMPDIR) that has no name
    any more: the system removes it however the process ends. Raises OSError where the disk is full."""
    starts: list[int] = []
    with NamedTemporaryFile(prefix="pgdlab-") as file:
        with naming(Path(file.name)):
            for x in tensors:
                starts.append(file.tell())
                file.write(x.contiguous().flatten().view(torch.uint8).numpy().tobytes())
                file.write(bytes(-file.tell() % aligned))
            file.flush()
        size = file.tell()
        return torch.from_file(file.name, shared=False, size=size, dtype=torch.uint8), starts


def aside(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same tensors, in one file."""
    flat, starts = mapped(tensors, ALIGNED)
    ends = [start + x.nbytes for start, x in zip(starts, tensors, strict=True)]
    found = zip(tensors, starts, ends, strict=True)
    return [flat[start:end].view(x.dtype).view(x.shape) for x, start, end in found]


def stacked(rows: Iterable[Tensor], like: Tensor) -> Tensor:
    """One tensor of rows that are all like one of them, in a file; a row at a time is in memory."""
    return mapped(rows)[0].view(like.dtype).view(-1, *like.shape)
