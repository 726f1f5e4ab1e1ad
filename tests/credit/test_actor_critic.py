"""Advantages from a learned value: the exact gradient, the exact value, and the credit by hand.

Truth is the oracle's backward recursion for V (itself held against simulation here) and the closed form of J in
tests/exact.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab.config.compose import compose
from pgdlab.credit.actor_critic import ActorCritic, between, explained
from pgdlab.credit.critic import Perceptron, Quadratic, at_trained, fit_loss
from pgdlab.diffusion.policy import Policy
from pgdlab.diffusion.values import QuadraticValue, Value
from pgdlab.functional.credit import discount_factors
from pgdlab.oracle.linear_gaussian import AffineChain, Problem, affine_chain, evaluate, optimum, values
from pgdlab.penalties.path_kl import PathKL
from pgdlab.rewards.base import Outcome, Reward, Score, StepRewards
from pgdlab.rewards.dense import EveryStep
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.plan import RandomSteps, Window
from pgdlab.rollout.sampler import Extras, rollout
from pgdlab.trainers.ppo import PPO
from pgdlab.trainers.reinforce import Reinforce
from pgdlab.training.fit import LAST, fit, load
from pgdlab.training.module import SteeringModule
from pgdlab.training.optimizer import Optimization
from pgdlab.world import World
from tests.tiny import FastNoise, every, gradient, moved, planned, tiny_policy, tiny_world
from tests.tiny import Quadratic as Bowl
from tests.trainers.test_gradient import (
    CHUNKS,
    FOUR_ERRORS,
    LAM,
    LAM0,
    QUADRATIC,
    SAMPLES,
    cut,
    errors,
    estimated,
    exact,
    start,
    world_of,
)  # fmt: skip
from tests.worlds import POINTS, equal, fitted, recorder

ETA = 0.7
EXACT = {"rtol": 1e-11, "atol": 1e-12}  # a few fp64 sums


def problem_of(policy: Policy, reference: Policy, lam: float = LAM, lam0: float = LAM0) -> tuple[AffineChain, Problem]:
    """The tiny world's chain, condition by condition; its deterministic last step is the reference's."""
    cond = torch.arange(3)
    base, own = affine_chain(reference, cond), affine_chain(policy, cond)
    own.gain[:, -1], own.shift[:, -1] = base.gain[:, -1], base.shift[:, -1]
    curvature = torch.diag(QUADRATIC["curvature"])
    return own, Problem(base, QUADRATIC["slope"], curvature, lam, lam0)


def exact_critic(policy: Policy, reference: Policy, lam: float = LAM) -> QuadraticValue:
    """The oracle's V as a critic."""
    critic = QuadraticValue(3, policy.steps, 2)
    with torch.no_grad():
        for h, v in enumerate(values(*problem_of(policy, reference, lam))[:-1]):
            both = v.p + v.p.mT - torch.diag_embed(v.p.diagonal(dim1=-2, dim2=-1))
            critic.square[:, h] = both[:, critic.rows, critic.columns]
            critic.linear[:, h], critic.constant[:, h] = v.q, v.c
    return critic


def wrong_critic() -> QuadraticValue:
    """A V of the right size that has nothing to do with the world."""
    critic, g = QuadraticValue(3, 4, 2), torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in critic.parameters():
            p += torch.randn(p.shape, generator=g, dtype=torch.float64)
    return critic


def with_critic(world: World, critic: Value) -> World:
    return replace(world, critic=critic)


# ---- the oracle's V


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_values_of_a_chain_by_simulation(eta: float) -> None:
    """V_0(x) and V_2(x) are the mean return less the KL from x on; E_rho[V_0] is J without rho's KL, exactly."""
    policy, reference = start(eta, rho=True)
    chain, problem = problem_of(policy, reference)
    v = values(chain, problem)
    n, cond = 100_000, torch.zeros(100_000, dtype=torch.long)
    out = rollout(
        policy, reference, FastNoise(5).of(0, range(n)), cond, trained=[0, 1, 2], batch=n, extras=Extras(reference=True)
    )
    for h in (0, 2):
        paid = Bowl().score(out.sample, cond).value - LAM * out.kl[:, h:].sum(1)
        left = paid - v[h](out.states[:, h][None].expand(3, -1, -1))[0]
        assert left.mean().abs() < FOUR_ERRORS * left.std() / n**0.5
        # what is left is uncorrelated with anything of the state: V is the conditional mean, not only the mean
        for f in (out.states[:, h], out.states[:, h].square(), out.states[:, h].prod(1, keepdim=True)):
            product = left[:, None] * (f - f.mean(0))
            assert (product.mean(0).abs() < FOUR_ERRORS * product.std(0) / n**0.5).all()
    whole = evaluate(chain, problem)
    mean_v = v[0].averaged(chain.scale)(chain.mean)
    torch.testing.assert_close(mean_v - LAM0 * whole.initial_kl, whole.objective, **EXACT)


def test_the_values_of_the_optimum_are_those_of_backward_induction() -> None:
    _, problem = problem_of(*start(1.0))
    best = optimum(problem)
    for a, b in zip(values(best.chain, problem), best.functions, strict=True):
        for part in ("p", "q", "c"):
            torch.testing.assert_close(getattr(a, part), getattr(b, part), **EXACT)


# ---- the gradient


@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize(("critic", "trace"), [("exact", 0.0), ("exact", 0.6), ("wrong", 1.0)])
def test_the_gradient_is_the_exact_one(form: Any, critic: str, trace: float) -> None:
    """Any V with lambda 1, the exact V with every lambda; denoiser and rho together; the baseline over samples on top."""
    policy, reference = start(ETA, rho=True)
    penalty = PathKL(coefficient=LAM, initial_coefficient=LAM0, form=form)
    value = exact_critic(policy, reference) if critic == "exact" else wrong_critic()
    world = with_critic(world_of(policy, reference, penalty), value)
    off = errors(world, exact(policy, ETA, LAM, LAM0), credit=ActorCritic(advantage_lambda=trace))
    assert off.abs().max() < FOUR_ERRORS


@pytest.mark.parametrize("wrong", ["V with lambda 0", "V of the unpenalised return"])
def test_what_is_biased_is_seen(wrong: str) -> None:
    """Below lambda 1 the advantage has the error of V: also that of a V which leaves the KL out."""
    policy, reference = start(ETA, rho=True)
    penalty = PathKL(coefficient=LAM, initial_coefficient=LAM0)
    value = wrong_critic() if "lambda" in wrong else exact_critic(policy, reference, lam=0.0)
    world = with_critic(world_of(policy, reference, penalty), value)
    off = errors(world, exact(policy, ETA, LAM, LAM0), credit=ActorCritic(advantage_lambda=0.0))
    assert off.abs().max() > 2 * FOUR_ERRORS


class ValueAsRhosBaseline(ActorCritic):
    """V(s_0) subtracted from rho's return: it depends on rho's own action."""

    def assign(self, world: World, trajectory: Any, paid: StepRewards) -> Any:
        out = super().assign(world, trajectory, paid)
        out.table[:, 0] -= at_trained(world.critic, trajectory, 10**9)[:, 0]
        return out


def test_the_value_of_s0_is_no_baseline_of_rho() -> None:
    """Even the exact one takes rho's gradient away, and nothing from the steps'."""
    policy, reference = start(ETA, rho=True)
    penalty = PathKL(coefficient=LAM, initial_coefficient=LAM0)
    world = with_critic(world_of(policy, reference, penalty), exact_critic(policy, reference))
    off = errors(world, exact(policy, ETA, LAM, LAM0), credit=ValueAsRhosBaseline()).abs()
    assert off[:-4].max() < FOUR_ERRORS
    assert off[-4:].min() > 2 * FOUR_ERRORS


def spread(world: World, **settings: Any) -> dict[str, float]:
    """The variance of the gradient, summed over the parameters of each part."""
    return {
        name: float((error**2).sum()) * CHUNKS * (SAMPLES // CHUNKS)
        for name, (_, error) in estimated(world, Reinforce(**settings)).items()
    }


def test_a_value_takes_variance_away() -> None:
    """Against leave-one-out, without a penalty (whose differentiated part has a variance of its own): the exact V as a
    baseline leaves less than half for the steps, with lambda 0 less again. rho gains from lambda below 1 alone, for which
    V is its return. Variances of 50 chunks are known to a fifth."""
    policy, reference = start(ETA, rho=True)
    world = world_of(policy, reference, None)
    plain = spread(world)
    world = with_critic(world, exact_critic(policy, reference, lam=0.0))
    baseline, trace = (spread(world, credit=ActorCritic(advantage_lambda=x)) for x in (1.0, 0.0))
    for name in ("denoiser.shift", "denoiser.gain"):
        assert trace[name] < 0.95 * baseline[name] < 0.5 * plain[name]
    assert baseline["initial.mean"] == pytest.approx(plain["initial.mean"], rel=1e-6)
    assert trace["initial.mean"] < 0.4 * plain["initial.mean"]


# ---- the discount


def discounted(weighted: bool, every: float | None, gamma: float) -> Tensor:
    policy, reference = start(1.0, rho=True)
    world = with_critic(world_of(policy, reference, PathKL(coefficient=LAM, initial_coefficient=LAM0)), wrong_critic())
    if every is not None:
        world = replace(world, reward=EveryStep(reward=Bowl(), weight=every))
    expected = exact(policy, 1.0, LAM, LAM0, every=every, gamma=gamma)
    return errors(world, expected, credit=ActorCritic(gamma=gamma, weighted_states=weighted)).abs()


@pytest.mark.parametrize("every", [None, 0.5])
def test_the_discounted_gradient_carries_gamma_to_the_h(every: float | None) -> None:
    """On reward, KL in the return, differentiated KL, and rho's return; without it the gradient is another one."""
    assert discounted(True, every, 0.6).max() < FOUR_ERRORS
    assert discounted(False, every, 0.6).max() > 2 * FOUR_ERRORS


# ---- what the critic is fitted to


def slopes(policy: Policy, reference: Policy, critic: QuadraticValue, form: Any, credit: ActorCritic) -> Tensor:
    """(gradient of the critic's loss) / standard error, parameter by parameter, from 200,000 states."""
    world = with_critic(world_of(policy, reference, PathKL(coefficient=LAM, form=form)), critic)
    algorithm = Reinforce(credit=credit)
    experience = algorithm.collect(world, 0)
    (whole,) = algorithm.micro_batches(experience, 0, world)
    each = []
    for piece in cut(whole, experience):
        loss, _ = fit_loss(critic, experience.trajectory, experience.targets, piece.pairs)
        each.append(torch.cat([g[0, :3].flatten() for g in torch.autograd.grad(loss, list(critic.parameters()))]))
    table = torch.stack(each)
    return (table.mean(0) / (table.std(0) / CHUNKS**0.5)).abs()


@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize("trace", [0.0, 0.5, 1.0])
def test_the_exact_value_is_where_every_target_leads(form: Any, trace: float) -> None:
    """At the oracle's V the regression's expected gradient is 0 for TD, lambda and Monte-Carlo targets; at the value of
    the unpenalised return it is not."""
    policy, reference = start(ETA)
    credit = ActorCritic(target_lambda=trace)
    assert slopes(policy, reference, exact_critic(policy, reference), form, credit).max() < FOUR_ERRORS
    assert slopes(policy, reference, exact_critic(policy, reference, lam=0.0), form, credit).max() > 2 * FOUR_ERRORS


def learn(world: World, algorithm: Any, iterations: int, lr: float) -> None:
    """The critic in a plain Adam run on fresh trajectories, the policy fixed."""
    assert world.critic is not None
    parameters = list(world.critic.parameters())
    optimizer = torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.99))
    for k in range(iterations):
        experience = algorithm.collect(world, k)
        for update in range(algorithm.updates_per_iteration(world.plan)):
            optimizer.param_groups[0]["lr"] = lr * (1 - k / iterations) ** 2
            optimizer.zero_grad()
            for piece in algorithm.micro_batches(experience, update, world):
                loss, _ = fit_loss(world.critic, experience.trajectory, experience.targets, piece.pairs)
                (loss / len(piece.pairs.index)).backward()
            optimizer.step()


def unexplained(world: World, truth: Value) -> Tensor:
    """Per step, E[(V - V_exact)^2] / Var[V_exact] over the policy's own states."""
    n = 4000
    cond = torch.zeros(n, dtype=torch.long)
    out = rollout(world.policy, world.reference, FastNoise(9).of(0, range(n)), cond, trained=[0, 1, 2], batch=n)
    assert world.critic is not None
    ours, exact_ = (at_trained(v, out, 10**9) for v in (world.critic, truth))
    return (ours - exact_).square().mean(0) / exact_.var(0)


@pytest.mark.parametrize(("critic", "trace", "iterations", "lr", "limit"), [
    (Quadratic(), 1.0, 60, 0.1, 0.01), (Quadratic(), 0.0, 60, 0.1, 0.01), (Perceptron(hidden=64), 0.5, 100, 0.01, 0.1),
])  # fmt: skip
def test_a_critic_learns_the_exact_value(critic: Any, trace: float, iterations: int, lr: float, limit: float) -> None:
    """From 0, policy fixed and optimal for nothing: the share of V's variance that it misses, at every step."""
    policy, reference = start(ETA)
    penalty = PathKL(coefficient=LAM)
    world = tiny_world(policy, reference, penalty=penalty, samples=512, group=512, noise=FastNoise(2))
    algorithm = PPO(epochs=2, minibatches=4, credit=ActorCritic(critic=critic, target_lambda=trace))
    world = algorithm.equip(world)
    learn(world, algorithm, iterations, lr)
    assert unexplained(world, exact_critic(policy, reference)).max() < limit


# ---- credit by hand


def test_earnings_between_kept_steps() -> None:
    table = torch.tensor([[1.0, 2, 4, 8, 16]])
    assert between(table, (0, 1, 2, 3, 4)).tolist() == [[0, 1, 2, 4, 8, 16]]
    assert between(table, (1, 3)).tolist() == [[1, 6, 24]], "a step that is not trained belongs to the one before it"


def test_explained_variance_by_hand() -> None:
    """Row 2 failed. Returns 0, 2 (variance 2) and values that leave 1, 2 (variance 1/2)."""
    returns = torch.tensor([[0.0], [2.0], [99.0]])
    measured = torch.tensor([True, True, False])
    assert explained(returns, torch.tensor([[-1.0], [0.0], [7.0]]), measured) == pytest.approx(0.75)
    assert explained(torch.ones(3, 1), torch.zeros(3, 1), measured) == 0


def hand_world(form: Any = "A", steps: Any = None) -> World:
    """Twelve trajectories with a reward at every step, under a critic that is anything."""
    policy, reference = start(ETA, rho=True)
    world = tiny_world(
        policy, reference, penalty=PathKL(coefficient=LAM, initial_coefficient=LAM0, form=form), samples=12
    )
    world = replace(world, reward=EveryStep(reward=Bowl(), weight=0.5))
    if steps is not None:
        world = planned(world, trained_steps=steps)
    return with_critic(world, wrong_critic())


def loops(world: World, experience: Any, trace: float, gamma: float, paid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Advantages, lambda-targets and rho's return as the definitions say it, in sums over n-step returns
    G^n_h = sum_{i<n} gamma^i (r - c)_{h+i} + gamma^n V(s_{h+n}) (Sutton & Barto 2018, eq. 12.1 to 12.3)."""
    out, trained = experience.trajectory, list(experience.trajectory.trained)
    value = at_trained(world.critic, out, 10**9)
    net = paid - LAM * (out.kl if next(world.penalties.each()).form == "A" else out.log_ratio)
    horizon, columns = net.shape[1], len(trained)

    def lambda_return(i: int) -> Tensor:
        n_step = []
        for j in range(i + 1, columns + 1):
            end = trained[j] if j < columns else horizon
            total = sum(gamma ** (t - trained[i]) * net[:, t] for t in range(trained[i], end))
            n_step.append(total + (gamma ** (end - trained[i]) * value[:, j] if j < columns else 0))
        weights = [(1 - trace) * trace**n for n in range(len(n_step) - 1)] + [trace ** (len(n_step) - 1)]
        return sum(w * g for w, g in zip(weights, n_step, strict=True))

    targets = torch.stack([lambda_return(i) for i in range(columns)], 1)
    before = sum((gamma**t * net[:, t] for t in range(trained[0])), torch.zeros(len(net)).double())
    rho = before + gamma ** trained[0] * ((1 - trace) * value[:, 0] + trace * targets[:, 0])
    if next(world.penalties.each()).form == "B":
        rho = rho - LAM0 * out.initial_log_ratio
    return targets - value, targets, rho


@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize("steps", [None, RandomSteps(fraction=0.6), Window(start=1, stop=3)])
@pytest.mark.parametrize(("trace", "gamma"), [(1.0, 1.0), (0.0, 0.8), (0.7, 0.9)])
def test_credit_by_its_definition(form: str, steps: Any, trace: float, gamma: float) -> None:
    """All steps, a random part and a window; the deterministic last step's reward belongs to the step before it."""
    world = hand_world(form, steps)
    credit = ActorCritic(advantage_lambda=trace, target_lambda=0.4, gamma=gamma)
    experience = Reinforce(baseline="none", credit=credit).collect(world, 0)
    out = experience.trajectory
    paid = torch.stack([0.5 * Bowl().score(x, out.cond).value for x in seen(world, out)], 1)
    advantage, _, rho = loops(world, experience, trace, gamma, paid)
    _, targets, _ = loops(world, experience, 0.4, gamma, paid)
    weight = discount_factors(4, gamma)[list(out.trained)]
    torch.testing.assert_close(experience.targets, targets, **EXACT)
    torch.testing.assert_close(experience.advantage, weight * advantage, **EXACT)
    torch.testing.assert_close(experience.initial_advantage, rho, **EXACT)
    torch.testing.assert_close(experience.cost_weight, weight, **EXACT)
    dropped = Reinforce(baseline="none", credit=replace(credit, weighted_states=False)).collect(world, 0)
    torch.testing.assert_close(dropped.advantage, advantage, **EXACT)
    assert torch.equal(dropped.cost_weight, torch.ones(len(out.trained)).double())


def test_rho_is_credited_with_what_the_initial_state_earns() -> None:
    """A reward shaped by a potential pays phi(s_0) on top, gamma^0 of it, whatever the critic says."""
    world = hand_world()
    algorithm = Reinforce(baseline="none", credit=ActorCritic(advantage_lambda=0.7, gamma=0.9))
    plain = algorithm.collect(world, 0)
    extra = torch.linspace(-1, 2, 12, dtype=torch.float64)
    earning = algorithm.collect(replace(world, reward=Earning(world.reward, extra)), 0)
    torch.testing.assert_close(earning.initial_advantage, plain.initial_advantage + extra, **EXACT)
    torch.testing.assert_close(earning.advantage, plain.advantage, **EXACT)


class Earning(Reward):
    """Another reward, and numbers on top for the initial states."""

    def __init__(self, reward: Reward, extra: Tensor) -> None:
        super().__init__()
        self.reward, self.extra = reward, extra

    def needs_estimates(self) -> bool:
        return self.reward.needs_estimates()

    def score(self, sample: Any, cond: Tensor) -> Score:
        return self.reward.score(sample, cond)

    def forward(self, outcome: Outcome) -> StepRewards:
        return replace(self.reward(outcome), initial=self.extra)


def seen(world: World, out: Any) -> list[Tensor]:
    """What action h is paid for: the reference's estimate of state h + 1, the sample at the end."""
    full = rollout(
        world.policy,
        world.reference,
        world.noise.of(0, range(12)),
        out.cond,
        trained=[0, 1, 2],
        batch=100,
        extras=Extras(estimates=True),
    )
    return [*full.estimates[:, 1:].unbind(1), full.sample]


def test_an_untrained_critic_is_no_critic() -> None:
    """V = 0: with lambda 1 the returns are form A's plus the own step's KL, and rho's are the same."""
    world = hand_world()
    plain = Reinforce(baseline="none").collect(world, 0)
    credit = ActorCritic()
    world = credit.equip(world)
    experience = Reinforce(baseline="none", credit=credit).collect(world, 0)
    own = LAM * experience.trajectory.kl[:, :3]
    torch.testing.assert_close(experience.advantage, plain.advantage - own, **EXACT)
    torch.testing.assert_close(experience.initial_advantage, plain.initial_advantage, **EXACT)
    assert experience.logs["critic_explained"] == 0


# ---- runs

SMALL = (*POINTS, "trainer=actor_critic", "penalty=path_kl", "plan.samples=16", "plan.group=4", "plan.iterations=4")


def test_a_run_trains_the_critic_and_its_checkpoint_carries_it(tmp_path: Path) -> None:
    module, cfg = recorder(*SMALL, "initial=diagonal")
    assert module.critic is module.world.critic is not None
    before = {n: p.clone() for n, p in module.critic.state_dict().items()}
    fit(module, cfg, tmp_path)
    saved = load(tmp_path / LAST)
    for part in ("state_dict", "current_model_state"):
        trained = {n.removeprefix("critic."): p for n, p in saved[part].items() if n.startswith("critic.")}
        assert trained.keys() == before.keys()
        assert all(not torch.equal(trained[n], before[n]) for n in trained)
    groups = saved["optimizer_states"][0]["param_groups"]
    assert [g["lr"] for g in groups] == [1e-4, 1e-2, 3e-3]
    row = module.history[-1]
    assert row["train/critic_loss"] > 0
    assert row["train/critic_gradient_norm"] > 0
    assert row["critic_explained"] < 1
    again, _ = recorder(*SMALL, "initial=diagonal")
    assert equal(again.critic.state_dict(), before), "the first weights are keyed by the seed"


def test_resuming_is_bitwise(tmp_path: Path) -> None:
    whole = fitted(tmp_path / "whole", *SMALL)
    fitted(tmp_path / "cut", *SMALL, "plan.iterations=2")
    resumed, cfg = recorder(*SMALL)
    with torch.random.fork_rng():
        torch.manual_seed(77)
        fit(resumed, replace(cfg, resume=str(tmp_path / "cut")), tmp_path / "cut", done=2)
    assert equal(resumed.state_dict() | {"seconds": torch.zeros(())}, whole.state_dict() | {"seconds": torch.zeros(())})
    assert resumed.history[-1] == whole.history[-1] | {k: v for k, v in resumed.history[-1].items() if "seconds" in k}


def critic_gradient(world: World, algorithm: Any, experience: Any) -> dict[str, Tensor]:
    assert world.critic is not None
    parameters = dict(world.critic.named_parameters())
    total = {n: torch.zeros_like(p) for n, p in parameters.items()}
    for piece in algorithm.micro_batches(experience, 0, world):
        loss = algorithm.loss(experience, piece, world).value
        for n, g in zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True):
            total[n] += g
    return total


@pytest.mark.parametrize("size", [5, 10**6])
def test_the_critics_loss_in_many_passes(size: int) -> None:
    """Its gradient is that of the mean over pairs of (V - target)^2 / 2, however the pairs are cut; the policy's gradient
    does not see it."""
    world = hand_world()
    algorithm = Reinforce(credit=ActorCritic(target_lambda=0.5))
    world = planned(world, pass_size=size)
    experience = algorithm.collect(world, 0)
    got = critic_gradient(world, algorithm, experience)
    row, column = every(12, 3)
    out = experience.trajectory
    at = world.critic(out.states[row, column], column, out.cond[row])
    loss = (at - experience.targets[row, column]).square().mean() / 2
    for n, g in zip(got, torch.autograd.grad(loss, list(world.critic.parameters())), strict=True):
        torch.testing.assert_close(got[n], g, **EXACT)
    with_it = gradient(world, algorithm, experience)
    world = replace(world, critic=None)
    for n, g in gradient(world, algorithm, experience).items():
        torch.testing.assert_close(with_it[n], g, **EXACT)


def test_the_critic_is_clipped_by_itself(tmp_path: Path) -> None:
    """A reward a thousand times larger gives the critic a huge gradient; the policy's is still clipped by its own."""
    policy, reference = start(ETA)
    world = tiny_world(policy, reference, penalty=None, reward=Bowl((1000.0, -500.0), (0.0, 0.0)), iterations=1)
    algorithm = Reinforce(credit=ActorCritic(critic=Quadratic()))
    module = SteeringModule(world, algorithm, Optimization(clip_norm=0.1))
    fit(module, compose(["trainer=reinforce"]), tmp_path)
    for part in module.parts.values():
        norm = torch.stack([p.grad.norm() for p in part if p.grad is not None]).norm()
        assert norm == pytest.approx(0.1, rel=1e-4)
    assert min(module.history[0][f"train/{name}"] for name in ("gradient_norm", "critic_gradient_norm")) > 100


def test_what_it_cannot_do_is_refused() -> None:
    frozen: Policy = tiny_policy(denoiser=False, rho=True)
    with pytest.raises(ValueError, match="no step for a critic"):
        Reinforce(credit=ActorCritic()).refuse(tiny_world(frozen))
    for name, value in (("gamma", 0.0), ("gamma", 1.1), ("advantage_lambda", -0.1), ("target_lambda", 1.5)):
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            ActorCritic(**{name: value})


def test_values_read_the_condition_and_the_step() -> None:
    """Both critics tell conditions and steps apart, start at 0, and take states of any shape."""
    policy = moved(tiny_policy())
    world = tiny_world(policy, noise=Noise(3))
    x, h, cond = torch.randn(6, 2).double(), torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 0, 0, 1, 1, 1])
    for critic in (Quadratic(), Perceptron(hidden=8)):
        value = critic.build(world)
        assert torch.equal(value(x, h, cond), torch.zeros(6).double())
        g = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in value.parameters():
                p += torch.randn(p.shape, generator=g, dtype=p.dtype)
        same = value(x[:1].expand(6, -1), h, cond)
        assert len(set(same.tolist())) == 6
