"""The denoising loss, and the two algorithms that are nothing but it: pretraining, and reward-weighted regression."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from pgdlab.diffusion.denoisers import Denoiser, refuse_to_hide
from pgdlab.diffusion.policy import Policy
from pgdlab.domains.base import labelled
from pgdlab.functional.gaussian import expand
from pgdlab.rollout.noise import Noise, Stream
from pgdlab.rollout.plan import Plan
from pgdlab.rollout.sampler import rollout
from pgdlab.trainers.base import Algorithm, Loss, refuse_rounding
from pgdlab.trainers.interaction import in_turn
from pgdlab.trainers.prompts import PromptRewards
from pgdlab.world import World


def noisy(
    denoiser: Denoiser, x0: Float[Tensor, "B *D"], t: Shaped[Tensor, " B"], noise: Float[Tensor, "B *D"]
) -> Float[Tensor, "B *D"]:
    """x_t = alpha x_0 + sigma noise."""
    return expand(denoiser.schedule.alpha(t), x0) * x0 + expand(denoiser.schedule.sigma(t), x0) * noise


@dataclass(frozen=True)
class Samples:
    """Clean samples (N, *D) with conditions and weights (N,), all processes alike; weights sum to N."""

    x0: Float[Tensor, "N *D"]
    cond: Tensor
    weight: Float[Tensor, " N"]
    iteration: int
    logs: dict[str, float] = field(default_factory=dict)
    queries: int = 0
    evaluations: int = 0
    prompts: PromptRewards | None = None


@dataclass(frozen=True)
class NoisyBatch:
    """Rows of the samples with their times and noise, the size of the global minibatch, and the seed of its dropout. block: which
    rows are compared with one another, and so are in one pass, numbered from 0."""

    rows: Int[Tensor, " R"]
    t: Shaped[Tensor, " R"]
    noise: Float[Tensor, "R *D"]
    cond: Tensor
    count: int
    seed: int
    block: Int[Tensor, " R"]


@dataclass(frozen=True, kw_only=True)
class DenoisingAlgorithm(Algorithm[Samples, NoisyBatch]):
    """Weighted denoising regression. updates: optimiser steps an iteration; batch: samples an update, over all processes;
    drop: probability that the condition is hidden, for classifier-free guidance.

    Batches run through the samples in an order that is drawn anew every epoch. Where batch divides their number an epoch
    sees every sample once; else the batch that crosses its end takes the rest from the head of the same order, and the
    next epoch begins as far into its own: some samples are seen twice, some not at all.
    """

    of_samples = True
    updates: int = 100
    batch: int = 128
    drop: float = 0.15

    def __post_init__(self) -> None:
        for name in ("updates", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def refuse(self, world: World) -> None:
        unguided(world)
        refuse_rounding(world.plan, "this trainer keeps final samples alone, and no states of the steps")
        if self.drop:
            refuse_to_hide(world.policy.denoiser, "trainer.drop=0")

    def updates_per_iteration(self, plan: Plan) -> int:
        return self.updates

    def release(self, experience: Samples) -> None:
        """Nothing to free."""

    def drawn_times(self, policy: Policy, u: Float[Tensor, " B"]) -> Tensor:
        """Uniform numbers in [0, 1) -> the times (B,) that samples are noised to."""
        return policy.denoiser.schedule.spread(u)

    def rows(self, experience: Samples, update: int, world: World) -> Int[Tensor, " B"]:
        """Which samples minibatch `update` has, over all processes."""
        return turn(len(experience.x0), self.batch, update, experience.iteration, world)

    def micro_batches(self, experience: Samples, update: int, world: World) -> list[NoisyBatch]:
        g = world.noise.generator(experience.iteration, 10 + update)
        size, rows = self.batch, self.rows(experience, update, world)
        # stratified over the minibatch: the same expectation as independent times, half the noise of the loss
        spread = (torch.arange(size) + torch.rand(size, generator=g)) / size
        t = self.drawn_times(world.policy, spread)
        noise = torch.randn(size, *experience.x0.shape[1:], generator=g)
        hidden = torch.rand(size, generator=g) < self.drop
        given = experience.cond.cpu()[rows]
        noise = world.policy.space.project(noise, given)
        cond = given.masked_fill(hidden, world.domain.conditioning.unconditional)
        own = torch.arange(world.processes.rank, size, world.processes.size)
        pieces = []
        for part in own.split(world.capacity.pass_size):
            seed = int(torch.randint(2**31, (), generator=g)) + world.processes.rank
            here = [x[part].to(world.device) for x in (rows, t, noise, cond)]
            alone = torch.arange(len(part), device=world.device)
            pieces.append(NoisyBatch(here[0], here[1], here[2], here[3], size, seed, alone))
        return pieces

    def loss(self, experience: Samples, piece: NoisyBatch, world: World) -> Loss:
        x0, weight = experience.x0[piece.rows], experience.weight[piece.rows]
        denoiser = world.policy.denoiser
        x = noisy(denoiser, x0, piece.t, piece.noise.to(x0.dtype))
        with torch.random.fork_rng(enabled=self.dropout):  # dropout draws from torch's global generator
            if self.dropout:
                torch.manual_seed(piece.seed)
            each = denoiser.loss(x, x0, piece.t, piece.cond)
        total = (weight * each).sum() / piece.count
        return Loss(total, len(each), {"denoising_loss": (each.detach().sum(), float(len(each)))})


def turn(n: int, size: int, update: int, iteration: int, world: World) -> Int[Tensor, " B"]:
    """Which `size` of n things minibatch `update` has: see DenoisingAlgorithm."""
    start = update * size % n
    order = torch.randperm(n, generator=world.noise.generator(iteration, 3 + update * size // n))
    return order.repeat(1 + (start + size) // n)[start : start + size]


def in_blocks(
    world: World, rows: Tensor, t: Tensor, noise: Tensor, cond: Tensor, block: Int[Tensor, " R"], hidden: Bool[Tensor, " B"],
    count: int, width: int = 1,
) -> list[NoisyBatch]:  # fmt: skip
    """The passes of this process, which has every size-th block, each of whole blocks. All (R, ...) on the CPU. block: numbers in
    order, from 0; hidden: the blocks whose condition is; width: network rows a row."""
    noise = world.policy.space.project(noise, cond)
    cond = cond.masked_fill(hidden[block], world.domain.conditioning.unconditional)
    rank, size = world.processes.rank, world.processes.size
    where, here, filled = torch.full((int(block[-1]) + 1,), -1), 0, 0
    for k, n in list(enumerate(block.bincount().tolist()))[rank::size]:
        if filled and (filled + n) * width > world.capacity.pass_size:
            here, filled = here + 1, 0
        where[k], filled = here, filled + n
    pieces = []
    for number in range(here + 1 if filled else 0):
        part = (where[block] == number).nonzero()[:, 0]
        own = block[part].unique_consecutive(return_inverse=True)[1]
        x = [each.to(world.device) for each in (rows[part], t[part], noise[part], cond[part], own)]
        pieces.append(NoisyBatch(x[0], x[1], x[2], x[3], count, 0, x[4]))
    return pieces


def unguided(world: World) -> None:
    """Raises ValueError for classifier-free guidance: the regression is of the network's own estimate."""
    if world.policy.denoiser.guided:
        raise ValueError("denoising regression fits the unguided estimate: set policy.guidance=1")


@dataclass(frozen=True, kw_only=True)
class Pretrain(DenoisingAlgorithm):
    """Denoising score matching on the domain's training data (Ho et al. 2020, arXiv:2006.11239, eq. 14).

    probe: samples drawn before every probe_every-th iteration from the weights as they are, always with the same noise; the
    domain's figures of them are logged as probe/<name>, and the loss of as many held-out ones as probe/denoising_loss. 0 for
    none.
    """

    dropout = True
    probe: int = 0
    probe_every: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.probe < 0 or self.probe_every < 1:
            raise ValueError(
                f"probe is {self.probe} samples every {self.probe_every} iterations; they must be at least 0 and at least 1"
            )

    def collect(self, world: World, iteration: int) -> Samples:
        x0, cond = labelled(world.domain).data("train")
        logs = self.figures(world) if self.probe and iteration and iteration % self.probe_every == 0 else {}
        weight = torch.ones(len(x0), device=world.device)
        return Samples(x0.to(world.device), cond, weight, iteration, logs)

    def figures(self, world: World) -> dict[str, float]:
        """The domain's figures of `probe` samples, and the loss on held-out data; every process draws all of them."""
        policy, conditions = world.policy, world.domain.eval_conditions
        cond = in_turn(conditions, self.probe).to(world.device)
        dropout = policy.training
        noise = Noise(world.noise.seed, Stream.EVALUATE)
        drawn = rollout(policy.eval(), policy, noise.of(0, range(self.probe)), cond, batch=world.capacity.rollout_batch)
        figures = world.domain.metrics(drawn.sample, drawn.cond) | {"denoising_loss": self.held_out(world)}
        policy.train(dropout)
        return {f"probe/{name}": x for name, x in figures.items()}

    @torch.no_grad()
    def held_out(self, world: World) -> float:
        """The denoising loss of the first `probe` samples of the test split, always at the same times and with the same noise."""
        x0, cond = (part[: self.probe] for part in labelled(world.domain).data("test"))
        g = Noise(world.noise.seed, Stream.EVALUATE).generator(0)
        t = self.drawn_times(world.policy, torch.rand(len(x0), generator=g))
        noise = world.policy.space.project(torch.randn(x0.shape, generator=g), cond)
        x0, cond, t, noise = (part.to(world.device) for part in (x0, cond, t, noise))
        denoiser = world.policy.denoiser
        return denoiser.loss(noisy(denoiser, x0, t, noise.to(x0.dtype)), x0, t, cond).mean().item()
