"""The scripts of examples/, each run as it is printed, on a tiny plan, and looked at."""

from __future__ import annotations

import importlib.util
import math
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pgdlab.diffusion.denoisers import DiffusersDenoiser
from tests.worlds import TINY, base, graphs

FOLDER = Path(__file__).resolve().parent.parent / "examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))
WORDS = {
    "own_reward": (f"domain.weights={base()}",),
    "own_diffusers_model": (),
    "own_molecules": tuple(word for word in graphs() if not word.startswith("heldout")),
    "custom_trainer": (f"domain.weights={base()}",),
    "read_comparison": (f"domain.weights={base()}",),
    "learned_reward": ("plan.samples=8",),
}


def script(name: str) -> dict[str, Any]:
    """What a script defines, without running its main."""
    return runpy.run_path(str(FOLDER / f"{name}.py"), run_name=name)


def ran(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Any:
    """What main() of a script returns, in a folder of its own. A class of it can be imported, as one of a script's __main__."""
    monkeypatch.chdir(folder)
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module.main([*WORDS[name], *TINY])


def test_every_script_is_short_and_run_here() -> None:
    assert {file.stem for file in SCRIPTS} == WORDS.keys()
    for file in SCRIPTS:
        limit = 60 if file.stem == "learned_reward" else 40  # which draws a figure of several runs
        assert len(file.read_text().splitlines()) < limit, file.name


def test_own_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ran("own_reward", monkeypatch, tmp_path)
    assert run.summary["iterations"] == 2
    assert "heldout_after" not in run.summary
    samples = torch.zeros(1, 1, 4, 4)
    samples[:, :, 0] = 1  # a row of four in the upper half: a mean of 4 of 8 pixels
    assert script("own_reward")["upper_ink"](samples, []).tolist() == [0.5]


def test_own_diffusers_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ran("own_diffusers_model", monkeypatch, tmp_path)
    assert run.config["domain"]["weights"] == str(tmp_path / "my_model")
    assert run.sample(2).shape == (2, 1, 8, 8)
    assert isinstance(DiffusersDenoiser, type)
    assert (run.folder / "export" / "unet" / "diffusion_pytorch_model.safetensors").is_file()


def test_own_molecules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ran("own_molecules", monkeypatch, tmp_path)
    assert run.config["reward"]["recorded"].startswith("donors of ")
    assert 0 <= run.summary["reward_after"] <= 3


def test_custom_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ran("custom_trainer", monkeypatch, tmp_path)
    assert run.config["trainer"]["width"] == 0.3
    assert run.config["trainer"]["_target_"] == "example_custom_trainer.Soft"
    assert all(value >= 0 for value in run.metrics["train/log_ratio_abs"])
    soft = sys.modules["example_custom_trainer"].Soft(width=0.2)
    x, advantage = torch.tensor([0.0, 0.1, 10.0]), torch.tensor([1.0, 1.0, -1.0])
    assert soft.surrogate(x, advantage).tolist() == pytest.approx([0, 0.2 * math.tanh(0.5), -0.2])


def test_read_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ran("read_comparison", monkeypatch, tmp_path)
    assert page.path.is_file()
    assert [row["method"] for row in page.methods if row["method"] in ("ppo", "reinforce")]
    assert len(page.runs) == 6


def test_learned_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three learned rewards, each with its run, all in one picture."""
    assert ran("learned_reward", monkeypatch, tmp_path).stat().st_size > 5000
    assert sorted(folder.name for folder in (tmp_path / "runs").glob("p[0-9]*")) == ["p20-0", "p20-1", "p500-0"]
