"""With one update the graph of sampling takes the place of a replay: the same gradient, and no second forward."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab.config.compose import compose
from pgdlab.credit.actor_critic import ActorCritic
from pgdlab.diffusion.policy import Policy
from pgdlab.penalties.base import Penalty
from pgdlab.penalties.path_kl import PathKL
from pgdlab.penalties.trust_region import TrustRegion
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.plan import RandomSteps
from pgdlab.rollout.sampler import Extras, rollout
from pgdlab.trainers.eager import Eager
from pgdlab.trainers.ppo import PPO
from pgdlab.trainers.reinforce import Reinforce
from pgdlab.training.build import build_world
from pgdlab.training.fit import LAST, load
from pgdlab.world import World
from tests.rollout.test_memory import FULL, narrow
from tests.tiny import gradient, moved, planned, tiny_policy, tiny_world
from tests.worlds import BRIGHT, distance, fitted, tiny

# the same sums of fp64 numbers in another order
EXACT = {"rtol": 1e-10, "atol": 1e-13}


def policies() -> tuple[Policy, Policy]:
    """A policy that has moved off its reference, so that the KL has a gradient."""
    policy = tiny_policy()
    reference = policy.reference()
    moved(policy, seed=3, size=0.3)
    return policy, reference


def world_of(once: bool, penalty: Penalty | None = None, **plan: Any) -> World:
    world = tiny_world(*policies(), penalty=penalty, **plan)
    world.capacity.graph = once
    return world


CASES: dict[str, tuple[Any, Penalty | None, dict[str, Any]]] = {
    "no penalty": (Reinforce(), None, {}),
    "path KL": (Reinforce(), PathKL(coefficient=0.5), {}),
    "form B": (Reinforce(), PathKL(coefficient=0.5, form="B"), {}),
    "some of the steps": (Reinforce(), PathKL(coefficient=0.5), {"trained_steps": RandomSteps(fraction=0.5)}),
    "sampled in batches": (Reinforce(), PathKL(coefficient=0.5), {"rollout_batch": 5}),
    "clipping, one update": (PPO(epochs=1, minibatches=1), PathKL(coefficient=0.5), {}),
    "a critic": (Reinforce(credit=ActorCritic(gamma=0.9)), PathKL(coefficient=0.5), {}),
}


@pytest.mark.filterwarnings("ignore:one update per rollout")
@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_that_of_a_replay(name: str) -> None:
    algorithm, penalty, plan = CASES[name]
    found = []
    for once in (False, True):
        world = world_of(once, penalty, **plan)
        world = algorithm.equip(world)
        experience = algorithm.collect(world, 0)
        assert experience.trajectory.has_graph == once
        found.append(gradient(world, algorithm, experience))
    for key, expected in found[0].items():
        torch.testing.assert_close(found[1][key], expected, **EXACT)
    assert sum(float(g.norm()) for g in found[0].values()) > 0.1


@pytest.mark.filterwarnings("ignore:one update per rollout")
@pytest.mark.parametrize(
    ("algorithm", "penalty", "plan"),
    [
        (PPO(epochs=2, minibatches=1), None, {}),
        (PPO(epochs=1, minibatches=2), None, {}),
        (Eager(), None, {}),
        (Reinforce(), TrustRegion(), {}),
        (Reinforce(), None, {"pass_size": 16 * 3 - 1}),
    ],
)
def test_where_it_is_not_the_same_or_does_not_fit_there_is_a_replay(
    algorithm: Any, penalty: Penalty | None, plan: dict[str, Any]
) -> None:
    world = algorithm.equip(world_of(True, penalty, **plan))
    assert not algorithm.collect(world, 0).trajectory.has_graph


def test_rows_are_counted_once() -> None:
    """16 samples of 3 steps with noise: replayed they are evaluated again."""
    for once, rows in ((False, 48), (True, 0)):
        world = world_of(once)
        experience = Reinforce().collect(world, 0)
        (piece,) = Reinforce().micro_batches(experience, 0, world)
        assert Reinforce().loss(experience, piece, world).rows == rows


def test_after_memory_ran_out_in_the_backward_there_is_a_replay() -> None:
    world = world_of(True, PathKL(coefficient=0.5))
    experience = Reinforce().collect(world, 0)
    Reinforce().release(experience)
    world = planned(world, pass_size=7)
    expected = gradient(world_of(False, PathKL(coefficient=0.5)), Reinforce())
    for key, g in gradient(world, Reinforce(), experience).items():
        torch.testing.assert_close(g, expected[key], **EXACT)


RUN = (BRIGHT, "heldout=null", "trainer=reinforce", "penalty=path_kl", "plan.rollout_batch=4")


def test_memory_that_runs_out_while_sampling_ends_the_graph_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 8 samples the first batch of 4 still fits with its graph. The second one is drawn again without, in no smaller
    batches, and so is the next iteration; nothing else is different."""
    whole = fitted(tmp_path / "whole", *RUN, "plan.pass_size=23", double=True)
    asked = narrow(monkeypatch, forward=12, backward=12)
    graphs = []
    from pgdlab.diffusion.denoisers import DiffusersDenoiser

    limited = DiffusersDenoiser.output

    def output(self: Any, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        out = limited(self, x, t, cond)
        graphs.append(out.requires_grad)
        if sum(graphs) > 4 and out.requires_grad and len(x) == 4:
            raise torch.OutOfMemoryError(FULL)
        return out

    monkeypatch.setattr(DiffusersDenoiser, "output", output)
    some = fitted(tmp_path / "some", *RUN, "plan.pass_size=24", double=True)
    assert graphs[:9] == [False, True] * 3 + [False, False, True], "the graph was not tried, so nothing was tested"
    assert sum(graphs) == 5 + 2 * 2, "two passes replay all pairs of each of the two iterations"
    assert set(asked) == {4, 12}
    assert some.world.capacity.pass_size == load(tmp_path / "some" / LAST)["pass_size"] == 23
    for k, g in enumerate(whole.gradients):
        assert distance(some.gradients[k], g) < 1e-7


def test_no_half_of_a_graph_is_held_after_memory_ran_out() -> None:
    """The batch that had one lets go of it before the next is drawn again: its memory is what there is too little of."""
    policy, reference = policies()
    calls = iter([None, torch.OutOfMemoryError(FULL), None])
    shown: list[Any] = []
    seen: list[list[bool]] = []

    class Short(Noise):
        def steps(self, *given: Any) -> Iterator[Tensor]:
            seen.append([batch.has_graph for batch in shown])
            error = next(calls)
            if error is not None:
                raise error
            yield from super().steps(*given)

    cond, extras = torch.zeros(6, dtype=torch.long), Extras(graph=True)
    out = rollout(
        policy, reference, Short(0).of(0, range(6)), cond, trained=[0, 1, 2], batch=3, extras=extras, watch=shown.append
    )
    assert seen == [[], [True], [False]]
    assert not out.has_graph
    whole = rollout(policy, reference, Noise(0).of(0, range(6)), cond, trained=[0, 1, 2], batch=3)
    assert torch.equal(out.log_prob, whole.log_prob)


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize(
    "steps", ["{_target_: pgdlab.rollout.plan.AllSteps}", "{_target_: pgdlab.rollout.plan.RandomSteps, fraction: 0.4}"]
)
def test_under_autocast_every_weight_gets_its_gradient(steps: str, tuning: str) -> None:
    """Autocast keeps the weights that it has cast: those of a pass without a graph, used again in one with a graph, would cut
    the gradient off. In bf16 equal up to its rounding, 2^-9 each operation."""
    found = []
    for once in (False, True):
        words = (
            BRIGHT,
            "heldout=null",
            "trainer=reinforce",
            "penalty=path_kl",
            f"plan.trained_steps={steps}",
            "policy.steps=6",
            f"policy={tuning}",
        )
        world = build_world(compose(tiny(*words)))
        world.capacity.graph = once
        with torch.autocast("cpu", torch.bfloat16):
            experience = Reinforce().collect(world, 0)
        assert experience.trajectory.has_graph == once
        with torch.autocast("cpu", torch.bfloat16):
            found.append(gradient(world, Reinforce(), experience))
    for name, g in found[0].items():
        assert (g.norm() > 0) == (found[1][name].norm() > 0), name
    whole = [torch.cat([g.flatten() for g in some.values()]) for some in found]
    assert (whole[0] - whole[1]).norm() < 0.03 * whole[0].norm()


def test_actions_are_constants_and_only_trained_steps_have_a_gradient() -> None:
    """d log pi(a_1|s_1) is that of step 1 alone: nothing of the steps that led to s_1, or of a_1."""
    policy, reference = policies()
    cond = torch.zeros(6, dtype=torch.long)
    extras = Extras(reference=True, graph=True)
    out = rollout(policy, reference, Noise(0).of(0, range(6)), cond, trained=[1], batch=6, extras=extras)
    assert not any(getattr(out, name).requires_grad for name in ("states", "sample", "log_ratio", "reference_mean"))
    trained = [p for p in policy.denoiser.parameters() if p.requires_grad]
    both = out.log_prob.sum() + out.kl.sum()
    got = torch.autograd.grad(both, trained)
    state, action = out.states.unbind(1)  # only these two are stored
    g = policy(state, torch.full((6,), 1), cond)
    density = torch.distributions.Normal(g.mean, g.std).log_prob(action).sum()
    with torch.no_grad():
        mean = reference(state, torch.full((6,), 1), cond).mean
    kl = ((g.mean - mean).square() / (2 * g.std**2)).sum()
    for x, expected in zip(got, torch.autograd.grad(density + kl, trained), strict=True):
        torch.testing.assert_close(x, expected, **EXACT)
