"""task=steer from the command line: what it writes, on the base and on a trained policy, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pgdlab import cli
from pgdlab.comparison.folders import read
from pgdlab.comparison.methods import budget, method_label, method_of, problem_of
from tests.worlds import tiny

SMC = ("task=steer", "guidance=smc", "plan.iterations=6")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PGDLAB_RUN", raising=False)
    return tmp_path / "runs"


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def undocumented(found: dict[str, Any]) -> list[str]:
    """The keys of a summary that docs/metrics.md lacks."""
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    return [name for name in [*found, *found["evaluations"]] if f"`{name}`" not in text]


def steered(*overrides: str) -> int:
    return cli.main(tiny(*overrides))


def test_particles_write_what_a_training_writes(here: Path, capsys: Any) -> None:
    """4 steps: states 2 (of .4 and .6, and .8 brought back to it) and the sample: 48 queries are 24 particles."""
    assert steered(*SMC, "name=a", "guidance.threshold=0.9") == 0
    run, out = here / "steer-a", capsys.readouterr().out
    found = summary(run)
    assert {f.name for f in run.iterdir()} >= {
        "config.yaml", "command.txt", "metrics.csv", "summary.json", "before_after.png", "rewards.png",
    }  # fmt: skip
    assert not (run / "learning_curve.png").exists()  # one round is no curve
    assert "runs/steer-a/rewards.png" in out
    assert "T_full: p(x) exp(r(x) / 0.1) / Z, p the law of the samples of the base" in out
    assert (found["law"], found["particles"], found["populations"]) == ("T_full", 24, 1)
    assert (found["reward_queries"], found["network_evaluations"], found["samples"]) == (48, 24 * 4, 48)
    assert found["evaluations"].keys() == {"base/sde", "steered/sde"}
    assert found["reward_after"] > found["reward_before"]
    assert found["kl_nats"] is None
    assert found["kl_estimate_nats"] == pytest.approx(found["weighted_reward"] / 0.1 - found["log_z"])
    assert found["reward_gain_stderr"] is None  # one population: its samples are not independent
    assert found["evaluations"]["steered/sde"]["reward_stderr"] is None
    assert found["candidates"] == 48 / 4
    assert not undocumented(found)
    assert undocumented(found | {"no_such_figure": 1}) == ["no_such_figure"]


def test_populations_give_an_error(here: Path) -> None:
    assert steered(*SMC, "name=a", "guidance.particles=6", "plan.eval_samples=8") == 0
    found = summary(here / "steer-a")
    assert (found["particles"], found["populations"]) == (6, 4)
    assert found["reward_gain_stderr"] > 0
    assert found["log_z_stderr"] > 0


def test_best_of_n_is_its_own_task_too(here: Path) -> None:
    assert steered("task=best_of_n", "name=a") == 0
    assert steered("task=steer", "guidance=best_of_n", "name=a") == 0
    assert (here / "steer-a" / "learning_curve.png").exists()
    one, other = summary(here / "best_of_n-a"), summary(here / "steer-a")
    for key in ("reward_before", "reward_after", "kl_bound_nats", "candidates", "reward_queries", "law", "samples"):
        assert one[key] == other[key]
    assert one["evaluations"]["best/sde"] == other["evaluations"]["steered/sde"]
    assert one["law"] == "none"
    runs = read([str(here)]).runs
    assert [method_label(run) for run in runs] == ["best of n"] * 2
    assert method_of(runs[0]) == method_of(runs[1]) == {}
    assert problem_of(runs[0]) == problem_of(runs[1])


def test_a_trained_policy_is_steered_and_left_alone(here: Path) -> None:
    """The base is that of the training, the policy's own figures are beside it, and what it cost to train counts."""
    assert steered("name=a", "optimizer.lr=0.01") == 0
    run = here / "a"
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    given = ("guidance=smc", "plan.iterations=6", "guidance.threshold=0.9")
    assert cli.main(["task=steer", f"resume={run}", *given]) == 0
    assert cli.main(["task=steer", f"resume={run}", *given, "guidance.tilted=policy"]) == 0
    assert before == {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    trained, found, twice = summary(run), summary(here / "steer-a"), summary(here / "steer-a-2")
    assert found["evaluations"].keys() == {"base/sde", "ema/sde", "steered/sde"}
    for name in ("base/sde", "ema/sde"):
        assert found["evaluations"][name] == trained["evaluations"][name]
    assert found["steered_run"] == "runs/a"
    assert not undocumented(found)
    assert found["training_queries"] == trained["reward_queries"] == 16
    assert (found["reward_queries"], found["samples"]) == (48 + 16, 48 + 16)
    # 24 particles, 4 steps; the reference beside the policy at the 3 with noise
    assert found["network_evaluations"] == trained["network_evaluations"] + 24 * 7
    assert twice["network_evaluations"] == trained["network_evaluations"] + 24 * 4
    assert "of the base" in found["law_in_words"]
    assert "of the tuned policy" in twice["law_in_words"]
    runs = read([str(here)]).runs
    assert {run.folder.name: method_label(run) for run in runs} == {
        "a": "ppo", "steer-a": "ppo, then smc", "steer-a-2": "ppo, then smc",
    }  # fmt: skip
    assert {budget(run) for run in runs} == {16, 64}


def test_a_comparison_has_a_row_of_each(here: Path) -> None:
    for guidance in ("smc", "soft_best_of_n", "metropolis"):
        assert steered("task=steer", f"guidance={guidance}", "plan.iterations=6", f"name={guidance}") == 0
    assert cli.main(["task=compare", "compare.folders=[runs/*]"]) == 0
    page = next(here.glob("compare*/report.md")).read_text()
    for label in ("smc", "soft_best_of_n", "metropolis"):
        assert f"| {label} |" in page
    runs = read([str(here)]).runs
    assert len({json.dumps(problem_of(run), sort_keys=True, default=str) for run in runs}) == 1


@pytest.mark.parametrize("guidance", ["soft_best_of_n", "metropolis", "search"])
def test_a_sampler_without_noise(guidance: str, here: Path) -> None:
    assert steered("task=steer", f"guidance={guidance}", "policy.kernel.eta=0.0", "name=a") == 0
    found = summary(here / "steer-a")
    assert found["evaluations"].keys() == {"base/ode", "steered/ode"}
    assert not undocumented(found)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=steer"], "needs a way of steering: guidance=NAME, one of best_of_n, gradient, metropolis"),
        (["guidance=smc"], "guidance is set, but task=train has no use for it"),
        (["task=steer", "guidance=smc", "trainer=ppo"], "trainer is set, but task=steer"),
        (["task=steer", "guidance=smc", "policy.kernel.eta=0.0"], "take guidance=metropolis"),
        (["task=steer", "guidance=svdd", "policy.kernel.eta=0.0", "plan.iterations=50"], "take guidance=metropolis"),
        (["task=steer", "guidance=smc", "guidance.lam=0"], "lam is 0.0; it must be above 0"),
        (["task=steer", "guidance=smc", "guidance.particles=1"], "particles is 1; it must be at least 2"),
        (
            ["task=steer", "guidance=smc", "guidance.particles=40"],
            "16 reward queries pay for 8 particles, which are asked about 2 times each",
        ),
        (["task=steer", "guidance=smc", "guidance.scheme=best"], "guidance.scheme is 'best'"),
        (["task=steer", "guidance=smc", "guidance.lambda=1"], "guidance.lam"),
        (["task=steer", "guidance=smc", "reward=every_step"], "pays intermediate states"),
        (
            ["task=steer", "guidance=gradient", "reward=jpeg"],
            "is not differentiable, and this guidance follows its gradient",
        ),
        (
            [
                "task=steer",
                "guidance=projection",
                "guidance.constraint={_target_: pgdlab.guidance.constraints.Known, values: [1]}",
            ],
            "values are of shape (1,), and samples of (1, 8, 8)",
        ),
        (["task=steer", "guidance=svdd"], "take 13 reward queries each, and there are 16"),
        (["task=steer", "guidance=smc", "runtime=ddp_cpu"], "task=steer is one process's: runtime=cpu or runtime=gpu"),
        (["task=best_of_n", "runtime=fsdp_cpu"], "task=best_of_n is one process's: runtime=cpu or runtime=gpu"),
        (
            ["task=steer", "guidance=smc", "guidance.lam={_target_: pgdlab.guidance.temperature.Target}"],
            "none is given",
        ),
        (
            ["task=steer", "guidance=smc", "guidance.lam={_target_: pgdlab.guidance.temperature.Target, ess: 0.5}"],
            "guidance.lam asks 256 samples of the base first, of 16 reward queries",
        ),
        (["task=steer", "guidance=smc", "budget.seconds=5"], "the budget of steering is reward queries"),
    ],
)
def test_refusals(words: list[str], message: str, here: Path, capsys: Any) -> None:
    assert steered(*words) == 2
    assert message in capsys.readouterr().err
    assert not here.exists()
