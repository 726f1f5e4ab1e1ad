"""Any pipeline of diffusers: text to image, of classes, or of one kind of image; the pipeline's own call says how."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.config.launch import local_rank
from pgdlab.diffusion.asked import ask
from pgdlab.diffusion.asking import ENCODERS, Caller, Prompt, network_of
from pgdlab.diffusion.conditioning import Conditioning
from pgdlab.diffusion.denoisers import Denoiser
from pgdlab.diffusion.pipeline_files import Origin
from pgdlab.diffusion.pipelines import PipelineDenoiser
from pgdlab.diffusion.playback import Playback
from pgdlab.diffusion.prompts import encode, read_prompts
from pgdlab.diffusion.space import Dense, Space
from pgdlab.domains.base import Decoder, Domain
from pgdlab.images.drawing import picture

Precision = Literal["float32", "bfloat16", "float16"]


class PipelineDecoder(Decoder):
    """States -> images (B, C, H, W) in [0, 1], by the pipeline's own call with its network silent. Of pipelines with an
    autoencoder the images have gradients where the states do."""

    gives = "images"

    def __init__(self, playback: Playback, chunk: int) -> None:
        super().__init__()
        self.playback, self.chunk = playback, chunk
        self.vae = playback.caller.pipe.components.get("vae")  # so that it moves with the policy
        self.differentiable = playback.differentiable
        if self.vae is not None:
            self.vae.requires_grad_(False)

    def decode(self, sample: Float[Tensor, "B *D"]) -> Float[Tensor, "B C H W"]:
        graph = torch.is_grad_enabled() and sample.requires_grad and self.differentiable
        # in the pipeline's own precision, whatever the run's is
        with torch.autocast(sample.device.type, enabled=False), torch.set_grad_enabled(graph):
            return self.playback.decoded(sample)


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What asking a pipeline has given."""

    denoiser: PipelineDenoiser
    playback: Playback


@dataclass(frozen=True, kw_only=True, eq=False)
class Diffusers(Domain):
    """A pipeline of diffusers whose sampler is a chain of first-order steps.

    pipeline: its folder, or an id of the hub, fetched only where it is not on this machine. prompts: a file (a text a line,
    .jsonl with a "prompt" a line, .yaml) or a list; of a pipeline of classes their numbers or names; null where it draws one
    thing. test_prompts: prompts that training never sees. split: the prompts that conditions are drawn from, "train" or "test"
    (task=evaluate). call: the arguments of the pipeline's call, guidance among them. scheduler: fields of its scheduler's
    config that are changed, `_class_name` among them. dtype: of the pipeline's weights. variant: of the files, such as fp16.
    chunk: images that are decoded at a time. fused: whether an export of adapters is the whole
    pipeline. steps: of the sampler, policy.steps.
    """

    pipeline: str | None = None
    prompts: str | Sequence[str] | None = None
    test_prompts: str | Sequence[str] | None = None
    split: Literal["train", "test"] = "train"
    call: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    dtype: Precision = "float32"
    variant: str | None = None
    chunk: int = 8
    fused: bool = False
    steps: int = 20
    name: str = field(default="diffusers", init=False)

    def __post_init__(self) -> None:
        if self.pipeline is None:
            raise ValueError(
                "domain.pipeline is null; it must be the folder of a diffusers pipeline, or an id of the hub"
            )
        if self.chunk < 1:
            raise ValueError(f"chunk is {self.chunk}; it must be at least 1 image")
        if self.split == "test" and self.test_prompts is None:
            raise ValueError("split is test, but there are no test_prompts")
        if self.test_prompts is not None and self.prompts is None:
            raise ValueError("test_prompts are given, but no prompts")

    @functools.cached_property
    def _texts(self) -> tuple[list[str], list[dict[str, Any]], int]:
        """All prompts, what is known of each, and how many are for training."""
        if self.prompts is None:
            return [], [], 1
        texts, facts = read_prompts(self.prompts)
        more, more_facts = read_prompts(self.test_prompts) if self.test_prompts is not None else ([], [])
        return [*texts, *more], [*facts, *more_facts], len(texts)

    @functools.cached_property
    def _learned(self) -> Learned:
        """Loads, asks, encodes all prompts, and lets go of the text encoders."""
        assert self.pipeline is not None
        texts, facts, _ = self._texts
        origin = Origin(
            source=self.pipeline, part="", dtype=self.dtype, variant=self.variant, scheduler=self.scheduler, example=""
        )
        pipe = origin.load().to(nearest_device())
        prompts = prompts_for(pipe, texts)
        caller = Caller(pipe=pipe, prompts=prompts, call=self.call, steps=self.steps)
        part, network = network_of(pipe)
        example = self.example(prompts[0], caller.kind)
        origin = Origin(
            source=self.pipeline,
            part=part,
            dtype=self.dtype,
            variant=self.variant,
            scheduler=self.scheduler,
            example=example,
            fused=self.fused,
        )
        asked = ask(caller)
        told = encode(caller, asked, (*texts, "") if texts else None, facts)
        playback = Playback.of(caller, asked, [0, min(1, len(prompts) - 1)])
        for encoder in ENCODERS:
            if pipe.components.get(encoder) is not None:
                setattr(pipe, encoder, None)
        return Learned(denoiser=PipelineDenoiser(network, asked, told, origin).eval(), playback=playback)

    def example(self, prompt: Prompt, kind: str) -> str:
        """A call of the pipeline, in Python."""
        what = {"prompt": [repr(prompt)], "class_labels": [f"[{prompt}]"], "batch_size": []}[kind]
        given = [*what, f"num_inference_steps={self.steps}", *(f"{k}={v!r}" for k, v in self.call.items())]
        return f"image = pipe({', '.join(given)}).images[0]"

    @property
    def space(self) -> Space:  # type: ignore[override]
        """Of states: latents as the scheduler sees them."""
        return Dense(self._learned.denoiser.asked.shape)

    @property
    def conditioning(self) -> Conditioning:  # type: ignore[override]
        """The prompts: those of training first."""
        return self._learned.denoiser.conditioning

    @property
    def train_conditions(self) -> tuple[int, ...]:  # type: ignore[override]
        """The prompts of the split."""
        texts, _, train = self._texts
        return tuple(range(train) if self.split == "train" else range(train, len(texts)))

    @property
    def test_conditions(self) -> tuple[int, ...]:  # type: ignore[override]
        """The prompts that training never sees, while the split is train."""
        texts, _, train = self._texts
        return tuple(range(train, len(texts))) if self.split == "train" else ()

    @functools.cached_property
    def decoder(self) -> PipelineDecoder:  # type: ignore[override]
        """The pipeline's own."""
        return PipelineDecoder(self._learned.playback, self.chunk)

    @property
    def playback(self) -> Playback:
        """The pipeline's own call, for what is compared with it."""
        return self._learned.playback

    def base(self) -> Denoiser:
        return self._learned.denoiser

    def metrics(self, sample: Tensor, cond: Tensor) -> dict[str, float]:
        """None: the rewards say what an image is worth."""
        return {}

    def show(self, rows: dict[str, Tensor], path: Path, cond: Int[Tensor, " B"] | None = None) -> None:
        texts = self.conditioning.texts
        captions = [texts[c] for c in cond.tolist()] if texts and cond is not None else None
        picture({title: self.decoder(sample.detach()).cpu() for title, sample in rows.items()}, path, captions)


def nearest_device() -> torch.device:
    """Where prompts are encoded: this process's GPU where there is one."""
    return torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu")


def prompts_for(pipe: Any, texts: Sequence[str]) -> list[Prompt]:
    """Prompts as the pipeline takes them: texts, numbers of classes, or one None. Raises ValueError for what it does not take."""
    kind = Caller(pipe=pipe, prompts=[None], call={}, steps=1).kind
    if kind == "batch_size":
        if texts:
            raise ValueError(f"a {type(pipe).__name__} takes no prompts: leave prompts out")
        return [None]
    if not texts:
        raise ValueError(f"prompts is null; a {type(pipe).__name__} needs a file of prompts, or a list of them")
    if kind == "prompt":
        return list(texts)
    names: Mapping[str, int] = vars(pipe).get("labels", {})
    wrong = [text for text in texts if not text.isdecimal() and text not in names]
    if wrong:
        raise ValueError(
            f"{wrong[0]!r} is no class of the pipeline: give its number, or a name that its model_index.json has"
        )
    return [int(text) if text.isdecimal() else names[text] for text in texts]
