"""What a user can mend is one paragraph on stderr and exit code 2: no traceback, and no half-made run that hides the cause."""

from __future__ import annotations

import errno
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab import cli
from pgdlab.fit import LAST
from pgdlab.rewards.base import Score
from pgdlab.runs import SUMMARY, write, write_json
from tests.worlds import BRIGHT, Bright, tiny


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PGDLAB_DEBUG", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two iterations, to be copied and broken."""
    folder = tmp_path_factory.mktemp("finished")
    before = Path.cwd()
    try:
        os.chdir(folder)
        assert cli.main([*tiny(BRIGHT), "name=x"]) == 0
    finally:
        os.chdir(before)
    return folder / "runs" / "x"


@pytest.fixture
def run(finished: Path, here: Path) -> Path:
    shutil.copytree(finished, here / "runs" / "x")
    return Path("runs/x")


class Failing(Bright):
    """Fails on every fourth sample of a training batch of 8, on none of the doctor's 16 or the evaluation's 4."""

    def score(self, sample: Any, cond: Tensor) -> Score:
        scored = super().score(sample, cond)
        lost = (torch.arange(len(sample)) % 4 == 3) & (len(sample) == 8)
        return replace(scored, measured=~lost)


def refused(arguments: list[str], pattern: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, one line that matches, no traceback."""
    capsys.readouterr()
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    last = said.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert re.search(pattern, last), last
    assert "Traceback" not in said


def test_a_truncated_checkpoint(run: Path, capsys: Any) -> None:
    whole = (run / LAST).read_bytes()
    for size in (len(whole) // 2, 10, 0):
        (run / LAST).write_bytes(whole[:size])
        for task in ("task=train", "task=evaluate", "task=export", "task=sample"):
            refused([task, f"resume={run}"], r"last.ckpt cannot be read .*truncated or not a checkpoint", capsys)


def test_a_checkpoint_of_something_else(run: Path, capsys: Any) -> None:
    weights = {"iterations": torch.tensor(1)}
    for content in (
        {"state_dict": {}},
        [1, 2],
        {"current_model_state": weights},
        {"current_model_state": 3, "state_dict": weights},
    ):
        torch.save(content, run / LAST)
        refused(["task=train", f"resume={run}"], "is not a checkpoint of a pgdlab run", capsys)


def test_no_checkpoint_and_no_run(run: Path, capsys: Any) -> None:
    (run / LAST).unlink()
    refused([f"resume={run}"], "there is no checkpoint at .*stopped before its first one", capsys)
    refused(["resume=runs/y"], "resume is 'runs/y', which does not exist; it takes the folder of a run. .*Known: runs/x", capsys)


def test_a_checkpoint_of_another_model(run: Path, here: Path, capsys: Any) -> None:
    assert cli.main([*tiny(BRIGHT, "policy=lora"), "name=lora"]) == 0
    (run / LAST).write_bytes((here / "runs" / "lora" / LAST).read_bytes())
    for task in ("task=train", "task=evaluate", "task=export", "task=sample"):
        refused([task, f"resume={run}", "plan.iterations=3"], "holds another model than this config's: ", capsys)


def test_an_unwritable_run_folder(here: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "runs").write_text("a file where the folder should be")
    refused(tiny(BRIGHT), r"cannot write the run folder .*/runs/", capsys)
    (here / "runs").unlink()

    def denied(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", denied)
    refused(tiny(BRIGHT), "cannot write the run folder .*: Permission denied", capsys)


def test_a_full_disk_keeps_the_last_checkpoint(run: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (run / LAST).read_bytes()

    def full(self: Any, *_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileOpener.write", full)
    refused([f"resume={run}", "plan.iterations=3"], "No space left on device", capsys)
    assert (run / LAST).read_bytes() == before


def test_what_is_written_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    write_json({"x": 1}, file)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json({"x": float("nan")}, file)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        write("other", file)
    assert file.read_text() == '{\n  "x": 1\n}\n'


@pytest.mark.parametrize(
    ("overrides", "pattern"),
    [
        (["reward={_target_: tests.worlds.Broken}"], "reward Broken failed on 100% of 16 samples .*scorer went away"),
        (["reward={_target_: tests.worlds.Patchy, limit: -1.0}"], "reward Patchy failed on 100% .*not finite"),
        (
            ["heldout=null", BRIGHT, "policy.kernel.eta=0.0"],
            "no stochastic step .eta 0.*policy=frozen initial=diagonal",
        ),
        (["policy=frozen"], "nothing to train: set policy=full or policy=lora, or initial=diagonal"),
        (["trainer=rwr", "penalty=path_kl"], "no path KL: set initial=standard penalty=none"),
        (["trainer=rwr", "penalty=none", "initial=diagonal"], "no gradient for the initial distribution"),
        (["trainer=reinforce", "trainer.epochs=2"], "Reinforce is on-policy"),
        (["plan.samples=6"], r"samples \(6\) must be a multiple of group \(4\)"),
        (["task=evaluate"], "task=evaluate needs a run"),
        (["task=export"], "task=export needs a run"),
        (["domain.weights=/nowhere"], "cannot load the base of digits from /nowhere"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_trained_is_refused_before_a_run_is_made(
    overrides: list[str], pattern: str, here: Path, capsys: Any
) -> None:
    refused(tiny(*overrides), pattern, capsys)
    assert not (here / "runs").exists()


@pytest.mark.parametrize("limit", [0.6, 0.0])
def test_a_reward_that_fails_on_the_way_stops_the_run(here: Path, capsys: Any, limit: float) -> None:
    """Counted and masked below the limit; past it the run stops and says how to go on. The doctor's samples pass."""
    failing = [*tiny("reward={_target_: tests.test_errors.Failing}", f"plan.max_failed={limit}"), "name=x"]
    if limit:
        assert cli.main(failing) == 0
        assert "0.25" in (here / "runs" / "x" / "metrics.csv").read_text()
        assert (here / "runs" / "x" / SUMMARY).exists()
    else:
        refused(
            failing,
            r"reward Failing failed on 25% of 8 samples .*plan.max_failed allows 0%.*plan.max_failed to train",
            capsys,
        )
        assert not (here / "runs" / "x" / SUMMARY).exists()


def test_debug_shows_the_traceback(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGDLAB_DEBUG", "1")
    with pytest.raises(ValueError, match="cannot load the base of digits"):
        cli.main(tiny(BRIGHT, "domain.weights=/nowhere"))


def test_resuming_another_model_by_overrides(run: Path, capsys: Any) -> None:
    for override in ("policy=lora", "initial=diagonal", "domain.prompts=[1]", "seed=1"):
        refused([f"resume={run}", override], "cannot change when a run resumes", capsys)
