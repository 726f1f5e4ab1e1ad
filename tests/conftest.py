"""For all tests: one thread a worker, nothing fetched, and a guard on torch's global state."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# before torch is imported. pgdlab is not imported here: the shape checker hooks into its import later
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
os.environ["MPLBACKEND"] = "Agg"

import pytest
import torch

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with SIGINT ignored


def global_state() -> dict[str, Any]:
    """What a test must leave as it found it."""
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "grad mode": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "deterministic warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        "matmul precision": torch.get_float32_matmul_precision(),
        "anomaly mode": torch.is_anomaly_enabled(),
        "threads": torch.get_num_threads(),
        "process group": torch.distributed.is_available() and torch.distributed.is_initialized(),
    }


@pytest.fixture(autouse=True)
def guard() -> Iterator[None]:
    """Fails a test that leaves torch's global state changed, and puts the state back for the next one."""
    before, terminated = global_state(), signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, terminated)  # ray leaves its own
    after = global_state()
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    if changed:
        restore(before)
    assert not changed, f"the test changed torch's global state (before, after): {changed}"


def restore(state: dict[str, Any]) -> None:
    """Puts back what most tests depend on."""
    torch.set_default_dtype(state["default dtype"])
    torch.set_default_device(state["default device"])
    torch.set_grad_enabled(state["grad mode"])
    torch.use_deterministic_algorithms(state["deterministic algorithms"], warn_only=state["deterministic warn only"])
    torch.set_num_threads(state["threads"])


@pytest.fixture
def offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a run named x will be, in a home without a key for W&B."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    return tmp_path / "runs" / "x"
