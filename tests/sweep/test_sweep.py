"""Sweeps: what a file means, and that many runs end as each of them alone would have, whatever happens on the way."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from pgdlab import cli
from pgdlab.config.compose import ConfigError
from pgdlab.config.runs import CONFIG, FAILURE, SUMMARY
from pgdlab.sweep.engine import Engine
from pgdlab.sweep.file import read
from pgdlab.sweep.records import Record, record
from tests.training.test_resume import differences, rows, state
from tests.worlds import BRIGHT, tiny

ROOT = Path(__file__).resolve().parents[2]
SWEEPS = sorted((ROOT / "sweeps").rglob("*.yaml"))
FAULTY = "reward={_target_: tests.faults.Faulty}"
POINTS = ["experiment=oracle/linear", "plan.samples=64", "plan.eval_samples=4", "policy.steps=3"]
ARGUMENTS = "${args_no_hyphens}"


def write(file: Path, words: list[str], **content: Any) -> Path:
    command = ["${env}", "python", "${program}", *words, ARGUMENTS]
    file.write_text(
        yaml.safe_dump({"program": "run.py", "command": command, "method": "grid", **content}, sort_keys=False)
    )
    return file


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory, from which the processes of trials find this checkout; Ray's settings do not outlive the test."""
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)


# ---- the file


def test_a_file_is_what_wandb_makes_of_it(tmp_path: Path) -> None:
    """The overrides of every trial are those that W&B's own agent would hand to the program."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    space = {
        "a.lr": {"values": [1e-5, 0.5]},
        "b": {"value": True},
        "c": {"values": ["[1,2]", "x/y"]},
        "seed": {"values": [0]},
    }
    file = write(tmp_path / "x.yaml", ["task=train", "logger=wandb"], parameters=space)
    sweep = read(file, keep_logger=True)
    assert [list(p.values()) for p in sweep.grid()] == [
        [1e-5, "[1,2]", 0], [1e-5, "x/y", 0], [0.5, "[1,2]", 0], [0.5, "x/y", 0],
    ]  # fmt: skip
    command = yaml.safe_load(file.read_text())["command"]
    for chosen in sweep.grid():
        args = {name: {"value": chosen.get(name, p.get("value"))} for name, p in space.items()}
        theirs = create_sweep_command_args({"args": args})["args_no_hyphens"]
        fixed = [w for w in create_sweep_command(command) if "=" in w]
        assert sweep.overrides(chosen) == [*fixed, *theirs]
    assert "logger=wandb" not in read(file).overrides(sweep.grid()[0])
    assert read(write(file, [], parameters=space, run_cap=3)).grid() == sweep.grid()[:3]


BAD = {
    "no mapping `parameters`": {"parameters": None},
    "metod is not a key of a sweep file. Did you mean method": {"metod": "grid"},
    "method is 'gird'. Did you mean grid": {"method": "gird"},
    "seed must have values in a grid": {"parameters": {"seed": {"min": 0, "max": 3}}},
    "optimizer is nested; it must be a dotted key": {"parameters": {"optimizer": {"parameters": {"lr": {"value": 1}}}}},
    "seed is [0, 1]; it must have values": {"parameters": {"seed": [0, 1]}},
    "seed.values is []": {"parameters": {"seed": {"values": []}}},
    "seed.min is '1e-4', which must be a number": {"parameters": {"seed": {"min": "1e-4", "max": 1}}},
    "seed.distribtion is not offered. Did you mean distribution": {"parameters": {"seed": {"distribtion": "uniform"}}},
    "seed.min and max must be multiples of q": {
        "method": "random",
        "run_cap": 2,
        "parameters": {"seed": {"distribution": "q_uniform", "min": 0.1, "max": 1, "q": 0.25}},
    },
    "seed.max is 3; it must be above seed.min, 5": {"parameters": {"seed": {"min": 5, "max": 3}}},
    "seed.max is 2.0; it must be above seed.min, 2.0": {"parameters": {"seed": {"min": 2.0, "max": 2.0}}},
    "seed.min is 0; it must be above 0 for log_uniform_values": {
        "parameters": {"seed": {"distribution": "log_uniform_values", "min": 0, "max": 1}}
    },
    "seed.q is 0; it must be above 0": {
        "parameters": {"seed": {"distribution": "q_uniform", "min": 1, "max": 4, "q": 0}}
    },
    "seed.sigma is -1; it must be above 0": {"parameters": {"seed": {"distribution": "normal", "sigma": -1}}},
    "seed.max is inf, which must be a number": {"parameters": {"seed": {"min": 1.0, "max": math.inf}}},
    "seed.min and max must be multiples of q, 4": {
        "parameters": {"seed": {"distribution": "q_log_uniform_values", "min": 1, "max": 8, "q": 4}}
    },
    "seed is int_uniform, whose min and max must be whole": {
        "parameters": {"seed": {"distribution": "int_uniform", "min": 0.5, "max": 3}}
    },
    "one for each of the 2 values, which add up to 1": {
        "parameters": {"seed": {"values": [1, 2], "probabilities": [0.5]}}
    },
    "seed.probabilities is [2, -1]": {"parameters": {"seed": {"values": [1, 2], "probabilities": [2, -1]}}},
    "add up to 1": {"parameters": {"seed": {"values": [1, 2], "probabilities": [0.5, 0.4]}}},
    "seed.q has no meaning for uniform": {"parameters": {"seed": {"min": 0.5, "max": 1.0, "q": 0.1}}},
    "seed.min has no meaning for categorical": {"parameters": {"seed": {"values": [1], "min": 0}}},
    "seed has a value, beside which nothing else": {"parameters": {"seed": {"value": 1, "values": [1]}}},
    "exponents of e. Did you mean log_uniform_values": {
        "parameters": {"seed": {"distribution": "log_uniform", "min": -9, "max": -2}}
    },
    "exponents of e. Did you mean inv_log_uniform_values": {
        "parameters": {"seed": {"distribution": "inv_log_uniform", "min": 1, "max": 2}}
    },
    "seed is {}; it must have values": {"parameters": {"seed": {}}},
    "metric.gaol is not a key of metric. Did you mean goal": {"metric": {"name": "reward", "gaol": "maximize"}},
    "metric.name is None; it must be a column": {"metric": {"goal": "maximize"}},
    "metric.name is 3; it must be a column": {"metric": {"name": 3}},
    "metric.target is not offered": {"metric": {"name": "reward", "target": 0.5}},
    "metric.impute is not offered": {"metric": {"name": "reward", "impute": "best"}},
    "metric.impute_while_running is not offered": {"metric": {"name": "reward", "impute_while_running": "worst"}},
    "early_terminate.etta is not a key of early_terminate. Did you mean eta": {
        "early_terminate": {"type": "hyperband", "min_iter": 1, "etta": 2}
    },
    "early_terminate.eta is 1; it must be a number above 1": {
        "early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1}
    },
    "early_terminate.min_iter is 0; it must be a whole number": {
        "early_terminate": {"type": "hyperband", "min_iter": 0}
    },
    "early_terminate.s is 0.5; it must be a whole number": {
        "early_terminate": {"type": "hyperband", "max_iter": 9, "s": 0.5}
    },
    "with min_iter (and eta), or with max_iter, s": {
        "early_terminate": {"type": "hyperband", "min_iter": 1, "max_iter": 9, "s": 1}
    },
    "early_terminate.strict is not offered": {
        "early_terminate": {"type": "hyperband", "min_iter": 1, "strict": True},
        "metric": {"name": "reward"},
    },
    "run_cap is 0; it must be at least 1": {"run_cap": 0},
    "run_cap is True; it must be a whole number": {"run_cap": True},
    "name is 7; it must be a string": {"name": 7},
    "its command has '-v'; after the program every word": {
        "command": ["python", "${program}", "-v", "${args_no_hyphens}"]
    },
    "its command has 'name=${envvar:X}', which is not replaced here": {
        "command": ["python", "${program}", "name=${envvar:X}", "${args_no_hyphens}"]
    },
    "must hold one of ${args_no_hyphens}": {"command": ["run.py", "${args_no_hyphens}", "${args_append_hydra}"]},
    "its command must name the program": {"command": ["python", "-m", "x", "${args_no_hyphens}"]},
    "with bayes it must be another": {
        "method": "bayes",
        "run_cap": 2,
        "metric": {"name": "reward"},
        "parameters": {"seed": {"distribution": "q_log_uniform_values", "min": 1, "max": 4, "q": 1}},
    },
    "metric is 'reward'; it must be a mapping": {"metric": "reward"},
    "metric.goal is 'max'. Did you mean maximize": {"metric": {"name": "reward", "goal": "max"}},
    "run_cap is 'two'; it must be a whole number": {"run_cap": "two"},
    "it must have run_cap": {"method": "random"},
    "need metric.name": {"method": "bayes", "run_cap": 2},
    "early_terminate must be of type: hyperband": {"early_terminate": {"type": "x"}, "metric": {"name": "reward"}},
    "seed has distribution 'nromal'. Did you mean normal": {"parameters": {"seed": {"distribution": "nromal"}}},
    "a is normal; with bayes it must be another": {
        "method": "bayes",
        "run_cap": 2,
        "metric": {"name": "reward"},
        "parameters": {"a": {"distribution": "normal"}},
    },
    "seed is uniform, which needs min, max": {"parameters": {"seed": {"min": 0.5}}},
    "its command must hold": {"command": ["python", "run.py", "${args}"]},
}


def test_a_file_that_cannot_be_run_is_refused(tmp_path: Path) -> None:
    good = {"parameters": {"seed": {"values": [0]}}}
    for said, wrong in BAD.items():
        with pytest.raises(ConfigError, match=re.escape(said)):
            read(write(tmp_path / "x.yaml", [], **{**good, **wrong}))


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """YAML's own reader would take the later one in silence."""
    file = write(tmp_path / "x.yaml", [], parameters={"seed": {"values": [0]}})
    file.write_text(file.read_text() + "parameters:\n  seed:\n    values: [1]\n")
    with pytest.raises(ConfigError, match="the key parameters is there twice"):
        read(file)


def test_the_macros_for_hydra_write_what_wandb_writes(tmp_path: Path) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    for macro in ("args_append_hydra", "args_override_hydra"):
        file = write(tmp_path / "x.yaml", [], parameters={"a.lr": {"values": [0.5]}, "seed": {"value": 1}})
        file.write_text(file.read_text().replace(ARGUMENTS, f"${{{macro}}}"))
        sweep = read(file)
        args = {"a.lr": {"value": 0.5}, "seed": {"value": 1}}
        assert sweep.overrides(sweep.grid()[0]) == create_sweep_command_args({"args": args})[macro]


def test_a_mistake_in_one_value_is_found_before_anything_starts(here: Path, capsys: Any) -> None:
    for key, given, said in [
        ("trainer", ["reinforce", "ppoo"], "trainer is 'ppoo', which is not an option. Did you mean ppo"),
        ("optimizer.lr", [0.1, "abc"], "optimizer.lr is 'abc'"),
        ("trainer.clip", [0.3], "trainer.clip"),  # of REINFORCE
    ]:
        values = {"seed": {"values": [0, 1]}, "trainer": {"value": "reinforce"}, key: {"values": given}}
        write(here / "x.yaml", POINTS, parameters=values)
        assert cli.main(["task=sweep", "sweep=x.yaml"]) == 2
        assert said in capsys.readouterr().err
        assert not (here / "runs" / "x").exists()
    # values that only draws have: fractions, and multiples that are no whole numbers
    for drawn, said in [
        ({"distribution": "q_uniform", "min": 32, "max": 128, "q": 32.0}, "plan.samples is 32.0"),
        ({"min": 32, "max": 64.5}, "plan.samples is 32.0"),
        ({"distribution": "normal", "mu": 64, "sigma": 8}, "plan.samples is 39.2"),
    ]:
        own = [word for word in POINTS if not word.startswith("plan.samples")]
        write(here / "x.yaml", own, method="random", run_cap=2, parameters={"plan.samples": drawn})
        assert cli.main(["task=sweep", "sweep=x.yaml"]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "key", "said"),
    [
        (["seed=3"], "seed", "seed is given twice, by 'seed=3' and 'seed=0'"),
        (["optimizer.lr=0.1", "+optimizer.lr=0.2"], "seed", "optimizer.lr is given twice"),
        (["task=best_of_n"], "optimizer.lr", "optimizer.lr is set, but task=best_of_n has no use for it"),
    ],
    ids=str,
)
def test_words_that_every_trial_would_refuse(here: Path, capsys: Any, words: list[str], key: str, said: str) -> None:
    """Not trial by trial."""
    own = [word for word in POINTS if word.partition("=")[0] not in {w.partition("=")[0] for w in words}]
    write(here / "x.yaml", [*own, *words], parameters={key: {"values": [0, 1]}})
    assert cli.main(["task=sweep", "sweep=x.yaml"]) == 2
    assert said in capsys.readouterr().err
    assert not (here / "runs" / "x").exists()


def test_settings_that_would_change_no_trial_are_refused(here: Path, capsys: Any) -> None:
    write(here / "x.yaml", POINTS, parameters={"seed": {"values": [0]}})
    for words, said in {
        (
            "sweep=x.yaml",
            "plan.iterations=3",
        ): "plan.iterations is set, but task=sweep has no use for it (the sweep file says",
        ("sweep=y.yaml",): "sweep is 'y.yaml': there is no such file",
        (): "task=sweep needs a sweep file",
        ("sweep=x.yaml", "engine.gpus=1.5"): "gpus a whole number or a share",
        ("sweep=x.yaml", "engine.cups=1"): "Did you mean engine.cpus",
        ("sweep=x.yaml", "engine.retries=-1"): "retries must be at least 0",
        ("sweep=x.yaml", "engine.seconds=0"): "seconds above 0",
    }.items():
        assert cli.main(["task=sweep", *words]) == 2
        assert said in capsys.readouterr().err


def test_the_shipped_files_describe_runs() -> None:
    for file in SWEEPS:
        sweep = read(file)
        names = [record(sweep, some).name for some in sweep.probes()]
        assert len(set(names)) == len(names) > 0, file


# ---- runs


def sweep(*words: str) -> int:
    pytest.importorskip("ray")
    return cli.main(["task=sweep", *words])


def account(home: Path, file: str = "x.yaml") -> dict[str, Record]:
    found = read(home / file)
    return {json.dumps(p): record(found, p) for p in found.grid()}


def alone(folder: Path, trial: Record, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same run, undisturbed and in this process, from the overrides alone."""
    folder.mkdir(parents=True, exist_ok=True)
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("PGDLAB_TEST_FAULTS", raising=False)
        assert cli.main([*trial.overrides, f"name={trial.sweep.name}/{trial.name}"]) == 0
    return folder / trial.folder


def same(a: Path, b: Path) -> None:
    """Bit for bit: all that a run continues from, its figures and its configuration."""
    assert not differences(state(a), state(b))
    assert rows(a) == rows(b)
    first, second = (yaml.safe_load((f / CONFIG).read_text()) for f in (a, b))
    assert first == second
    timed = {"seconds", "training_seconds", "evaluation_seconds"}
    x, y = (json.loads((f / SUMMARY).read_text()) for f in (a, b))
    assert {k: v for k, v in x.items() if k not in timed} == {k: v for k, v in y.items() if k not in timed}


def test_every_row_of_a_run_that_is_over_is_reported(tmp_path: Path) -> None:
    """A warm process says once that a run ended, perhaps long before its rows are reported. Failed first: waited for ever."""
    pytest.importorskip("ray")
    from pgdlab.sweep.trial import Trial

    codes = iter([None, 0])
    process = SimpleNamespace(ended=lambda seconds: next(codes, None))
    said = [{"iteration": float(i), "reward": 0.0} for i in range(1, 4)]
    done = SimpleNamespace(
        rows=lambda: said, summary={"reward_after": 0.5}, attempts=[{}], keep=lambda attempts: None, state="finished"
    )
    trial = object.__new__(Trial)
    trial.settings, trial.process, trial.lock, trial.metric = {"rows": True}, process, None, "reward"
    trial.begun, trial.over, trial.reported, trial.code, trial.record = True, False, 0, None, done
    trial.late, trial.started = time.monotonic() + 5, time.monotonic()
    assert [trial.step()["iteration"] for _ in range(2)] == [1, 2]
    assert trial.step() == {"iteration": 3, "reward": 0.0, "reward_after": 0.5, "finished": True, "done": True}


def test_a_driver_that_was_killed_at_the_end_of_a_trial_is_made_up_for(here: Path) -> None:
    """The run's summary is there, the end of its attempt is not: the trial is not run again, and its record says so."""
    pytest.importorskip("ray")
    from pgdlab.sweep.trial import Trial

    one = read(write(here / "x.yaml", POINTS, parameters={"seed": {"values": [0]}}))
    trial = object.__new__(Trial)
    trial.engine, trial.record = Engine(), record(one, one.grid()[0])
    trial.record.folder.mkdir(parents=True)
    (trial.record.folder / SUMMARY).write_text("{}")
    began = (trial.record.folder / SUMMARY).stat().st_mtime - 3
    trial.record.keep(
        [{"begun": began - 9, "end": "killed", "seconds": 1}, {"begun": began, "end": None, "seconds": None}]
    )
    trial.begin()
    trial.unlock()
    assert (trial.over, trial.code) == (True, 0)
    assert [(a["end"], a["seconds"]) for a in trial.record.attempts] == [("killed", 1), ("finished", pytest.approx(3))]


def test_why_a_run_ended(tmp_path: Path) -> None:
    """The signal; else the last error of this attempt, whatever was said after it, or the last line."""
    from pgdlab.sweep.process import said

    log = tmp_path / "x.log"
    log.write_text("error: of the attempt before\n")
    before = log.stat().st_size
    assert said(3, log, before) == "exit code 3: it said nothing"
    log.write_text(log.read_text() + "going on\n")
    assert said(3, log, before) == "exit code 3: going on"
    log.write_text(log.read_text() + "torch.cuda.OutOfMemoryError: no room\nleaked semaphores\n")
    assert said(3, log, before) == "exit code 3: torch.cuda.OutOfMemoryError: no room"
    assert said(-9, log, before).startswith("killed by SIGKILL")
    assert said(143, log, before) == "stopped by SIGTERM (exit code 143)"


def test_a_mistake_is_not_tried_again(here: Path) -> None:
    """What only a class refuses ends a trial with exit code 2 after one attempt; a broken record is kept beside a new one. The
    other trial finishes."""
    write(here / "x.yaml", POINTS, parameters={"plan.iterations": {"values": [0, 1]}, "seed": {"values": [0]}})
    refused, good = account(here).values()
    good.file.parent.mkdir(parents=True)
    good.file.write_text('{"attempts": [')
    assert sweep("sweep=x.yaml", "engine.trials=1") == 1
    assert [refused.state, good.state] == ["failed", "finished"]
    assert [a["end"] for a in refused.attempts] == [refused.failure.removeprefix("refused: ")]
    assert "exit code 2: error: " in refused.failure
    assert "iterations" in refused.failure
    assert [a["end"] for a in good.attempts] == ["finished"]
    assert good.file.with_suffix(".broken").read_text() == '{"attempts": ['


def test_links_in_a_sweeps_folder(here: Path) -> None:
    """A trial that is a link, or has one, would write elsewhere; W&B's own in a run folder are no reason to stop."""
    pytest.importorskip("ray")
    from pgdlab.sweep.driver import require_plain

    home, victim = here / "runs" / "x", here / "victim"
    victim.mkdir()
    (home / "trial" / "wandb" / "run-1").mkdir(parents=True)
    (home / "trial" / "wandb" / "latest-run").symlink_to("run-1")
    require_plain(home)
    write(here / "x.yaml", POINTS, parameters={"seed": {"values": [0]}})
    for link in (home / "other", home / "trial" / "checkpoints"):
        link.symlink_to(victim)
        assert cli.main(["task=sweep", "sweep=x.yaml"]) == 2
        link.unlink()
    assert not list(victim.iterdir())


@pytest.mark.parametrize("status", ["diverged", "untrained"])
def test_a_run_that_diverged_is_over(status: str, here: Path) -> None:
    """Exit code 3 with a summary that says so: reported as such, its figures with it, and not run again."""
    pytest.importorskip("ray")
    from pgdlab.sweep.trial import Trial

    one = read(write(here / "x.yaml", POINTS, parameters={"seed": {"values": [0]}}))
    r = record(one, one.grid()[0])
    trial = object.__new__(Trial)
    trial.settings, trial.engine, trial.metric, trial.record = {"rows": False}, Engine(), "reward_after", r
    started: list[Any] = []
    trial.process = SimpleNamespace(
        ended=lambda s: 3, start=lambda argv, *_, **__: started.append(argv), kill=lambda: None
    )
    trial.begun, trial.over, trial.reported, trial.code, trial.lock = False, False, 0, None, None
    r.keep([])
    trial.begin()
    r.folder.mkdir(parents=True)
    (r.folder / SUMMARY).write_text(f'{{"reward_after": 0.5, "status": "{status}"}}')
    assert trial.step() == {"reward_after": 0.5, "finished": True, "done": True}
    assert (r.state, r.failure, r.attempts[-1]["end"]) == (status, "", status)
    trial.begun, trial.code = False, None
    assert trial.step()["done"]
    assert len(started) == 1
    # without a summary that says so it is an end like any other
    (r.folder / SUMMARY).write_text("[]")
    trial.begun, trial.over, trial.code = False, False, None
    with pytest.raises(RuntimeError, match="exit code 3"):
        trial.step()


def test_one_driver_at_a_time(here: Path, capsys: Any) -> None:
    pytest.importorskip("ray")
    from pgdlab.sweep.driver import alone as locked

    write(here / "x.yaml", POINTS, parameters={"seed": {"values": [0]}})
    (here / "runs" / "x").mkdir(parents=True)
    with locked(here / "runs" / "x"):
        assert cli.main(["task=sweep", "sweep=x.yaml"]) == 2
        said = capsys.readouterr().err
        assert f"another process runs this sweep in runs/x (process {os.getpid()} on " in said
    with locked(here / "runs" / "x"):
        pass


def test_ctrl_c_says_how_to_go_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGINT of the driver: exit code 130, one sentence, no trial left running; the same command finishes the rest."""
    pytest.importorskip("ray")
    slow = {"reward.fault": {"value": "slow"}, "heldout": {"value": "null"}, "seed": {"values": [0]}}
    write(here / "x.yaml", tiny("plan.iterations=60", FAULTY), parameters=slow)
    (here / "memory").mkdir()
    monkeypatch.setenv("PGDLAB_TEST_FAULTS", str(here / "memory"))
    command = [sys.executable, str(ROOT / "run.py"), "task=sweep", "sweep=x.yaml"]
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    (trial,) = account(here).values()
    late = time.monotonic() + 120
    while not trial.rows():
        assert driver.poll() is None
        assert time.monotonic() < late
        time.sleep(0.05)
    driver.send_signal(signal.SIGINT)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert said.splitlines()[-1] == "interrupted; 0 of 1 trials are over; the same command goes on"
    before = len(trial.rows())
    time.sleep(3)
    assert len(trial.rows()) <= before + 1  # the row that was being written


def test_faults_and_a_killed_driver_change_nothing(here: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """Trials that raise, are killed and hang, a driver killed with SIGKILL, and one trial that cannot be mended."""
    faults = ["none", "raise", "kill", "hang", "always"]
    words = tiny("plan.iterations=3", FAULTY, "trainer=ppo", "penalty=constraint")
    parameters = {"reward.fault": {"values": faults}, "seed": {"values": [0]}, "heldout": {"value": "null"}}
    write(here / "x.yaml", words, parameters=parameters, metric={"name": "reward_after", "goal": "maximize"})
    (here / "memory").mkdir()
    monkeypatch.setenv("PGDLAB_TEST_FAULTS", str(here / "memory"))
    command = [sys.executable, str(ROOT / "run.py"), "task=sweep", "sweep=x.yaml", "engine.seconds=60"]
    trials = account(here)
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    late = time.monotonic() + 240
    while not (any(t.summary for t in trials.values()) and any(f.name for f in (here / "memory").iterdir())):
        assert driver.poll() is None
        assert time.monotonic() < late
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    finished = {name: (t.folder / SUMMARY).stat().st_mtime_ns for name, t in trials.items() if t.summary}
    assert 0 < len(finished) < 5

    assert sweep("sweep=x.yaml", "engine.seconds=60") == 1
    said = capfd.readouterr()
    assert "5 trials: 4 finished, 1 failed" in said.out
    assert "no comparison" not in said.err
    for (name, trial), fault in zip(trials.items(), faults, strict=True):
        assert trial.state == ("failed" if fault == "always" else "finished")
        ends = [a["end"] for a in trial.attempts]
        if name in finished:
            assert (trial.folder / SUMMARY).stat().st_mtime_ns == finished[name]
        if fault == "always":
            assert "killed by SIGKILL" in trial.failure
            assert len(ends) >= 3
        else:
            assert ends[-1] == "finished"
            same(trial.folder, alone(here / "alone", trial, monkeypatch))
        wanted = {
            "raise": "asked to end the program (sys.exit('spoiled'))",
            "kill": "killed by SIGKILL",
            "hang": "no end after 60 s",
        }.get(fault, "")
        # an attempt that the driver's death ended has no end of its own
        assert None in ends or any(wanted in (end or "") for end in ends)
        assert fault in ("none", "always") or any(
            a["argv"] == [f"resume={trial.folder}", "trust=tests.faults"] for a in trial.attempts
        )
    assert (here / "runs" / "compare-x" / "report.html").is_file()


def test_random_trials_that_end_early_are_what_their_configs_say(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trial is the run of its own config, up to where it was stopped; going on draws and runs nothing again. After the first
    rung, at iteration 2, a run waits a while: one that ends before it is stopped has finished."""
    lr = {"distribution": "log_uniform_values", "min": 1e-4, "max": 0.1}
    early = {"type": "hyperband", "min_iter": 2, "eta": 2}
    slow = {"reward.fault": {"value": "slow"}, "heldout": {"value": "null"}}
    write(
        here / "x.yaml", tiny("plan.iterations=6", "plan.checkpoint_every=1", FAULTY), method="random", run_cap=4,
        parameters={"optimizer.lr": lr, "seed": {"min": 0, "max": 9}, **slow}, early_terminate=early,
        metric={"name": "reward", "goal": "maximize"},
    )  # fmt: skip
    (here / "memory").mkdir()
    monkeypatch.setenv("PGDLAB_TEST_FAULTS", str(here / "memory"))
    assert sweep("sweep=x.yaml", "engine.trials=1") == 0
    found = [json.loads(f.read_text()) for f in sorted((here / "runs" / "x" / "trials").glob("*.json"))]
    assert len(found) == 4
    states = []
    for one in found:
        trial = record(read(here / "x.yaml"), one["chosen"])
        assert one["overrides"] == list(trial.overrides)
        states.append(trial.state)
        whole = alone(here / "alone", trial, monkeypatch)
        own = rows(trial.folder)
        assert own == rows(whole)[: len(own)]
        if trial.state == "finished":
            same(trial.folder, whole)
        else:
            assert (trial.folder / FAILURE).read_text().startswith("terminated early by the sweep after iteration")
    assert set(states) == {"finished", "terminated early"}

    before = {f: f.stat().st_mtime_ns for f in (here / "runs" / "x").glob("*/checkpoints/last.ckpt")}
    assert sweep("sweep=x.yaml", "engine.trials=1") == 0
    assert {f: f.stat().st_mtime_ns for f in (here / "runs" / "x").glob("*/checkpoints/last.ckpt")} == before
    again = [json.loads(f.read_text()) for f in sorted((here / "runs" / "x" / "trials").glob("*.json"))]
    assert again == found


def test_early_termination_by_what_is_no_column_says_so(here: Path) -> None:
    """A key of summary.json comes too late; its trials fail with the reason and the columns that there are."""
    write(
        here / "x.yaml", [*POINTS, "plan.iterations=3"], parameters={"seed": {"values": [0]}},
        early_terminate={"type": "hyperband", "min_iter": 1}, metric={"name": "reward_after", "goal": "maximize"},
    )  # fmt: skip
    assert sweep("sweep=x.yaml", "engine.retries=0") == 1
    (failure,) = (here / "runs" / "x").glob(f"*/{FAILURE}")
    assert (
        "early_terminate needs a column of metrics.csv; reward_after must be one of dead_groups" in failure.read_text()
    )


def test_bayes_goes_on_from_what_it_knows(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {
        "method": "bayes", "metric": {"name": "reward_after", "goal": "maximize"},
        "parameters": {"optimizer.lr": {"min": 0.001, "max": 0.1}, "seed": {"value": 0}},
    }  # fmt: skip
    words = [*POINTS, "plan.iterations=2"]
    write(here / "x.yaml", words, run_cap=2, **content)
    assert sweep("sweep=x.yaml", "engine.warm=false") == 0
    folders = {f.parent: f.stat().st_mtime_ns for f in (here / "runs" / "x").glob(f"*/{SUMMARY}")}
    write(here / "x.yaml", words, run_cap=4, **content)
    assert sweep("sweep=x.yaml") == 0
    after = {f.parent: f.stat().st_mtime_ns for f in (here / "runs" / "x").glob(f"*/{SUMMARY}")}
    assert len(folders) == 2
    assert len(after) == 4
    assert folders.items() <= after.items()
    for file in (here / "runs" / "x" / "trials").glob("*.json"):  # two in processes of their own, two in warm ones
        trial = record(read(here / "x.yaml"), json.loads(file.read_text())["chosen"])
        same(trial.folder, alone(here / "alone", trial, monkeypatch))


def test_trials_of_two_processes_share_four_gpus(here: Path) -> None:
    """The shipped file on a cluster that declares four GPUs: two trials at once, each with two of its own, each of two gloo
    processes."""
    from ray.cluster_utils import Cluster

    content = yaml.safe_load((ROOT / "sweeps" / "multi_gpu.yaml").read_text())
    words = [w for w in content["command"] if "=" in w and not w.startswith("experiment")]
    assert "runtime=ddp" in words
    write(
        here / "x.yaml",
        tiny(*words, "runtime=ddp_cpu", *tiny(BRIGHT)),
        parameters={"trainer": {"values": ["ppo"]}, "seed": {"values": [0, 1]}},
    )
    cluster = Cluster(initialize_head=True, head_node_args={"num_gpus": 4, "num_cpus": 4, "include_dashboard": False})
    try:
        assert sweep("sweep=x.yaml", "engine=two_gpus", f"engine.address={cluster.address}") == 0
    finally:
        cluster.shutdown()
    spans, devices = [], []
    for trial in account(here).values():
        (attempt,) = trial.attempts
        assert trial.processes == 2
        devices.append({*attempt["CUDA_VISIBLE_DEVICES"].split(",")})
        spans.append((attempt["begun"], attempt["begun"] + attempt["seconds"]))
        assert len(rows(trial.folder)) == 2
    pairs = [(i, j) for i in range(2) for j in range(i) if spans[i][0] < spans[j][1] and spans[j][0] < spans[i][1]]
    assert pairs  # some were there at the same time
    assert all(not devices[i] & devices[j] for i, j in pairs)
    assert all(len(d) == 2 for d in devices)
