"""The path KL penalty by hand-made numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pgdlab.penalties.base import Penalties
from pgdlab.penalties.constraint import KLConstraint
from pgdlab.penalties.path_kl import PathKL
from pgdlab.rollout.plan import AllSteps
from pgdlab.rollout.trajectory import Trajectory
from pgdlab.trainers.ppo import PPO
from pgdlab.trainers.reinforce import Reinforce
from tests.tiny import gradient, moved, penalties, tiny_policy, tiny_world

KL = [[1.0, 10.0, 100.0, 0.0]]
LOG_RATIO = [[2.0, -20.0, 200.0, 0.0]]


def trajectory() -> Trajectory:
    """One trajectory of four steps, the last one deterministic, with round numbers; rho's log-ratio is 7."""
    empty = torch.zeros(1, 0, 2).double()
    return Trajectory(
        cond=torch.zeros(1, dtype=torch.long), states=empty, sample=empty.sum(1), initial=empty.sum(1),
        log_prob=torch.zeros(1, 0), initial_log_prob=torch.zeros(1), reference_mean=empty, kl=torch.tensor(KL),
        log_ratio=torch.tensor(LOG_RATIO), initial_log_ratio=torch.tensor([7.0]), estimates=empty, trained=(),
        stored_at=(-1,) * 5,
    )  # fmt: skip


def test_form_a_in_the_returns() -> None:
    """rho sees every step's KL, an action only the strictly later ones. No KL of rho itself: it has no parent."""
    shape = PathKL(coefficient=0.5).return_cost(trajectory())
    assert shape.tolist() == [[55.5, 55, 50, 0, 0]]
    assert shape.dtype == torch.float64


def test_form_b_in_the_returns() -> None:
    """The log-ratio of this and later steps; rho's own with lambda_0."""
    assert PathKL(coefficient=0.5, form="B").return_cost(trajectory()).tolist() == [[91 + 3.5, 91, 90, 100, 0]]
    shape = PathKL(coefficient=0.5, initial_coefficient=2.0, form="B").return_cost(trajectory())
    assert shape.tolist() == [[91 + 14, 91, 90, 100, 0]]


@pytest.mark.parametrize(("form", "on"), [("A", 1.0), ("B", 0.0)])
def test_what_is_differentiated(form: Any, on: float) -> None:
    """Form B differentiates nothing."""
    kl = torch.tensor([1.0, 4.0])
    penalty = PathKL(coefficient=0.5, initial_coefficient=3.0, form=form)
    assert penalty.loss_term(kl).tolist() == [0.5 * on, 2 * on]
    assert penalty.initial_loss_term(kl).tolist() == [3 * on, 12 * on]


def test_the_initial_coefficient_is_lambda_unless_given() -> None:
    assert PathKL(coefficient=0.3).initial_coefficient == 0.3
    assert PathKL(coefficient=0.3, initial_coefficient=0.0).initial_coefficient == 0
    only = PathKL(coefficient=0.0, initial_coefficient=0.7)
    assert only.initial_coefficient == 0.7
    assert not only.needs_reference()
    assert only.return_cost(trajectory()).tolist() == [[0, 0, 0, 0, 0]]
    assert PathKL(coefficient=0.0, initial_coefficient=0.7, form="B").return_cost(trajectory())[0, 0] == pytest.approx(
        4.9
    )


def test_one_iteration_uses_one_coefficient() -> None:
    """The part in the returns and the differentiated part belong to one objective: that of the coefficient logged."""
    policy = tiny_policy(0.7, rho=True)
    reference = policy.reference()
    moved(policy)
    adaptive = KLConstraint(limit=0.01, multiplier=1.0, rate=0.02)
    world = tiny_world(policy, reference, penalty=adaptive, samples=64)
    experience = Reinforce().collect(world, 0)
    got = gradient(world, Reinforce(), experience)
    used = experience.logs["penalty/coefficient"]
    assert used == adaptive.coefficient.item() > 1.01
    world = replace(world, penalties=penalties(PathKL(coefficient=used)))
    for name, expected in gradient(world, Reinforce()).items():
        torch.testing.assert_close(got[name], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "settings",
    [
        {"coefficient": -0.1},
        {"initial_coefficient": -0.1},
    ],
)
def test_nonsense_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="coefficient"):
        PathKL(**settings)  # type: ignore[arg-type]


def test_no_penalty_asks_for_no_reference_pass() -> None:
    policy = tiny_policy(0.7)
    world = tiny_world(policy, penalty=None)
    PPO().collect(world, 0)
    # the last step is deterministic, and the reference's
    assert world.policy.denoiser.rows == 16 * 3
    assert world.reference.denoiser.rows == 16
    assert Penalties().return_cost(trajectory()).tolist() == [[0, 0, 0, 0, 0]]
    assert Penalties().step_cost(trajectory()).dtype == torch.float64


def test_the_kl_gradient_is_zero_on_the_reference_and_not_off_it() -> None:
    """A KL computed without gradient would pass the first half alone. No reward here but noise-free 0."""
    policy = tiny_policy(0.7, rho=True)
    reference = policy.reference()
    world = tiny_world(policy, reference, penalty=PathKL(coefficient=1.0), samples=64, trained_steps=AllSteps())

    def kl_gradient() -> float:
        trained = [p for p in policy.parameters() if p.requires_grad]
        experience = Reinforce().collect(world, 0)
        (piece,) = Reinforce().micro_batches(experience, 0, world)
        experience.advantage.zero_()
        experience.initial_advantage.zero_()
        loss = Reinforce().loss(experience, piece, world).value
        return float(torch.stack([g.norm() for g in torch.autograd.grad(loss, trained)]).norm())

    assert kl_gradient() < 1e-12
    moved(policy)
    assert kl_gradient() > 0.1
