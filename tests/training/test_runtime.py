"""What runtime may say, which GPU a process takes, and which launches are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pgdlab import cli
from pgdlab.config.compose import compose
from pgdlab.config.launch import require_alone
from pgdlab.config.runs import run_folder
from pgdlab.training.build import device_of
from pgdlab.training.fit import make_trainer
from tests.worlds import tiny


@pytest.mark.parametrize(
    "setting",
    ["limit_train_batches=1", "max_steps=3", "gradient_clip_val=0.1", "accumulate_grad_batches=3", "max_epochs=2",
     "fast_dev_run=true", "overfit_batches=1", "callbacks=[]", "reload_dataloaders_every_n_epochs=1"],
)  # fmt: skip
def test_what_would_break_a_run_or_be_ignored_is_refused(setting: str) -> None:
    key = setting.partition("=")[0]
    with pytest.raises(ValueError, match=rf"runtime.{key} is .*; runtime may set accelerator, devices, .*precision"):
        make_trainer(compose(tiny(f"runtime.{setting}")).nodes["runtime"])


@pytest.mark.parametrize("precision", ["16-mixed", "64-true", "bf16-true", "16-true", "64"])
def test_precisions_that_are_not_served(precision: str) -> None:
    """fp16 scales the loss, so that our clipping would see scaled gradients; the others are not a policy's dtype."""
    with pytest.raises(ValueError, match=f"runtime.precision is '{precision}'; it must be 32-true or bf16-mixed"):
        make_trainer(compose(tiny(f"runtime.precision='{precision}'")).nodes["runtime"])


@pytest.mark.parametrize("setting", ["precision=bf16-mixed", "precision=32-true", "benchmark=false"])
def test_what_a_machine_may_set(setting: str) -> None:
    make_trainer(compose(tiny(f"runtime.{setting}")).nodes["runtime"], logger=False)


@pytest.mark.parametrize(
    ("devices", "rank", "expected"), [(1, 0, 0), (-1, 3, 3), ("auto", 1, 1), ([1], 0, 1), ([2, 5], 1, 5)]
)
def test_the_gpu_of_a_process(devices: Any, rank: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    runtime = {"accelerator": "gpu", "devices": devices}
    assert device_of(runtime) == torch.device("cuda", expected)


def test_devices_in_a_string_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match=r"runtime.devices is '1,'; .* a list, as in \[0,1\]"):
        device_of({"accelerator": "gpu", "devices": "1,"})


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "RANK", "SLURM_PROCID"])
def test_a_rank_that_nothing_of_a_run_gave_is_refused(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would make a run of its own beside the first one's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PGDLAB_RUN", raising=False)
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ValueError, match=r"neither a run nor torchrun or srun started it: start one, .* runtime=ddp"):
        run_folder(compose(tiny()))
    assert not (tmp_path / "runs").exists()


TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
SRUN = {
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "2",
}


@pytest.mark.parametrize("variables", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
def test_processes_that_the_runtime_does_not_count_are_refused(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for words, here in (((), "1 on 1 machine"), (("runtime=ddp_cpu", "runtime.num_nodes=2"), "2 on 2 machines")):
        with pytest.raises(ValueError, match=rf"started 2 processes, but runtime has {here}: set runtime=ddp"):
            make_trainer(compose([*tiny(), *words]).nodes["runtime"], logger=False)


def test_several_machines_need_somebody_who_starts_on_them() -> None:
    with pytest.raises(ValueError, match=r"runtime.num_nodes is 2: .* torchrun or srun"):
        make_trainer(compose([*tiny(), "runtime=ddp_cpu", "runtime.num_nodes=2"]).nodes["runtime"], logger=False)


def test_the_gpu_of_a_process_of_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, value in (SRUN | {"SLURM_LOCALID": "3"}).items():
        monkeypatch.setenv(name, value)
    assert device_of({"accelerator": "gpu", "devices": -1}) == torch.device("cuda", 3)


@pytest.mark.parametrize("task", ["evaluate", "sample", "export", "best_of_n", "certify"])
def test_one_process_s_tasks_are_not_done_twice(task: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert cli.main([f"task={task}", *([] if task in ("certify", "best_of_n") else ["resume=nowhere"])]) == 2
    monkeypatch.setenv("WORLD_SIZE", "1")
    require_alone(task)
    require_alone("train")


def test_a_job_of_slurm_takes_no_process_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a batch script SLURM_NTASKS is set; Lightning alone would take it for the number of processes."""
    for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "x", "SLURM_JOB_ID": "1", "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(name, value)
    assert make_trainer(compose([*tiny(), "runtime=ddp_cpu"]).nodes["runtime"], logger=False).world_size == 2
