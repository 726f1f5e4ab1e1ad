"""Checks of how fast the network can be: whether its attention is fused, and what compiling took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pgdlab.diffusion.compiled import Compiled
from pgdlab.diffusion.denoisers import DiffusersDenoiser
from pgdlab.diffusion.pipelines import PipelineDenoiser
from pgdlab.rollout.trajectory import dtype_of
from pgdlab.training.findings import Check
from pgdlab.world import World

FUSED, WHOLE = "aten::_scaled_dot_product_", ("aten::_softmax", "aten::_safe_softmax")


class Attentions(TorchDispatchMode):
    """Counts kernels of fused attention, by name, and softmaxes that are taken by themselves, of all weights at once."""

    def __init__(self) -> None:
        super().__init__()
        self.fused: Counter[str] = Counter()
        self.whole = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name.startswith(FUSED) and not name.endswith("backward"):
            self.fused[name.removeprefix(FUSED).removesuffix("_for_cpu")] += 1
        self.whole += name in WHOLE
        return func(*args, **(kwargs or {}))


def network(world: World) -> Iterator[Check]:
    """Of diffusers' networks, in the run's precision."""
    parts = list(world.policy.modules())
    if compiled := [part for part in parts if isinstance(part, Compiled)]:
        took, made, known = (sum(getattr(part, name) for part in compiled) for name in ("seconds", "made", "known"))
        message = f"the first passes took {took:.1f} s, compiling in them: {made} graphs were made, {known} cached"
        yield Check("compiled", "ok", message)
    elif any(isinstance(part, (DiffusersDenoiser, PipelineDenoiser)) for part in parts):
        yield from attention(world)


def attention(world: World) -> Iterator[Check]:
    """Which kernels a pass that is differentiated takes. Nothing where there is no attention."""
    policy, device = world.policy, world.device
    x = torch.zeros(1, *policy.space.shape, dtype=dtype_of(policy), device=device)
    h = torch.zeros(1, dtype=torch.long, device=device)
    with Attentions() as seen, torch.enable_grad():
        policy(x, h, torch.tensor(world.domain.train_conditions[:1], device=device))
    fused = sum(seen.fused.values())
    if seen.whole:
        message = (
            f"{seen.whole} of {seen.whole + fused} attentions of a pass are not fused, and hold all their weights: torch has no "
            "kernel for their sizes or precision, or the network's attention processor does not ask for one"
        )
        yield Check("attention", "warning", message)
    elif fused:
        yield Check("attention", "ok", f"{fused} in a pass, all fused ({', '.join(sorted(seen.fused))})")
