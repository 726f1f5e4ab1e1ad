"""A run folder is one run's: nothing in it is executed, mixed with another run, written elsewhere, or lost."""

from __future__ import annotations

import csv
import json
import math
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from pgdlab import cli
from pgdlab.comparison.folders import read
from pgdlab.comparison.methods import budget
from pgdlab.config.runs import CONFIG, LAST, METRICS, SUMMARY, held, write, write_json
from pgdlab.rollout.plan import Plan
from pgdlab.tasks import steer, train
from pgdlab.training.budget import Budget
from pgdlab.training.checkpoint import load
from pgdlab.training.table import Table
from tests.worlds import BRIGHT, Bright, tiny

READERS = ("evaluate", "sample", "export", "train")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, before = tmp_path_factory.mktemp("finished"), Path.cwd()
    os.chdir(folder)
    try:
        assert cli.main([*tiny(BRIGHT), "name=x"]) == 0
        assert cli.main([*tiny(BRIGHT), "name=other", "seed=1"]) == 0
    finally:
        os.chdir(before)
    return folder / "runs"


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path / "runs")
    return tmp_path / "runs" / "x"


def said(words: list[str], code: int, capsys: Any) -> str:
    """What one command prints to standard error, on one line."""
    capsys.readouterr()
    assert cli.main(words) == code
    text = str(capsys.readouterr().err)
    assert "Traceback" not in text
    return text


def refused(words: list[str], capsys: Any) -> str:
    text = said(words, 2, capsys)
    assert text.count("\n") == 1
    return text


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes a checkpoint."""
    state = torch.load(file, weights_only=True)
    change(state)
    torch.save(state, file)


class Payload:
    """Touches a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch CALLED",)


@pytest.mark.parametrize("task", READERS)
def test_a_pickle_in_a_checkpoint_is_not_executed(run: Path, task: str, capsys: Any) -> None:
    edit(run / LAST, lambda state: state.update(more=Payload()))
    text = refused([f"task={task}", "resume=runs/x", *(["plan.iterations=3"] if task == "train" else [])], capsys)
    assert "holds more than numbers" in text
    assert "weights_only" not in text
    assert not Path("CALLED").exists()


def test_a_bare_pickle_is_not_executed(run: Path, capsys: Any) -> None:
    (run / LAST).write_bytes(pickle.dumps({"state_dict": Payload()}))
    refused(["task=evaluate", "resume=runs/x"], capsys)
    assert not Path("CALLED").exists()


@pytest.mark.parametrize("task", READERS)
def test_another_run_s_checkpoint_is_refused(run: Path, task: str, capsys: Any) -> None:
    shutil.copy(run.parent / "other" / LAST, run / LAST)
    assert "is the checkpoint of another run than config.yaml beside it: seed is 1 there, and 0 here" in refused(
        [f"task={task}", "resume=runs/x"], capsys
    )


def test_a_checkpoint_that_does_not_say_whose_it_is_is_taken(run: Path) -> None:
    edit(run / LAST, lambda state: (state.pop("run"), state.pop("samples")))
    assert cli.main(["resume=runs/x", "plan.iterations=3"]) == 0
    assert json.loads((run / SUMMARY).read_text())["samples"] == 24


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no optimizer": (lambda s: s.pop("optimizer_states"), "has no optimizer_states: training cannot go on"),
    "no callbacks": (lambda s: s.pop("callbacks"), "has no callbacks: training cannot go on"),
    "no average": (lambda s: s.pop("averaging_state"), "has no averaging_state: training cannot go on"),
    "negative": (lambda s: s["current_model_state"].update(iterations=torch.tensor(-5)), "iterations is -5"),
    "huge": (lambda s: s["current_model_state"].update(iterations=torch.tensor(2**60)), "iterations is 1152921504606846976"),
    "queries": (lambda s: s["state_dict"].update(queries=torch.tensor(-1)), "queries is -1"),
    "text": (lambda s: s["state_dict"].update(iterations="2"), "iterations is no tensor"),
    "NaN": (
        lambda s: next(x for x in s["state_dict"].values() if x.dtype == torch.float32).fill_(math.nan),
        "holds weights that are not finite",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "pattern"), FAULTS.values(), ids=FAULTS)
def test_a_checkpoint_that_lacks_something_is_refused(
    run: Path, change: Callable[[dict[str, Any]], Any], pattern: str, capsys: Any
) -> None:
    edit(run / LAST, change)
    assert pattern in refused(["resume=runs/x", "plan.iterations=3"], capsys)


def test_what_is_no_file_is_called_that(run: Path, capsys: Any) -> None:
    file = run / LAST
    file.unlink()
    file.mkdir()
    assert "last.ckpt is a folder" in refused(["task=evaluate", "resume=runs/x"], capsys)
    file.rmdir()
    os.mkfifo(file)
    assert "last.ckpt is no file" in refused(["task=evaluate", "resume=runs/x"], capsys)
    file.unlink()
    file.symlink_to("last.ckpt")
    assert "last.ckpt is a link to last.ckpt" in refused(["task=evaluate", "resume=runs/x"], capsys)


LINKS = (
    "before_after.png", "evaluation.json", "config.yaml.part", "summary.json", "samples.pt", "samples.png", "metrics.csv",
    "checkpoints/last.ckpt.part", "export", "wandb", "command.txt", "failure.txt", "wandb_id",
)  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
def test_nothing_is_written_or_read_through_a_link(run: Path, name: str, capsys: Any) -> None:
    victim = Path("victim").resolve()
    victim.mkdir() if name in ("export", "wandb") else victim.write_text("secret")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(victim)
    for task in READERS:
        assert f"{name} is a link to {victim}" in refused([f"task={task}", "resume=runs/x"], capsys)
    found = read(["runs/x"])
    assert "is a link" in found.failures[0].reason
    assert "secret" not in found.failures[0].reason
    assert not [*victim.iterdir()] if victim.is_dir() else victim.read_text() == "secret"


def test_files_replace_links(tmp_path: Path) -> None:
    """Where one appears after the folder was looked at."""
    victim = tmp_path / "victim"
    victim.write_text("kept")
    for link in ("a.json", "a.json.part"):
        (tmp_path / link).symlink_to(victim)
    write("new", tmp_path / "a.json")
    assert (victim.read_text(), (tmp_path / "a.json").read_text()) == ("kept", "new")
    assert not (tmp_path / "a.json").is_symlink()
    assert not [*tmp_path.glob("*.part")]


def test_two_processes_do_not_train_in_one_folder(run: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgdlab.config.runs.PATIENCE", 0.1)
    before = (run / METRICS).read_bytes()
    with held(run):  # another open file of the same folder, as that of another process
        text = refused(["resume=runs/x", "plan.iterations=3"], capsys)
    assert "another process is training in runs/x" in text
    assert (run / METRICS).read_bytes() == before
    assert (run / SUMMARY).is_file()
    assert cli.main(["resume=runs/x", "plan.iterations=3"]) == 0


class Elsewhere(Bright):
    """Changes the working directory, as wrappers of programs do."""

    def score(self, sample: Any, cond: Tensor) -> Any:
        os.chdir(os.path.expanduser("~"))
        return super().score(sample, cond)


def test_a_reward_that_changes_the_directory_moves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    assert cli.main([*tiny("reward={_target_: tests.training.test_integrity.Elsewhere}"), "name=y"]) == 0
    assert Path.cwd() == tmp_path
    names = {file.name for file in (tmp_path / "runs" / "y").iterdir()}
    assert names >= {CONFIG, METRICS, SUMMARY, "before_after.png", "learning_curve.png", "checkpoints"}
    assert not [*home.iterdir()]


class Killed(BaseException):
    """Nothing of the program's catches it, as nothing catches a kill."""


class Fatal(Bright):
    """Ends the process at the scoring that `left` counts down to."""

    left = 0

    def score(self, sample: Any, cond: Tensor) -> Any:
        Fatal.left -= 1
        if Fatal.left == 0:
            raise Killed
        return super().score(sample, cond)


def test_an_extension_that_is_killed_is_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Fatal.left = -1
    assert cli.main([*tiny("reward={_target_: tests.training.test_integrity.Fatal}"), "name=y"]) == 0
    run, Fatal.left = Path("runs/y"), 2
    with pytest.raises(Killed):
        cli.main(["resume=runs/y", "plan.iterations=5"])
    assert not (run / SUMMARY).exists()
    assert json.loads((run / "summary-2.json").read_text())["iterations"] == 2
    assert read(["runs/y"]).failures[0].reason == "stopped after iteration 3 of 5; go on with resume=runs/y"
    assert cli.main(["resume=runs/y"]) == 0
    assert json.loads((run / SUMMARY).read_text())["iterations"] == 5


def lines(folder: Path) -> list[dict[str, str]]:
    with (folder / METRICS).open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_kept_while_the_table_is_rewritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill in the middle of resuming leaves the old table or the new one."""
    table = Table(tmp_path)
    for i in (1, 2, 3):
        table.log_metrics({"iteration": i, "reward": 0.5 * i}, i)
    kept = lines(tmp_path)
    assert [row["reward"] for row in kept] == ["0.5", "1.0", "1.5"]
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):
        Table(tmp_path, kept[:2])
    assert lines(tmp_path) == kept
    monkeypatch.undo()
    table = Table(tmp_path, kept[:2])
    assert lines(tmp_path) == kept[:2]
    table.log_metrics({"iteration": 3, "heldout": 2.0}, 3)
    assert lines(tmp_path)[0] == kept[0] | {"heldout": ""}
    assert lines(tmp_path)[2] == {"heldout": "2.0", "iteration": "3", "reward": "", "step": "3"}


def test_figures_that_are_not_finite_are_null_and_named(tmp_path: Path, capsys: Any) -> None:
    write_json({"a": {"kl": math.inf, "reward": 1.0}, "b": [math.nan]}, tmp_path / "s.json")
    found = json.loads((tmp_path / "s.json").read_text())
    assert found == {"a": {"kl": None, "reward": 1.0}, "b": [None], "not_finite": ["a.kl", "b[0]"]}
    assert "a.kl, b[0]" in capsys.readouterr().err
    write_json({"a": 1.0}, tmp_path / "s.json")
    assert json.loads((tmp_path / "s.json").read_text()) == {"a": 1.0}


def test_a_picture_that_fails_costs_no_search(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Best-of-n cannot be resumed. Failed first: nothing was written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(steer, "domain_report", lambda *_: 1 // 0)
    said(tiny(BRIGHT, "task=best_of_n", "name=x"), 1, capsys)
    summary = json.loads(Path("runs/best_of_n-x/summary.json").read_text())
    assert summary["reward_after"] > summary["reward_before"]
    assert summary["failed"][0].startswith("the domain's report: ZeroDivisionError")


class Late(Bright):
    """Fails once all is trained."""

    def score(self, sample: Any, cond: Tensor) -> Any:
        table = Path("runs/late/metrics.csv")
        if table.is_file() and len(table.read_text().splitlines()) == 3:
            raise RuntimeError("the scorer went away")
        return super().score(sample, cond)


def test_a_reward_that_fails_at_the_end_says_how_to_measure(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = said(tiny("reward={_target_: tests.training.test_integrity.Late}", "name=late"), 2, capsys)
    assert "the scorer went away" in text
    assert "All is trained; measure it with: python run.py resume=runs/late trust=tests.training.test_integrity" in text


def test_a_picture_that_fails_costs_no_figure(run: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / SUMMARY).unlink()
    monkeypatch.setattr(train, "before_after", lambda *_: 1 // 0)
    text = said(["resume=runs/x"], 1, capsys)
    assert "error: before_after.png: ZeroDivisionError: integer" in text
    summary = json.loads((run / SUMMARY).read_text())
    assert summary["failed"] == ["before_after.png: ZeroDivisionError: integer division or modulo by zero"]
    assert summary["reward_after"] is not None


class Half(Bright):
    """Cannot score the samples above a grey level."""

    def score(self, sample: Any, cond: Tensor) -> Any:
        found = super().score(sample, cond)
        return type(found)(found.value, found.value < found.value.median(), {})


def test_samples_that_were_not_measured_are_counted(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = tiny("reward={_target_: tests.training.test_integrity.Half}", "heldout=null", "plan.max_failed=0.9",
                 "plan.eval_samples=8", "name=y")  # fmt: skip
    assert cli.main(words) == 0
    lost = json.loads(Path("runs/y/summary.json").read_text())["unmeasured"]
    assert lost >= 4
    assert "of 8 evaluation samples could not be measured" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_it_is_measured(
    run: Path, number: int, code: int, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / SUMMARY).unlink()
    monkeypatch.setattr(train, "timed", lambda *_: os.kill(os.getpid(), number))
    text = said(["resume=runs/x"], code, capsys)
    assert "interrupted; while it was measured: all is trained; go on with: python run.py resume=runs/x" in text
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_sampling_onto_a_full_disk_names_the_file(run: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    text = refused(["task=sample", "resume=runs/x"], capsys)
    assert "No space left on device: 'runs/x/samples.pt'" in text
    assert not (run / "samples.pt").exists()


def test_half_an_export_is_not_left(run: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pgdlab.diffusion.files.card", full)
    assert "'runs/x/export'" in refused(["task=export", "resume=runs/x"], capsys)
    assert not (run / "export").exists()


def test_a_budget_counts_what_was_asked() -> None:
    """3 iterations of 64 are 192 of 640; those left are 448 / 32 = 14 of 32."""
    budget = Budget(queries=640)
    assert budget.within(Plan(samples=32, iterations=100), done=3, asked=192).iterations == 3 + 14
    assert budget.within(Plan(samples=64, iterations=100), done=3, asked=192).iterations == 10
    assert budget.within(Plan(samples=64, iterations=100), done=10, asked=640).iterations == 10
    assert Budget(queries=600).within(Plan(samples=64, iterations=100), done=10, asked=640).iterations == 10
    with pytest.raises(ValueError, match=r"budget\.queries is 100, but 10 iterations have asked 640 already"):
        Budget(queries=100).within(Plan(samples=64, iterations=100), done=10, asked=640)


def test_a_budget_holds_over_a_resume_with_another_batch(run: Path) -> None:
    """2 iterations of 8, then of 4: 32 queries are reached with 16 + 4 x 4, and a comparison reads 32."""
    assert cli.main(["resume=runs/x", "plan.iterations=50", "plan.samples=4", "budget.queries=32"]) == 0
    summary = json.loads((run / SUMMARY).read_text())
    assert (summary["iterations"], summary["reward_queries"], summary["samples"]) == (6, 32, 32)
    assert budget(read(["runs/x"]).runs[0]) == 32


def test_the_checkpoint_says_which_run_it_is_of(run: Path) -> None:
    own = json.loads(load(run / LAST)["run"])
    assert own["seed"] == 0
    assert own["reward"] == yaml.safe_load((run / CONFIG).read_text())["reward"]
    assert not own.keys() & {"plan", "name", "runtime", "task", "logger", "budget"}
