"""The cost of training next to that of its network passes: python -m benchmarks.loop --items latent stub --rounds 21

Overrides may come first, as in: python -m benchmarks.loop plan.pass_size=64 --items latent

Every item is a run as `python run.py` makes it, for some iterations. The first one counts its network passes; the floor is the
same forwards, and forwards and backwards, of the same networks and nothing else. The floor is run before and after every
timed iteration, in the same process. One thread; wall and processor (user and system) time; medians over the rounds, between
brackets the quartiles. docs/performance.md says what the columns mean.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import Profiler

from benchmarks.items import ITEMS
from benchmarks.passes import Passes, bare, networks
from pgdlab.config.compose import compose
from pgdlab.training.build import build_module
from pgdlab.training.fit import fit
from pgdlab.training.module import SteeringModule

COLLECT = "[LightningModule]SteeringModule.on_train_epoch_start"
CLIP = "[LightningModule]SteeringModule.on_before_optimizer_step"
AVERAGE = "[Callback]EMA.on_train_batch_end"
COUNTED, WARM = 1, 2  # iterations: the first, in which passes are counted, and those before the first timed one
CLOCKS = ("wall", "processor")


def now() -> Any:
    """Seconds: wall, processor."""
    return np.array([time.perf_counter(), time.process_time()])


class Clock(Profiler):
    """Seconds of the parts of an iteration, by clock: collect (the reward's included), reward, optimiser."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: dict[str, Any] = {}
        self.reset()

    def reset(self) -> None:
        self.spent: dict[str, Any] = {part: np.zeros(2) for part in ("collect", "reward", "optimiser")}

    def begin(self, part: str) -> None:
        self.begun[part] = now()

    def end(self, part: str) -> None:
        self.spent[part] += now() - self.begun[part]

    def start(self, action_name: str) -> None:
        if action_name in (COLLECT, CLIP, AVERAGE):
            self.begin("collect" if action_name == COLLECT else "optimiser")

    def stop(self, action_name: str) -> None:
        if action_name in (COLLECT, AVERAGE):  # what begins with clipping ends with the optimiser's step
            self.end("collect" if action_name == COLLECT else "optimiser")


def hook(trainer: Any, parts: Mapping[str, Iterable[torch.nn.Module | None]]) -> None:
    """Has a trainer's Clock see the end of the optimiser's steps, and the calls of these modules as parts."""
    clock = trainer.profiler
    trainer.optimizers[0].register_step_post_hook(lambda *_: clock.end("optimiser"))
    for part, modules in parts.items():
        for module in modules:
            if module is not None:
                module.register_forward_pre_hook(lambda *_, part=part: clock.begin(part))
                module.register_forward_hook(lambda *_, part=part: clock.end(part))


class Rounds(Callback):
    """Counts the passes of the first iteration, then times floor and iteration in turn, and measures memory in the last one."""

    def __init__(self, rounds: int) -> None:
        self.last = WARM + rounds
        self.floors: list[Any] = []  # (sampling, training), each by clock
        self.parts: list[dict[str, Any]] = []
        self.memory = 0

    def on_train_start(self, trainer: Any, pl_module: SteeringModule) -> None:
        world = pl_module.world
        hook(trainer, {"reward": (world.reward, world.heldout)})
        self.passes = Passes(networks(world))

    def on_train_epoch_start(self, trainer: Any, pl_module: SteeringModule) -> None:
        """The last of what is before an iteration, and so the first of what is after the one before."""
        ended, done = now(), trainer.current_epoch
        if done > WARM:
            self.parts.append(trainer.profiler.spent | {"all": ended - self.begun})
        if done == COUNTED:
            self.passes.close()
            self.sampling = [call for call in self.passes.calls if not call.gradient]
            self.training = [call for call in self.passes.calls if call.gradient]
        if done >= WARM:
            self.between()
        if done == self.last:
            self.traced = trace()
            self.floor_memory = peak(lambda: bare(self.passes.calls))
            self.traced.start()
        trainer.profiler.reset()
        self.begun = now()

    def between(self) -> None:
        """The figures between two iterations."""
        self.floors.append((timed(self.sampling), timed(self.training)))

    def on_train_epoch_end(self, trainer: Any, pl_module: SteeringModule) -> None:
        if trainer.current_epoch == self.last:
            self.traced.stop()
            self.memory = highest(self.traced) - self.floor_memory


def clocked(call: Callable[[], Any]) -> Any:
    """Seconds of a call, by clock."""
    begun = now()
    call()
    return now() - begun


def timed(calls: list[Any]) -> Any:
    """Seconds of bare passes, by clock."""
    return clocked(lambda: bare(calls))


def trace() -> torch.profiler.profile:
    """Notes every allocation and release."""
    return torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    )


def peak(call: Callable[[], None]) -> int:
    """Bytes that a call had allocated at most."""
    with trace() as traced:
        call()
    return highest(traced)


def highest(traced: torch.profiler.profile) -> int:
    """Bytes: the largest sum of what was allocated and not yet released."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        traced.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    steps = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    return max(0, int(np.cumsum([size for _, size in steps]).max()))


R = TypeVar("R", bound=Rounds)


def measure(words: tuple[str, ...], result: R) -> tuple[SteeringModule, R]:
    """A run of an item."""
    iterations = result.last + 1
    plan = (f"plan.iterations={iterations}", f"plan.checkpoint_every={iterations}")
    cfg = compose([*words, *plan, "runtime.profiler={_target_: benchmarks.loop.Clock}"])
    module = build_module(cfg)
    with tempfile.TemporaryDirectory() as folder:
        fit(module, cfg, Path(folder), [result])
    assert int(module.evaluations) > 0
    return module, result


def columns(result: Rounds) -> dict[str, Any]:
    """Name -> (rounds, clocks). Milliseconds, but for `over`."""
    floors = np.array(result.floors)  # one more than rounds
    sampling, training = ((floors[1:, k] + floors[:-1, k]) / 2 for k in (0, 1))
    part = {name: np.array([row[name] for row in result.parts]) for name in result.parts[0]}
    collect, update = part["collect"] - part["reward"], part["all"] - part["collect"] - part["optimiser"]
    passes = len(result.sampling), len(result.training)
    return {
        "iteration": 1e3 * part["all"],
        "sampling pass": 1e3 * sampling / passes[0],
        "sampling own": 1e3 * (collect - sampling) / passes[0],
        "training pass": 1e3 * training / passes[1],
        "training own": 1e3 * (update - training) / passes[1],
        "over": (collect + update) / (sampling + training),
        "reward": 1e3 * part["reward"],
        "optimiser": 1e3 * part["optimiser"],
    }


def describe(name: str, module: SteeringModule, result: Rounds) -> str:
    """The item and its counts."""
    world, plan = module.world, module.world.plan
    policy, algorithm = world.policy, module.algorithm
    updates, steps = algorithm.updates_per_iteration(plan), len(policy.stochastic_steps)
    pairs = sum(call.rows for call in result.training)
    weights = [p.numel() for part in networks(world)[:1] for p in part.parameters()]
    trained = sum(p.numel() for group in module.trained().values() for p in group)
    return (
        f"{name}: {type(algorithm).__name__}, {plan.samples} samples x {policy.steps} steps ({steps} with noise), {updates} "
        f"optimiser steps; {sum(weights):,} weights, {trained:,} trained\n"
        f"  {len(result.sampling)} sampling passes of {sum(c.rows for c in result.sampling):,} rows, {len(result.training)} "
        f"training passes of {pairs:,} rows (at most {max(c.rows for c in result.training)})"
    )


def memory(module: SteeringModule, result: Rounds) -> str:
    """In copies of the trajectories: all states of all samples, fp32."""
    policy = module.policy
    copy = 4 * module.world.plan.samples * (policy.steps + 1) * int(np.prod(policy.space.shape))
    gradient = sum(4 * p.numel() for group in module.trained().values() for p in group)
    return (
        f"  peak memory less the floor's: {result.memory / copy:.2f} trajectory copies of {copy / 2**20:.2f} MiB; a gradient "
        f"is {gradient / copy:.2f}"
    )


class Nothing(lightning.LightningModule):
    """One weight that is never moved, in eight updates an epoch: what Lightning's loop takes by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, update: int) -> torch.Tensor:
        return self.weight * 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def train_dataloader(self) -> range:
        return range(8)


class Epochs(Callback):
    """When every epoch began."""

    def __init__(self) -> None:
        self.begun: list[float] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.begun.append(time.perf_counter())


def nothing(rounds: int) -> str:
    """Milliseconds an update of a module that does nothing, without callbacks, logger and progress bar."""
    epochs, module = Epochs(), Nothing()
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    lightning.Trainer(max_epochs=WARM + rounds + 1, accelerator="cpu", devices=1, callbacks=[epochs], **off).fit(module)
    took = 1e3 * np.diff(epochs.begun[WARM:]) / len(module.train_dataloader())
    low, middle, high = np.quantile(took, (0.25, 0.5, 0.75))
    return f"Lightning's loop around nothing: {middle:.3f} ms ({low:.3f} to {high:.3f}) an update"


def cells(values: Any) -> str:
    """Median and quartiles of (rounds, clocks)."""
    found = np.quantile(values, (0.5, 0.25, 0.75), axis=0).T
    return "".join(f"{f'{middle:.3f} ({low:.3f} to {high:.3f})':>32}" for middle, low, high in found)


def main(items: list[str], rounds: int, words: list[str]) -> None:
    """Prints the tables."""
    torch.set_num_threads(1)
    for name in items:
        module, result = measure((*ITEMS[name], *words), Rounds(rounds))
        print(describe(name, module, result), flush=True)
        print(f"  {'':14}" + "".join(f"{clock:>32}" for clock in CLOCKS))
        for column, values in columns(result).items():
            print(f"  {column:14}{cells(values)}")
        print(memory(module, result), flush=True)
    print(nothing(rounds))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", nargs="+", choices=list(ITEMS), default=list(ITEMS))
    parser.add_argument("--rounds", type=int, default=21)
    options, words = parser.parse_known_args()
    main(options.items, options.rounds, words)
