"""Compiled networks: passes of one size, so that sampling and replay run through the same graph."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pgdlab.diffusion.denoisers import Denoiser, NetworkDenoiser


class Compiled(Denoiser):
    """A denoiser whose network torch.compile has compiled, for passes of `rows` rows. Larger ones are taken in parts; the last
    one is filled up with copies of its last row, which are thrown away.

    A graph that is to be differentiated is another one than that of a forward alone, and rounds otherwise: sampling takes the
    same as replay, and lets go of what it keeps. seconds: that the first pass took, compiling in it. made, known: graphs that
    were compiled for it, and that inductor's cache had (the folder TORCHINDUCTOR_CACHE_DIR).
    """

    seconds: float = 0.0
    made: int = 0
    known: int = 0

    def __init__(self, denoiser: Denoiser, rows: int) -> None:
        super().__init__()
        if rows < 1:
            raise ValueError(
                f"policy.compiled_rows is {rows}; it must be at least 1, or 0 for a network that is not compiled"
            )
        self.denoiser, self.rows, self.schedule = denoiser, rows, denoiser.schedule
        for part in (p for m in denoiser.modules() if isinstance(m, NetworkDenoiser) for p in repeated(m.network)):
            part.compile(dynamic=False)

    def forward(self, x: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, "P *D"]:
        graph, started, before = torch.is_grad_enabled(), time.perf_counter(), None if self.seconds else cache_counts()
        parts = zip(*(all_rows.split(self.rows) for all_rows in (x, t, cond)), strict=True)
        with torch.enable_grad():
            outs = [self.denoiser(*(filled(rows, self.rows) for rows in part))[: len(part[0])] for part in parts]
        if before is not None:
            self.seconds = time.perf_counter() - started
            self.made, self.known = (now - then for now, then in zip(cache_counts(), before, strict=True))
        return torch.cat(outs if graph else [out.detach() for out in outs])

    def loss(self, x: Float[Tensor, "P *D"], x0: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, " P"]:
        return self.denoiser.loss(x, x0, t, cond)

    def frozen(self) -> Denoiser:
        return Compiled(self.denoiser.frozen(), self.rows)

    def save(self, folder: Path) -> str:
        return self.denoiser.save(folder)


def cache_counts() -> tuple[int, int]:
    """Graphs that inductor has compiled in this process, and that it has found in its cache."""
    from torch._dynamo.utils import counters  # torch loads it with the first network that is compiled

    return counters["inductor"]["fxgraph_cache_miss"], counters["inductor"]["fxgraph_cache_hit"]


def filled(x: Tensor, rows: int) -> Tensor:
    """Copies of the last row at the end, until there are so many."""
    return torch.cat([x, x[-1:].expand(rows - len(x), *x.shape[1:])]) if len(x) < rows else x


def repeated(network: nn.Module) -> list[nn.Module]:
    """The blocks of a network that are alike, which one graph serves, where they have most of its weights; else the network as a
    whole."""
    found = [(block, (type(block), *(p.shape for p in block.parameters()))) for block in blocks(network)]
    counts = Counter(shapes for _, shapes in found)
    alike = [block for block, shapes in found if counts[shapes] > 1]
    most = 2 * sum(size(block) for block in alike) > size(network)
    return alike if most else [network]


def size(network: nn.Module) -> int:
    """How many weights it has."""
    return sum(p.numel() for p in network.parameters())


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The items of a network's outermost lists that have weights."""
    for child in network.children():
        if isinstance(child, nn.ModuleList):
            yield from (item for item in child if any(True for _ in item.parameters()))
        else:
            yield from blocks(child)


def channels_last(denoiser: Denoiser) -> None:
    """Lays the weights of convolutions out with the channels last, as fast kernels of a GPU want them. Raises ValueError where
    there are none."""
    networks = [m.network for m in denoiser.modules() if isinstance(m, NetworkDenoiser)]
    if not any(isinstance(part, nn.Conv2d) for network in networks for part in network.modules()):
        raise ValueError("policy.channels_last is true, but there are no convolutions of images: leave it false")
    for network in networks:
        network.to(memory_format=torch.channels_last)
