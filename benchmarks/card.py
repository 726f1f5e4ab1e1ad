"""Samples a second, and the share of the device's matrix rate: python -m benchmarks.card --size sd runtime=gpu

Overrides of the run may be added, as in: python -m benchmarks.card plan.samples=32 --compiled none default

Sampling, and whole iterations of PPO with a path KL, as `python run.py` makes them, on the device of `runtime`. size: `latent`
is the conditional UNet of benchmarks/items.py on latents of 4x8x8; `sd`, `sdxl`, `sd3`, `flux` have the networks of
benchmarks/large.py in bf16 under LoRA, untrained, and samples that are decoded and paid for their size as JPEG files. compiled:
`none`, or the modes of torch.compile that are tried; reduce-overhead captures CUDA graphs. Operations are those of the
network's passes, which torch's FlopCounterMode counts; the matrix rate is that of one large product of square matrices in the
precision of the network. Compiling is not timed. Medians, quartiles in brackets. The parts of an iteration are waited for;
replay is what is none of the others. The log-ratio is that of replay to sampling with the weights as they were, the largest of
all steps of four samples. Memory: the most that a GPU has held. seconds: for so long instead of a number of rounds. peers: a
table of iterations of ours and of the loops of benchmarks/loops.py instead, with the same weights, samples, steps, minibatches
and optimiser steps, each for a third of that, in processor time on a CPU; ours is then `trainer=ddpo trainer.baseline=mean
penalty=none`. Samples and steps of the large sizes are so many that an iteration is some 1.4e15 operations, for 10 seconds at a
fifth of the rate of an H100.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.items import CLASSES, LATENT
from benchmarks.large import MODELS
from benchmarks.loop import Clock, hook
from benchmarks.loops import loops
from benchmarks.passes import networks
from pgdlab.config.compose import compose
from pgdlab.diffusion.denoisers import DiffusersDenoiser
from pgdlab.rollout.sampler import rollout
from pgdlab.rollout.trajectory import pair_indices, replay, split
from pgdlab.training.build import build_module, device_of
from pgdlab.training.fit import fit
from pgdlab.training.module import SteeringModule
from pgdlab.world import World

WARM = 2  # iterations that are not timed
MANY = 10**6  # iterations of a run that a clock ends
# samples, and steps of each
WORK = {"sd": (16, 20), "sdxl": (8, 5), "sd3": (8, 5), "flux": (4, 3)}
MODES = ("none", "default", "reduce-overhead", "max-autotune")
SIZES = {"latent": [*LATENT]} | {
    size: [*(w for w in LATENT if not w.startswith(("domain", "reward", "plan"))), "reward=jpeg_photo",
           f"domain={{_target_: benchmarks.large.Large, size: {size}}}", "policy=lora", f"plan.samples={WORK[size][0]}",
           f"policy.steps={WORK[size][1]}", "plan.group=4"]
    for size in MODELS
}  # fmt: skip


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def wait_for_all() -> None:
    """Until a GPU, where there is one, has done what it was asked."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(call: Callable[[], Any], device: torch.device, rounds: int) -> Any:
    """Of each call, after one that is not timed."""
    took = []
    for _ in range(1 + rounds):
        wait(device)
        begun = time.perf_counter()
        call()
        wait(device)
        took.append(time.perf_counter() - begun)
    return np.array(took[1:])


class Parts(Clock):
    """The same, each part once a GPU has done what it was asked; the decoder's calls are one too."""

    def reset(self) -> None:
        super().reset()
        self.spent["decode"] = np.zeros(2)

    def begin(self, part: str) -> None:
        wait_for_all()
        super().begin(part)

    def end(self, part: str) -> None:
        wait_for_all()
        super().end(part)


class Card(Callback):
    """Measures during a run: first operations and the matrix rate, then iterations, and at the end sampling alone."""

    def __init__(
        self, mode: str, rounds: int, limit: float = math.inf, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """limit: seconds, after which no iteration begins but a second timed one."""
        self.mode, self.rounds, self.limit, self.clock = mode, rounds, limit, clock
        self.begun: list[float] = []
        self.parts: list[dict[str, float]] = []

    def on_train_start(self, trainer: Any, pl_module: SteeringModule) -> None:
        world = pl_module.world
        self.untrained = {name: p.detach().clone() for name, p in trained(world).items()}
        self.forward, self.both = operations(world)
        with trainer.precision_plugin.forward_context():
            self.ratio = ratio(world)
        hook(trainer, {"decode": [world.domain.decoder], "reward": [world.reward, world.heldout]})
        self.matrices = matrix_rate(world.device, half(world, trainer.precision), self.rounds)
        for network in networks(world) if self.mode != "none" else ():
            network.compile(mode=self.mode)

    def on_train_epoch_start(self, trainer: Any, pl_module: SteeringModule) -> None:
        wait(pl_module.device)
        self.begun.append(self.clock())
        if len(self.begun) > WARM + 1:
            self.parts.append({name: float(took[0]) for name, took in trainer.profiler.spent.items()})
        trainer.profiler.reset()
        if len(self.begun) > WARM + 2 and self.begun[-1] - self.begun[WARM] > self.limit:
            trainer.should_stop = True

    def on_train_end(self, trainer: Any, pl_module: SteeringModule) -> None:
        """Afterwards Lightning takes the module off the device."""
        world, plan = pl_module.world, pl_module.world.plan
        cond, index = torch.arange(plan.samples) % CLASSES, range(plan.samples)
        with trainer.precision_plugin.forward_context():
            self.drawing = seconds(
                lambda: rollout(world.policy, world.policy, world.noise.of(0, index), cond, batch=world.capacity.rollout_batch),
                world.device, self.rounds,
            )  # fmt: skip


def trained(world: World) -> dict[str, torch.nn.Parameter]:
    """The weights of the policy that train."""
    return {name: p for name, p in world.policy.named_parameters() if p.requires_grad}


def half(world: World, precision: str) -> bool:
    """Whether the network computes in bf16."""
    return precision == "bf16-mixed" or any(p.dtype == torch.bfloat16 for p in world.policy.parameters())


def operations(world: World) -> tuple[float, float]:
    """Of a row's pass of the network: forward alone, forward and backward to all that trains."""
    policy, found = world.policy, []
    x, h, cond = (
        torch.zeros(1, *policy.space.shape, device=world.device),
        *torch.zeros(2, 1, dtype=torch.long, device=world.device),
    )
    for gradient in (False, True):
        with FlopCounterMode(display=False) as spent, torch.set_grad_enabled(gradient):
            out = policy(x, h, cond).mean.sum()
            if gradient:
                torch.autograd.grad(out, [p for p in policy.parameters() if p.requires_grad], allow_unused=True)
        found.append(float(spent.get_total_flops()))
    return found[0], found[1]


@torch.no_grad()
def ratio(world: World, samples: int = 4) -> float:
    """The largest |log-ratio| of replay, in passes as an update makes them, to what was sampled. Nats."""
    policy, cond = world.policy, torch.arange(samples) % CLASSES
    found = rollout(
        policy, policy, world.noise.of(0, range(samples)), cond, batch=world.capacity.rollout_batch,
        trained=policy.stochastic_steps,
    )  # fmt: skip
    pairs = pair_indices(torch.arange(samples, device=world.device), len(found.trained))
    passes = split(pairs, world.capacity.pass_size)
    scores = torch.cat([replay(policy, found, found.pairs(some))[1] for some in passes])
    return float((scores - found.log_prob.flatten()).abs().max())


def matrix_rate(device: torch.device, half: bool, rounds: int) -> Any:
    """Operations a second of a product of square matrices; some tenths of a second on a CPU."""
    n = 16384 if device.type == "cuda" else 2048
    a, b = torch.randn(2, n, n, device=device, dtype=torch.bfloat16 if half else torch.float32)
    return 2 * n**3 / seconds(lambda: a @ b, device, rounds)


def rows(module: SteeringModule) -> tuple[int, int]:
    """Rows of the network that an iteration samples with, the reference's among them, and trains on."""
    return int(module.evaluations) // int(module.iterations) - module.rows, module.rows


def cell(values: Any) -> str:
    """Median and quartiles."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def show(module: SteeringModule, card: Card) -> None:
    """Prints what a run measured."""
    plan, capacity, steps = module.world.plan, module.world.capacity, module.policy.steps
    rate = float(np.median(card.matrices))
    took = np.diff(card.begun[WARM:])  # the last one has no next
    sampled, trained = rows(module)
    drawn = plan.samples * steps * card.forward / card.drawing
    spent = (sampled * card.forward + trained * card.both) / took
    print(
        f"compiled {card.mode}: passes of at most {capacity.pass_size} rows, sampling in batches of {capacity.rollout_batch}"
    )
    figures = {"samples a second": plan.samples / card.drawing, "seconds an iteration": took}
    figures |= {f"of it {name}": parts for name, parts in shares(card, took).items()}
    figures |= {"of the matrix rate, sampling": drawn / rate, "of the matrix rate, training": spent / rate}
    cells = {name: cell(values) for name, values in figures.items()} | {"largest log-ratio, nats": f"{card.ratio:.1e}"}
    if torch.cuda.is_available():
        cells["memory, GB"] = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}"
    print("\n| figure | median (quartiles) |\n|---|---|")
    print("".join(f"| {name} | {value} |\n" for name, value in cells.items()), flush=True)


def shares(card: Card, took: Any) -> dict[str, Any]:
    """Seconds of each part of the timed iterations. collect: sampling, decoding, rewards, and what is made of them."""
    part = {name: np.array([each[name] for each in card.parts]) for name in card.parts[0]}
    return {
        "sampling": part["collect"] - part["decode"] - part["reward"],
        "decode": part["decode"],
        "reward": part["reward"],
        "replay": took - part["collect"] - part["optimiser"],
        "optimiser": part["optimiser"],
    }


def run(
    size: str, mode: str, rounds: int, limit: float, words: list[str], clock: Callable[[], float] = time.perf_counter
) -> tuple[SteeringModule, Card]:
    """A run, and what was seen of it."""
    iterations = rounds + WARM + 1 if limit == math.inf else MANY
    run = (f"plan.iterations={iterations}", f"plan.checkpoint_every={iterations}")
    cfg = compose([*SIZES[size], *words, *run, "runtime.profiler={_target_: benchmarks.card.Parts}"])
    module, card = build_module(cfg), Card(mode, rounds, limit, clock)
    with tempfile.TemporaryDirectory() as folder:
        fit(module, cfg, Path(folder), [card])
    return module, card


def main(size: str, modes: list[str], rounds: int, limit: float, words: list[str]) -> None:
    """Prints the tables."""
    for mode in modes:
        module, card = run(size, mode, rounds, limit, words)
        if mode == modes[0]:
            weights = sum(p.numel() for p in module.policy.denoiser.parameters())
            print(f"{size}: {weights:,} weights, {module.world.plan.samples} samples x {module.policy.steps} steps")
            print(f"  a row's pass: {card.forward / 1e9:.3g} G operations, with its backward {card.both / 1e9:.3g}")
            print(f"  matrix rate: {cell(card.matrices / 1e12)} T operations a second", flush=True)
        show(module, card)


def beside_peers(size: str, limit: float, words: list[str]) -> list[tuple[str, Any, float]]:
    """(whose, seconds of each iteration, GB) of ours and of the peers' loops."""
    from diffusers import DDIMScheduler

    same = ["trainer=ddpo", "trainer.baseline=mean", "penalty=none", *words]
    cfg = compose([*SIZES[size], *same])
    clock = clock_of(cfg.nodes["runtime"]["accelerator"])
    module, card = run(size, "none", 1, limit, same, clock)
    found = [("pgdlab", np.diff(card.begun[WARM:]), held())]
    trainer: Any = module.algorithm
    world = module.world.to(device_of(cfg.nodes["runtime"]))
    weights = trained(world)
    for peer in loops(
        cfg.nodes["runtime"]["precision"] == "bf16-mixed",
        min(module.world.plan.samples // trainer.minibatches, module.world.capacity.pass_size),
        trainer.epochs, trainer.minibatches,
    ):  # fmt: skip
        with torch.no_grad():
            for name, before in card.untrained.items():
                weights[name].copy_(before)
        inner = next(m for m in world.policy.modules() if isinstance(m, DiffusersDenoiser))
        scheduler = DDIMScheduler.from_config(inner.schedule.scheduler.config)
        scheduler.set_timesteps(world.policy.steps)
        optimizer = torch.optim.AdamW(weights.values(), lr=1e-4)
        took: list[float] = []
        peer.iteration(world, scheduler, optimizer)
        while len(took) < 2 or sum(took) < limit:
            wait(world.device)
            begun = clock()
            peer.iteration(world, scheduler, optimizer)
            wait(world.device)
            took.append(clock() - begun)
        found.append((peer.name, np.array(took), held()))
    return found


def clock_of(accelerator: str) -> Callable[[], float]:
    """Of seconds that are comparable: on a CPU, which others may share, those of this process."""
    return time.process_time if accelerator == "cpu" else time.perf_counter


def held() -> float:
    """The most that a GPU has held since the last call, GB; NaN without one."""
    if not torch.cuda.is_available():
        return math.nan
    most = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return most


def table(size: str, limit: float, words: list[str]) -> None:
    """Prints the table of ours and the peers' loops, in markdown."""
    found = beside_peers(size, limit / 3, words)
    samples = compose([*SIZES[size], *words]).nodes["plan"]["samples"]
    print("| loop | seconds an iteration | samples a second | iterations timed | memory, GB |\n|---|---|---|---|---|")
    for name, took, memory in found:
        most = "" if math.isnan(memory) else f"{memory:.1f}"
        print(f"| {name} | {cell(took)} | {samples / np.median(took):.3g} | {len(took)} | {most} |", flush=True)


def parsed(words: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The options of a command line, and the overrides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="latent")
    parser.add_argument("--compiled", nargs="+", choices=MODES, default=["none"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--peers", action="store_true")
    return parser.parse_known_args(words)


if __name__ == "__main__":
    options, words = parsed()
    if options.peers:
        table(options.size, 60.0 if options.seconds == math.inf else options.seconds, words)
    else:
        main(options.size, options.compiled, options.rounds, options.seconds, words)
