"""A pipeline's own call once its text encoders are gone: what they said is said again.

With a silent network and a scheduler that hands over given states it is the pipeline's decoder; with its own it is what
samplers are compared with.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.asked import Asked
from pgdlab.diffusion.asking import NOISY, Caller, instead, named, network_of
from pgdlab.functional.clamping import straight_through

FEW = 2  # steps of a call that only decodes; of one, grids with a last sigma of their own are not numbers
Change = Callable[[Any], Any]


def each(value: Any, change: Change) -> Any:
    """A change of everything in tuples."""
    return tuple(each(v, change) for v in value) if isinstance(value, tuple) else change(value)


@dataclass(frozen=True, kw_only=True, eq=False)
class Playback:
    """A caller, and what its encoders said of the prompts `heard`, one after another."""

    caller: Caller
    asked: Asked
    heard: tuple[int, ...]
    said: tuple[Any, ...]

    @classmethod
    def of(cls, caller: Caller, asked: Asked, heard: Sequence[int]) -> Playback:
        """Listens to the encoders, on the host."""
        said = caller.tape(heard, 1).said
        host = tuple(each(out, lambda v: v.cpu() if isinstance(v, Tensor) else v) for out in said)
        return cls(caller=caller, asked=asked, heard=tuple(heard), said=host)

    @contextmanager
    def repeating(self, rows: Sequence[int]) -> Iterator[None]:
        """encode_prompt says what it said of the prompts at these places of `heard`."""
        pipe, said, of_each = self.caller.pipe, iter(self.said), len(self.heard)

        def pick(value: Any) -> Any:
            if isinstance(value, Tensor):
                own = value[list(rows)] if value.ndim and len(value) == of_each else value
                return own.to(pipe.device)
            return (
                [pick(value[r]) if isinstance(value[r], Tensor) else value[r] for r in rows] if grows(value) else value
            )

        def grows(value: Any) -> bool:
            return isinstance(value, list) and len(value) == of_each

        if not self.said:
            yield
            return
        with instead(pipe, encode_prompt=lambda *_, **__: each(next(said), pick)):
            yield

    @property
    def call(self) -> Any:
        """The pipeline's call, as it is: without the torch.no_grad that diffusers wraps around it."""
        call = type(self.caller.pipe).__call__
        return functools.partial(getattr(call, "__wrapped__", call), self.caller.pipe)

    @property
    def differentiable(self) -> bool:
        """Whether what decoded() gives has a gradient: where an autoencoder decodes and a tensor comes out of it."""
        parts = self.caller.pipe.components
        return (
            parts.get("vae") is not None
            and "latents" in self.caller.takes
            and hasattr(processor(self.caller.pipe), "denormalize")
        )

    def called(self, rows: Sequence[int], steps: int, output: str, seed: int = 0) -> Any:
        """The pipeline's own call for prompts by their places in `heard`, with what stands in for its parts."""
        caller, which = self.caller, [self.heard[r] for r in rows]
        arguments = caller.arguments(len(rows), steps, output)
        arguments["generator"] = torch.Generator().manual_seed(seed)
        with self.repeating(rows):
            return self.call(**caller.told(which), **arguments).images

    def decoded(self, state: Float[Tensor, "B *D"]) -> Float[Tensor, "B C H W"]:
        """Images in [0, 1] of final states of our sampler; gradients pass the limits of grey levels."""
        pipe, alpha = self.caller.pipe, self.last_alpha()

        def forward(*args: Any, **kwargs: Any) -> Any:
            noisy = args[0] if args else kwargs[named(NOISY, kwargs)]
            channels = network_channels(network_of(pipe)[1], noisy)
            return (channels,) if not kwargs.get("return_dict", True) else SimpleNamespace(sample=channels)

        def step(out: Any, t: Any, sample: Tensor, *_: Any, return_dict: bool = True, **__: Any) -> Any:
            given = (state / alpha).to(sample.dtype).to(sample.device)
            given = given.repeat(len(sample) // len(given), *(1,) * (given.ndim - 1))
            return SimpleNamespace(prev_sample=given) if return_dict else (given,)

        silent = instead(network_of(pipe)[1], forward=forward), instead(pipe.scheduler, step=step)
        with silent[0], silent[1], unclamped(pipe):
            images = self.called([0] * len(state), FEW, "pt")
        return pixels(images).to(state.device)

    def last_alpha(self) -> float:
        """What the pipeline's final states are divided by."""
        schedule, asked = self.asked.schedule, self.asked
        return float(schedule.alpha(schedule.times(asked.steps)[-1:])) if asked.scaled else 1.0

    @torch.no_grad()
    def own_run(self, rows: Sequence[int], seed: int) -> tuple[Float[Tensor, "B *D"], Float[Tensor, "B *D"]]:
        """The pipeline's own deterministic sampler: our initial and final states. A scheduler that draws noise is replaced by
        DDIM's or Euler's, and where estimates are clipped the noise is the clipped one's."""
        pipe, asked = self.caller.pipe, self.asked
        seen: list[Tensor] = []
        mine, times = deterministic(pipe.scheduler, asked), asked.schedule.times(asked.steps)
        true = mine.step

        def step(out: Any, t: Any, sample: Tensor, *_: Any, return_dict: bool = True, **__: Any) -> Any:
            seen.extend([sample] if not seen else [])
            clipped = {"use_clipped_model_output": True} if asked.schedule.clip is not None else {}
            made = true(out, t, sample, return_dict=False, **clipped)[0]
            seen[1:] = [made]
            return SimpleNamespace(prev_sample=made) if return_dict else (made,)

        own = pipe.scheduler
        pipe.scheduler = mine
        try:
            with instead(mine, step=step):
                self.called(rows, asked.steps, "latent", seed)
        finally:
            pipe.scheduler = own
        alphas = asked.schedule.alpha(times[[0, -1]]).tolist() if asked.scaled else (1.0, 1.0)
        first, last = (x[: len(rows)].float() * alpha for x, alpha in zip(seen, alphas, strict=True))
        return first, last


def processor(pipe: Any) -> Any:
    """What makes pictures of an autoencoder's outputs, or None."""
    return getattr(pipe, "image_processor", None)


def unclamped(pipe: Any) -> AbstractContextManager[None]:
    """The pipeline with limits of grey levels that gradients pass; the values are the same."""
    if not hasattr(processor(pipe), "denormalize"):
        return nullcontext()
    return instead(processor(pipe), denormalize=lambda images: straight_through(images * 0.5 + 0.5))


def deterministic(scheduler: Any, asked: Asked) -> Any:
    """The pipeline's scheduler where its steps are deterministic and first-order, DDIM's of the same chain where they are not."""
    name, drawn = type(scheduler).__name__, scheduler.config.get("algorithm_type", "").startswith("sde")
    if name in ("DDPMScheduler", "DDPMParallelScheduler") or drawn:
        from pgdlab.diffusion.schedules import DiffusersSchedule

        assert isinstance(asked.schedule, DiffusersSchedule)
        return asked.schedule.scheduler
    if name == "EulerAncestralDiscreteScheduler":
        from diffusers import EulerDiscreteScheduler

        return EulerDiscreteScheduler.from_config(scheduler.config)
    return scheduler


def network_channels(network: Any, noisy: Any) -> Any:
    """Zeros of the shape that the network gives out for these states."""
    if isinstance(noisy, list):
        return [torch.zeros_like(row) for row in noisy]
    wide = network.config.get("out_channels") or noisy.shape[1]
    if noisy.ndim == 4 and wide != noisy.shape[1]:
        return noisy.new_zeros(len(noisy), wide, *noisy.shape[2:])
    return torch.zeros_like(noisy)


def pixels(images: Any) -> Float[Tensor, "B C H W"]:
    """Images as a tensor, whatever the pipeline gives them out as."""
    if isinstance(images, np.ndarray):
        return torch.from_numpy(images).permute(0, 3, 1, 2).float()
    return images.float() if isinstance(images, Tensor) else torch.stack(list(images)).float()
