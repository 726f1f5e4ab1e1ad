"""What the page says of where figures come from and how settings were chosen."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from pgdlab.comparison.columns import latex, seed_table
from pgdlab.comparison.comparison import Comparison
from pgdlab.comparison.folders import read
from pgdlab.comparison.provenance import mixed, origins, settings, tuning
from pgdlab.comparison.report import compare
from pgdlab.config.runs import SUMMARY, versions
from tests.comparison.folders import found, run


def made_with(folder: Path, **known: str) -> None:
    file = folder / SUMMARY
    file.write_text(json.dumps(json.loads(file.read_text()) | {"versions": known}))


def test_versions_and_commands_are_those_of_the_folders(tmp_path: Path) -> None:
    made_with(run(tmp_path / "a", "trainer=ppo", seed=0), pgdlab="0.2", commit="abc", torch="2.13", rdkit="1")
    (tmp_path / "a" / "command.txt").write_text("python run.py trainer=ppo\n")
    run(tmp_path / "b", "trainer=grpo", seed=0)
    (problem,) = found(tmp_path)
    names, lines = origins(problem)
    assert names == ["method", "made with", "seed", "command", "folder"]
    assert sorted(lines) == [
        ["grpo", "not recorded", "0", "not recorded", str(tmp_path / "b")],
        ["ppo", "pgdlab 0.2, commit abc, torch 2.13", "0", "python run.py trainer=ppo", str(tmp_path / "a")],
    ]
    assert mixed(problem) == [
        "runs were made with different versions: not recorded; pgdlab 0.2, commit abc, torch 2.13"
    ]


def test_the_commit_of_this_checkout_is_recorded() -> None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        assert "commit" not in versions()
        return
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert head.stdout.startswith(versions()["commit"].removesuffix("+"))


def test_settings_are_those_that_differ_or_vary(tmp_path: Path) -> None:
    run(tmp_path / "a", "trainer=ppo", "optimizer.lr=0.001", seed=0)
    run(tmp_path / "b", "trainer=ppo", "optimizer.lr=0.002", seed=1)
    run(tmp_path / "c", "trainer=rwr", "penalty=none", "optimizer.lr=0.003", seed=0)
    run(tmp_path / "d", "task=best_of_n", seed=0)
    (problem,) = found(tmp_path, by=("trainer",))
    names, lines = settings(problem)
    table = {line[0]: dict(zip(names[1:], line[1:], strict=True)) for line in lines}
    assert set(names[1:]) == {"ppo", "rwr"}
    assert table["optimizer.lr"] == {"ppo": "varies", "rwr": "0.003"}
    assert table["trainer._target_"] == {"ppo": "PPO", "rwr": "RewardWeightedRegression"}
    assert table["trainer.clip"]["rwr"] == "-"
    assert "plan.samples" not in table  # equal: no difference
    assert settings(found(tmp_path / "a")[0])[1] == []  # one method has none


def test_a_setting_that_varies_in_every_method_is_no_equal_one(tmp_path: Path) -> None:
    for seed, rate in ((0, 0.001), (1, 0.002)):
        for name in ("ppo", "grpo"):
            run(tmp_path / f"{name}{seed}", f"trainer={name}", f"optimizer.lr={rate}", seed=seed)
    (problem,) = found(tmp_path, by=("trainer",))
    assert ["optimizer.lr", "varies", "varies"] in settings(problem)[1]


def test_how_settings_were_chosen_is_declared_or_said_to_be_unknown(tmp_path: Path) -> None:
    run(tmp_path / "a", "trainer=ppo")
    run(tmp_path / "b", "trainer=grpo")
    run(tmp_path / "c", "task=best_of_n")  # has nothing to tune
    (problem,) = found(tmp_path)
    assert "is not declared" in tuning(problem, {})
    assert tuning(problem, {"ppo": 8, "grpo": 8}) == "Tuned alike: 8 settings tried for each, as declared."
    assert tuning(problem, {"ppo": 8, "grpo": 1}).startswith("Not tuned alike: ")
    assert tuning(problem, {"ppo": 8}).endswith("not declared for grpo.")
    with pytest.raises(ValueError, match=r"compare.tuned names 'poo', which is no method here. Did you mean ppo"):
        compare(read([str(tmp_path)]), Comparison(folders=(str(tmp_path),), tuned={"poo": 3}))


def test_every_seed_is_a_line(tmp_path: Path) -> None:
    for seed, after in ((3, 0.5), (1, 0.6)):
        run(tmp_path / f"a{seed}", "trainer=ppo", seed=seed, after=after)
    run(tmp_path / "b", "trainer=grpo", seed=1, after=0.3)
    assert seed_table(found(tmp_path)[0]) == (["seed", "ppo", "grpo"], [["1", "0.400", "0.100"], ["3", "0.300", "-"]])


def test_latex_is_escaped() -> None:
    text = latex((["a_b", "50 %"], [["x & y", r"1\2^3"], ["{$}", "#~"]]), "P(a > b) & c_d")
    assert r"\caption{P(a > b) \& c\_d}" in text
    assert r"a\_b & 50 \% \\" in text
    assert r"x \& y & 1\textbackslash{}2\textasciicircum{}3 \\" in text
    assert r"\{\$\} & \#\textasciitilde{} \\" in text
    assert r"\begin{tabular}{lr}" in text
