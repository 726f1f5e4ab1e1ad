"""The LightningModule: one epoch is one iteration (collect, then the minibatches)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import lightning
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from pgdlab.config import renamed
from pgdlab.diffusion.digest import digest
from pgdlab.processes import Processes, alone, is_cut
from pgdlab.rollout.memory import release
from pgdlab.rollout.trajectory import dtype_of
from pgdlab.trainers.base import Algorithm, Loss
from pgdlab.trainers.prompts import PromptRewards
from pgdlab.training.optimizer import Optimization, clip_
from pgdlab.world import World


class SteeringModule(lightning.LightningModule):
    """Trains a World with an Algorithm. Works for pretraining too: the algorithm decides what an iteration is.

    Everything random is keyed by the buffer `iterations`, so that a resumed run draws what the first one would have.
    """

    iterations: Tensor
    queries: Tensor
    unique_queries: Tensor
    evaluations: Tensor
    seconds: Tensor

    def __init__(self, world: World, algorithm: Algorithm[Any, Any], optimization: Optimization) -> None:
        super().__init__()
        self.automatic_optimization = False  # an update is one step, however many passes its gradient takes
        self.world, self.algorithm, self.optimization = algorithm.equip(world), algorithm, optimization
        self.policy, self.penalties = self.world.policy, self.world.penalties
        for name, part in self.outside_policy().items():
            self.add_module(name, part)
        for name in ("iterations", "queries", "unique_queries", "evaluations"):
            self.register_buffer(name, torch.zeros((), dtype=torch.long))
        self.register_buffer("seconds", torch.zeros((), dtype=torch.float64))
        self.experience: Any = None
        self.parts: dict[str, list[torch.nn.Parameter]] = {}
        self.history: list[dict[str, float]] = []
        self.prompts: PromptRewards | None = None  # of the last iteration
        self.sums: dict[str, list[tuple[Tensor, float]]] = {}
        self.rows = 0
        self.started = 0.0
        self.base = ""
        self.left = 0  # rows of a pass that a checkpoint remembers

    def outside_policy(self) -> dict[str, torch.nn.Module]:
        """The trained parts outside the policy, by name."""
        own = set(self.policy.modules())
        return {name: part for name, part in self.algorithm.trained(self.world).items() if part not in own}

    def trained(self) -> dict[str, list[torch.nn.Parameter]]:
        """The parameters that train, by the name of their gradient's norm: the policy's, then those of every other part."""
        parts: dict[str, torch.nn.Module] = {"gradient_norm": self.policy}
        parts |= {f"{name}_gradient_norm": part for name, part in self.outside_policy().items()}
        return {name: [p for p in part.parameters() if p.requires_grad] for name, part in parts.items()}

    def configure_optimizers(self) -> Any:
        optimizer = self.optimization.build(self.algorithm.trained(self.world))
        if not self.optimization.warmup and self.optimization.final_lr == 1:
            return optimizer
        updates = self.world.plan.iterations * self.algorithm.updates_per_iteration(self.world.plan)
        course = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: self.optimization.lr_factor(k, updates))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": course, "interval": "step"}}

    def train_dataloader(self) -> range:
        """The numbers of an iteration's updates."""
        return range(self.algorithm.updates_per_iteration(self.world.plan))

    def on_fit_start(self) -> None:
        """Eval mode unless pretraining: dropout at replay would move the ratio. What is not a submodule follows to the device."""
        self.train(self.algorithm.dropout)
        self.world.to(self.device)
        for part in (self.world.reference, self.world.reward, self.world.heldout):
            if part is not None:
                part.eval()
        self.base, size = digest(self.world.reference), self.trainer.world_size
        # an update follows its rollout directly and is backpropagated once, so it may use sampling's own graph
        capacity, cut = self.world.capacity, is_cut(self.policy)
        capacity.graph = not cut
        self.parts = self.trained()
        processes = Processes(self.global_rank, size, self.gather if size > 1 else alone)
        self.world = replace(self.world, processes=processes)
        if cut:  # a pass is one of all processes, and there is more room than before
            release()
            capacity.rollout_batch, capacity.pass_size = self.world.plan.rollout_batch, self.world.plan.pass_size
            self.world.measure()
            capacity.pass_size = min(capacity.pass_size, self.left or capacity.pass_size)
            capacity.rollout_batch = -processes.most(-capacity.rollout_batch, self.device)
            capacity.pass_size = -processes.most(-capacity.pass_size, self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The reference is made of the domain's files, not of the checkpoint: what it was is kept to be compared. So is the
        size of passes, since sums of other parts are rounded otherwise."""
        checkpoint |= {"base": self.base, "pass_size": self.world.capacity.pass_size}
        if kept := self.algorithm.kept(self.world):
            checkpoint["kept"] = {name: x.detach().clone() for name, x in kept.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= renamed.checkpoint(checkpoint, self.state_dict())
        capacity = self.world.capacity
        self.left = checkpoint.get("pass_size", 0)
        capacity.pass_size = min(capacity.pass_size, self.left or capacity.pass_size)
        kept, saved = self.algorithm.kept(self.world), checkpoint.get("kept", {})
        if kept.keys() != saved.keys() or any(
            kept[n].shape != x.shape or not x.isfinite().all() for n, x in saved.items()
        ):
            raise ValueError("the checkpoint does not hold what this trainer keeps (its old policy): start a new run")
        for name, x in kept.items():
            x.data.copy_(saved[name])

    def gather(self, x: Tensor) -> Tensor:
        """Rows of all processes, in order of rank."""
        return self.all_gather(x).flatten(0, 1)  # type: ignore[union-attr]

    def on_train_epoch_start(self) -> None:
        self.started = time.perf_counter()
        self.sums, self.rows = {}, 0
        with self.trainer.precision_plugin.forward_context():  # the precision of replay: else the ratio is not 1
            before = self.world.reward.unique_queries() or 0
            self.experience = self.algorithm.collect(self.world, int(self.iterations))
        asked = torch.tensor([(self.world.reward.unique_queries() or 0) - before], device=self.device)
        self.unique_queries += self.world.processes.gather(asked).sum()

    def training_step(self, update: int) -> None:
        """One optimiser step, however many passes its pairs take; they get smaller where memory runs out."""
        before, optimizer = ({name: list(entry) for name, entry in self.sums.items()}, self.rows), self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        while True:
            optimizer.zero_grad()
            try:
                with self.without_reduction():
                    pieces = self.algorithm.micro_batches(self.experience, update, self.world)
                    idle = self.idle_passes(len(pieces))
                    for piece in pieces:
                        self.manual_backward(self.pass_loss(piece))
                    for _ in range(idle):
                        self.manual_backward(self.idle_loss())
                break
            except RuntimeError as error:
                self.world.capacity.shrink(self.world.plan.samples * self.policy.steps, error, is_cut(self.policy))
            self.algorithm.release(self.experience)
            release()
            self.sums, self.rows = {name: list(entry) for name, entry in before[0].items()}, before[1]
        self.sum_gradients()
        optimizer.step()
        schedule = self.lr_schedulers()
        if isinstance(schedule, torch.optim.lr_scheduler.LRScheduler):
            schedule.step()

    def idle_passes(self, own: int) -> int:
        """How many passes others make besides a process's own, where a pass is one of all processes."""
        shared = is_cut(self.policy) and self.policy.trains_denoiser
        return self.world.processes.most(own, self.device) - own if shared else 0

    def idle_loss(self) -> Tensor:
        """0, of a pass of the network that takes part in another process's."""
        x = torch.zeros(1, *self.policy.space.shape, dtype=dtype_of(self.policy), device=self.device)
        h, cond = torch.zeros(1, dtype=torch.long, device=self.device), self.world.domain.train_conditions[:1]
        return 0 * self.policy(x, h, torch.tensor(cond, device=self.device)).mean.sum()

    def without_reduction(self) -> AbstractContextManager[None]:
        """Gradients of passes add up in each process; DDP would exchange those of every pass."""
        model = self.trainer.strategy.model
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    def sum_gradients(self) -> None:
        """The sum over processes: a loss is divided by global counts. What took part in no pass has a gradient of 0. Gradients of
        weights that are cut were summed as they were made."""
        gradients = []
        for p in (p for part in self.parts.values() for p in part):
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            gradients.append(p.grad)
        self.world.processes.sum_([g for g in gradients if not isinstance(g, DTensor)])

    def pass_loss(self, piece: Any) -> Tensor:
        """The loss of one pass."""
        loss: Loss = self.algorithm.loss(self.experience, piece, self.world)
        for name, (total, count) in loss.logs.items():
            self.add(name, total, count)
        self.add("loss", loss.value, 0.0)  # a count of 0: averaged over the updates
        self.rows += loss.rows
        return loss.value

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clips, and logs the norms as they were. The critic is clipped by itself: its error would else decide how long the
        policy's step is."""
        share = 1 / self.world.processes.size  # every process has the same, summed gradient
        for name, part in self.parts.items():
            norm = clip_(part, self.optimization.clip_norm or math.inf)
            self.add(name, norm * share, share)

    def add(self, name: str, total: Tensor, count: float) -> None:
        """Notes a term of the sums that an iteration's logs are made of."""
        self.sums.setdefault(name, []).append((total.detach(), count))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After the last update: counts and logs the iteration, before any callback asks for it."""
        if batch_idx + 1 < self.algorithm.updates_per_iteration(self.world.plan):
            return
        experience = self.experience
        self.iterations += 1
        self.queries += experience.queries
        trained = torch.tensor([self.rows], device=self.device)
        self.evaluations += experience.evaluations + self.world.processes.gather(trained).sum()
        took = torch.tensor([time.perf_counter() - self.started], dtype=torch.float64, device=self.device)
        self.seconds += self.world.processes.gather(
            took
        ).max()  # of the slowest: a budget ends in all processes at once
        self.history.append(dict(self.iteration_logs()))
        self.prompts, self.experience = experience.prompts, None

    def all_sums(self) -> dict[str, tuple[float, float]]:
        """The sums over all processes, exchanged at once with their names: a process whose samples were all not measured has
        none of the ratios' to gather."""
        own = {}
        for name, terms in self.sums.items():
            totals, counts = zip(*terms, strict=True)
            own[name] = float(torch.stack(totals).double().sum()), float(sum(counts))
        parts = [own] * self.world.processes.size
        if len(parts) > 1:
            torch.distributed.all_gather_object(parts, own)
        zero = (0.0, 0.0)
        return {
            name: (sum(p.get(name, zero)[0] for p in parts), sum(p.get(name, zero)[1] for p in parts))
            for name in {name for part in parts for name in part}
        }

    def iteration_logs(self) -> Iterator[tuple[str, float]]:
        """The row of an iteration: names and formulas in docs/metrics.md."""
        yield from self.experience.logs.items()
        updates = self.algorithm.updates_per_iteration(self.world.plan)
        for name, (total, count) in sorted(self.all_sums().items()):
            yield f"train/{name}", total / (count or updates)
        yield "iteration", float(self.iterations)
        if self.world.reward.unique_queries() is not None:
            yield "unique_queries", float(self.unique_queries)
        for name in ("queries", "evaluations", "seconds"):
            yield name, float(getattr(self, name))
