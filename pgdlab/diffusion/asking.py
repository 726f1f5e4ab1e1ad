"""Asking a diffusers pipeline what it does: its own __call__ is run with the network's forward and the scheduler's step replaced.

What the network is given besides x and t is a prompt's conditioning; what reaches the scheduler, of random answers, tells how
outputs are put together; the scheduler's grid is the sampler's. No class of pipeline is known by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

Prompt = str | int | Mapping[str, Any] | None
Leaf = tuple[str, ...]  # the place of a value in nested arguments

NOISY, TIME = ("sample", "hidden_states", "x"), ("timestep", "timesteps", "t")
OURS = (
    "prompt",
    "class_labels",
    "batch_size",
    "latents",
    "generator",
    "output_type",
    "return_dict",
    "num_images_per_prompt",
)
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")


def network_of(pipe: Any) -> tuple[str, Any]:
    """The name of a pipeline's network, and the network. Raises ValueError where it has none that is known."""
    for name in ("transformer", "unet"):
        if pipe.components.get(name) is not None:
            return name, pipe.components[name]
    raise ValueError(f"a {type(pipe).__name__} has neither a transformer nor a unet")


def named(words: tuple[str, ...], given: Mapping[str, Any]) -> str:
    """The first of words that is given. Raises ValueError where none is."""
    found = [word for word in words if word in given]
    if not found:
        raise ValueError(f"the network takes {', '.join(given)}, and none of {', '.join(words)}")
    return found[0]


def leaves(value: Any, path: Leaf = ()) -> Iterator[tuple[Leaf, Any]]:
    """Everything in nested mappings that is not None, with its place."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from leaves(child, (*path, key))
    elif value is not None:
        yield path, value


def nested(flat: Mapping[Leaf, Any]) -> dict[str, Any]:
    """Arguments out of their leaves."""
    out: dict[str, Any] = {}
    for (*folders, name), value in flat.items():
        at = out
        for folder in folders:
            at = at.setdefault(folder, {})
        at[name] = value
    return out


def same(a: Any, b: Any) -> bool:
    """Whether two leaves are equal, tensors in them compared by their numbers."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a is b or (isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b))
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def rows_in(value: Any) -> int:
    """The length of the first dimension; -1 of what has none."""
    if isinstance(value, Tensor):
        return len(value) if value.ndim else -1
    return len(value) if isinstance(value, list) else -1


@dataclass
class Tape:
    """What happened in one call. rows: of the batch; calls: the network's arguments by name; answers: what it gave out; steps:
    what the scheduler was given, (output, time, state); said: what encode_prompt returned."""

    rows: int
    calls: list[dict[str, Any]] = field(default_factory=list)
    answers: list[Tensor] = field(default_factory=list)
    steps: list[tuple[Tensor, Any, Tensor]] = field(default_factory=list)
    said: list[Any] = field(default_factory=list)

    def given(self, call: int) -> dict[Leaf, Any]:
        """What the network was given besides x and t, by leaf."""
        told = self.calls[call]
        skipped = {named(NOISY, told), named(TIME, told)}
        return {path: value for path, value in leaves(told) if path[0] not in skipped}

    def noisy(self, call: int) -> Tensor:
        """The states that the network was given."""
        rows = self.calls[call][named(NOISY, self.calls[call])]
        return torch.stack(rows) if isinstance(rows, list) else rows

    def told(self, call: int) -> Tensor:
        """The time that the network was told, ()."""
        time = self.calls[call][named(TIME, self.calls[call])]
        return torch.as_tensor(time).flatten()[0].cpu()


@dataclass(frozen=True, kw_only=True, eq=False)
class Caller:
    """A pipeline, and all that it is called with but the noise.

    prompts: texts; numbers of classes; None, of a pipeline that takes nothing; or the arguments of one row by name (encodings
    that were made elsewhere). call: the other arguments, guidance_scale, height and so on. steps: of the sampler.
    """

    pipe: Any
    prompts: Sequence[Prompt]
    call: Mapping[str, Any]
    steps: int

    def __post_init__(self) -> None:
        self.pipe.set_progress_bar_config(disable=True)
        takes = self.takes
        for key in self.call:
            if key in OURS or key not in takes:
                known = ", ".join(k for k in takes if k not in (*OURS, "num_inference_steps"))
                why = "set for you" if key in OURS else "no argument of its __call__"
                raise ValueError(f"call has {key}, which is {why} ({type(self.pipe).__name__} takes {known})")
        asked = self.call.get("num_inference_steps", self.steps)
        if asked != self.steps:
            raise ValueError(
                f"call.num_inference_steps is {asked} and policy.steps {self.steps}; leave the former out: it is policy.steps"
            )
        needed = [k for k, p in takes.items() if p.default is p.empty and k not in (*OURS, *self.call)]
        if needed or not {"prompt", "class_labels", "batch_size"} & takes.keys():
            raise ValueError(f"a {type(self.pipe).__name__} needs {', '.join(needed) or 'an input'} besides a prompt")

    @property
    def takes(self) -> dict[str, inspect.Parameter]:
        """The arguments of the pipeline's __call__."""
        found = inspect.signature(type(self.pipe).__call__).parameters
        return {k: p for k, p in found.items() if k != "self" and p.kind is not p.VAR_KEYWORD}

    @property
    def kind(self) -> str:
        """What tells the pipeline what to draw: prompt, class_labels, or batch_size where it draws one thing."""
        return next(k for k in ("prompt", "class_labels", "batch_size") if k in self.takes)

    def told(self, which: Sequence[int]) -> dict[str, Any]:
        """The arguments that say what to draw, of a batch of prompts."""
        some = [self.prompts[i] for i in which]
        first = some[0]
        if isinstance(first, Mapping):
            lists: dict[str, list[Any]] = {k: [s[k] for s in some] for k in first}  # type: ignore[index]
            return {
                k: torch.stack(v) if isinstance(v[0], Tensor) else [x for one in v for x in one]
                for k, v in lists.items()
            }
        return {self.kind: len(which) if self.kind == "batch_size" else some}

    def arguments(self, count: int, steps: int, output: str) -> dict[str, Any]:
        """All other arguments for a batch. output: latent, or pt for images."""
        repeated = {
            k: [v] * count if k.startswith("negative_prompt") and isinstance(v, str) else v
            for k, v in self.call.items()
        }
        kind = output if "latents" in self.takes else "np"  # pipelines without latents know no other
        generator = torch.Generator().manual_seed(0)
        return repeated | {"num_inference_steps": steps, "output_type": kind, "generator": generator}

    @torch.no_grad()
    def tape(self, which: Sequence[int], steps: int) -> Tape:
        """A dry call: the network answers at random, the scheduler leaves the state as it is."""
        with replaced(self.pipe, len(which)) as tape:
            self.pipe(**self.told(which), **self.arguments(len(which), steps, "latent"))
        return tape


@contextmanager
def instead(thing: Any, **methods: Any) -> Iterator[None]:
    """An object's methods replaced, on the instance; afterwards it has its own again."""
    before = {name: vars(thing)[name] for name in methods if name in vars(thing)}
    for name, method in methods.items():
        setattr(thing, name, method)
    try:
        yield
    finally:
        for name in methods:
            delattr(thing, name)
        for name, method in before.items():
            setattr(thing, name, method)


@contextmanager
def replaced(pipe: Any, rows: int) -> Iterator[Tape]:
    """The pipeline with a network that answers at random and a scheduler that leaves x as it is; what they get is taped."""
    network, tape = network_of(pipe)[1], Tape(rows)
    answer = Answer(network)

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = dict(answer.signature.bind(*args, **kwargs).arguments)
        as_tuple = not given.pop("return_dict", True)
        out = answer(given, args, kwargs)
        tape.calls.append(given)
        tape.answers.append(torch.stack(out) if isinstance(out, list) else out)
        return (out,) if as_tuple else SimpleNamespace(sample=out)

    def step(model_output: Tensor, t: Any, sample: Tensor, *_: Any, return_dict: bool = True, **__: Any) -> Any:
        tape.steps.append((model_output, t, sample))
        return SimpleNamespace(prev_sample=sample) if return_dict else (sample,)

    with instead(network, forward=forward), instead(pipe.scheduler, step=step), listening(pipe, tape.said):
        yield tape


class Answer:
    """Random outputs of a network's shape, in fp32 whatever it computes in: what is fitted to them is exact."""

    def __init__(self, network: Any) -> None:
        self.true, self.signature = network.forward, inspect.signature(network.forward)
        self.draw = torch.Generator().manual_seed(0)
        self.shape: torch.Size | None = None  # of a row

    def __call__(self, given: Mapping[str, Any], args: Any, kwargs: Any) -> Any:
        noisy = given[named(NOISY, given)]
        if self.shape is None:  # one true pass
            out = self.true(*args, **kwargs)
            out = out[0] if isinstance(out, tuple) else out.sample
            self.shape = out[0].shape
        drawn = [torch.randn(tuple(self.shape), generator=self.draw).to(noisy[0].device) for _ in range(len(noisy))]
        return drawn if isinstance(noisy, list) else torch.stack(drawn)


@contextmanager
def listening(pipe: Any, said: list[Any]) -> Iterator[None]:
    """Writes down what encode_prompt returns, where the pipeline has one."""
    if "encode_prompt" not in dir(pipe):
        yield
        return
    true = pipe.encode_prompt

    def encode(*args: Any, **kwargs: Any) -> Any:
        out = true(*args, **kwargs)
        said.append(out)
        return out

    with instead(pipe, encode_prompt=encode):
        yield
