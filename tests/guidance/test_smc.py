"""Particles against laws that are known: six problems on a line, and what they do to rows, noise, queries and copies."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.special import ndtr
from torch import Tensor

from pgdlab.guidance.base import EstimateReward, Potential, Source, Valued
from pgdlab.guidance.particles import Population
from pgdlab.guidance.smc import SMC
from pgdlab.guidance.weights import normalised
from pgdlab.rewards.base import Score
from pgdlab.rollout.noise import Interleaved, Noise
from pgdlab.rollout.sampler import SAMPLES, Batch
from tests.guidance.lines import PROBLEMS, Exact, OnALine, Wrong, chain, log_z, source_of
from tests.tiny import Failing, Quadratic, moved, tiny_policy, tiny_world

VAR = 0.680566  # of the base's samples in GL: 10 steps do not reach 1


def run(name: str, n: int, slots: int, seed: int = 0, **how: Any) -> Population:
    given = {"lam": PROBLEMS[name].lam, "scored": "all"} | how
    return SMC(**given).population(source_of(name, slots, seed), n, slots)


def mean_reward(found: Population) -> tuple[float, float]:
    """Of one draw by the weights, and its standard error over slots."""
    weight = normalised(found.log_weight)
    r = (weight * found.value.reshape(weight.shape)).sum(1)
    return r.mean().item(), (r.std() / len(r) ** 0.5).item()


def z_of(found: Population, log_z: float) -> tuple[float, float]:
    """Mean of the estimates of Z by its right value, and its standard error."""
    z = (found.log_z - log_z).exp()
    return z.mean().item(), (z.std() / len(z) ** 0.5).item()


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_values_that_the_tests_use_are_right(name: str) -> None:
    """log Z by this grid and by the one that the table was made on; indicators are coarser on this one."""
    assert log_z(name) == pytest.approx(PROBLEMS[name].log_z, abs=3e-3 if PROBLEMS[name].kind == "indicator" else 5e-4)


WAYS: dict[str, dict[str, Any]] = {
    "weights alone": {"threshold": 0.0},
    "always": {"threshold": 1.0},
    "exact": {"potential": Exact(name="GL")},
    "wrong, multinomial": {"potential": Wrong(lam=0.5), "scheme": "multinomial", "threshold": 0.9},
    "wrong, residual": {"potential": Wrong(lam=0.5), "scheme": "residual", "threshold": 0.9},
    "wrong, stratified": {"potential": Wrong(lam=0.5), "scheme": "stratified", "threshold": 0.9},
    "tempered": {"temper": 2.0},
    "a few states": {"scored": (0.2, 0.5, 0.8)},
}


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
def test_the_estimate_of_z_has_no_bias(how: dict[str, Any]) -> None:
    """E[Z estimate] = Z for any n, potential, threshold, scheme (Del Moral 2004, theorem 7.4.2). 4 standard errors, which are
    below 4.5 %."""
    found = run("GL", 4, 20_000, seed=1, **how)
    mean, error = z_of(found, PROBLEMS["GL"].log_z)
    assert error < 0.045
    assert mean == pytest.approx(1, abs=4 * error)
    if how.get("threshold") != 0.0:
        assert found.resampled.double().mean() > 0.1


# the mean reward of one draw by n particles, as another program (numpy, a grid of its own) has it, to .002
DRAWS = [
    ("GI", 64, 3000, "exact", 0.819), ("GI", 64, 3000, "x0", 0.725), ("GI", 4, 20_000, "exact", 0.338),
    ("GI", 4, 20_000, "x0", 0.174), ("GQ", 4, 20_000, "x0", -0.675), ("MQ", 16, 4000, "x0", -0.162),
    ("ML", 16, 4000, "x0", 0.893), ("GL", 16, 4000, "x0", 1.188),
]  # fmt: skip


@pytest.mark.parametrize(("name", "n", "slots", "potential", "expected"), DRAWS)
def test_the_law_of_a_draw(name: str, n: int, slots: int, potential: str, expected: float) -> None:
    """Also the bias of few particles is as it should be. 4 standard errors and the .003 to which the values are known."""
    given = {"potential": Exact(name=name)} if potential == "exact" else {}
    mean, error = mean_reward(run(name, n, slots, seed=2, **given))
    assert error < 0.008
    assert mean == pytest.approx(expected, abs=4 * error + 0.003)


@pytest.mark.parametrize(("eta", "steps"), [(1.0, 10), (0.5, 10), (1.0, 4)])
def test_the_likelihood_of_a_kalman_filter(eta: float, steps: int) -> None:
    """GQ is an observation: exp(-(x - 2)^2 / lam) = sqrt(pi lam) N(2; x, lam / 2). The chain of N(0, 1) is linear, so that the
    filter predicts N(0, P), and the likelihood is N(2; 0, P + lam / 2). 4 standard errors."""
    alpha, _, u, v, std = chain(eta, steps)
    lam, var = PROBLEMS["GQ"].lam, 1.0
    for h in range(steps):
        var = (u[h] + v[h] * alpha[h]) ** 2 * var + std[h] ** 2
    total = var + lam / 2
    log_likelihood = 0.5 * math.log(math.pi * lam) - 0.5 * math.log(2 * math.pi * total) - 2**2 / (2 * total)
    how = SMC(lam=lam, scored="all")
    found = how.population(source_of("GQ", 3000, seed=4, eta=eta, steps=steps), 16, 3000)
    mean, error = z_of(found, log_likelihood)
    assert mean == pytest.approx(1, abs=4 * error)
    assert error < 0.08


def test_many_particles_have_the_tilted_law() -> None:
    """GQ, n 256: -.446 with r(x0hat), -.474 with the exact potential, of -.4715."""
    for given, expected in (({}, -0.446), ({"potential": Exact(name="GQ")}, -0.474)):
        mean, error = mean_reward(run("GQ", 256, 400, seed=3, **given))
        assert mean == pytest.approx(expected, abs=4 * error + 0.003)


class Patchy(OnALine):
    """x, which cannot be measured above 2."""

    def score(self, sample: Tensor, cond: Tensor) -> Score:
        return Score(sample[:, 0].double(), sample[:, 0] <= 2.0)


def test_what_is_not_measured_on_the_way_changes_no_weight_and_at_the_end_counts_nothing() -> None:
    """Then Z = E[exp(x / lam) 1[x <= 2]] under N(0, VAR): exp(2 VAR) Phi((2 - 2 VAR) / sd), lam = .5."""
    source = source_of("GL", 20_000, seed=4, max_failed=0.9)
    source = replace(source, world=replace(source.world, reward=Patchy("linear", 0.0)))
    found = SMC(lam=0.5, scored="all").population(source, 4, 20_000)
    right = math.log(math.exp(2 * VAR) * ndtr((2 - 2 * VAR) / math.sqrt(VAR)))
    mean, error = z_of(found, right)
    assert error < 0.03
    assert mean == pytest.approx(1, abs=4 * error)
    assert found.unscored > 100
    measured = found.measured.reshape(-1, 4)
    alive = measured.any(1)
    assert (normalised(found.log_weight)[alive][~measured[alive]] == 0).all()
    assert (~measured[alive]).any()


class Once(Potential):
    """x at state 1, measured nowhere else."""

    def __call__(self, world: Any, x: Tensor, x0: Tensor, h: int, cond: Tensor) -> Valued:
        return Valued(x[:, 0].double(), torch.full((len(x),), h == 1), 0)


def test_a_state_that_is_not_measured_keeps_its_weight() -> None:
    """Then the effective number after states 1 and 2 is the same, and not that of equal weights."""
    found = SMC(lam=0.2, scored="all", threshold=0.0, potential=Once()).population(tiny_source(), 5, 3)
    torch.testing.assert_close(found.ess[:, 2], found.ess[:, 1])
    assert (found.ess[:, 1] < 4.9).all()
    torch.testing.assert_close(found.ess[:, 0], torch.full((3,), 5.0, dtype=torch.float64))
    assert found.unscored == 15 * 2


def tiny_source(slots: int = 3, tuned: bool = False, **world: Any) -> Source:
    """Two classes in turn, keyed noise; the last of 4 steps has no noise."""
    given = tiny_world(train_conditions=(0, 1), noise=Noise(3), **world)
    policy = moved(given.policy, size=0.3) if tuned else given.reference
    return Source(given, policy, torch.arange(slots) % 2, Noise(3))


EVERY = SMC(lam=0.2, scored="all", threshold=1.0)


def test_particles_stay_in_their_slot_and_know_their_ancestors() -> None:
    """Particle k of slot i begins with the noise (iteration k, index i); after resampling with its ancestor's."""
    found = EVERY.population(tiny_source(), 5, 3)
    assert (found.resampled > 0).all()
    assert found.trajectory.cond.tolist() == [0] * 5 + [1] * 5 + [0] * 5
    for slot in range(3):
        for k, ancestor in enumerate(found.ancestor[slot].tolist()):
            start = next(Noise(3).steps(ancestor, range(slot, slot + 1), 1, (2,)))
            torch.testing.assert_close(found.trajectory.initial[slot * 5 + k], start[0].double(), rtol=0, atol=0)
    assert any(len(set(row)) < 5 for row in found.ancestor.tolist())


def test_without_resampling_they_are_the_candidates_of_best_of_n() -> None:
    from pgdlab.guidance.best_of_n import candidates

    source = tiny_source()
    found = SMC(lam=0.2, scored="all", threshold=0.0).population(source, 4, 3)
    for k in range(4):
        new = candidates(source, Noise(3).of(k, range(3)))
        torch.testing.assert_close(found.trajectory.sample[k::4], new.trajectory.sample, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.log_weight.flatten(), found.value / 0.2, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch", [2, 5, 11])
def test_batches_do_not_matter(batch: int) -> None:
    """A population is in one batch, however many rows a batch has: 11 are two of five, 2 are three passes of one."""
    whole, parts = (EVERY.population(tiny_source(rollout_batch=size), 5, 3) for size in (10**9, batch))
    for name in ("log_weight", "log_z", "ess", "value"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-10, atol=1e-10)
    assert torch.equal(parts.ancestor, whole.ancestor)
    assert parts.queries == whole.queries


@pytest.mark.parametrize("twist", [0.0, 2.0])
def test_a_population_larger_than_memory(twist: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for 3 rows a pass, 15 particles: halved from all 30 to 2 rows, and the populations are the same."""
    how = replace(EVERY, twist=twist)
    whole, source = (how.population(tiny_source(reward=Quadratic()), 15, 2), tiny_source(reward=Quadratic()))
    kind, passes = type(source.world.reference.denoiser), []
    enough = kind.forward

    def narrow(self: Any, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        passes.append(len(x))
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return enough(self, x, t, cond)

    monkeypatch.setattr(kind, "forward", narrow)
    found = how.population(source, 15, 2)
    torch.testing.assert_close(found.log_weight, whole.log_weight, rtol=1e-10, atol=1e-10)
    assert torch.equal(found.ancestor, whole.ancestor)
    assert found.evaluations == whole.evaluations == 2 * 15 * 4
    assert sorted({*passes}) == [1, 2, 4, 8, 15, 30]


def test_an_index_keeps_its_rows_together() -> None:
    rows = Interleaved(Noise(0), range(2, 6), 3)
    assert len(rows) == 12
    for h, x in enumerate(rows.steps(3, 9, 2, (2,))):
        for row in range(6):
            k, i = row % 3, 3 + row // 3
            assert torch.equal(x[row], [*Noise(0).steps(k, range(i, i + 1), 2, (2,))][h][0])
    with pytest.raises(ValueError, match="cut the 3 rows"):
        rows.steps(0, 4, 2, (2,))


@pytest.mark.parametrize("scored", ["all", (0.25, 0.5), ()])
def test_a_state_costs_a_query_and_no_further_row_of_the_network(scored: Any) -> None:
    """4 steps, 3 with noise: the last one's state is weighed as the sample."""
    source = tiny_source(reward=OnALine("linear", 0.0))
    asked = {"all": 3}.get(scored, len(scored)) if isinstance(scored, str) else len(scored)
    source.world.reference.denoiser.rows = 0
    found = SMC(lam=0.2, scored=scored).population(source, 5, 3)
    assert found.queries == source.world.reward.asked == 15 * (asked + 1)
    assert found.evaluations == source.world.reference.denoiser.rows == 15 * 4
    assert found.ess.shape == (3, asked + 1)


def test_nothing_is_resampled_after_the_last_step_with_noise() -> None:
    source = tiny_source()
    assert EVERY.states(source) == [0, 1, 2]
    assert SMC(scored=(0.25, 0.5, 0.9)).states(source) == [1, 2]
    found = EVERY.population(source, 50, 3)
    assert len({tuple(x) for x in found.trajectory.sample.tolist()}) == 150  # no copies are left


def test_what_is_returned_is_drawn_by_the_last_weights() -> None:
    """Slots g, g + S, ... are population g's, each particle as often as its weight says to within one."""
    source = tiny_source(slots=3)
    found = SMC(lam=0.2, scored=()).population(source, 6, 2)
    steered = found.returned(41, Noise(3))
    for g, count in ((0, 21), (1, 20)):
        rows = steered.trajectory.sample[g::2]
        own = found.trajectory.sample[g * 6 : g * 6 + 6]
        times = (rows[:, None] == own).all(2).double().sum(0)
        off = times - count * normalised(found.log_weight)[g]
        assert times.sum() == count
        assert (off.abs() < 1).all()
        assert (steered.trajectory.cond[g::2] == found.trajectory.cond[g * 6]).all()
    assert steered.figures["distinct"] <= 12
    assert steered.groups == 2


def test_a_population_without_a_weight_is_drawn_evenly_and_counted() -> None:
    found = SMC(lam=0.2, scored=()).population(tiny_source(), 6, 3)
    dead = torch.where(torch.arange(3)[:, None] == 1, -torch.inf, found.log_weight)
    steered = replace(found, log_weight=dead, measured=found.measured & (torch.arange(18) // 6 != 1)).returned(
        18, Noise(3)
    )
    assert steered.figures["lost_populations"] == 1
    assert math.isfinite(steered.figures["log_z"])
    own = found.trajectory.sample[6:12]
    assert sorted(steered.trajectory.sample[1::3].tolist()) == sorted(own.tolist())
    assert steered.value[1::3].isneginf().all()


def test_figures_by_hand() -> None:
    """Two populations of three; weights 1/2, 1/4, 1/4 and 1, 0, 0."""
    found = SMC(lam=0.5, scored=()).population(tiny_source(), 3, 2)
    log_w = torch.tensor([[math.log(2), 0, 0], [0, -math.inf, -math.inf]], dtype=torch.float64)
    value = torch.tensor([1.0, 2.0, 4.0, 3.0, 9.0, 9.0], dtype=torch.float64)
    given = replace(
        found, log_weight=log_w, value=value, ancestor=torch.tensor([[0, 2, 2], [1, 1, 1]]),
        log_z=torch.tensor([1.0, 3.0], dtype=torch.float64), ess=torch.tensor([[2.0, 8 / 3], [3.0, 1.0]], dtype=torch.float64),
    )  # fmt: skip
    figures = given.figures(normalised(log_w))
    assert figures["weighted_reward"] == pytest.approx((2.0 + 3.0) / 2)
    assert figures["ancestors"] == pytest.approx((2.0 + 1.0) / 2)
    assert figures["ess"] == pytest.approx((8 / 3 + 1) / 2)
    assert (figures["log_z"], figures["log_z_stderr"]) == (2.0, 1.0)
    assert figures["kl_estimate_nats"] == pytest.approx(((4.0 - 1.0) + (6.0 - 3.0)) / 2)


def test_tempered_psi_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """((h + 1) / (H + 1))^p V / lam, H 4."""
    source = tiny_source(reward=OnALine("linear", 0.0))
    x0 = torch.tensor([[0.5, 9.0], [-1.0, 9.0]], dtype=torch.float64)
    batch = Batch(source.policy, source.policy, torch.zeros(2, dtype=torch.long), (), SAMPLES, 2)
    monkeypatch.setattr(batch, "estimate", lambda x, h, cond: x0)
    seen, found = SMC(lam=0.2, temper=2.0).psi(source)(batch, x0 + 1, 1)
    assert seen is x0
    torch.testing.assert_close(found.value, torch.tensor([2.5, -5.0], dtype=torch.float64) * (2 / 5) ** 2)
    assert found.measured.all()
    assert found.queries == 2


def test_sizes_are_what_the_queries_pay_for() -> None:
    """Two conditions; 3 scored states and the sample: a particle is asked about 4 times."""
    source = tiny_source(slots=10)
    how = SMC(lam=0.2, scored=(0.0, 0.25, 0.5))
    assert how.sizes(source, 400) == (50, 2)
    assert replace(how, particles=8).sizes(source, 400) == (8, 10)  # no more populations than slots
    assert replace(how, particles=20).sizes(source, 400) == (20, 4)
    with pytest.raises(ValueError, match=r"15 reward queries pay for 3 particles.*2 conditions"):
        how.sizes(source, 15)
    with pytest.raises(ValueError, match=r"lower guidance.particles"):
        replace(how, particles=60).sizes(source, 400)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lam": 0.0}, "lam is 0.0"), ({"lam": -1.0}, "lam is -1.0"), ({"particles": 0}, "particles is 0"),
        ({"particles": 1}, "particles is 1"), ({"threshold": 1.5}, "threshold is 1.5"), ({"temper": -1.0}, "temper is -1"),
        ({"scored": (0.5, 1.0)}, "scored is"),
    ],
)  # fmt: skip
def test_settings_that_no_run_can_have(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SMC(**wrong)


def test_a_chain_without_noise_is_refused_with_what_works() -> None:
    policy = tiny_policy(eta=0.0)
    source = tiny_source(policy=policy)
    with pytest.raises(ValueError, match=r"eta 0.*guidance=metropolis"):
        EVERY.refuse(source)


def test_a_reward_of_intermediate_states_is_refused() -> None:
    from pgdlab.rewards.dense import EveryStep

    source = tiny_source(reward=EveryStep(reward=OnALine("linear", 0.0)))
    with pytest.raises(ValueError, match="pays intermediate states"):
        EVERY.refuse(source)
    assert EstimateReward.asks


def test_a_reward_whose_scorer_fails_early_still_steers() -> None:
    found = EVERY.population(tiny_source(reward=Failing(OnALine("linear", 0.0), above=0.6), max_failed=0.9), 20, 3)
    assert found.unscored > 0
    assert found.log_z.isfinite().all()
