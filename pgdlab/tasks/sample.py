"""task=sample: samples of a run's policy (resume=runs/<name>) or of the domain's base."""

from __future__ import annotations

from pathlib import Path

import torch

from pgdlab.config.configuration import Config
from pgdlab.config.runs import run_folder
from pgdlab.evaluation.evaluate import load_weights
from pgdlab.evaluation.samples import draw
from pgdlab.rollout.noise import Noise, Stream
from pgdlab.rollout.trajectory import Samples
from pgdlab.training.build import build_world
from pgdlab.training.fit import LAST, load


def main(cfg: Config) -> None:
    """Writes samples.png, samples.pt (plan.eval_samples rows and their conditions) and the domain's own files."""
    world = build_world(cfg)
    folder = run_folder(cfg)
    if cfg.resume:
        load_weights(world.policy, load(Path(cfg.resume) / LAST)["state_dict"], Path(cfg.resume) / LAST)
    sample, cond = draw(world, world.plan.eval_samples, Noise(cfg.seed, Stream.EVALUATE))
    torch.save({"sample": sample, "cond": cond}, folder / "samples.pt")
    world.domain.show({"samples": sample[:64]}, folder / "samples.png")
    world.domain.report({"samples": Samples(sample, cond)}, folder)
    print(
        f"{len(sample)} samples in {folder / 'samples.pt'}; the first {min(64, len(sample))} in {folder / 'samples.png'}"
    )
