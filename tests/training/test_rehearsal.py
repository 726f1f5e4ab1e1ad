"""The doctor tries before training what comes after it: every fault of a domain's figures, pictures and files is found there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pgdlab import cli
from pgdlab.config.program import ASSETS
from pgdlab.images.reference import read_reference
from pgdlab.rollout.trajectory import Samples
from pgdlab.training import rehearsal
from pgdlab.training.checks import Check, examine, require
from pgdlab.training.rehearsal import rehearse
from tests.tiny import TinyDomain, tiny_world
from tests.worlds import BRIGHT, POINTS, recorder, tiny

REFERENCE = ASSETS / "digits" / "reference.safetensors"
Parts = dict[str, Tensor]


def broken(*_: Any) -> Any:
    raise KeyError("nearest")


def trajectory() -> Any:
    """Of the doctor's size, on the tiny world."""
    from pgdlab.rollout.noise import Noise, Stream
    from pgdlab.training.checks import _sample

    return _sample(tiny_world(), Noise(0, Stream.DOCTOR))[0]


@pytest.mark.parametrize(
    ("part", "call", "verdict", "said"),
    [
        ("metrics", broken, "failed", "metrics raised KeyError: 'nearest'"),
        ("show", broken, "failed", "show raised KeyError"),
        ("report", broken, "failed", "report raised KeyError"),
        ("report", lambda self, groups, folder: [folder / "gone.csv"], "failed", "names gone.csv"),
        ("metrics", lambda *_: {"a": torch.ones(2)}, "failed", "give a as a Tensor"),
        ("metrics", lambda *_: {"a": float("nan"), "b": 1.0}, "warning", "not finite of so few samples: a"),
        ("metrics", lambda *_: {"a": 1.0}, "ok", "1 figures, a picture, 0 files"),
    ],
)
def test_what_comes_after_training_is_tried(
    part: str, call: Callable[..., Any], verdict: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TinyDomain, part, call)
    found = rehearse(tiny_world(), trajectory())
    assert found.verdict == verdict
    assert said in found.message


def test_a_failure_is_said_before_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TinyDomain, "metrics", lambda *_: {"a": float("nan")})
    monkeypatch.setattr(TinyDomain, "show", broken)
    assert rehearse(tiny_world(), trajectory()).verdict == "failed"


def test_a_fault_of_the_export_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be made again when the run is over; that a kind cannot be exported is no fault."""
    assert "no export: a GaussianDenoiser cannot be exported" in rehearse(tiny_world(), trajectory()).message
    monkeypatch.setattr(rehearsal, "write_base", broken)
    assert rehearse(tiny_world(), trajectory()).verdict == "warning"


def test_the_report_sees_both_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after training: the tuned one has rewards, and nothing is left in the working directory."""
    seen: dict[str, Samples] = {}
    monkeypatch.setattr(TinyDomain, "report", lambda self, groups, folder: seen.update(groups) or [])
    rehearse(tiny_world(), trajectory())
    assert list(seen) == ["base", "tuned"]
    assert seen["tuned"].reward is not None


def test_a_run_is_stopped_before_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from pgdlab.domains.points import PointDomain

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(PointDomain, "metrics", broken)
    assert cli.main([*tiny(*POINTS), "name=x"]) == 2
    assert "afterwards: the domain's metrics raised KeyError" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Parts], Parts]:
    return lambda parts: {**parts, name: change(parts[name]).contiguous()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda parts: {k: v for k, v in parts.items() if k != "nearest"}, "under nearest"),
        (lambda parts: {k: v for k, v in parts.items() if k != "train_labels"}, "no train_labels"),
        (changed("train_features", lambda x: x[:, :5]), r"not \(N, "),
        (changed("test_features", lambda x: x[:1]), r"not \(N, "),
        (changed("test_features", lambda x: x * torch.nan), "test_features that are not finite"),
        (changed("nearest", lambda x: x + torch.inf), "under nearest"),
        (lambda parts: {**parts, "test_features": parts["test_features"][:1], "test_labels": parts["test_labels"][:1]},
         "has 0 rows of a class in test_labels"),
    ],
)  # fmt: skip
def test_a_reference_that_says_nothing_is_refused(change: Callable[[Parts], Parts], said: str, tmp_path: Path) -> None:
    parts, file = load_file(REFERENCE), tmp_path / "reference.safetensors"
    features = parts["train_features"].shape[1]
    assert read_reference(REFERENCE, features, 10).keys() == parts.keys()
    save_file(change(parts), file)
    with pytest.raises(ValueError, match=said) as error:
        read_reference(file, features, 10)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs", REFERENCE.read_bytes()[:5000]])
def test_a_reference_that_cannot_be_read_is_named(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "reference.safetensors"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"reference\.safetensors cannot be read"):
        read_reference(file, 64, 10)


def named(findings: list[Check], name: str) -> Check | None:
    return next((c for c in findings if c.name == name), None)


def test_guidance_that_changes_nothing_is_refused() -> None:
    """Prompts of "no class" alone: both estimates are the same, at twice the rows."""
    alone = examine(recorder(BRIGHT, "policy.guidance=2.0", "domain.train_conditions=[10]")[0])
    check = named(alone, "guidance")
    assert check is not None
    assert check.verdict == "failed"
    mixed = named(examine(recorder(BRIGHT, "policy.guidance=2.0", "domain.train_conditions=[10,3]")[0]), "guidance")
    assert mixed is not None
    assert mixed.verdict == "ok"
    assert named(examine(recorder(BRIGHT, "domain.train_conditions=[10]")[0]), "guidance") is None
    require([mixed])
