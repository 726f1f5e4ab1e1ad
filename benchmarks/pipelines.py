"""Our sampler against the own call of pipelines of diffusers, class by class, tiny and random:

    python -m benchmarks.pipelines

Without noise, from the same first states: the distance of the last states over their norm, and the largest difference of a pixel
in [0, 1], decoded by playback. docs/domains/diffusers.md has the table; tests/diffusion/test_pipelines.py has the limits.
"""

from __future__ import annotations

import warnings

import diffusers
import torch

from pgdlab.training.checks_pipeline import without_noise
from tests.diffusion.test_pipelines import SEED, STEPS, Steered, off
from tests.diffusion.tiny_pipelines import KINDS, made


@torch.no_grad()
def line(name: str) -> str:
    """A row of the table in markdown."""
    tiny = made(name)
    scheduler, steered = type(tiny.pipe.scheduler).__name__, Steered(tiny)
    first, theirs = steered.playback.own_run([0, 1], SEED)
    ours, pixel = without_noise(steered.policy(), first, torch.tensor([0, 1])), "-"
    if steered.asked.schedule.clip is None:  # else the call keeps the noise of an estimate that was not clipped
        images = steered.playback.called([0, 1], STEPS, "pt", SEED).float()
        pixel = f"{float((steered.playback.decoded(ours) - images).abs().max()):.1e}"
    return f"| {name} | `{type(tiny.pipe).__name__}`, `{scheduler}` | {off(ours, theirs):.1e} | {pixel} |"


def main() -> None:
    """Prints the table."""
    diffusers.utils.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    print("| what | class, scheduler | states | a pixel |\n|---|---|---|---|")
    for name in KINDS:
        print(line(name), flush=True)


if __name__ == "__main__":
    main()
