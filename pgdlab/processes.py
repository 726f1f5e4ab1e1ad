"""The processes of a run, and how their rows are put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

BUCKET = 2**26  # numbers that are copied for an exchange at a time


def alone(x: Tensor) -> Tensor:
    """The rows of all processes where there is one."""
    return x


def is_cut(module: nn.Module) -> bool:
    """Whether no process has all of a module's weights, so that a pass is one of all processes."""
    return any(isinstance(p, DTensor) for p in module.parameters())


def whole(x: Tensor) -> Tensor:
    """A tensor that is cut over the processes, put together in each; a collective call. Any other as it is."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def local(x: Tensor) -> Tensor:
    """This process's part of a tensor that is cut, in the same memory. Any other as it is."""
    return x.to_local() if isinstance(x, DTensor) else x


def spread(x: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, cut as `like` is; a collective call."""
    return distribute_tensor(x.to(like.device), like.device_mesh, like.placements) if isinstance(like, DTensor) else x


@dataclass(frozen=True)
class Processes:
    """The processes that share the work. gather: (n, ...) of each -> (size n, ...) in order of rank."""

    rank: int = 0
    size: int = 1
    gather: Callable[[Tensor], Tensor] = alone

    def sum_(self, tensors: list[Tensor]) -> None:
        """Replaces each tensor by its sum over the processes, BUCKET numbers and more an exchange."""
        if self.size == 1:
            return
        ends = torch.tensor([x.numel() for x in tensors]).cumsum(0).div(BUCKET, rounding_mode="floor")
        for number in ends.unique():
            some = [x for x, bucket in zip(tensors, ends, strict=True) if bucket == number]
            flat = torch.cat([x.flatten() for x in some])
            torch.distributed.all_reduce(flat)
            for x, total in zip(some, flat.split([x.numel() for x in some]), strict=True):
                x.copy_(total.view_as(x))

    def most(self, number: int, device: torch.device) -> int:
        """The largest of the processes' numbers."""
        return int(self.gather(torch.tensor([number], device=device)).max())

    def share(self, total: int) -> range:
        """The indices of 0..total-1 that this process owns: equal, contiguous parts."""
        if total % self.size:
            raise ValueError(f"{total} samples do not divide among {self.size} processes")
        part = total // self.size
        return range(self.rank * part, (self.rank + 1) * part)
