"""The optimizer of a run: learning rates by name, clipping, warm-up, the half-life of the averaged weights."""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pgdlab.processes import whole

RATES = {"initial": 1e-2, "critic": 3e-3}
HANDED = {"lr": "lr", "betas": "beta1 and beta2", "weight_decay": "weight_decay"}  # what decides each
SMALLEST_NORM = 1e-6  # of a clipped gradient: below it nothing moves, without a word


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101), fused.

    lr: of the denoiser, and of what rates does not name. rates: of other parts, by their name in Algorithm.trained.
    clip_norm: largest gradient norm, 0 for none; a part outside the policy has its own norm. ema_halflife: of the averaged
    weights, as a share of all updates. warmup: updates of linear warm-up, the last of which has the whole rate; final_lr: the
    share of the learning rate that a cosine decays to, which the last update has (1: constant). kind: another class than
    torch.optim.AdamW, of those that take its betas and weight_decay, such as the 8-bit and paged ones of a library.
    """

    lr: float = 1e-4
    rates: dict[str, float] = field(default_factory=lambda: dict(RATES))
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema_halflife: float = 0.1
    warmup: int = 0
    final_lr: float = 1.0
    kind: Callable[..., torch.optim.Optimizer] | None = None

    def __post_init__(self) -> None:
        allowed: list[tuple[str, Callable[[float], bool], str]] = [
            ("lr", lambda x: 0 < x < math.inf, "above 0, and finite"),
            ("ema_halflife", lambda x: 0 < x <= 1, "above 0, at most 1: a share of all updates"),
            ("beta1 beta2", lambda x: 0 <= x < 1, "from 0 to below 1"),
            ("weight_decay warmup", lambda x: 0 <= x < math.inf, "at least 0, and finite"),
            (
                "clip_norm",
                lambda x: x == 0 or SMALLEST_NORM <= x < math.inf,
                f"at least 0 (none), and {SMALLEST_NORM} where it clips",
            ),
            ("final_lr", lambda x: 0 <= x <= 1, "from 0 to 1"),
        ]
        for name, good, words in ((name, good, words) for names, good, words in allowed for name in names.split()):
            if not good(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {words}")
        for name, rate in self.rates.items():
            if not 0 < rate < math.inf:
                raise ValueError(f"rates.{name} is {rate}; it must be above 0, and finite")
        if self.kind is not None:
            require_adam(self.kind)

    def build(self, trained: Mapping[str, nn.Module]) -> torch.optim.Optimizer:
        """An optimizer over exactly the parameters that train, a group a part."""
        if not trained.keys() - {"critic"}:
            raise ValueError("nothing to train: set policy=full or policy=lora, or initial=diagonal or conditional")
        half = sorted(
            {str(p.dtype) for m in trained.values() for p in m.parameters() if p.requires_grad and p.itemsize < 4}
        )
        if half:
            raise ValueError(
                f"weights of {half[0]} would be trained, which loses most updates to rounding: set domain.dtype=float32, or "
                "policy=lora, whose adapters are float32"
            )
        groups: list[dict[str, Any]] = [
            {"params": [p for p in part.parameters() if p.requires_grad], "lr": self.rates.get(name, self.lr)}
            for name, part in trained.items()
        ]
        for name, group in zip(trained, groups, strict=True):
            self.warn_of_idle_decay(name, group["lr"], min(torch.finfo(p.dtype).eps for p in group["params"]))
        kind = self.kind or functools.partial(torch.optim.AdamW, fused=True)
        return kind(groups, betas=(self.beta1, self.beta2), weight_decay=self.weight_decay)

    def warn_of_idle_decay(self, part: str, rate: float, eps: float) -> None:
        """Says where no weight decays: w (1 - q) rounds to w for every w, q = rate x weight_decay being at most a quarter of the
        distance from 1 to the next number."""
        if 0 < rate * self.weight_decay <= eps / 4:
            text = (
                f"optimizer.weight_decay is {self.weight_decay}: times the learning rate of the {part}, {rate}, it is less "
                "than a weight can change by, and none decays"
            )
            warnings.warn(text, stacklevel=3)

    def lr_factor(self, update: int, updates: int) -> float:
        """The factor of all learning rates at an update, 0 .. updates - 1. Warns, at the first, of a warm-up that the run does
        not live to see the end of."""
        if self.warmup > updates and update == 0:
            text = f"optimizer.warmup is {self.warmup} updates, but the run has {updates}: it never reaches its learning rate"
            warnings.warn(text, stacklevel=2)
        ramp = min(1.0, (update + 1) / max(1, self.warmup))
        done = min(1.0, update / max(1, updates - 1))
        return ramp * (self.final_lr + (1 - self.final_lr) * (1 + math.cos(math.pi * done)) / 2)

    def ema_decay(self, updates: int) -> float:
        """Decay a step, so that the half-life is ema_halflife of all updates."""
        return 0.5 ** (1 / max(1.0, self.ema_halflife * updates))


def require_adam(kind: Callable[..., torch.optim.Optimizer]) -> None:
    """Raises ValueError for a class without what Optimization hands it, and where it is told another value of that."""
    whole = kind.func if isinstance(kind, functools.partial) else kind
    stated = kind.keywords if isinstance(kind, functools.partial) else {}
    known, name = inspect.signature(whole).parameters, getattr(whole, "__name__", str(whole))
    if missing := [key for key in HANDED if key not in known]:
        raise ValueError(f"kind is {name}, which takes no {missing[0]}; it must be a class like torch.optim.AdamW")
    for key, instead in HANDED.items():
        if key in stated and stated[key] != known[key].default:
            raise ValueError(f"kind.{key} is {stated[key]}, which optimizer.{instead} decides: leave it out there")


def clip_(weights: Sequence[nn.Parameter], limit: float) -> Tensor:
    """Scales gradients down to a norm of at most `limit`; the norm that they had, over all processes where weights are cut."""
    cut = [[p for p in weights if isinstance(p, DTensor) == is_it] for is_it in (False, True)]
    norms = [whole(torch.nn.utils.get_total_norm([p.grad for p in some if p.grad is not None])) for some in cut if some]
    norm = torch.stack(norms).norm() if len(norms) > 1 else norms[0]
    for some in cut:
        torch.nn.utils.clip_grads_with_norm_(some, limit, norm)
    return norm
