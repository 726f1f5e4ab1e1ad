"""The script for a card that is at hand for minutes: its commands are ones, and a step that fails costs itself alone."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from benchmarks import card, on_card
from pgdlab.config.compose import compose


@pytest.mark.parametrize("cpu", [False, True])
def test_every_command_is_one(cpu: bool) -> None:
    """Options and overrides are taken, in the order that was asked for: the benchmark, the tests of a card, bf16."""
    plan = {step.name: step.words for step in on_card.steps(cpu)}
    assert list(plan)[:6] == ["card", "peers", "tests", "digits", "molecules", "emoji"]
    for name, words in plan.items():
        if words[0] == "run.py":
            assert compose(list(words[1:])).nodes["runtime"]["precision"] == (None if cpu else "bf16-mixed"), name
        elif words[1] == "pytest":
            assert (on_card.ROOT / words[-1]).is_file()
        else:
            options, overrides = card.parsed(words[2:])
            cfg = compose([*card.SIZES[options.size], *overrides])
            assert cfg.nodes["runtime"]["accelerator"] == ("cpu" if cpu else "gpu"), name
            assert cpu or options.size != "latent"


def test_a_step_that_fails_or_hangs_costs_itself_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it has started ends with it. Where no time is left, that is said, and is no failure."""
    scripts = {
        "fails": "raise SystemExit(3)",
        "hangs": "import os, time\nif not (child := os.fork()):\n    time.sleep(60)\nprint(child, flush=True)\ntime.sleep(60)",
        "works": "print('figures')",
    }  # fmt: skip
    for name, text in scripts.items():
        (tmp_path / f"{name}.py").write_text(text)
    plan = [
        on_card.Step(name=name, words=(str(tmp_path / f"{name}.py"),), limit=3 + 30 * (name != "hangs"))
        for name in scripts
    ]
    assert on_card.main(tmp_path / "out", plan, minutes=1) == 1
    how = [line.split("|")[4].strip() for line in (tmp_path / "out" / "summary.md").read_text().splitlines()[2:]]
    assert how == ["exit code 3", "not done after 3 s", "done"]
    assert (tmp_path / "out" / "works.txt").read_text() == "figures\n"
    assert capsys.readouterr().out.count("\n") == 3
    child, late = int((tmp_path / "out" / "hangs.txt").read_text()), time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and running(child):
        assert time.monotonic() < late
        time.sleep(0.05)
    assert on_card.main(tmp_path / "out", plan[2:], minutes=on_card.LEAST / 61) == 0
    assert "| 0 | no time was left |" in (tmp_path / "out" / "summary.md").read_text()


def running(pid: int) -> bool:
    """Whether a process has not ended; what has may wait for its parent to look."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
