"""task=sample: samples of a run's policy (resume=runs/<name>) or of the domain's base."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pgdlab.config.configuration import Config
from pgdlab.config.runs import run_folder, save_config, short, write_bytes
from pgdlab.evaluation.evaluate import load_run
from pgdlab.evaluation.samples import draw
from pgdlab.rewards.function import Images
from pgdlab.rewards.function import shown as as_given
from pgdlab.rollout.noise import Noise, Stream
from pgdlab.rollout.trajectory import Samples
from pgdlab.trainers.base import refuse_idle_guidance
from pgdlab.training.build import build_world
from pgdlab.world import World

READS = (
    "experiment", "domain", "policy.kernel", "policy.steps", "policy.guidance", "plan.eval_samples", "plan.rollout_batch",
    "runtime", "seed", "name",
)  # fmt: skip
RESUMES = (
    "domain", "policy.kernel", "policy.steps", "policy.guidance", "plan.eval_samples", "plan.rollout_batch", "runtime", "seed",
)  # fmt: skip


def drawn(cfg: Config, count: int, seed: int | None, prompts: Sequence[int | str], images: Images) -> Any:
    """count samples of a run's policy as a reward function is given them: see pgdlab.rewards.function. prompts: conditions, by
    number or text, in turn; those of training where there are none."""
    world, folder = build_world(cfg), run_folder(cfg)
    load_run(world.policy, folder)
    conditions = world.domain.conditioning.numbers(prompts)
    wrong = [c for c in conditions if not 0 <= c <= world.domain.conditioning.unconditional]
    if wrong:
        most = world.domain.conditioning.unconditional
        raise ValueError(f"prompt {wrong[0]} is no condition here: they are numbers from 0 to {most}")
    noise = Noise(cfg.seed if seed is None else seed, Stream.EVALUATE)
    sample, _ = draw(world, count, noise, conditions)
    seen = as_given(world.domain.decoder(sample), images)
    return seen.cpu() if isinstance(seen, torch.Tensor) else seen


def opened(cfg: Config) -> tuple[World, Path]:
    """The world with the policy that is asked for, a run's or the base, and the folder that belongs to it."""
    world = build_world(cfg)
    refuse_idle_guidance(world)
    folder = run_folder(cfg)
    if cfg.resume:
        load_run(world.policy, folder)
    else:
        save_config(cfg, folder)
    return world, folder


def main(cfg: Config) -> None:
    """Writes samples.png, samples.pt (plan.eval_samples rows and their conditions) and the domain's own files."""
    world, folder = opened(cfg)
    sample, cond = draw(world, world.plan.eval_samples, Noise(cfg.seed, Stream.EVALUATE))
    content = io.BytesIO()  # torch's own writing says neither the file nor that the disk is full
    torch.save({"sample": sample, "cond": cond}, content)
    write_bytes(content.getvalue(), folder / "samples.pt")
    world.domain.show({"samples": sample[:64]}, folder / "samples.png", cond[:64])
    world.domain.report({"samples": Samples(sample, cond)}, folder)
    shown = short(folder)
    print(
        f"{len(sample)} samples in {shown / 'samples.pt'}; the first {min(64, len(sample))} in {shown / 'samples.png'}"
    )
