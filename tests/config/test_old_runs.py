"""What an earlier version left behind is read: run folders, a sweep's records, a certificate, and every node it knew.

tests/old_runs was written by the version of commit b432aff, without its pictures: `stopped` with
`experiment=oracle/linear initial=diagonal penalty=trust_region trainer=actor_critic` after 4 of 6 iterations, `finished`
with RandomSteps, `adapters` with policy=lora on the digits base `base`, the sweep `trainers`, the certificate
`certify-tiny`; `pretraining` is the configuration of a pretraining only, `nodes.yaml` a node of each of its 77 classes.
"""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgdlab import cli
from pgdlab.comparison.comparison import Comparison, problems
from pgdlab.comparison.folders import read
from pgdlab.config import renamed
from pgdlab.config.compose import compose, load_run
from pgdlab.config.runs import SUMMARY, cells
from pgdlab.config.schema import check, complete
from pgdlab.sweep.file import read as read_sweep
from pgdlab.sweep.records import record
from pgdlab.tasks import sweep as sweep_task
from tests.worlds import QUICK

OLD = Path(__file__).parents[1] / "old_runs"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the runs in it, and their base."""
    shutil.copytree(OLD, tmp_path / "runs")
    shutil.move(tmp_path / "runs" / "base", tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_stopped_run_goes_on(here: Path) -> None:
    before = cells(here / "runs" / "stopped")
    assert cli.main(["resume=runs/stopped"]) == 0
    after = cells(here / "runs" / "stopped")
    assert [{name: row[name] for name in before[0]} for row in after[: len(before)]] == before
    assert len(after) == 6
    assert json.loads((here / "runs" / "stopped" / SUMMARY).read_text())["iterations"] == 6
    assert cli.main(["task=evaluate", "resume=runs/stopped"]) == 0  # its config is today's now
    saved = yaml.safe_load((here / "runs" / "stopped" / "config.yaml").read_text())
    assert renamed.run(saved) == saved


def test_a_finished_run_is_evaluated_as_it_was(here: Path) -> None:
    assert cli.main(["task=evaluate", "resume=runs/finished"]) == 0
    then = json.loads((here / "runs" / "finished" / SUMMARY).read_text())
    now = json.loads((here / "runs" / "finished" / "evaluation.json").read_text())
    for name, row in then["evaluations"].items():  # to rounding: on any machine
        figures = {key: value for key, value in row.items() if value is not None}
        assert {key: now["evaluations"][name][key] for key in figures} == pytest.approx(figures, rel=1e-5, abs=1e-6)


def test_adapters_are_exported(here: Path) -> None:
    assert cli.main(["task=export", "resume=runs/adapters"]) == 0
    assert (here / "runs" / "adapters" / "export" / "lora" / "adapter_model.safetensors").is_file()
    assert cli.main(["task=export", "resume=runs/finished"]) == 2  # points have no network


def test_runs_are_compared_with_those_of_today(here: Path) -> None:
    """The same settings are the same method of the same problem."""
    assert cli.main(["task=compare", "compare.folders=[runs]"]) == 0
    again = (here / "runs" / "finished" / "command.txt").read_text().partition("experiment=")[2]
    again = again.replace("plan.steps", "plan.trained_steps").replace("pgdlab.plan", "pgdlab.rollout.plan")
    words = [word for word in shlex.split(f"experiment={again}") if not word.startswith(("seed=", "name="))]
    assert cli.main([*words, "seed=1", "name=today"]) == 0
    found = problems(read(["runs/finished", "runs/today"]), Comparison())
    assert [[len(method.runs) for method in problem.methods] for problem in found] == [[2]]


def test_a_sweep_record_is_read(here: Path, capsys: Any) -> None:
    """The same sweep file asks for the same folders: all of them are finished, and compared."""
    sweep = read_sweep("runs/trainers/sweep.yaml", keep_logger=False)
    records = [record(sweep, some) for some in sweep.grid()]
    assert [r.state for r in records] == ["finished"] * 4
    assert [r.attempts[-1]["end"] for r in records] == ["finished"] * 4
    sweep_task.report(records, sweep, compose(["task=sweep"]))
    said = capsys.readouterr().out
    assert "reinforce, affine | 2 |" in said
    assert "ppo, affine | 2 |" in said


def test_a_certificate_is_read(here: Path, capsys: Any) -> None:
    before = json.loads((here / "runs" / "certify-tiny" / "certificate.json").read_text())
    assert cli.main(["task=certify", "resume=runs/certify-tiny"]) == 0
    now = json.loads((here / "runs" / "certify-tiny" / "certificate.json").read_text())
    assert now == before | {
        "rows": [row | {"law": "attainable"} for row in before["rows"]]
    }  # the one law of that version


def test_a_pretraining_is_read(here: Path) -> None:
    nodes = load_run("runs/pretraining").nodes
    assert nodes["trainer"]["updates"] == 100
    assert (nodes["reward"], nodes["heldout"], nodes["penalty"]) == (None, None, {})


def test_every_node_of_that_version_is_one_of_today() -> None:
    nodes = yaml.safe_load((OLD / "nodes.yaml").read_text())
    assert len(nodes) == 77
    for node in nodes:
        slot = "penalty" if ".penalties." in node["_target_"] else "node"
        new = complete(renamed.run({slot: node}))
        check(new)
        assert renamed.run(new) == new


def test_penalties_of_that_version_are_named_and_told_apart() -> None:
    """What was wrapped stands beside what wrapped it; a steered coefficient is a constraint."""
    kl = {"_target_": "pgdlab.penalties.path_kl.PathKL", "coefficient": 0.1, "initial_coefficient": None, "form": "A"}
    kl |= {"target": None, "gain": 0.1}
    old = {"_target_": "pgdlab.penalties.trust_region.TrustRegion", "limit": 0.02, "penalty": kl}
    new = renamed.run({"penalty": old})["penalty"]
    assert list(new) == ["path_kl", "trust_region"]
    assert (new["path_kl"]["coefficient"], new["trust_region"]["limit"]) == (0.1, 0.02)
    constraint = renamed.run({"penalty": kl | {"target": 3.0}})["penalty"]["constraint"]
    assert (constraint["limit"], constraint["multiplier"], constraint["rate"]) == (3.0, 0.1, 0.1)
    assert renamed.run({"penalty": {"_target_": "pgdlab.penalties.base.NoPenalty"}}) == {"penalty": {}}
    with pytest.raises(ValueError, match="has no counterpart"):
        renamed.run({"penalty": kl | {"target": 3.0, "initial_coefficient": 0.2}})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("plan.steps.fraction=0.5", "plan.steps is now plan.trained_steps"),
        ("domain.prompts=[1]", "domain.prompts is now domain.train_conditions"),
        ("trainer={_target_: pgdlab.trainers.credit.RewardToGo}", "which is now pgdlab.credit.reward_to_go.RewardToGo"),
        ("trainer.steps=3", "Known: trainer.baseline"),  # PPO never had it
        ("penalty.coefficient=0.1", "Did you mean penalty.path_kl.coefficient?"),
        ("penalty=target_kl", "penalty=target_kl is now penalty=constraint"),
        ("penalty=trust_region", "is now penalty=[path_kl,trust_region]; alone it is penalty=[trust_region]"),
        ("optimizer.initial_lr=0.1", "optimizer.initial_lr is now optimizer.rates.initial"),
    ],
)
def test_an_old_name_is_answered_with_the_new_one(override: str, message: str, capsys: Any) -> None:
    assert cli.main([QUICK, override, "--cfg", "job"]) == 2
    assert message in capsys.readouterr().err


def test_a_key_may_move_into_a_mapping_or_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(renamed.KEYS, "tests.toys.Plan", {"rate": "rates.critic", "form": None})
    monkeypatch.setitem(renamed.NODES, "tests.toys.Part", lambda node: {"half": node})
    old = {"_target_": "tests.toys.Plan", "rate": 0.1, "form": "A", "nested": {"_target_": "tests.toys.Part"}}
    nested = {"half": {"_target_": "tests.toys.Part"}}
    assert renamed.translate(old) == {"_target_": "tests.toys.Plan", "rates": {"critic": 0.1}, "nested": nested}
    assert renamed.advice("tests.toys.Plan", "plan", "form") == "plan.form is gone: it had no effect"


def test_weights_are_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(renamed.WEIGHTS, "penalty.", "penalties.path_kl.")
    state = {"epoch": 1, "state_dict": {"penalty.coefficient": 1, "policy.x": 2}}
    new = {"epoch": 1, "state_dict": {"penalties.path_kl.coefficient": 1, "policy.x": 2}}
    assert renamed.checkpoint(state) == new
