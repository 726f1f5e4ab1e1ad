"""Runs end at an equal budget, whatever the trainer; a budget is part of the run and survives a resume."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgdlab import cli
from pgdlab.config.runs import CONFIG, METRICS, SUMMARY
from pgdlab.rollout.plan import Plan
from pgdlab.training.budget import Budget
from pgdlab.training.fit import LAST, load
from tests.training.test_resume import differences, rows, state
from tests.worlds import BRIGHT, tiny


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def columns(folder: Path, name: str) -> list[float]:
    with (folder / METRICS).open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def test_a_limit_is_spent_when_it_is_reached() -> None:
    budget = Budget(evaluations=10, seconds=2.0)
    assert [budget.spent(*used) for used in [(9, 1.9), (10, 0.0), (0, 2.0), (11, 3.0)]] == [False, True, True, True]
    assert not Budget(queries=1).spent(10**9, 1e9)


def test_queries_lower_the_iterations() -> None:
    for queries, iterations in {1: 1, 8: 1, 9: 2, 80: 10, 1000: 40}.items():
        assert Budget(queries=queries).within(Plan(samples=8, iterations=40)).iterations == iterations
    assert Budget().within(Plan(iterations=7)).iterations == 7
    with pytest.raises(ValueError, match=r"seconds is 0.0; it must be above 0, or null"):
        Budget(seconds=0.0)


@pytest.mark.parametrize("trainer", ["ppo", "reinforce", "rwr"])
def test_trainers_ask_equally_often(here: Path, trainer: str) -> None:
    """With 8 and 16 samples an iteration alike; the run is the one whose plan says so, the EMA's half-life too."""
    own = ["penalty=none", "trainer.updates=2", "trainer.batch=4"] if trainer == "rwr" else []
    for samples in (8, 16):
        name = f"{trainer}-{samples}"
        words = [f"plan.samples={samples}", "plan.iterations=50", "budget.queries=32", f"name={name}"]
        assert cli.main(tiny(BRIGHT, f"trainer={trainer}", *own, *words)) == 0
        assert json.loads((here / name / SUMMARY).read_text())["reward_queries"] == 32
        assert len(columns(here / name, "iteration")) == 32 // samples
    assert cli.main(tiny(BRIGHT, f"trainer={trainer}", *own, "plan.iterations=4", "name=plain")) == 0
    assert not differences(state(here / f"{trainer}-8"), state(here / "plain"))


def test_network_evaluations_end_a_run(here: Path, capsys: Any) -> None:
    """With the first row at or above the limit, in one go or resumed; nothing more is trained once it is spent."""
    words = tiny(BRIGHT, "plan.iterations=6")
    assert cli.main([*words, "name=free"]) == 0
    used = columns(here / "free", "evaluations")
    limit = int(used[2]) - 1
    assert cli.main([*words, f"budget.evaluations={limit}", "name=whole"]) == 0
    assert columns(here / "whole", "evaluations") == used[:3]
    assert (here / "whole" / SUMMARY).is_file()
    assert "stopped after" not in capsys.readouterr().out

    (here / "whole" / SUMMARY).unlink()
    assert cli.main(["resume=runs/whole"]) == 0
    assert columns(here / "whole", "evaluations") == used[:3]
    assert int(load(here / "whole" / LAST)["current_model_state"]["iterations"]) == 3
    assert (here / "whole" / SUMMARY).is_file()
    assert cli.main(["resume=runs/whole", "budget=null"]) == 0  # extended to the plan's end
    assert rows(here / "whole") == rows(here / "free")


def test_seconds_end_a_run(here: Path) -> None:
    assert cli.main([*tiny(BRIGHT, "plan.iterations=500"), "budget.seconds=0.2", "name=x"]) == 0
    seconds = columns(here / "x", "seconds")
    assert seconds[-1] >= 0.2
    assert all(s < 0.2 for s in seconds[:-1])
    assert (here / "x" / SUMMARY).is_file()


def test_best_of_n_keeps_to_the_queries(here: Path, capsys: Any) -> None:
    words = tiny(BRIGHT, "plan.iterations=50", "task=best_of_n", "name=x")
    assert cli.main([*words, "budget.queries=32"]) == 0
    assert json.loads((here / "best_of_n-x" / SUMMARY).read_text())["reward_queries"] == 32
    assert cli.main([*words, "budget.seconds=1"]) == 2
    assert "the budget of steering is reward queries" in capsys.readouterr().err
    assert cli.main([*words, "budget.queries=3"]) == 2
    assert "budget.queries is 3; it must be at least plan.eval_samples, 4" in capsys.readouterr().err


def test_a_run_from_before_there_were_budgets_gets_one(here: Path) -> None:
    assert cli.main([*tiny(BRIGHT, "plan.iterations=1"), "name=x"]) == 0
    config = yaml.safe_load((here / "x" / CONFIG).read_text())
    (here / "x" / CONFIG).write_text(yaml.safe_dump({k: v for k, v in config.items() if k not in ("budget", "engine")}))
    assert cli.main([f"resume={here / 'x'}", "plan.iterations=9", "budget.queries=16"]) == 0
    assert columns(here / "x", "queries") == [8, 16]


def test_pretraining_asks_no_reward(here: Path, capsys: Any) -> None:
    assert cli.main(["experiment=pretrain/digits", "budget.queries=32"]) == 2
    assert "pretraining asks no reward" in capsys.readouterr().err
    assert cli.main([*tiny(BRIGHT), "budget.querys=32"]) == 2
    assert "Did you mean budget.queries" in capsys.readouterr().err
