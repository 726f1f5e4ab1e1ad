"""An iteration beside the same one of trl's DDPOTrainer: python -m benchmarks.peers --items batch4 --rounds 11

In an environment of its own, since trl dropped this trainer after 0.23.1 and needs packages of its time:

    python -m venv peers
    peers/bin/pip install -e . trl==0.23.1 diffusers==0.34.0 transformers==4.56.2 accelerate==1.10.1 peft==0.17.1
    peers/bin/python -m benchmarks.peers

Both train the network of one pipeline, which is built in code, on the same work: as many samples, steps, (sample, step) pairs
trained and optimiser steps, with DDPO's loss. First the gradients of one minibatch are compared, on the same samples and rewards.
Then an iteration of each, the bare passes of trl's sizes and the bare passes of ours take turns in one process, on one thread.
Medians over the rounds, quartiles in brackets. docs/performance.md says what the lines mean.
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import numpy as np
import torch

from benchmarks.items import LATENT
from benchmarks.loop import CLOCKS, Rounds, cells, clocked, measure, timed
from benchmarks.passes import Passes
from benchmarks.pipeline import PROMPTS, pipeline
from pgdlab.config.compose import compose
from pgdlab.training.build import build_module
from pgdlab.training.module import SteeringModule

SAMPLES, STEPS, CLIP, LR = 64, 20, 1e-4, 1e-4
ITEMS: dict[str, tuple[int, float]] = {  # trajectories of a minibatch, guidance
    "batch4": (4, 1.0),
    "batch4_guided": (4, 5.0),
    "batch16": (16, 1.0),
}


def words(batch: int, guidance: float) -> tuple[str, ...]:
    """Our run."""
    return (
        *LATENT, "domain={_target_: benchmarks.pipeline.Text}", f"policy.steps={STEPS}", f"policy.guidance={guidance}",
        "trainer=ddpo", "trainer.baseline=mean", "trainer.epochs=1", f"trainer.minibatches={SAMPLES // batch}",
        f"trainer.clip={CLIP}", "penalty=none", f"plan.samples={SAMPLES}", f"optimizer.lr={LR}",
    )  # fmt: skip


def trl(batch: int, guidance: float) -> Any:
    """trl's trainer on a pipeline of its own with the same weights. It draws its own samples."""
    from accelerate import PartialState
    from trl import DDPOConfig, DDPOTrainer
    from trl.models.modeling_sd_base import DefaultDDPOStableDiffusionPipeline

    class Pipeline(DefaultDDPOStableDiffusionPipeline):  # type: ignore[misc]
        """Theirs, on what is there instead of on files."""

        def __init__(self) -> None:
            self.sd_pipeline, self.use_lora = pipeline(0), False
            self.sd_pipeline.text_encoder.requires_grad_(False)
            if guidance == 1:  # theirs joins the negative prompts to the others in any case, and fails
                self.sd_pipeline._encode_prompt = lambda *_, prompt_embeds, **__: prompt_embeds

        @property
        def autocast(self) -> None:
            return None

    config = DDPOConfig(
        sample_num_steps=STEPS, sample_eta=1.0, sample_guidance_scale=guidance, sample_batch_size=batch,
        sample_num_batches_per_epoch=SAMPLES // batch, train_batch_size=batch, train_num_inner_epochs=1,
        train_cfg=guidance > 1, train_learning_rate=LR, train_adam_weight_decay=0.0, train_clip_range=CLIP,
        per_prompt_stat_tracking=False, mixed_precision="no", log_with=None, save_freq=10**9,
    )  # fmt: skip
    PartialState()  # else its logger, which says that no images are logged, raises
    prompts = itertools.cycle(PROMPTS)
    pipe = Pipeline()
    trainer = DDPOTrainer(config, lambda images, *_: (images.flatten(1).mean(1), {}), lambda: (next(prompts), {}), pipe)
    pipe.set_progress_bar_config(disable=True)
    return trainer


def gradients(peer: Any, batch: int, guidance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the first minibatch: ours and trl's, all weights in a row, on our samples; see agreement for their units."""
    module = build_module(compose(list(words(batch, guidance))))
    world, algorithm = module.world, module.algorithm
    seen = algorithm.collect(world, 0)
    torch.stack(
        [algorithm.loss(seen, p, world).value for p in algorithm.micro_batches(seen, 0, world)]
    ).sum().backward()
    network: Any = next(m for m in world.policy.modules() if type(m).__name__ == "Prompted")
    ours = torch.cat([p.grad.flatten() for p in network.unet.parameters()])

    rows, path = seen.order[0].tensor_split(SAMPLES // batch)[0], seen.trajectory
    rewards = path.sample.flatten(1).mean(1).numpy()
    advantage = torch.tensor((rewards - rewards.mean()) / (rewards.std() + 1e-8))[rows]  # as in DDPOTrainer.step
    embeds = network.embeddings[path.cond[rows]]
    if guidance > 1:
        embeds = torch.cat([network.embeddings[-1:].expand_as(embeds), embeds])
    peer.sd_pipeline.scheduler.set_timesteps(STEPS)
    unet = peer.sd_pipeline.unet.eval()
    for h, time in enumerate(peer.sd_pipeline.scheduler.timesteps):
        state, action, times = path.states[rows, h], path.states[rows, h + 1], time.expand(batch)
        arguments = (state, times, action), (advantage, embeds)
        with torch.no_grad():
            old = log_prob(peer, *arguments[0], embeds, guidance)
        loss, _, _ = peer.calculate_loss(*arguments[0], old, *arguments[1])
        (loss / STEPS).backward()
    theirs = torch.cat([p.grad.flatten() for p in unet.parameters()])
    unet.zero_grad()
    return ours, theirs


def log_prob(peer: Any, state: Any, times: Any, action: Any, embeds: Any, guidance: float) -> torch.Tensor:
    """trl's log-probability of a step, before the update."""
    twice = [torch.cat([x, x]) if guidance > 1 else x for x in (state, times)]
    out = peer.sd_pipeline.unet(*twice, embeds).sample
    if guidance > 1:
        null, given = out.chunk(2)
        out = null + guidance * (given - null)
    step = peer.sd_pipeline.scheduler_step(out, times, state, eta=1.0, prev_sample=action)
    return step.log_probs  # type: ignore[no-any-return]


def agreement(peer: Any, batch: int, guidance: float) -> str:
    """Ours sums over the steps where trl averages, and divides by the std of n - 1 where trl takes that of n."""
    ours, theirs = gradients(peer, batch, guidance)
    known = STEPS * np.sqrt((SAMPLES - 1) / SAMPLES)
    off = ((ours - known * theirs).norm() / (known * theirs).norm()).item()
    return f"  gradient of the first minibatch, {len(ours):,} weights: relative difference {off:.1e}"


class Turns(Rounds):
    """Between our iterations: the bare passes of ours, those of trl, and an iteration of trl."""

    def __init__(self, rounds: int, peer: Any) -> None:
        super().__init__(rounds)
        self.peer = peer
        counted = Passes([peer.sd_pipeline.unet])
        peer.step(0, 0)
        counted.close()
        self.calls = counted.calls
        self.theirs: list[Any] = []

    def between(self) -> None:
        super().between()
        self.theirs.append((clocked(lambda: self.peer.step(0, 0)), timed(self.calls)))


def lines(result: Turns) -> dict[str, Any]:
    """Name -> (rounds, clocks). What came between two iterations is averaged with what came after the second."""
    ours = np.array([row["all"] for row in result.parts])
    theirs = np.array(result.theirs)
    step, floor = ((theirs[1:, k] + theirs[:-1, k]) / 2 for k in (0, 1))
    own = np.array(result.floors).sum(1)
    return {
        "ours / trl": ours / step,
        "ours / trl's floor": ours / floor,
        "trl / trl's floor": step / floor,
        "our floor / trl's": (own[1:] + own[:-1]) / 2 / floor,
        "ours, ms": 1e3 * ours,
        "trl, ms": 1e3 * step,
    }


def describe(module: SteeringModule, result: Turns) -> str:
    """The counts, which are to be the same where work is the same."""
    for who, calls in {"ours": [*result.sampling, *result.training], "trl": result.calls}.items():
        rows = [sum(c.rows for c in calls if c.gradient == trained) for trained in (False, True)]
        passes = [sum(c.gradient == trained for c in calls) for trained in (False, True)]
        print(
            f"  {who:5} {passes[0]} sampling passes of {rows[0]:,} rows, {passes[1]} training passes of {rows[1]:,} rows"
        )
        assert rows[0] == rows[1], "not the same work"
    updates = module.algorithm.updates_per_iteration(module.world.plan)
    return f"  {updates} optimiser steps each"


def main(items: list[str], rounds: int) -> None:
    """Prints the tables."""
    torch.set_num_threads(1)
    for name in items:
        batch, guidance = ITEMS[name]
        print(f"{name}: minibatches of {batch} of {SAMPLES} samples x {STEPS} steps, guidance {guidance:g}")
        peer = trl(batch, guidance)
        print(agreement(peer, batch, guidance), flush=True)
        module, result = measure(words(batch, guidance), Turns(rounds, peer))
        print(describe(module, result))
        print(f"  {'':20}" + "".join(f"{clock:>32}" for clock in CLOCKS))
        for line, values in lines(result).items():
            print(f"  {line:20}{cells(values)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", nargs="+", choices=list(ITEMS), default=list(ITEMS))
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    main(options.items, options.rounds)
