"""What a user can mend is one paragraph on stderr and exit code 2: no traceback, and no half-made run that hides the cause."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from pgdlab import cli
from pgdlab.config.compose import CONFIGS, compose
from pgdlab.config.runs import METRICS, SUMMARY, save_config, write, write_json
from pgdlab.rewards.base import Score
from pgdlab.training.fit import LAST, load
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


class Hanging(Bright):
    """At the second iteration, with the checkpoint of the first, two signals arrive, and it never returns."""

    signals: ClassVar[list[int]] = []

    def score(self, sample: Any, cond: Tensor) -> Score:
        if (Path("runs/x") / LAST).exists():
            for number in Hanging.signals:
                os.kill(os.getpid(), number)
            time.sleep(60)
        return super().score(sample, cond)


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
    middle = len(whole) // 2
    (run / LAST).write_bytes(whole[:middle] + bytes(4000) + whole[middle + 4000 :])
    refused([f"resume={run}", "plan.iterations=3"], r"last.ckpt cannot be read .*it is damaged", capsys)


def test_a_resume_that_is_refused_changes_nothing(run: Path, capsys: Any) -> None:
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    refused([f"resume={run}", "plan.iterations=1"], "2 iterations are done; plan.iterations must be at least 2", capsys)
    refused([f"resume={run}", "runtime.devices=7"], "8 samples do not divide among 7 processes", capsys)
    (run / LAST).write_bytes(b"")
    refused([f"resume={run}", "plan.iterations=3"], "last.ckpt cannot be read", capsys)
    (run / LAST).write_bytes(before[run / LAST])
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_what_is_no_run_is_not_resumed(run: Path, capsys: Any) -> None:
    refused(["resume="], "resume is empty; it must be the folder of a run. Known: runs/x", capsys)
    refused([f"resume={run}/config.yaml"], "which is a file; it must be the folder of a run. .*Known: runs/x", capsys)
    refused([f"resume={CONFIGS}"], "config.yaml is not the configuration of a run: it has no key domain", capsys)
    refused(["task=classifiers", f"resume={run}"], "task=classifiers resumes no run: leave resume out", capsys)
    refused(["name=../y", "task=sample"], r"name is '\.\./y'; it must name a folder under runs/", capsys)


def test_a_metrics_table_that_is_damaged_loses_its_bad_rows(run: Path) -> None:
    (run / METRICS).write_text("reward,itera\n0.1,1\n")
    assert cli.main([f"resume={run}", "plan.iterations=3"]) == 0
    assert "3.0" in (run / METRICS).read_text()


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
    refused(
        ["resume=runs/y"],
        "resume is 'runs/y', which does not exist; it must be the folder of a run. .*Known: runs/x",
        capsys,
    )


def test_a_checkpoint_of_another_model(run: Path, here: Path, capsys: Any) -> None:
    assert cli.main([*tiny(BRIGHT, "policy=lora"), "name=lora"]) == 0
    theirs = load(here / "runs" / "lora" / LAST)
    del theirs["run"]  # as in earlier versions: else it is refused as another run's
    torch.save(theirs, run / LAST)
    for task in ("task=train", "task=evaluate", "task=export", "task=sample"):
        longer = ["plan.iterations=3"] if task == "task=train" else []
        refused([task, f"resume={run}", *longer], "holds another model than this config's: ", capsys)


def test_an_unwritable_run_folder(here: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "runs").write_text("a file where the folder should be")
    refused(tiny(BRIGHT), r"cannot write the run folder .*/runs/", capsys)
    (here / "runs").unlink()

    make = Path.mkdir

    def denied(self: Path, *given: Any, **named: Any) -> None:
        if "runs" in self.parts:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        make(self, *given, **named)

    monkeypatch.setattr(Path, "mkdir", denied)
    refused(tiny(BRIGHT), "cannot write the run folder .*: Permission denied", capsys)


def fails_for(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing fails there; what is replaced whole is only the checkpoint."""
    replace_file = os.replace

    def full(*given: Any, **named: Any) -> Any:
        if call.endswith("replace") and not str(given[1]).endswith(".ckpt"):
            return replace_file(*given)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(call, full)


@pytest.mark.parametrize(
    ("call", "file"),
    [
        ("lightning.fabric.plugins.io.torch_io._atomic_save", LAST),
        (
            "pgdlab.training.callbacks.os.replace",
            LAST,
        ),  # the last thing that is done: nothing before it touches the old checkpoint
        ("pgdlab.training.table.Table.append", METRICS),
    ],
)
def test_a_full_disk_keeps_the_last_checkpoint(
    call: str, file: Any, run: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the file, and says how to go on."""
    before = (run / LAST).read_bytes()
    fails_for(call, monkeypatch)
    go_on = r"go on from iteration 2 with: python run.py resume=runs/x trust=tests.worlds"
    refused([f"resume={run}", "plan.iterations=3"], f"No space left on device: 'runs/x/{file}'; {go_on}", capsys)
    assert (run / LAST).read_bytes() == before


def test_a_run_without_a_checkpoint_says_so(here: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_for("pgdlab.training.callbacks.os.replace", monkeypatch)
    said = r"No space left on device: 'runs/x/checkpoints/last.ckpt'; there is no checkpoint yet: start it anew$"
    refused([*tiny(BRIGHT), "name=x"], said, capsys)


@pytest.mark.parametrize("signals", [[signal.SIGINT, signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]])
def test_the_second_signal_ends_a_run_at_once(signals: list[int], here: Path, capfd: Any) -> None:
    """Also where the reward hangs; what came before can be resumed."""
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    Hanging.signals = signals
    words = tiny("reward={_target_: tests.test_errors.Hanging}", "heldout=null")
    assert cli.main([*words, "name=x"]) == 128 + signals[1]
    said = capfd.readouterr().err
    assert said.count("stopping after this iteration; once more to stop at once") == 1
    assert said.endswith(
        "interrupted; go on from iteration 1 with: python run.py resume=runs/x trust=tests.test_errors\n"
    )
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_ctrl_c_while_modules_are_imported(tmp_path: Path) -> None:
    """An import that swallows the exception, as some do."""
    (tmp_path / "omegaconf.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException:\n    pass\n"
    )
    ended = subprocess.run(
        [sys.executable, str(CONFIGS.parent / "run.py"), "--help"], env=os.environ | {"PYTHONPATH": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), capture_output=True, text=True,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (130, "interrupted\n")


def test_what_is_written_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    write_json({"x": 1}, file)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        write("other", file)
    assert file.read_text() == '{\n  "x": 1\n}\n'


@pytest.mark.parametrize(
    ("overrides", "pattern"),
    [
        (
            ["reward={_target_: tests.worlds.Broken}"],
            "reward Broken failed on at least 31% of 16 samples .*scorer went away",
        ),
        (["reward={_target_: tests.worlds.Patchy, limit: -1.0}"], "reward Patchy failed on 100% .*not finite"),
        (
            ["heldout=null", BRIGHT, "policy.kernel.eta=0.0"],
            "no stochastic step .eta 0.*policy=frozen initial=diagonal",
        ),
        (["policy=frozen"], "nothing to train: set policy=full or policy=lora, or initial=diagonal"),
        (["trainer=rwr", "penalty=path_kl"], "no path KL: set initial=standard penalty=none"),
        (["trainer=rwr", "penalty=none", "initial=diagonal"], "no gradient for the initial distribution"),
        (["trainer=reinforce", "trainer.epochs=2"], "trainer.epochs is gone"),
        (["plan.samples=6"], r"samples \(6\) must be a multiple of group \(4\)"),
        (["task=evaluate"], "task=evaluate needs a run"),
        (["task=export"], "task=export needs a run"),
        (["domain.weights=/nowhere"], "cannot load the base of digits from /nowhere"),
        (["plan=foo", "plan.iterations=2"], "plan is 'foo'; it must be a node"),
        (
            ["reward={_target_: pgdlab.rollout.plan.Plan}"],
            "reward._target_ is 'pgdlab.rollout.plan.Plan'; reward must be a Reward",
        ),
        (["policy={_target_: pgdlab.rollout.plan.Plan}"], "policy._target_ is .*; policy must be a Policy"),
        (["trainer={_target_: pgdlab.rollout.plan.Plan}"], "trainer must be a Algorithm"),
        (
            ["heldout=null", "heldout.scale=3"],
            "heldout.scale is set, but no heldout is chosen: heldout=OPTION picks one of",
        ),
        (["runtime.accelerator=tpu"], "runtime.accelerator is 'tpu'; it must be one of auto, cpu, cuda, gpu"),
        (["runtime.devices=7"], "8 samples do not divide among 7 processes"),
        (["runtime.logger=true"], "runtime.logger is "),
        (["optimizer.lr=-1"], "optimizer .Optimization.: lr is -1.0; it must be above 0"),
        (["optimizer.beta1=1"], "beta1 is 1.0; it must be from 0 to below 1"),
        (["optimizer.clip_norm=-1"], "clip_norm is -1.0; it must be at least 0"),
        (["optimizer.ema_halflife=0"], "ema_halflife is 0.0; it must be above 0"),
        (["optimizer.final_lr=2"], "final_lr is 2.0; it must be from 0 to 1"),
        (["trainer.clip=nan"], "trainer.clip is nan; it must be a finite number"),
        (["trainer=pretrain"], "trainer=pretrain goes with task=pretrain .experiment=pretrain/digits"),
        (["experiment=pretrain/digits", "task=doctor"], "trainer=pretrain goes with task=pretrain"),
        (
            ["experiment=pretrain/digits", "reward=target"],
            "reward is set, but task=pretrain learns from data: it asks no",
        ),
        (
            ["experiment=pretrain/digits", "penalty.path_kl.coefficient=1"],
            "penalty.path_kl.coefficient is set, but task=pretrain",
        ),
        (["experiment=pretrain/fashion", "domain.folder=/nowhere"], "domain.folder is '/nowhere'"),
        (["seed=-1"], "seed is -1; it must be a whole number from 0"),
        (["name=../x"], r"name is '\.\./x'; it must name a folder under runs/"),
        (["name=/x"], "name is '/x'; it must name a folder under runs/"),
        (["name=5"], """name is 5; it must be str; quote it: "name='5'\""""),
        (["=3"], "'=3' is not an override; write key=value"),
        (["penalty.path_kl.coefficient=-1"], r"penalty.path_kl .PathKL.: coefficient is -1.0; it must be at least 0$"),
        (["penalty=constraint", "penalty.constraint.limit=0"], "limit is 0.0, .*; all three must be above 0"),
        (["penalty=[path_kl,constraint]"], "penalty constraint does the same as path_kl"),
        (
            ["penalty.path_kl.initial_coefficient=0.1"],
            "initial_coefficient is 0.1, but the initial distribution is not trained",
        ),
        (["policy.guidance=0", "task=sample"], "policy.guidance compares with the estimate under no condition"),
        (["policy.steps=1000000000000"], "policy.steps is 1,000,000,000,000; it must be at most 100,000"),
        (["policy=lora", "policy.tuning.rank=0"], "rank is 0; it must be at least 1"),
        (
            ["logger=wandb", "logger.wandb.mode=foo"],
            "logger.wandb.mode is 'foo'; Wandb takes one of 'online', 'offline', 'disabled'",
        ),
        (["logger=wandb", "logger.mode=offline"], "Did you mean logger.wandb.mode"),
        (["logger=[wandb,tensorbord]"], "logger is 'tensorbord', which is not an option. Did you mean tensorboard"),
        (["logger=null"], "logger is 'null', which is not an option"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_trained_is_refused_before_a_run_is_made(
    overrides: list[str], pattern: str, here: Path, capsys: Any
) -> None:
    refused(tiny(*overrides), pattern, capsys)
    assert not (here / "runs").exists()


def test_a_mistake_is_found_before_the_doctor_looks(here: Path, capsys: Any) -> None:
    assert cli.main(tiny("runtime.devices=7")) == 2
    assert capsys.readouterr().err == "error: 8 samples do not divide among 7 processes\n"


def test_a_held_out_reward_that_fails_costs_its_figures(here: Path, capsys: Any) -> None:
    """In one iteration: its learning curve is a point, which has a mark."""
    saved = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: saved.append(figure))
        failing = tiny(BRIGHT, "heldout={_target_: tests.worlds.Broken}", "plan.iterations=1", "name=x")
        assert cli.main(failing) == 0
    said = capsys.readouterr()
    assert "held out - -> -" in said.out
    assert "warning  held-out: reward Broken failed on at least 31% of 16 samples" in said.err
    curves = [line for axis in saved[-1].axes for line in axis.lines]
    assert {line.get_marker() for line in curves} == {"o"}
    assert cli.main(["task=evaluate", "resume=runs/x"]) == 0


def test_a_pretraining_run_is_not_evaluated(here: Path, capsys: Any) -> None:
    run = here / "runs" / "x"
    run.mkdir(parents=True)
    cfg = compose(["experiment=pretrain/digits"])
    save_config(replace(cfg, resume="x"), run)
    refused(["task=evaluate", "resume=runs/x"], "trainer=pretrain goes with task=pretrain.*not with task=eval", capsys)


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
    for override in ("policy=lora", "initial=diagonal", "domain.train_conditions=[1]", "seed=1"):
        refused([f"resume={run}", override], "cannot change when a run resumes", capsys)


def test_an_affine_map_for_no_condition_is_refused(here: Path, capsys: Any) -> None:
    """Digits are trained without a condition where none is asked for: an IndexError before. Under conditions it runs."""
    assert cli.main(tiny(BRIGHT, "policy=affine")) == 2
    said = capsys.readouterr().err
    assert "domain.train_conditions has 10, no condition, and policy=affine has a map for each of the others" in said
    assert "Traceback" not in said
    assert cli.main(tiny(BRIGHT, "policy=affine", "domain.train_conditions=[0,9]", "plan.iterations=1")) == 0


def test_a_plan_that_no_memory_holds_is_one_line(here: Path, capsys: Any) -> None:
    """8 TB of numbers. One line, and not torch's traceback."""
    assert cli.main(tiny(BRIGHT, "plan.eval_samples=1000000000000")) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: memory has run out (")
    assert "8000000000000 bytes" in said
    assert "plan.eval_samples" in said
