"""Best-of-n: against brute force, the expected maximum of normal numbers, and an integral for its distance to the base."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from pgdlab import cli
from pgdlab.config.compose import compose
from pgdlab.evaluation.evaluate import measure
from pgdlab.guidance.base import Steered
from pgdlab.guidance.best_of_n import best_of_n, kl_bound, rounds
from pgdlab.rewards.guard import guarded
from pgdlab.rollout.noise import Noise, Stream
from pgdlab.rollout.sampler import rollout
from pgdlab.trainers.interaction import decoded
from pgdlab.world import World
from tests.tiny import Failing, FastNoise, Quadratic, moved, tiny_world
from tests.worlds import graphs, tiny

LINEAR = Quadratic(slope=(1.0, 0.0), curvature=(0.0, 0.0))


def last(world: World, slots: int, samples: int, noise: Noise | None = None) -> Steered:
    cond = torch.zeros(slots, dtype=torch.long)
    return list(best_of_n(world, cond, noise or Noise(world.noise.seed, Stream.EVALUATE), samples))[-1]


def candidates(world: World, slots: int, count: int) -> tuple[Tensor, Tensor]:
    """Samples (count, slots, D) and rewards (count, slots) of the base, each round drawn by itself."""
    noise, samples, rewards = Noise(world.noise.seed, Stream.EVALUATE), [], []
    cond = torch.zeros(slots, dtype=torch.long)
    for k in range(count):
        found = rollout(world.reference, world.reference, noise.of(k, range(slots)), cond, batch=3)
        paid = guarded(world.reward, decoded(world, found), 0.99)
        samples.append(found.sample)
        rewards.append(paid.total.masked_fill(~paid.measured, -math.inf))
    return torch.stack(samples), torch.stack(rewards)


@pytest.mark.parametrize(
    ("samples", "slots", "expected"),
    [(12, 4, [4, 4, 4]), (10, 4, [4, 4, 2]), (3, 4, [4]), (4, 4, [4]), (5, 4, [4, 1])],
)
def test_every_sample_of_the_budget_is_spent(samples: int, slots: int, expected: list[int]) -> None:
    assert rounds(samples, slots) == expected


@pytest.mark.parametrize("samples", [21, 18, 7])
def test_the_best_candidate_of_each_slot_is_kept(samples: int) -> None:
    world = tiny_world(noise=Noise(5), rollout_batch=4)
    moved(world.policy)  # what a run would have trained is not looked at
    sample, reward = candidates(world, 7, 3)
    given = [3 if slot + 14 < samples else 2 if slot + 7 < samples else 1 for slot in range(7)]
    for slot, count in enumerate(given):
        reward[count:, slot] = -math.inf
    best, which = last(world, 7, samples), reward.argmax(0)
    assert samples < 18 or len(which.unique()) > 1  # several rounds win: the test could tell
    torch.testing.assert_close(best.trajectory.sample, sample[which, torch.arange(7)], rtol=0, atol=0)
    torch.testing.assert_close(best.value, reward.max(0).values, rtol=0, atol=0)
    assert (best.queries, best.evaluations) == (samples, samples * world.policy.steps)


def test_the_first_candidate_is_the_sample_of_the_evaluation() -> None:
    world = tiny_world(eval_samples=6)
    moved(world.policy)
    with torch.no_grad():
        before = measure(world, world.reference)
    best = next(best_of_n(world, before.trajectory.cond, Noise(0, Stream.EVALUATE), 60))
    assert torch.equal(best.trajectory.sample, before.trajectory.sample)
    assert torch.equal(best.value, before.reward)


@pytest.mark.parametrize(("n", "expected"), [(2, 1 / math.sqrt(math.pi)), (3, 1.5 / math.sqrt(math.pi))])
def test_the_expected_maximum_of_normal_rewards(n: int, expected: float) -> None:
    """E max of n standard normal numbers is 1/sqrt(pi) for 2, 3/(2 sqrt(pi)) for 3 (David & Nagaraja 2003, Order statistics).
    The base's first coordinate is Gaussian; its moments are measured on other noise. Tolerance: 5 standard errors of 40,000
    samples, whose std is below that of one."""
    world, slots = tiny_world(reward=LINEAR), 40_000
    base = last(world, slots, slots, FastNoise(1)).value
    best = last(world, slots, n * slots, FastNoise(2)).value
    error = 5 * math.sqrt(2) * base.std() / math.sqrt(slots)
    assert ((best.mean() - base.mean()) / base.std() - expected).abs() < error / base.std()


@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_bound_is_the_divergence_where_no_rewards_are_equal(n: int) -> None:
    """The kept one's quantile u has the density n u^(n-1) on (0, 1), the base's is uniform; 1e-8: the quadrature's error."""

    def integrand(u: float) -> float:
        density = n * u ** (n - 1)
        return density * math.log(density) if density else 0.0

    assert kl_bound(4 * n, 4) == pytest.approx(quad(integrand, 0, 1)[0], abs=1e-8)


def test_the_bound_of_uneven_rounds_is_the_mean_over_slots() -> None:
    two, three = math.log(2) - 1 / 2, math.log(3) - 2 / 3
    assert kl_bound(10, 4) == pytest.approx((2 * two + 2 * three) / 4, rel=1e-12)
    assert kl_bound(3, 4) == 0


def test_what_cannot_be_measured_is_not_kept() -> None:
    """The reward would be highest where its scorer fails."""
    world = tiny_world(reward=Failing(LINEAR, above=0.3), max_failed=0.9, noise=Noise(2))
    best, reward = last(world, 20, 100), candidates(world, 20, 5)[1]
    assert reward.isinf().any(0).any()
    assert torch.equal(best.value, reward.max(0).values)
    kept = best.trajectory.sample[best.value.isfinite(), 0]
    assert len(kept) > 10
    assert (kept <= 0.3).all()


def test_equal_candidates_leave_the_first() -> None:
    world = tiny_world(reward=Quadratic(slope=(0.0, 0.0), curvature=(0.0, 0.0)))
    first = next(best_of_n(world, torch.zeros(5, dtype=torch.long), Noise(0, Stream.EVALUATE), 5))
    assert torch.equal(last(world, 5, 25).trajectory.sample, first.trajectory.sample)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PGDLAB_RUN", raising=False)
    return tmp_path / "runs"


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_task_makes_a_run_folder_beside_the_run_it_is_compared_with(here: Path) -> None:
    """8 samples an iteration, 2 iterations, 6 slots: 16 candidates, 3 for four slots and 2 for two."""
    common = ("plan.eval_samples=6", "seed=3", "name=a")
    assert cli.main(tiny(*common)) == 0
    before = {file: file.read_bytes() for file in (here / "a").rglob("*") if file.is_file()}
    assert cli.main(tiny(*common, "task=best_of_n")) == 0
    assert cli.main(["task=best_of_n", f"resume={here / 'a'}"]) == 0
    assert before == {file: file.read_bytes() for file in (here / "a").rglob("*") if file.is_file()}
    trained, run = summary(here / "a"), here / "best_of_n-a"
    found, again = summary(run), summary(here / "best_of_n-a-2")
    for key in ("reward_before", "heldout_before", "reward_queries", "seed", "evaluation_samples"):
        assert found[key] == trained[key]
    assert found["evaluations"].keys() == {"base/sde", "best/sde"}
    assert found["evaluations"]["base/sde"] == trained["evaluations"]["base/sde"]
    assert found["reward_after"] == found["evaluations"]["best/sde"]["reward"] > found["reward_before"]
    assert found["reward_gain"] == pytest.approx(found["reward_after"] - found["reward_before"])
    assert (found["kl_nats"], found["candidates"], found["iterations"]) == (None, 16 / 6, 3)
    assert found["kl_bound_nats"] == pytest.approx(kl_bound(16, 6))
    assert found["network_evaluations"] == 16 * 4
    assert [row["queries"] for row in rows(run)] == ["6", "12", "16"]
    rewards = [float(row["reward"]) for row in rows(run)]
    assert rewards == sorted(rewards)
    assert rewards[-1] == pytest.approx(found["reward_after"], rel=1e-6)
    assert {k: v for k, v in again.items() if "seconds" not in k} == {
        k: v for k, v in found.items() if "seconds" not in k
    }
    assert {f.name for f in run.iterdir()} >= {"config.yaml", "command.txt", "before_after.png", "learning_curve.png"}


def test_a_sampler_without_noise(here: Path) -> None:
    """Its samples differ by their initial noise only."""
    assert cli.main(tiny("task=best_of_n", "policy.kernel.eta=0.0", "name=a")) == 0
    found = summary(here / "best_of_n-a")
    assert found["evaluations"].keys() == {"base/ode", "best/ode"}
    assert found["reward_after"] > found["reward_before"]


def test_molecules_count_what_is_asked_and_leave_their_tables(here: Path) -> None:
    assert cli.main(tiny(*graphs(), "reward=qed", "task=best_of_n", "name=m")) == 0
    assert (here / "best_of_n-m" / "molecules.csv").is_file()
    assert 0 < int(rows(here / "best_of_n-m")[-1]["unique_queries"]) <= 16


def test_a_reward_of_intermediate_estimates_costs_the_passes_that_it_takes(here: Path) -> None:
    """The reference's estimates at all 4 steps, and the policy's at the 3 with noise, as a training rollout counts them."""
    assert cli.main(tiny("task=best_of_n", "reward=every_step", "name=e")) == 0
    assert summary(here / "best_of_n-e")["network_evaluations"] == 16 * 7


@pytest.mark.parametrize("override", ["trainer=ppo", "trainer.clip=0.3", "policy=lora", "policy.tuning.rank=4"])
def test_what_only_training_has_is_refused(override: str, here: Path, capsys: Any) -> None:
    assert cli.main(["task=best_of_n", override]) == 2
    assert "is set, but task=best_of_n trains nothing: leave it out" in capsys.readouterr().err
    assert not here.exists()


def test_what_only_training_has_is_not_in_the_configuration() -> None:
    cfg = compose(["experiment=digits/lora", "task=best_of_n", "policy.kernel.eta=0.5"])
    assert cfg.nodes["trainer"] is None
    assert cfg.nodes["policy"]["tuning"] == {"_target_": "pgdlab.diffusion.tuning.Frozen"}
    assert cfg.nodes["policy"]["kernel"]["eta"] == 0.5


def test_another_seed_gives_other_candidates(here: Path) -> None:
    for seed in (0, 1):
        assert cli.main(tiny("task=best_of_n", f"seed={seed}", f"name=s{seed}")) == 0
    assert summary(here / "best_of_n-s0")["reward_after"] != summary(here / "best_of_n-s1")["reward_after"]
