"""When a run counts as diverged or untrained: hand-made rows, each limit from both sides; exit code and summary of a run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pgdlab import cli
from pgdlab.training.divergence import Divergence, Row
from tests.worlds import POINTS, tiny

CALM = {"reward": 1.0, "kl_nats": 50.0, "train/loss": -0.1, "train/gradient_norm": 2.0, "train/log_ratio_abs": 0.1}
DONE = {"reward_after": 1.0, "kl_nats": 91.0}


def rows(*changes: dict[str, float]) -> list[Row]:
    return [{**CALM, "iteration": i, **change} for i, change in enumerate(changes, 1)]


def clipped(share: float, far: float = 1.0) -> dict[str, float]:
    """Half of the share on either side."""
    half = share / 2
    return {"train/clip_fraction_high": half, "train/clip_fraction_low": half, "train/log_ratio_abs": far}


@pytest.mark.parametrize(
    ("course", "said"),
    [
        (rows({}, {}, {}, {}), ""),
        (rows({"kl_nats": 999.0}), ""),
        (rows({"kl_nats": 11_544.0}, {}), "KL reached 11,544 nats"),  # the worst iteration, not the last
        (rows({}, {"reward": math.inf}), "reward was not finite in iteration 2"),
        (rows({"train/loss": math.nan}), "train/loss was not finite"),
        (rows({"heldout": math.nan}), ""),  # it can score none of them: no fault of the run
        (rows(*[clipped(0.86)] * 8), "86% of the pairs were clipped in the last 2 iterations"),
        (rows(*[clipped(0.86)] * 6, clipped(0.7), clipped(0.7)), ""),  # only the last quarter counts
        (rows(*[clipped(0.86, far=0.002)] * 8), ""),  # as in a healthy run of trainer=ddpo, whose clip is 1e-4
        (rows(*[clipped(0.86)] * 3), ""),  # it has only begun
        (rows(*[{"train/log_ratio_abs": 6.0}] * 4), r"\|log ratio\| was 6.0 nats"),
        (rows(*[{"train/initial_log_ratio_abs": 6.0}] * 4), r"\|log ratio\| was 6.0 nats"),
        (rows(*[{"effective_samples": 1.01}] * 4), "1.01 samples had all the weight"),
        (rows(*[{"effective_samples": 1.5}] * 4), ""),
        (rows(*[{"train/gradient_norm": 0.0}] * 4), "the gradient was 0 in every iteration"),
        (rows({"train/gradient_norm": 0.0}, {}), ""),
        (rows(*[{"reward_std": 0.0, "train/gradient_norm": 1e-6}] * 4), "paid alike in every iteration"),
        (rows({"reward_std": 0.0}, {"reward_std": 0.1}), ""),
        (rows(*[{"reward_std": math.nan}] * 4), ""),
        ([], ""),
    ],
)
def test_the_limits(course: list[Row], said: str) -> None:
    import re

    verdict = Divergence().verdict(course, DONE)
    assert (verdict.status == "finished") == (said == "")
    assert re.search(said, verdict.reason) if said else verdict.reason == ""
    assert verdict.code == (3 if said else 0)


def test_the_evaluation_counts_too() -> None:
    assert Divergence().verdict(rows({}), {"reward_after": None, "kl_nats": None}).status == "finished"
    for figures in ({**DONE, "kl_nats": 1001.0}, {**DONE, "reward_after": math.nan}):
        assert Divergence().verdict(rows({}), figures).status == "diverged"


def test_a_limit_can_be_moved_or_taken_away() -> None:
    far = rows({"kl_nats": 5000.0})
    assert Divergence(kl_nats=None).verdict(far, DONE).status == "finished"
    assert Divergence(kl_nats=49.0).verdict(rows({}), {}).status == "diverged"
    for wrong in ({"kl_nats": 0.0}, {"clipped": 1.5}, {"share": 0.0}, {"log_ratio": -1.0}):
        with pytest.raises(ValueError, match="must be"):
            Divergence(**wrong)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def test_a_run_that_diverges_says_so_and_ends_with_3(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The same run twice: with a limit that it passes, and without one; the figures are those of the run either way."""
    monkeypatch.chdir(here)
    run = [*tiny(*POINTS), "penalty=path_kl", "optimizer.lr=0.5"]
    assert cli.main([*run, "divergence.kl_nats=0.001", "name=far"]) == 3
    printed = capsys.readouterr()
    assert "DIVERGING: KL reached" in printed.err
    assert "this run diverged: KL reached" in printed.out
    assert cli.main([*run, "divergence=off", "name=off"]) == 0
    far, off = (json.loads((here / "runs" / name / "summary.json").read_text()) for name in ("far", "off"))
    assert (far["status"], off["status"]) == ("diverged", "finished")
    assert far["reward_after"] == off["reward_after"]
    assert "reason" not in off


def test_a_run_whose_gradient_is_zero_says_so(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A reward that pays everybody alike, and no penalty: whatever the cause, nothing was learnt."""
    monkeypatch.chdir(here)
    flat = "reward={_target_: pgdlab.rewards.analytic.Quadratic, slope: [0.0]}"
    run = tiny(*POINTS, flat, "penalty=none", "trainer=reinforce", "name=flat")
    assert cli.main(run) == 3
    assert "this run learnt nothing: the gradient was 0" in capsys.readouterr().out
    assert json.loads((here / "runs" / "flat" / "summary.json").read_text())["status"] == "untrained"


def test_samples_that_were_not_measured_are_counted(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(here)
    patchy = "reward={_target_: tests.worlds.OneClass}"  # one of the ten prompts can be measured
    cli.main([*tiny(patchy), "plan.max_failed=0.99", "domain.train_conditions=[0,1]", "name=patchy"])
    assert "2 of 4 evaluation samples could not be measured" in capsys.readouterr().out
    table = json.loads((here / "runs" / "patchy" / "summary.json").read_text())["evaluations"]
    assert {row["failed"] for row in table.values()} == {0.5}
