"""How many rows a pass of the network may have: as many as fit in memory, and fewer where it has run out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error
from torch import Tensor, nn

from pgdlab.diffusion.policy import Policy
from pgdlab.processes import local

ROOM = 2**29  # bytes of a pass on any CPU: fixed, so that a run is the same elsewhere; larger passes get slower
SHARE = 0.5  # of the free memory of a GPU: what is kept for the backward is not all that a pass takes


@dataclass
class Capacity:
    """How much at once memory allows at this moment. rollout_batch: samples of a sampling pass; pass_size: (state, step) pairs
    of a training pass; 0: not known yet. graph: whether sampling may keep the graph that its update is differentiated by."""

    rollout_batch: int = 0
    pass_size: int = 0
    graph: bool = False

    def sample_fewer(self, rows: int) -> None:
        """From now on so many in a sampling pass."""
        self.rollout_batch = rows

    def shrink(self, pairs: int, error: RuntimeError, shared: bool = False) -> None:
        """Halves training passes, of which the largest had so many pairs. Raises the error where it is not about memory."""
        self.pass_size = halved(min(self.pass_size, pairs), error, shared)


def rows_that_fit(policy: Policy, x: Float[Tensor, "P *D"], cond: Tensor) -> int:
    """Rows of a differentiated pass, at least 1. x, cond: some rows to measure with."""
    room = SHARE * torch.cuda.mem_get_info(x.device)[0] if x.is_cuda else ROOM
    return max(1, int(room * len(x) // max(1, kept_for_backward(policy, x, cond))))


def kept_for_backward(policy: Policy, x: Float[Tensor, "P *D"], cond: Tensor) -> int:
    """Bytes that a forward saves to be differentiated, weights left out. Of a frozen network what it would save."""
    h = torch.zeros(len(x), dtype=torch.long, device=x.device)
    return saved_by(lambda: policy(x.detach().requires_grad_(), h, cond), policy)


def saved_by(forward: Callable[[], object], module: nn.Module) -> int:
    """Bytes that a forward of a module saves, its weights left out. Fake tensors have sizes too."""
    kept: list[Tensor] = []
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(kept.append, lambda _: kept[0]):
        forward()
    weights = {local(p).untyped_storage()._cdata for p in module.parameters()}
    sizes = {s._cdata: s.nbytes() for s in (t.untyped_storage() for t in kept)}  # tensors may share one
    return sum(size for where, size in sizes.items() if where not in weights)


def halved(rows: int, error: RuntimeError, shared: bool = False) -> int:
    """Half as many rows, after memory has run out; warns of it. Raises any other error, and where one row is too many. shared:
    whether a pass is one of all processes, so that none can make its own smaller: then ValueError."""
    if shared and is_oom_error(error):
        raise ValueError(
            "memory has run out in a pass, and all processes share the passes of a network that is cut: set plan.rollout_batch "
            f"and plan.pass_size below {rows}"
        ) from error
    if rows == 1 or not is_oom_error(error):
        raise error
    fewer = (rows + 1) // 2
    warnings.warn(f"memory has run out in a pass of {rows} rows: the run goes on with passes of {fewer}", stacklevel=2)
    return fewer


release = garbage_collection_cuda  # to be called after the except block: its error keeps the tensors alive
