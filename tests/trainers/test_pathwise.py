"""Direct reward gradients and adjoint matching against exact gradients and exact optima of linear-Gaussian chains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab.certificates.truth import declared, truth
from pgdlab.config.compose import compose, instantiate
from pgdlab.functional.gaussian import kl_same_std
from pgdlab.penalties.base import Penalty
from pgdlab.penalties.path_kl import PathKL
from pgdlab.penalties.terminal import Terminal
from pgdlab.penalties.trust_region import TrustRegion
from pgdlab.rewards.base import RewardError, Score, ShapeError
from pgdlab.rewards.combine import Sum
from pgdlab.rollout.plan import Last, NoiseWindow, RandomSteps, Window
from pgdlab.rollout.trajectory import pick, replay
from pgdlab.trainers.adjoint_matching import AdjointMatching
from pgdlab.trainers.draft import DRaFT
from pgdlab.trainers.pathwise import Pulled
from pgdlab.trainers.policy_gradient import PolicyGradient
from pgdlab.trainers.reinforce import Reinforce
from pgdlab.training.build import build_module, build_world
from pgdlab.training.fit import fit
from tests.exact import objective
from tests.tiny import Failing, Quadratic, gradient, planned, tiny_policy, tiny_world
from tests.trainers.test_gradient import FOUR_ERRORS, LAM, LAM0, QUADRATIC, estimated, exact, start, world_of
from tests.worlds import tiny


def off(found: dict[str, tuple[Tensor, Tensor]], expected: dict[str, Tensor]) -> Tensor:
    """(estimate - expected) / standard error; where a chunk's gradients are all the same they must be exact."""
    out = []
    for name, (mean, error) in found.items():
        constant = error < 1e-12
        torch.testing.assert_close(mean[constant], expected[name][constant], rtol=1e-8, atol=1e-10)
        out.append(((mean - expected[name]) / error)[~constant])
    return torch.cat(out)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_draft_has_the_exact_gradient_of_the_objective(eta: float) -> None:
    """Off every optimum, by standard errors; without the penalty it is that of the reward alone."""
    policy, reference = start(eta)
    for lam in (LAM, 0.0):
        world = world_of(policy, reference, PathKL(coefficient=lam))
        assert off(estimated(world, DRaFT()), exact(policy, eta, lam, lam)).abs().max() < FOUR_ERRORS  # type: ignore[arg-type]


@pytest.mark.parametrize(("denoiser", "eta"), [(False, 0.0), (False, 0.5), (True, 0.5)])
def test_draft_trains_the_initial_distribution(denoiser: bool, eta: float) -> None:
    policy, reference = start(eta, denoiser=denoiser, rho=True)
    world = world_of(policy, reference, PathKL(coefficient=LAM, initial_coefficient=LAM0))
    assert off(estimated(world, DRaFT()), exact(policy, eta, LAM, LAM0)).abs().max() < FOUR_ERRORS  # type: ignore[arg-type]


def test_draft_has_less_variance_than_reinforce() -> None:
    """What the reward's gradient is asked for: squared standard errors, of the shifts."""
    policy, reference = start(1.0)
    world = world_of(policy, reference, PathKL(coefficient=LAM))
    direct, scored = (estimated(world, a)["denoiser.shift"][1] for a in (DRaFT(), Reinforce()))  # type: ignore[arg-type]
    assert direct.square().sum() < scored.square().sum() / 10


def test_random_steps_are_scaled_up() -> None:
    """The same samples whichever step is trained: the gradient of one of three is 3 times its part of the whole."""
    policy, reference = start(1.0)
    world = tiny_world(policy, reference, penalty=PathKL(coefficient=LAM))
    some, seen = planned(world, trained_steps=RandomSteps(fraction=0.34)), set()
    for iteration in range(12):
        experience = DRaFT().collect(some, iteration)
        (h,) = experience.trajectory.trained
        whole, part = (gradient(w, DRaFT(), DRaFT().collect(w, iteration)) for w in (world, some))
        for name, g in part.items():
            torch.testing.assert_close(g[3 - h], 3 * whole[name][3 - h], rtol=1e-10, atol=1e-12)
        seen.add(h)
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("rho", [False, True])
def test_adjoint_matching_is_the_published_regression(rho: bool) -> None:
    """Gradient of sum_h lambda / (2 std^2) ||m - m_pre - std^2 / lambda a_{h+1}||^2, a by the base's slopes, which are known."""
    policy, reference = start(0.7, rho=rho)
    world = tiny_world(policy, reference, penalty=PathKL(coefficient=LAM))
    algorithm = AdjointMatching()
    experience = algorithm.collect(world, 0)
    trajectory = experience.trajectory
    assert isinstance(experience, Pulled)
    reward = world.reward
    assert isinstance(reward, Quadratic)
    a, loss = reward.slope - 2 * reward.curvature * trajectory.sample, torch.zeros((), dtype=torch.float64)
    for h in reversed(range(policy.steps)):
        x, at = trajectory.states[:, h], torch.full((16,), h)
        if h in policy.stochastic_steps:
            g, pre = policy(x, at, trajectory.cond), reference(x, at, trajectory.cond)
            target = (pre.mean + g.std**2 / LAM * a).detach()
            loss = loss + (LAM / (2 * g.std**2) * (g.mean - target).square()).sum() / 16
        one, zero = (reference(torch.full((1, 2), v).double(), at[:1], trajectory.cond[:1]).mean for v in (1.0, 0.0))
        a = a * (one - zero)  # the base's means are affine, and diagonal
    trained = {name: p for name, p in policy.denoiser.named_parameters(prefix="denoiser") if p.requires_grad}
    expected = torch.autograd.grad(loss, list(trained.values()))
    found = gradient(world, algorithm, experience)
    for name, e in zip(trained, expected, strict=True):
        torch.testing.assert_close(found[name], e, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(experience.first, a, rtol=1e-9, atol=1e-12)


def test_both_stand_still_at_the_optimum_and_there_alone() -> None:
    """There the lean and the full adjoint agree in expectation; off it adjoint matching has another gradient than J."""
    policy, reference = start(1.0)
    world = world_of(policy, reference, PathKL(coefficient=LAM))
    expected = exact(policy, 1.0, LAM, LAM)
    assert off(estimated(world, AdjointMatching()), expected).abs().max() > 2 * FOUR_ERRORS  # type: ignore[arg-type]
    climber = torch.optim.LBFGS(
        [p for p in policy.parameters() if p.requires_grad], max_iter=200, line_search_fn="strong_wolfe"
    )

    def minus() -> float:
        found = exact(policy, 1.0, LAM, LAM)
        for name, p in policy.named_parameters():
            if p.requires_grad:
                p.grad = -found[name]
        zero = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad():
            tuned: Any = policy.denoiser
            j = objective(tuned.shift, tuned.gain, zero, zero, eta=1.0, lam=LAM, lam0=LAM, **QUADRATIC)
        return -float(j)

    climber.step(minus)
    for algorithm in (AdjointMatching(), DRaFT()):
        best = exact(policy, 1.0, LAM, LAM)
        assert max(float(g.abs().max()) for g in best.values()) < 1e-4  # a fifth of a standard error
        assert off(estimated(world, algorithm), best).abs().max() < FOUR_ERRORS  # type: ignore[arg-type]


def test_the_last_steps_of_draft() -> None:
    steps = Last(count=2)
    generator = torch.Generator().manual_seed(0)
    assert steps.of(0, [0, 1, 2, 4], generator) == [2, 4]
    drawn = {tuple(Last(count=None).of(i, [0, 1, 2], generator)) for i in range(50)}
    assert drawn == {(2,), (1, 2), (0, 1, 2)}
    world = tiny_world(*start(1.0), penalty=PathKL(coefficient=LAM))
    whole, last = gradient(world, DRaFT()), gradient(world, DRaFT(last=1))
    for name, g in last.items():
        row = 1  # time 1 is the last step with noise: step 2 of 4, whose later one has none
        torch.testing.assert_close(g[row], whole[name][row], rtol=1e-12, atol=1e-14)
        assert (whole[name].any(1).sum(), g.any(1).sum()) == (3, 1)
    with pytest.raises(ValueError, match="the last 5 steps are asked for, and 3 have noise"):
        DRaFT(last=5).refuse(world)
    with pytest.raises(ValueError, match="count is 0"):
        DRaFT(last=0).refuse(world)


class Constant(Quadratic):
    def score(self, sample: Any, cond: Tensor) -> Score:
        return Score.of(super().score(sample, cond).value * 0)


class Detached(Quadratic):
    def score(self, sample: Any, cond: Tensor) -> Score:
        return Score.of(super().score(sample, cond).value.detach())


class Stiff(Quadratic):
    """Its gradient is infinite in the rows whose first coordinate is above 0, and its value is not."""

    def score(self, sample: Any, cond: Tensor) -> Score:
        value, above = super().score(sample, cond).value, sample[:, 0] > 0
        value[above] += (sample[above, 0] - sample[above, 0].detach()).sqrt()
        return Score.of(value)


def test_rewards_without_a_gradient_are_refused_or_found_out() -> None:
    class Blind(Quadratic):
        differentiable = False

    penalty = PathKL(coefficient=LAM)
    for reward in (Blind(), Sum(rewards={"a": Quadratic(), "b": Blind()})):
        with pytest.raises(ValueError, match="is not differentiable, and this trainer follows its gradient"):
            DRaFT().refuse(tiny_world(reward=reward, penalty=penalty))
    DRaFT().refuse(tiny_world(reward=Sum(rewards={"a": Quadratic(), "b": Quadratic()}), penalty=penalty))
    with pytest.raises(RewardError, match="is 0 at all 16 samples"):
        DRaFT().collect(tiny_world(reward=Constant(), penalty=penalty), 0)
    with pytest.raises(ShapeError, match="its values carry no gradient"):
        DRaFT().collect(tiny_world(reward=Detached(), penalty=penalty), 0)


def test_rows_without_a_finite_gradient_are_failed_ones() -> None:
    world = tiny_world(reward=Stiff(), penalty=PathKL(coefficient=LAM), samples=64, max_failed=0.9)
    experience = DRaFT().collect(world, 0)
    above = experience.trajectory.sample[:, 0] > 0
    assert 0 < int(above.sum()) < 64
    assert torch.equal(experience.measured, ~above)
    assert all(g.isfinite().all() for g in gradient(world, DRaFT(), experience).values())
    with pytest.raises(RewardError, match="allows 0%"):
        DRaFT().collect(planned(world, max_failed=0.0), 0)


def test_samples_that_could_not_be_scored_take_no_part() -> None:
    """The gradient over the measured rows is that of a run without the others."""
    policy, reference = start(1.0)
    world = tiny_world(
        policy,
        reference,
        reward=Failing(Quadratic(), above=-1.0),
        penalty=PathKL(coefficient=LAM),
        samples=64,
        max_failed=0.9,
    )
    experience = DRaFT().collect(world, 0)
    kept = experience.measured.nonzero().flatten()
    assert 0 < len(kept) < 64
    clean = tiny_world(policy, reference, penalty=PathKL(coefficient=LAM), samples=64)
    whole = DRaFT().collect(clean, 0)
    trajectory, n = whole.trajectory, len(whole.trajectory.trained)
    pairs = trajectory.pairs((kept[:, None] * n + torch.arange(n)).flatten())
    loss = DRaFT().step_loss(whole, pairs, clean)[0] / len(kept)
    trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    found = gradient(world, DRaFT(), experience)
    for name, g in zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True):
        torch.testing.assert_close(found[name], g, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("algorithm", "penalty", "plan", "message"),
    [
        (AdjointMatching(), None, {}, "there is no lambda"),
        (AdjointMatching(), PathKL(coefficient=0.0), {}, "there is no lambda"),
        (AdjointMatching(), PathKL(form="B"), {}, "acts through returns or ratios"),
        (DRaFT(), Terminal(), {}, "acts through returns or ratios"),
        (DRaFT(), {"a": PathKL(), "b": TrustRegion()}, {}, "acts through returns or ratios"),
        (DRaFT(), PathKL(), {"trained_steps": NoiseWindow(size=1)}, "takes the noise from the other steps"),
        (DRaFT(last=1), PathKL(), {"trained_steps": Window()}, "each says which steps are trained"),
    ],
)
def test_what_does_not_go_together_is_refused(
    algorithm: PolicyGradient, penalty: Penalty | dict[str, Penalty] | None, plan: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        algorithm.refuse(tiny_world(penalty=penalty, **plan))


def test_a_truncated_gradient_leaves_the_initial_distribution_out() -> None:
    world = tiny_world(tiny_policy(rho=True), penalty=PathKL())
    with pytest.raises(ValueError, match="ends before it reaches the initial distribution"):
        DRaFT(last="random").refuse(world)
    DRaFT().refuse(world)


def test_the_loss_reads_the_kl_that_is_charged() -> None:
    """At the sampled states: cost(KL) - <a, m - action>, by hand."""
    policy, reference = start(1.0)
    world = tiny_world(policy, reference, penalty=PathKL(coefficient=LAM))
    experience = DRaFT().collect(world, 0)
    trajectory = experience.trajectory
    assert isinstance(experience, Pulled)
    pairs = trajectory.pairs(torch.tensor([0, 5, 7]))
    g, _ = replay(policy, trajectory, pairs)
    base, _ = replay(reference, trajectory, pairs)
    action = pick(trajectory.states, pairs.action)
    cost = LAM * kl_same_std(g.mean, base.mean, g.std, policy.space, pairs.cond)
    expected = (cost - (pick(experience.pull, pairs.index) * (g.mean - action)).sum(1)).sum()
    torch.testing.assert_close(DRaFT().step_loss(experience, pairs, world)[0], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("trainer", ["adjoint_matching", "draft"])
def test_whole_runs_reach_the_attainable_optimum(trainer: str, tmp_path: Path) -> None:
    """A linear reward: all targets are exact, and only Adam's path is left of the gap. A step that is paired with the
    adjoint before it stops at a gap of 9 %."""
    cfg = compose(
        ["experiment=oracle/linear", f"trainer={trainer}", "plan.iterations=100", "plan.samples=64", "plan.group=8"]
    )
    module = build_module(cfg)
    known = truth(module.world, declared(module.world.penalties))
    fit(module, cfg, tmp_path)
    with torch.no_grad():
        found = torch.tensor(known.measure(module.policy).objective)
    best, base = known.best.objective[0], known.base.objective[0]
    assert ((best - found) / (best - base)).mean() < 0.03


def test_settings_of_returns_are_not_taken() -> None:
    for trainer in ("draft", "adjoint_matching"):
        with pytest.raises(ValueError, match="has no 'baseline'"):
            compose(tiny(f"trainer={trainer}", "trainer.baseline=group"))


def test_the_experiments_are_built() -> None:
    for trainer in ("draft", "adjoint_matching"):
        cfg = compose(tiny(f"experiment=digits/{trainer}"))
        instantiate(cfg.nodes["trainer"]).refuse(build_world(cfg))
