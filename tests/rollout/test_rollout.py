"""Rollout and replay: what is stored is what is scored, and replay gives it back."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from pgdlab.diffusion.initial import Standard
from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.policy import ODE, Policy, build_policy
from pgdlab.diffusion.space import Dense
from pgdlab.diffusion.tuning import Full, LoRA, Tuning
from pgdlab.functional.gaussian import Gaussian
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.sampler import Extras, rollout
from pgdlab.rollout.trajectory import Trajectory, concatenate, dtype_of, pair_indices, pick, replay, split, stored_at
from tests.exact import steps_of
from tests.networks import denoiser
from tests.tiny import CLASS_MEANS, FastNoise, moved, tiny_policy

ROWS, STOCHASTIC, H = 12, [0, 1, 2], 4
COND = torch.arange(ROWS) % 3
FULL = Extras(reference=True, estimates=True)
EXACT = {"rtol": 1e-12, "atol": 1e-12}  # the same fp64 operations, perhaps over another batch


def pair_of_policies(eta: float = 0.7) -> tuple[Policy, Policy]:
    """A policy that was moved, and where it started."""
    policy = tiny_policy(eta, rho=True)
    reference = policy.reference()
    return moved(policy), reference


def run(
    policy: Policy,
    reference: Policy,
    trained: list[int],
    extras: Extras = FULL,
    batch: int = 100,
    rows: range = range(ROWS),
) -> Trajectory:
    return rollout(
        policy,
        reference,
        Noise(0).of(5, rows),
        COND[rows.start : rows.stop],
        trained=trained,
        batch=batch,
        extras=extras,
    )


def test_what_is_stored_is_what_is_scored() -> None:
    """By the paper's own coefficients: log N(s_{h+1}; mean(s_h), std_h) with the states as stored."""
    policy, reference = pair_of_policies()
    out = run(policy, reference, STOCHASTIC)
    shift, gain = (p.detach() for p in (policy.denoiser.shift, policy.denoiser.gain))
    means = torch.tensor(CLASS_MEANS, dtype=torch.float64)[COND]
    for h in STOCHASTIC:
        t, x, action = H - 1 - h, out.states[:, h], out.states[:, h + 1]
        c = steps_of(H, 0.7, means, 0.5)[h]
        mean = c.from_x * x + c.from_x0 * (c.a0 * x + c.b0 + shift[t] + gain[t] * x)
        expected = Independent(Normal(mean, c.std), 1).log_prob(action)
        torch.testing.assert_close(out.log_prob[:, h], expected, rtol=1e-5, atol=1e-5)  # diffusers' betas are fp32
    first = Independent(Normal(policy.initial.mean, policy.initial.log_scale.exp()), 1).log_prob(out.initial)
    torch.testing.assert_close(out.initial_log_prob, first.detach(), **EXACT)
    assert torch.equal(out.initial, out.states[:, 0])
    assert out.states.dtype == out.log_prob.dtype == torch.float64


def test_replay_gives_the_rollouts_log_prob_in_fp64() -> None:
    policy, reference = pair_of_policies()
    out = run(policy, reference, STOCHASTIC)
    g, score = replay(policy, out, out.pairs(torch.arange(3 * ROWS)))
    torch.testing.assert_close(score.reshape(ROWS, 3), out.log_prob, **EXACT)
    kl = 0.5 * ((g.mean - out.reference_mean.flatten(0, 1)) / g.std).square().sum(1)
    torch.testing.assert_close(kl.reshape(ROWS, 3), out.kl[:, :3], **EXACT)


@pytest.mark.parametrize("tuning", [Full(), LoRA(rank=2)])
def test_replay_gives_the_rollouts_log_prob_in_fp32(tuning: Tuning) -> None:
    """On a 16x16 network, with guidance and other batches: below 1e-3 nats, for a clip of .2."""
    space = Dense((1, 16, 16))
    policy = build_policy(
        denoiser=denoiser(16, dropout=0.2), space=space, initial=Standard(space=space, num_conditions=2, std=1.0),
        unconditional=2, kernel=DDIM(eta=1.0), tuning=tuning, steps=10, guidance=2.0,
    )  # fmt: skip
    reference = policy.reference()
    out = rollout(
        policy,
        reference,
        Noise(0).of(0, range(6)),
        COND[:6],
        trained=policy.stochastic_steps,
        batch=4,
        extras=Extras(reference=True),
    )
    assert (out.states.dtype, out.log_prob.dtype) == (torch.float32, torch.float64)
    order = torch.randperm(6 * len(out.trained), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        score = replay(policy, out, out.pairs(order))[1]
    assert (score - out.log_prob.flatten()[order]).abs().max() < 1e-3
    assert out.kl.abs().max() < 1e-3, "an untrained policy is its reference"


def test_any_pairs_in_any_order_give_the_same() -> None:
    policy, reference = pair_of_policies()
    out = run(policy, reference, STOCHASTIC)
    whole = replay(policy, out, out.pairs(torch.arange(3 * ROWS)))
    g = torch.Generator().manual_seed(0)
    flat = torch.randint(3 * ROWS, (20,), generator=g)
    some = replay(policy, out, out.pairs(flat))
    torch.testing.assert_close(some[0].mean, whole[0].mean[flat], **EXACT)
    torch.testing.assert_close(some[1], whole[1][flat], **EXACT)
    assert len(replay(policy, out, out.pairs(flat[:0]))[1]) == 0


def test_pairs_and_splits() -> None:
    out = run(*pair_of_policies(), [0, 1])
    indices = pair_indices(torch.tensor([4, 7]), 2)
    assert indices.tolist() == [8, 9, 14, 15]
    pairs = out.pairs(indices)
    assert pairs.row.tolist() == [4, 4, 7, 7]
    assert pairs.step.tolist() == [0, 1, 0, 1]
    assert pairs.state.tolist() == [12, 13, 21, 22]  # three states a row are stored
    assert pairs.action.tolist() == [13, 14, 22, 23]
    assert torch.equal(pairs.cond, COND[[4, 4, 7, 7]])
    assert torch.equal(pick(out.states, pairs.action), out.states[[4, 4, 7, 7], [1, 2, 1, 2]])
    parts = split(pair_indices(torch.tensor([4, 7]), 3), 4)
    assert [part.tolist() for part in parts] == [[12, 13, 14], [21, 22, 23]]  # as 4 and 2 would be, but for their peak


@pytest.mark.parametrize(
    ("trained", "stored"),
    [([0, 1, 2], (0, 1, 2, 3, 4)), ([0, 2], (0, 1, 2, 3, 4)), ([0, 1], (0, 1, 2, -1, -1)), ([1], (-1, 0, 1, -1, -1)),
     ([0, 3], (0, 1, -1, 2, 3)), ([], (-1, -1, -1, -1, -1))],
)  # fmt: skip
def test_only_the_states_that_are_needed_are_stored(trained: list[int], stored: tuple[int, ...]) -> None:
    assert stored_at(trained, H) == stored
    if trained == [0, 3]:
        return  # the last step is deterministic here
    policy, reference = pair_of_policies()
    whole, some = run(policy, reference, STOCHASTIC), run(policy, reference, trained)
    assert some.states.shape[1] == max(stored) + 1
    for h, s in enumerate(stored):
        if s >= 0:
            assert torch.equal(some.states[:, s], whole.states[:, h])
    assert torch.equal(some.log_prob, whole.log_prob[:, trained])
    assert torch.equal(some.reference_mean, whole.reference_mean[:, trained])
    for name in ("sample", "initial", "kl", "log_ratio", "estimates", "initial_log_prob", "initial_log_ratio"):
        assert torch.equal(getattr(some, name), getattr(whole, name)), name
    if trained:
        score = replay(policy, some, some.pairs(torch.arange(ROWS * len(trained))))[1]
        torch.testing.assert_close(score.reshape(ROWS, -1), whole.log_prob[:, trained], **EXACT)


def test_batches_do_not_change_anything() -> None:
    """Neither batch size, nor which part of the samples a process owns."""
    policy, reference = pair_of_policies()
    whole = run(policy, reference, STOCHASTIC)
    batched = run(policy, reference, STOCHASTIC, batch=5)
    part = run(policy, reference, STOCHASTIC, rows=range(4, 9))
    for name in ("sample", "states", "log_prob", "kl", "log_ratio", "reference_mean", "estimates", "cond", "initial"):
        torch.testing.assert_close(getattr(batched, name), getattr(whole, name), **EXACT)
        torch.testing.assert_close(getattr(part, name), getattr(whole, name)[4:9], **EXACT)


def test_joined_batches_are_let_go() -> None:
    """Nothing keeps the parts once they are joined, else everything would be there twice."""
    policy, reference = pair_of_policies()
    parts = [run(policy, reference, STOCHASTIC, rows=rows) for rows in (range(5), range(5, ROWS))]
    states = torch.cat([part.states for part in parts])
    old = [weakref.ref(part.states) for part in parts]
    joined = concatenate(parts)
    assert torch.equal(joined.states, states)
    assert [ref() for ref in old] == [None, None]


def test_the_deterministic_last_step_is_the_references() -> None:
    """The last step to no noise returns x0's estimate; the frozen one unless asked otherwise."""
    policy, reference = pair_of_policies()
    last, at = run(policy, reference, STOCHASTIC).states[:, 3], torch.full((ROWS,), 3)
    frozen, tuned = reference.estimate(last, at, COND), policy.estimate(last, at, COND).detach()
    assert (frozen - tuned).abs().min() > 1e-3
    assert torch.equal(run(policy, reference, STOCHASTIC).sample, frozen)
    assert torch.equal(run(policy, reference, STOCHASTIC, Extras(tuned_deterministic=True)).sample, tuned)


def test_kl_and_log_ratio_cover_all_stochastic_steps() -> None:
    """Whichever are trained; against torch.distributions; 0 at the deterministic step."""
    policy, reference = pair_of_policies()
    whole, out = run(policy, reference, STOCHASTIC), run(policy, reference, [1])
    assert out.kl.shape == out.log_ratio.shape == (ROWS, H)
    for h in STOCHASTIC:
        x, at = whole.states[:, h], torch.full((ROWS,), h)
        own, pre = (Independent(Normal(g.mean, g.std), 1) for g in (policy(x, at, COND), reference(x, at, COND)))
        torch.testing.assert_close(out.kl[:, h], kl_divergence(own, pre).detach(), **EXACT)
        action = whole.states[:, h + 1]
        torch.testing.assert_close(out.log_ratio[:, h], (own.log_prob(action) - pre.log_prob(action)).detach(), **EXACT)
    assert torch.equal(out.kl[:, 3], torch.zeros(ROWS).double())
    assert torch.equal(out.log_ratio[:, 3], torch.zeros(ROWS).double())
    prior = Independent(Normal(torch.zeros(2), 1.0), 1).log_prob(out.initial)
    torch.testing.assert_close(out.initial_log_ratio, out.initial_log_prob - prior, **EXACT)


def test_nothing_of_the_reference_unless_asked() -> None:
    policy, reference = pair_of_policies()
    out = run(policy, reference, STOCHASTIC, Extras())
    assert out.kl.shape == out.log_ratio.shape == (ROWS, 0)
    assert out.reference_mean.shape == out.estimates.shape == (ROWS, 0, 2)


def test_estimates_are_the_references() -> None:
    """With the policy's own, the reward would depend on its parameters, and could be faked."""
    policy, reference = pair_of_policies()
    out = run(policy, reference, STOCHASTIC)
    for h in range(4):
        assert torch.equal(out.estimates[:, h], reference.estimate(out.states[:, h], torch.full((ROWS,), h), COND))


def big(eta: float, n: int = 40_000) -> tuple[Policy, Trajectory]:
    policy, reference = pair_of_policies(eta)
    cond = torch.zeros(n, dtype=torch.long)
    return policy, rollout(
        policy,
        reference,
        FastNoise(0).of(0, range(n)),
        cond,
        trained=STOCHASTIC,
        batch=n,
        extras=Extras(reference=True),
    )


def within(x: Tensor, expected: Tensor | float, errors: float = 4.5) -> None:
    """The mean of rows is the expected one within that many of its standard errors."""
    assert ((x.mean(0) - expected).abs() <= errors * x.std(0) / len(x) ** 0.5).all()


def test_the_sampled_log_ratio_averages_to_the_kl() -> None:
    """E_pi[log pi - log pi_pre] = KL at every step, and for rho; E_pi[pi_pre / pi] = 1."""
    policy, out = big(0.7)
    within(out.log_ratio[:, :3] - out.kl[:, :3], 0.0)
    assert out.kl[:, :3].mean(0).min() > 0.01, "the policy has not moved, so nothing was tested"
    within((-out.log_ratio[:, :3]).exp(), 1.0)
    scale = policy.initial.log_scale.detach()
    exact = (0.5 * (policy.initial.mean.detach().square() + (2 * scale).exp() - 1) - scale).sum()
    within(out.initial_log_ratio, exact)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_the_chains_own_moments(eta: float) -> None:
    """The samples have the discrete chain's mean and variance, which are not the data's."""
    policy, out = big(eta)
    m = policy.initial.mean.detach()
    v = (2 * policy.initial.log_scale.detach()).exp()
    for h, c in enumerate(steps_of(H, eta, torch.zeros(2, dtype=torch.float64), 0.5)):
        t = H - 1 - h
        shift, gain = (p[t].detach() * (c.std > 0) for p in (policy.denoiser.shift, policy.denoiser.gain))
        slope = c.from_x + c.from_x0 * (c.a0 + gain)
        m, v = slope * m + c.from_x0 * (c.b0 + shift), slope**2 * v + c.std**2
    within(out.sample, m)
    within((out.sample - m).square(), v)
    assert (v - 0.25).abs().min() > 0.01


def test_a_taken_action_is_the_mean_plus_std_times_the_drawn_noise() -> None:
    """Step h of sample i uses draw h + 1: rho has the first."""
    policy, reference = pair_of_policies()
    out = run(policy, reference, STOCHASTIC)
    drawn = torch.stack(list(Noise(0).steps(5, range(ROWS), H + 1, (2,))), 1).double()
    g = policy(out.states[:, 1], torch.full((ROWS,), 1), COND)
    torch.testing.assert_close((out.states[:, 2] - g.mean) / g.std, drawn[:, 2], rtol=1e-9, atol=1e-9)


def test_network_rows_under_an_ode_of_the_tuned_network() -> None:
    """An evaluation that uses the tuned network everywhere does not pay for the reference."""
    policy, reference = pair_of_policies()
    run(policy.with_kernel(ODE), reference.with_kernel(ODE), [], Extras(tuned_deterministic=True))
    assert policy.denoiser.rows == H * ROWS
    assert reference.denoiser.rows == 0


def test_states_are_fp32_unless_the_parameters_are_fp64() -> None:
    """Never less, whatever the network computes in."""
    policy, _ = pair_of_policies()
    assert dtype_of(policy) == torch.float64
    half = Policy(denoiser().to(torch.bfloat16), Dense((1, 8, 8)), policy.initial.float(), DDIM(), 3)
    assert dtype_of(half) == torch.float32


class Wide(Policy):
    """Computes its steps in fp64, while its parameters, and so the states, are fp32."""

    def forward(self, x: Tensor, h: Tensor, cond: Tensor) -> Gaussian:
        at = x.double()
        mean = self.from_x[h][:, None] * at + self.from_x0[h][:, None] * self.estimate(at, h, cond)
        return Gaussian(mean, self.std[h][:, None])


def test_actions_are_scored_as_they_are_stored() -> None:
    """With a std of a thousandth, rounding an action to fp32 after scoring it moves its score by 1e-4 nats and more;
    the score of what was stored differs from the stored score by the latter's own rounding only."""
    narrow = tiny_policy(0.003)
    policy = Wide(narrow.denoiser.float(), narrow.space, narrow.initial.float(), narrow.kernel, 4)
    assert dtype_of(policy) == torch.float32
    out = rollout(policy, policy, Noise(0).of(0, range(ROWS)), COND, trained=STOCHASTIC, batch=ROWS)
    assert out.states.dtype == torch.float32
    with torch.no_grad():
        score = replay(policy, out, out.pairs(torch.arange(3 * ROWS)))[1].reshape(ROWS, 3)
    assert score.dtype == torch.float64
    torch.testing.assert_close(out.log_prob.double(), score, rtol=1e-6, atol=1e-6)


def test_where_the_kept_steps_are_is_on_the_device_once() -> None:
    """Replay indexes with tensors; making them anew for every pass would wait for the device each time."""
    out = run(*pair_of_policies(), [0, 2])
    assert out.lookup is out.lookup
    assert out.lookup[:, :4].tolist() == [[0, 0, 1, 1], [0, 2, 0, 2], [0, 2, 5, 7], [1, 3, 6, 8]]
