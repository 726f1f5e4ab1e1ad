"""Samples a second, and the share of the device's matrix rate: python -m benchmarks.card --size sd runtime=gpu

Overrides of the run may be added, as in: python -m benchmarks.card plan.samples=32 --compiled none default

Sampling, and whole iterations of PPO with a path KL, as `python run.py` makes them, on the device of `runtime`. size:
`latent` is the conditional UNet of benchmarks/items.py on latents of 4x8x8; `sd`, `sdxl`, `sd3`, `flux` have the networks of
benchmarks/large.py in bf16 under LoRA, untrained. compiled: `none`, or the modes of torch.compile that are tried;
reduce-overhead captures CUDA graphs. Operations are those of the network's passes, which torch's FlopCounterMode counts; the
matrix rate is that of one large product of square matrices in the precision of the network. Compiling is not timed. Medians,
quartiles in brackets. Memory: the most that a GPU has held.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.items import CLASSES, LATENT
from benchmarks.large import MODELS
from benchmarks.passes import networks
from pgdlab.config.compose import compose
from pgdlab.rollout.sampler import rollout
from pgdlab.training.build import build_module
from pgdlab.training.fit import fit
from pgdlab.training.module import SteeringModule
from pgdlab.world import World

MODES = ("none", "default", "reduce-overhead", "max-autotune")
SIZES = {"latent": [*LATENT]} | {
    size: [*(w for w in LATENT if not w.startswith(("domain", "plan"))),
           f"domain={{_target_: benchmarks.large.Large, size: {size}}}", "policy=lora", "plan.samples=16", "plan.group=4"]
    for size in MODELS
}  # fmt: skip


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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


class Card(Callback):
    """Measures during a run: first operations and the matrix rate, then iterations, and at the end sampling alone."""

    def __init__(self, mode: str, rounds: int) -> None:
        self.mode, self.rounds = mode, rounds
        self.begun: list[float] = []

    def on_train_start(self, trainer: Any, pl_module: SteeringModule) -> None:
        world = pl_module.world
        self.forward, self.both = operations(world)
        self.matrices = matrix_rate(world.device, half(world, trainer.precision), self.rounds)
        for network in networks(world) if self.mode != "none" else ():
            network.compile(mode=self.mode)

    def on_train_epoch_start(self, trainer: Any, pl_module: SteeringModule) -> None:
        wait(pl_module.device)
        self.begun.append(time.perf_counter())

    def on_train_end(self, trainer: Any, pl_module: SteeringModule) -> None:
        """Afterwards Lightning takes the module off the device."""
        world, plan = pl_module.world, pl_module.world.plan
        cond, index = torch.arange(plan.samples) % CLASSES, range(plan.samples)
        with trainer.precision_plugin.forward_context():
            self.drawing = seconds(
                lambda: rollout(world.policy, world.policy, world.noise.of(0, index), cond, batch=world.capacity.rollout_batch),
                world.device, self.rounds,
            )  # fmt: skip


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
    took = np.diff(card.begun[2:])  # the last one has no next
    sampled, trained = rows(module)
    drawn = plan.samples * steps * card.forward / card.drawing
    spent = (sampled * card.forward + trained * card.both) / took
    print(
        f"compiled {card.mode}: passes of at most {capacity.pass_size} rows, sampling in batches of {capacity.rollout_batch}"
    )
    print(f"  samples a second              {cell(plan.samples / card.drawing)}")
    print(f"  seconds an iteration          {cell(took)}")
    print(f"  of the matrix rate, sampling  {cell(drawn / rate)}")
    print(f"  of the matrix rate, training  {cell(spent / rate)}", flush=True)
    if module.world.device.type == "cuda" or torch.cuda.is_available():
        print(f"  memory, GB                    {torch.cuda.max_memory_allocated() / 1e9:.1f}", flush=True)


def main(size: str, modes: list[str], rounds: int, words: list[str]) -> None:
    """Prints the tables."""
    for mode in modes:
        cfg = compose([*SIZES[size], *words, f"plan.iterations={rounds + 3}", f"plan.checkpoint_every={rounds + 3}"])
        module, card = build_module(cfg), Card(mode, rounds)
        with tempfile.TemporaryDirectory() as folder:
            fit(module, cfg, Path(folder), [card])
        if mode == modes[0]:
            weights = sum(p.numel() for p in module.policy.denoiser.parameters())
            print(f"{size}: {weights:,} weights, {module.world.plan.samples} samples x {module.policy.steps} steps")
            print(f"  a row's pass: {card.forward / 1e9:.3g} G operations, with its backward {card.both / 1e9:.3g}")
            print(f"  matrix rate: {cell(card.matrices / 1e12)} T operations a second", flush=True)
        show(module, card)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="latent")
    parser.add_argument("--compiled", nargs="+", choices=MODES, default=["none"])
    parser.add_argument("--rounds", type=int, default=5)
    options, words = parser.parse_known_args()
    main(options.size, options.compiled, options.rounds, words)
