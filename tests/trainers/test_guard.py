"""GRPO-Guard's ratio on a flow: the value, its gradient at the policy that sampled, and where it stops."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab.certificates.truth import linear_problem
from pgdlab.config.compose import compose
from pgdlab.oracle.linear_gaussian import affine_chain, optimum
from pgdlab.rollout.trajectory import replay
from pgdlab.trainers.ppo import PPO
from pgdlab.trainers.reinforce import Reinforce
from pgdlab.training.build import build_world
from pgdlab.world import World
from tests.tiny import gradient, tiny_world

SAMPLES = 64
GUARD = PPO(ratio="guard", clip=50.0, epochs=2, minibatches=1)


def flow(samples: int = SAMPLES, *more: str) -> World:
    """A Gaussian in the plane on a flow, Flow-GRPO's SDE, fp64."""
    words = ["experiment=oracle/flow", "domain.replicas=1", f"plan.samples={samples}", f"plan.group={samples}"]
    world = build_world(compose([*words, "plan.rollout_batch=0", "plan.pass_size=1000000", *more]))
    world.policy.double()
    world.reference.double()
    return world


def moved(world: World, size: float = 0.05) -> World:
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in world.policy.parameters():
            if p.requires_grad:
                p += size * torch.randn(p.shape, generator=g).to(p)
    return world


def test_the_ratio_is_that_of_the_noise_and_the_step() -> None:
    """exp(mean_d eps_d (m - m_old)_d), eps from the stored states, over the step's length: the surrogate of the public programs,
    in which log w has ||m - m_old||^2 / (2 std^2) added, is multiplied by std, and the loss divided by dt."""
    world = GUARD.equip(flow())
    experience = GUARD.collect(world, 0)
    out, policy = experience.trajectory, world.policy
    pairs = out.pairs(torch.arange(SAMPLES * len(out.trained)))
    with torch.no_grad():
        before, _ = replay(policy, out, pairs)
        after, _ = replay(moved(world).policy, out, pairs)
    eps = (out.states.flatten(0, 1)[pairs.action] - before.mean) / policy.std[pairs.step][:, None]
    w = (eps * (after.mean - before.mean)).mean(1).exp()
    times = policy.denoiser.schedule.sigma(policy.times)
    length = times[:-1] - times[1:]
    assert w.std() > 0.01
    advantage = experience.advantage.flatten()
    gain = w * advantage / length[pairs.step]
    loss, logs = GUARD.step_loss(experience, pairs, dataclasses.replace(world, penalties=nothing()))
    assert loss.item() == pytest.approx(-gain.sum().item(), rel=1e-9)
    assert float(logs["log_ratio_abs"][0]) == pytest.approx(w.log().abs().sum().item(), rel=1e-9)


def nothing() -> Any:
    return tiny_world().penalties


def by_step(world: World, algorithm: Any, experience: Any) -> Tensor:
    """The surrogate's gradient, a row a step."""
    found = gradient(dataclasses.replace(world, penalties=nothing()), algorithm, experience)
    return torch.cat([g.movedim(stepwise(g), 0).flatten(1) for g in found.values()], 1)


def stepwise(g: Tensor) -> int:
    """Which dimension counts the ten steps."""
    return list(g.shape).index(10)


def test_where_the_policy_sampled_each_step_has_the_policy_gradient_times_its_weight() -> None:
    """std_h / (D dt_h), by step, of the same samples' REINFORCE gradient."""
    world = GUARD.equip(moved(flow()))
    experience = GUARD.collect(world, 0)
    plain, guard = (by_step(world, a, experience) for a in (Reinforce(), GUARD))
    policy = world.policy
    times = policy.denoiser.schedule.sigma(policy.times)
    weight = policy.std / (2 * (times[:-1] - times[1:]))
    trained = policy.stochastic_steps
    torch.testing.assert_close(guard[trained], weight[trained, None] * plain[trained], rtol=1e-6, atol=1e-9)
    assert weight[trained].max() > 1.5 * weight[trained].min()


def test_its_fixed_point_has_a_kl_weight_of_its_own_at_every_step() -> None:
    """On a linear reward, where each step's optimal shift is std_h^2 c_h / lambda whatever the others do, guard's is that times
    std_h / (D dt_h): the gradient of a huge batch vanishes there, and not at the attainable optimum."""
    world = GUARD.equip(flow(20_000))
    penalty, policy = world.penalties.path_kl, world.policy
    problem = linear_problem(world, penalty.coefficient.item(), penalty.initial_coefficient.item())
    shift = (optimum(problem).chain.shift - problem.reference.shift)[0]
    times = policy.denoiser.schedule.sigma(policy.times)
    weight = policy.std / (2 * (times[:-1] - times[1:]))
    bias, trained = policy.denoiser.correction.bias, policy.stochastic_steps
    off = {}
    for name, factor in {"guard": weight, "attainable": torch.ones_like(weight)}.items():
        with torch.no_grad():  # the unit of a bias is the step's std
            bias[0, trained] = (factor[:, None] * shift / policy.std[:, None])[trained]
        chain = affine_chain(policy, torch.zeros(1, dtype=torch.long))
        torch.testing.assert_close(chain.shift[0] - problem.reference.shift[0], (factor[:, None] * shift).double())
        experience = GUARD.collect(world, 0)
        off[name] = gradient(world, GUARD, experience)["denoiser.correction.bias"].abs().max().item()
    assert off["guard"] < off["attainable"] / 8


def test_it_is_of_flows_and_of_steps() -> None:
    for world in (tiny_world(), flow(8, "initial=diagonal")):
        with pytest.raises(ValueError, match="guard weighs the steps of a flow by their length"):
            GUARD.refuse(world)
