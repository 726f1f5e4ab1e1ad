"""Which runs are pooled, which are kept apart, and when a winner is named: on folders with chosen figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pgdlab.comparison import statistics as stats
from pgdlab.comparison.aggregate import aggregate
from pgdlab.comparison.charts import curve
from pgdlab.comparison.columns import BASE, hacking, rows
from pgdlab.comparison.comparison import Method, Problem
from pgdlab.comparison.folders import read
from pgdlab.config.compose import compose
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.sampler import rollout
from pgdlab.training.build import build_world
from tests.comparison.folders import BEFORE, found, metrics, run


def labels(problem: Problem) -> dict[str, list[int]]:
    return {m.label: list(m.runs) for m in problem.methods}


def one(folder: Path, **options: object) -> Problem:
    (only,) = found(folder, **options)
    return only


# ---- what is one method, and what one problem


def test_seeds_of_a_method_are_pooled_and_methods_are_not(tmp_path: Path) -> None:
    for seed in (1, 0):
        run(tmp_path / f"ppo{seed}", "trainer=ppo", seed=seed)
        run(tmp_path / f"grpo{seed}", "trainer=grpo", seed=seed)
    run(tmp_path / "lora", "policy=lora")
    run(tmp_path / "noise", "policy=frozen", "initial=diagonal")
    run(tmp_path / "joint", "initial=diagonal")
    run(tmp_path / "rwr", "trainer=rwr", "penalty=none")
    assert labels(one(tmp_path)) == {
        "ppo": [0, 1], "grpo": [0, 1], "ppo, lora": [0], "ppo, initial only": [0], "ppo, initial too": [0],
        "rwr, no penalty": [0],
    }  # fmt: skip


def test_equal_labels_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    run(tmp_path / "a", "penalty.path_kl.coefficient=0.01")
    run(tmp_path / "b", "penalty.path_kl.coefficient=0.1")
    assert labels(one(tmp_path)) == {"ppo (coefficient 0.01)": [0], "ppo (coefficient 0.1)": [0]}


def test_where_and_how_a_run_was_run_does_not_matter(tmp_path: Path) -> None:
    run(tmp_path / "a", seed=0)
    run(tmp_path / "b", "plan.pass_size=7", "plan.checkpoint_every=1", "runtime=bf16", "plan.rollout_batch=3", seed=1)
    assert labels(one(tmp_path)) == {"ppo": [0, 1]}


@pytest.mark.parametrize(
    "change",
    ["reward.target=4", "plan.eval_samples=4", "plan.iterations=8", "policy.kernel.eta=0.5", "policy.steps=10",
     "domain.train_conditions=[1]", "heldout=null", "policy.guidance=2.0"],
)  # fmt: skip
def test_problems_are_never_mixed(change: str, tmp_path: Path) -> None:
    run(tmp_path / "a", "domain.train_conditions=[10]")
    run(tmp_path / "b", "domain.train_conditions=[10]", change)
    problems = found(tmp_path)
    assert [labels(p) for p in problems] == [{"ppo": [0]}, {"ppo": [0]}]
    assert problems[0].label != problems[1].label


def test_more_iterations_of_fewer_samples_are_the_same_budget(tmp_path: Path) -> None:
    run(tmp_path / "a", seed=0)
    run(tmp_path / "b", "plan.iterations=8", "plan.samples=8", seed=0)
    assert labels(one(tmp_path)) == {"ppo (samples 16)": [0], "ppo (samples 8)": [0]}


def test_best_of_n_is_one_method(tmp_path: Path) -> None:
    run(tmp_path / "ppo", "plan.eval_samples=6")
    run(tmp_path / "a", "plan.eval_samples=6", "task=best_of_n", seed=0)
    run(tmp_path / "b", "plan.eval_samples=6", "task=best_of_n", seed=1)
    problem = one(tmp_path)
    assert labels(problem) == {"best of n": [0, 1], "ppo": [0]}
    table = {r.label: r.figures for r in rows(problem)}
    assert table["best of n"]["per further sample"] == pytest.approx(64 / 6)
    assert (table["best of n"]["KL"], table["ppo"]["per further sample"], table["ppo"]["KL"]) == (None, 0, 3)


def test_declared_factors(tmp_path: Path) -> None:
    run(tmp_path / "a", "trainer=ppo", "optimizer.lr=0.001", seed=0)
    run(tmp_path / "b", "trainer=grpo", "optimizer.lr=0.001", seed=1)
    run(tmp_path / "c", "trainer=grpo", "optimizer.lr=0.01", seed=0)
    problem = one(tmp_path, by=("optimizer.lr",))
    assert labels(problem) == {"lr 0.001": [0, 1], "lr 0.01": [0]}
    assert any("lr 0.001 pools runs that differ in trainer" in note for note in problem.notes)
    assert labels(one(tmp_path, by=("trainer",))) == {"ppo": [0], "grpo": [0, 1]}
    with pytest.raises(ValueError, match=r"compare.by names optimizer.rate, which some runs do not have"):
        found(tmp_path, by=("optimizer.rate",))


def test_a_seed_that_comes_twice_is_counted_once_and_said(tmp_path: Path) -> None:
    run(tmp_path / "a", after=0.5)
    run(tmp_path / "b", after=0.9)
    problem = one(tmp_path)
    assert problem.methods[0].runs[0].folder.name == "a"
    assert problem.notes == [f"{tmp_path / 'b'} repeats a seed of ppo and is left out"]


def test_another_base_under_the_same_seed_is_said(tmp_path: Path) -> None:
    run(tmp_path / "a", "trainer=ppo")
    run(tmp_path / "b", "trainer=grpo", before=0.21)
    assert any("seed 0: the base's reward differs" in note for note in one(tmp_path).notes)


# ---- scores


def test_scores(tmp_path: Path) -> None:
    run(tmp_path / "a", after=0.7, before=0.2)
    assert one(tmp_path).methods[0].scores == {0: pytest.approx(0.5)}
    assert one(tmp_path).scale == "reward"
    declared = one(tmp_path, ceilings={"digits": 1.2})
    assert declared.methods[0].scores == {0: pytest.approx(0.5 / 1.0)}
    assert declared.scale == "ceiling"
    assert one(tmp_path, ceilings={"fashion": 1.2}).scale == "reward"
    with pytest.raises(ValueError, match=r"compare.ceilings has 0.2; it must be above"):
        found(tmp_path, ceilings={"digits": 0.2})


def test_a_certificate_gives_a_run_for_each_replica(tmp_path: Path) -> None:
    """J of 0 at the base, 2 at the optimum; replicas at 1 and 1.5: scores 1/2 and 3/4, the base's reward .3."""
    (tmp_path / "config.yaml").write_text("task: certify\n")
    figures = {n: [0.0, 0.0] for n in ("objective", "reward", "path_kl", "initial_kl")}
    best = figures | {"objective": [2.0, 2.0]}
    base, final = figures | {"reward": [0.3, 0.3]}, figures | {"objective": [1.0, 1.5], "path_kl": [0.5, 0.6]}
    trained = {"best": best, "base": base, "final": final, "ceiling": 3.0, "curve": [[100, final]]}
    for name, refused in (("reinforce", ""), ("rwr", "not for this")):
        cell = tmp_path / "linear" / name
        cell.mkdir(parents=True)
        content = {"runs": [] if refused else [trained], "seconds": 1.0, "refused": refused}
        (cell / "certificate.json").write_text(json.dumps(content))
    there = read([str(tmp_path)])
    assert [r.score for r in there.runs] == [0.5, 0.75]
    assert [(f.folder.name, f.reason) for f in there.failures] == [("rwr", "not for this")]
    problem = one(tmp_path)
    assert (problem.label, problem.scale) == ("linear (exact), 100 queries", "optimum")
    row, base_row = rows(problem)
    assert (row.score, row.figures["reward before"], row.figures["KL"]) == (0.625, 0.3, 0.55)
    assert (base_row.label, base_row.score) == (BASE, 0.0)


ORACLE = ("experiment=oracle/linear", "domain.replicas=1")


def test_on_points_the_objective_is_held_against_its_optimum(tmp_path: Path) -> None:
    """r = x_1 + x_2 and eta 1: the optimum is the exponential tilt of the chain's own samples, which adds slope' Cov slope /
    (2 weight) to J. Cov is measured on 20,000 samples of the base: 1 % of standard error, 4 % allowed."""
    run(tmp_path / "a", *ORACLE, "penalty.path_kl.coefficient=0.5", after=BEFORE + 2.0)
    run(tmp_path / "b", *ORACLE, "task=best_of_n")
    world = build_world(compose([*ORACLE]))
    cond = torch.zeros(20_000, dtype=torch.long)
    sample = rollout(world.reference, world.reference, Noise(0).of(0, range(20_000)), cond, batch=20_000).sample
    gain = sample.sum(1).var().item() / (2 * 0.5)
    problem = one(tmp_path)
    assert problem.scale == "optimum"
    (scored,) = problem.ranked
    assert scored.scores == {0: pytest.approx((2.0 - 0.5 * 3.0) / gain, rel=0.04)}  # 3 nats, see folders.run
    assert [(r.label, r.score) for r in rows(problem)][1:] == [("best of n", None), (BASE, 0.0)]


def test_without_one_kl_weight_there_is_no_optimum(tmp_path: Path) -> None:
    """Several weights are a frontier; an adaptive one, or different weights for path and start, declare none."""
    run(tmp_path / "several" / "a", *ORACLE, "penalty.path_kl.coefficient=0.5")
    run(tmp_path / "several" / "b", *ORACLE, "penalty.path_kl.coefficient=0.1")
    run(tmp_path / "adaptive" / "a", *ORACLE, "penalty=constraint")
    run(tmp_path / "two" / "a", *ORACLE, "penalty.path_kl.initial_coefficient=0.1")
    for name in ("several", "adaptive", "two"):
        assert one(tmp_path / name).scale == "reward"
    run(tmp_path / "several" / "c", *ORACLE, "penalty=none")
    assert one(tmp_path / "several").scale == "reward"


def test_the_optimum_is_that_of_the_most_that_is_trained(tmp_path: Path) -> None:
    """At eta .5 the initial distribution alone cannot reach what both reach; its score is held against that."""
    both = (*ORACLE, "policy.kernel.eta=0.5", "initial=diagonal")
    run(tmp_path / "joint", *both, after=BEFORE + 2.0)
    alone = one(tmp_path).methods[0].scores[0]
    run(tmp_path / "start", *both, "policy=frozen", "policy.kernel.eta=0.5", "policy.steps=10", after=BEFORE + 2.0)
    scores = {m.label: m.scores[0] for m in one(tmp_path).methods}
    assert set(scores.values()) == {alone}
    assert len(scores) == 2


def test_hacking_by_hand(tmp_path: Path) -> None:
    """Base's standard errors .02 and .01; reward up by .5 = 25 of them, held-out by .25 = 25: it follows. By 0: not at all."""
    follows, stays, falls, flat = (
        read([str(run(tmp_path / name, after=after, heldout=held))]).runs[0]
        for name, held, after in (("a", 0.35, 0.7), ("b", 0.1, 0.7), ("c", 0.05, 0.7), ("d", 0.35, BEFORE + 0.015))
    )
    assert hacking(follows) == pytest.approx(0)
    assert hacking(stays) == pytest.approx(1)
    assert hacking(falls) == pytest.approx(1.2)
    assert hacking(flat) is None


def test_hacking_where_the_held_out_reward_is_known_of_fewer_samples(tmp_path: Path) -> None:
    """Both rise by one standard deviation of the base's samples, 0.2 and 0.1; of 100 samples the held-out reward knows 25, so
    that its standard error is .02 as well: in standard errors it would rise by 5, not 10, and the index be .5."""
    folder = run(tmp_path / "few", after=BEFORE + 0.2, heldout=0.2)
    summary = json.loads((folder / "summary.json").read_text())
    summary["evaluations"]["base/sde"] |= {"reward_std": 0.2, "heldout_std": 0.1, "heldout_stderr": 0.02}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert hacking(read([str(folder)]).runs[0]) == pytest.approx(0)


# ---- conclusions


def several(folder: Path, seeds: int, methods: dict[str, float]) -> Problem:
    """Runs of trainers around a reward, each with a little scatter of its own."""
    g = np.random.default_rng(0)
    for name, mean in methods.items():
        for seed in range(seeds):
            run(folder / f"{name}{seed}", f"trainer={name}", seed=seed, after=mean + 0.01 * float(g.standard_normal()))
    return one(folder)


def test_no_winner_below_six_seeds_however_clear(tmp_path: Path) -> None:
    problem = several(tmp_path, 5, {"ppo": 0.9, "reinforce": 0.3})
    assert problem.winner is None
    assert problem.pairs[0].difference.low > 0.4
    assert problem.verdict.startswith(
        "No winner can be named (5 paired seeds, of which 6 are needed at least). “ppo” has"
    )
    assert "about 6 seeds would tell them apart" in problem.verdict


def test_a_winner_with_six(tmp_path: Path) -> None:
    problem = several(tmp_path, 6, {"ppo": 0.9, "reinforce": 0.3})
    assert problem.winner == "ppo"
    assert problem.verdict == "“ppo” is better than each of the other 1, corrected for all pairs."
    assert problem.against("reinforce", "ppo").sign == -1  # type: ignore[union-attr]
    assert problem.against("reinforce", "ppo").difference.high < 0  # type: ignore[union-attr]


def test_more_methods_need_more_seeds(tmp_path: Path) -> None:
    """Four methods are six pairs: 6 x 2 / 2^n <= .05 from n = 8 on."""
    means = {"ppo": 0.9, "reinforce": 0.7, "grpo": 0.5, "ddpo": 0.3}
    six = several(tmp_path / "6", 6, means)
    assert six.winner is None
    assert "about 8 seeds" in six.verdict
    assert all(p.adjusted == pytest.approx(min(1, 6 * p.p)) for p in six.pairs)
    assert several(tmp_path / "8", 8, means).winner == "ppo"


def test_among_equals_a_winner_is_named_as_often_as_the_test_allows() -> None:
    """Two methods, six seeds: only 2 of 64 choices of signs are extreme enough, one in 32. 400 trials: standard error .009."""
    g, named = np.random.default_rng(0), 0
    for _ in range(400):
        methods = [Method(name, {}, dict(enumerate(g.standard_normal(6)))) for name in "ab"]
        named += Problem("equals", "reward", methods, []).winner is not None
    assert named / 400 == pytest.approx(1 / 32, abs=0.027)


def test_seeds_are_paired(tmp_path: Path) -> None:
    """A common scatter of .3 does not hide a difference of .01."""
    for seed in range(6):
        for name, more in (("ppo", 0.01), ("grpo", 0.0)):
            run(tmp_path / f"{name}{seed}", f"trainer={name}", seed=seed, after=0.3 + 0.3 * np.sin(seed) + more)
    assert one(tmp_path).winner == "ppo"


def test_methods_without_common_seeds_are_not_compared(tmp_path: Path) -> None:
    run(tmp_path / "a", "trainer=ppo", seed=0)
    run(tmp_path / "b", "trainer=grpo", seed=1)
    problem = one(tmp_path)
    assert problem.pairs == []
    assert "fewer than two seeds in common" in problem.verdict


# ---- over problems


def test_the_largest_table_without_a_gap(tmp_path: Path) -> None:
    """grpo ran on digits only, ppo and reinforce on both domains; fashion has two seeds, so two of each are taken."""
    scores = {}
    for domain, seeds in (("digits", 3), ("fashion", 2)):
        for name in ("ppo", "reinforce", *(["grpo"] if domain == "digits" else [])):
            for seed in range(seeds):
                after = 0.3 + 0.1 * seed + 0.2 * (name == "ppo") + 0.05 * (domain == "fashion")
                scores[domain, name, seed] = (after - BEFORE) / (1 - BEFORE)
                run(tmp_path / f"{domain}{name}{seed}", f"domain={domain}", f"trainer={name}", seed=seed, after=after)
    together = aggregate(found(tmp_path, ceilings={"digits": 1.0, "fashion": 1.0}))
    assert together is not None
    assert (together.shape, sorted(together.scores)) == ((2, 2), ["ppo", "reinforce"])
    expected = np.array([[scores[d, "ppo", s] for d in ("digits", "fashion")] for s in range(2)])
    np.testing.assert_allclose(together.scores["ppo"], expected)
    assert together.figures["ppo"]["IQM"].value == pytest.approx(float(stats.iqm(expected)))
    assert together.better["ppo", "reinforce"].value == 1
    share, low, high = together.profiles["ppo"]
    assert (share[0], share[-1]) == (1, 0)
    assert ((low <= share) & (share <= high)).all()


def test_one_problem_is_not_several(tmp_path: Path) -> None:
    for name in ("ppo", "grpo"):
        run(tmp_path / name, f"trainer={name}")
    assert aggregate(found(tmp_path, ceilings={"digits": 1.0})) is None


def test_gains_in_reward_are_not_added_up_over_domains(tmp_path: Path) -> None:
    for domain in ("digits", "fashion"):
        for name in ("ppo", "grpo"):
            run(tmp_path / f"{domain}{name}", f"domain={domain}", f"trainer={name}")
    assert aggregate(found(tmp_path)) is None
    assert aggregate(found(tmp_path, ceilings={"digits": 1.0, "fashion": 1.0})) is not None


def test_curves_are_averaged_where_all_seeds_have_them(tmp_path: Path) -> None:
    """Queries 10, 20 and 15, 20: at 15 the first is half way."""
    for seed, points in enumerate(([(10, 0.0), (20, 1.0)], [(15, 0.2), (20, 0.4)])):
        metrics(run(tmp_path / f"s{seed}", seed=seed), points)
    at, middle, band = curve(one(tmp_path).methods[0])  # type: ignore[misc]
    np.testing.assert_allclose(at, [15, 20])
    np.testing.assert_allclose(middle, [(0.5 + 0.2) / 2, (1.0 + 0.4) / 2])
    np.testing.assert_allclose(band, [[0.2, 0.4], [0.5, 1.0]])


# ---- what did not finish


def test_failures_and_their_reasons(tmp_path: Path) -> None:
    names = ("half", "whole", "unborn", "said", "damaged", "nothing", "empty")
    for name in names:
        run(tmp_path / name)
    for name in ("half", "whole", "unborn", "said"):
        (tmp_path / name / "summary.json").unlink()
    metrics(tmp_path / "half", [(16, 0.1)])
    (tmp_path / "unborn" / "metrics.csv").unlink()
    (tmp_path / "said" / "failure.txt").write_text("out of memory\n(killed)\n")
    (tmp_path / "damaged" / "summary.json").write_text("{")
    summary = json.loads((tmp_path / "nothing" / "summary.json").read_text())
    (tmp_path / "nothing" / "summary.json").write_text(json.dumps(summary | {"reward_after": None}))
    (tmp_path / "empty" / "config.yaml").write_text("")
    run(tmp_path / "sampled", "task=sample")
    there = read([str(tmp_path)])
    reasons = {f.folder.name: f.reason for f in there.failures}
    assert reasons.keys() == {*names}
    assert "stopped after iteration 1 of 4" in reasons["half"]
    assert "all 4 iterations done, but not evaluated" in reasons["whole"]
    assert "before its first iteration" in reasons["unborn"]
    assert reasons["said"] == "out of memory (killed)"
    assert "summary.json cannot be used" in reasons["damaged"]
    assert "could not be measured" in reasons["nothing"]
    assert "stopped before it began" in reasons["empty"]
    assert (there.runs, [f.name for f in there.others]) == ([], ["sampled"])


def test_a_run_of_an_older_version_is_a_seed_of_the_same_method(tmp_path: Path) -> None:
    """Keys that it could not have state their defaults; one that is no longer known does not lose it."""
    run(tmp_path / "a", seed=0)
    for name, line in (("b", "    critic: 0.003\n"), ("c", "  clip_norm: 1.0\n")):
        folder = run(tmp_path / name, seed=ord(name))
        text = (folder / "config.yaml").read_text()
        assert line in text
        (folder / "config.yaml").write_text(text.replace(line, ""))
    assert labels(one(tmp_path)) == {"ppo": [0, 98, 99]}
    text = (tmp_path / "b" / "config.yaml").read_text()
    (tmp_path / "b" / "config.yaml").write_text(text.replace("  weight_decay:", "  old_name: 1\n  weight_decay:"))
    assert sum(len(seeds) for seeds in labels(one(tmp_path)).values()) == 3


def test_folders_by_name_pattern_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a1", "a2", "b"):
        run(tmp_path / "study" / name)
    monkeypatch.chdir(tmp_path)
    for entries in (
        ["study"],
        ["study/*"],
        ["study/a*", "study/b"],
        ["study/a1", "study", str(tmp_path / "study" / "b")],
    ):
        assert [r.folder.name for r in read(entries).runs] == ["a1", "a2", "b"]
    with pytest.raises(ValueError, match=r"compare.folders names study/c\*, where no run folder is"):
        read(["study/c*"])
