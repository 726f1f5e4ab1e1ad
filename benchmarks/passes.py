"""Network passes: counting those of whatever runs, and running the same ones bare."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from pgdlab.diffusion.denoisers import NetworkDenoiser
from pgdlab.world import World


def networks(world: World) -> list[nn.Module]:
    """Those inside the denoisers of policy, reference and old policy, each once."""
    policies = (p for p in (world.policy, world.reference, world.old) if p is not None)
    denoisers = (m for part in policies for m in part.modules())
    return list(dict.fromkeys(m.network for m in denoisers if isinstance(m, NetworkDenoiser)))


@dataclass(frozen=True, eq=False)
class Call:
    """One pass. gradient: whether it was made to be differentiated; off: whether the network's adapters were off."""

    network: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    gradient: bool
    off: bool

    @property
    def rows(self) -> int:
        return len(self.args[0])

    def bare(self) -> None:
        """The forward, and the backward to all that trains where there was one."""
        with torch.set_grad_enabled(self.gradient):
            out = tensors(self.network(*self.args, **self.kwargs))
        if self.gradient:
            trained = [p for p in self.network.parameters() if p.requires_grad]
            torch.autograd.grad(out, trained, [torch.ones_like(x) for x in out], allow_unused=True)


class Passes:
    """Hooks that note every pass of some networks until closed. backwards: how many were differentiated.

    Passes of the same sizes share one copy of their inputs.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        self.calls: list[Call] = []
        self.backwards = 0
        self.known: dict[Any, Call] = {}
        self.handles = [n.register_forward_hook(self.note, with_kwargs=True) for n in networks]

    def note(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """A forward hook."""
        gradient = any(x.requires_grad for x in tensors(out))
        shapes = tuple(x.shape for x in tensors([*args, *kwargs.values()]))
        key = (network, shapes, gradient, adapters_are_off(network))
        if key not in self.known:
            copies = tuple(copied(x) for x in args), {name: copied(x) for name, x in kwargs.items()}
            self.known[key] = Call(network, *copies, *key[2:])
        self.calls.append(self.known[key])
        if gradient:
            tensors(out)[0].register_hook(self.differentiated)

    def differentiated(self, gradient: Tensor) -> None:
        """A hook of a pass's output."""
        self.backwards += 1

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()


def bare(calls: Iterable[Call]) -> None:
    """The passes and nothing else. Those with the adapters off come last, so that these are switched once."""
    apart = sorted(calls, key=lambda call: call.off)
    for (off, network), some in itertools.groupby(apart, lambda call: (call.off, call.network)):
        with switched_off(network) if off else nullcontext():
            for call in some:
                call.bare()


def tensors(some: Any) -> list[Tensor]:
    """The tensors in what a network takes or gives out."""
    if isinstance(some, Tensor):
        return [some]
    return [x for x in (some.values() if isinstance(some, Mapping) else some) if isinstance(x, Tensor)]


def copied(x: Any) -> Any:
    return x.detach().clone() if isinstance(x, Tensor) else x


def adapters_are_off(network: nn.Module) -> bool:
    return any(m.disable_adapters for m in network.modules() if isinstance(m, BaseTunerLayer))


@contextmanager
def switched_off(network: Any) -> Iterator[None]:
    """A network with its adapters off; they train again afterwards."""
    trained = [p for p in network.parameters() if p.requires_grad]
    off: AbstractContextManager[None] = network.disable_adapter()
    with off:
        yield
    for p in trained:
        p.requires_grad_(True)
