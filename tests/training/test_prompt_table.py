"""prompts.csv: the rewards of every prompt of every iteration, over failures, resuming and damage."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

from pgdlab import cli
from pgdlab.trainers.prompts import PromptRewards, by_prompt
from pgdlab.training.prompt_table import COLUMNS, kept, lines, rows_of
from tests.worlds import BRIGHT, Bright, fitted, tiny

NAN = math.nan
PATCHY = ("reward={_target_: tests.worlds.Patchy, limit: 0.7}", "plan.max_failed=0.9")


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "prompts.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_figures_of_a_prompt_by_hand() -> None:
    """Conditions in any order; 7 has (1, 4) and a failure, 2 has one sample, 9 none that was measured."""
    reward = torch.tensor([1.0, 5.0, NAN, 4.0, NAN], dtype=torch.float64)
    found = by_prompt(reward, ~reward.isnan(), torch.tensor([7, 2, 9, 7, 7]))
    assert found.number.tolist() == [2, 7, 9]
    assert found.samples.tolist() == [1, 2, 0]
    expected = torch.tensor([[5.0, 2.5, NAN], [NAN, 4.5**0.5, NAN]], dtype=torch.float64)  # ((1.5^2 + 1.5^2) / 1)^.5
    torch.testing.assert_close(torch.stack([found.mean, found.std]), expected, rtol=0, atol=1e-12, equal_nan=True)
    assert found.logs == {"reward_worst_prompt": 2.5, "reward_best_prompt": 5.0}


@pytest.mark.parametrize("trainer", ["ppo", "rwr"])
def test_a_run_s_rows_add_up_to_its_metrics(tmp_path: Path, trainer: str) -> None:
    """Two groups of four an iteration, some samples failed: weighted by their samples, the prompts' means are the iteration's
    reward, and the worst and best one are columns of it."""
    words = ("domain.train_conditions=[3,5]", "penalty=none", *PATCHY)
    module = fitted(tmp_path, *words, f"trainer={trainer}", "plan.samples=16")
    rows = table(tmp_path)
    assert [(row["iteration"], row["number"], row["prompt"]) for row in rows] == [
        ("1", "3", "3"), ("1", "5", "5"), ("2", "3", "3"), ("2", "5", "5"),
    ]  # fmt: skip
    for log, pair in zip(module.history, (rows[:2], rows[2:]), strict=True):
        samples, means = ([float(row[name]) for row in pair] for name in ("samples", "reward_mean"))
        assert sum(samples) == round(16 * (1 - log["failed"]))
        weighted = sum(n * mean for n, mean in zip(samples, means, strict=True)) / sum(samples)
        assert log["reward"] == pytest.approx(weighted, rel=1e-6)
        assert (log["reward_worst_prompt"], log["reward_best_prompt"]) == pytest.approx((min(means), max(means)))
        assert all(0 < float(row["reward_std"]) < 1 for row in pair)
    assert any(log["failed"] for log in module.history)


def test_one_prompt_has_none(tmp_path: Path) -> None:
    module = fitted(tmp_path, BRIGHT, "domain.train_conditions=[3]", "plan.iterations=1")
    assert not (tmp_path / "prompts.csv").exists()
    assert "reward_worst_prompt" not in module.history[0]


class Gone(BaseException):
    """Nobody can catch it."""


class Breaks(Bright):
    """The machine goes away while the third iteration is scored."""

    left = 0

    def score(self, sample: torch.Tensor, cond: torch.Tensor) -> object:  # type: ignore[override]
        Breaks.left -= 1
        if Breaks.left == 0:
            raise Gone
        return super().score(sample, cond)


def test_a_resumed_run_has_each_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last checkpoint is one iteration behind the table: that row is written again, as in the run that went through."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Breaks, "left", 6)  # the doctor scores three times
    words = ["domain.train_conditions=[3,5]", "plan.iterations=4", "plan.checkpoint_every=2"]
    with pytest.raises(Gone):
        cli.main([*tiny(*words, "reward={_target_: tests.training.test_prompt_table.Breaks}"), "name=cut"])
    cut = Path("runs/cut/prompts.csv")
    assert cut.read_text().splitlines()[-1].startswith("2,5,5,4,")
    with cut.open("a") as file:
        file.write("3,3,3,4,0.5,0.1\r\n3,5,5,4,0.")  # an iteration beyond the checkpoint, and half a line
    assert cli.main(["resume=runs/cut", "trust=tests.training.test_prompt_table"]) == 0
    fitted(Path("whole"), BRIGHT, *words)
    assert cut.read_bytes() == Path("whole/prompts.csv").read_bytes()
    assert len(table(cut.parent)) == 8


def test_damaged_rows_are_dropped_and_texts_stay_on_a_line(tmp_path: Path) -> None:
    figures = torch.tensor([0.25, NAN], dtype=torch.float64)
    found = PromptRewards(torch.tensor([0, 1]), torch.tensor([2, 0]), figures, figures)
    rows = list(rows_of(found, ['a "red",\n cat', "the sea"], 12))
    assert rows == [("12", "0", 'a "red", cat', "2", "0.25", "0.25"), ("12", "1", "the sea", "0", "", "")]
    file = tmp_path / "prompts.csv"
    file.write_text(
        lines([COLUMNS, *rows]) + "13,0,x\r\n\0\0\r\nx,0,a,1,2,3\r\n14,0,a,2,0.5,0.1\r\n12,0,a,2,0.5,0", newline=""
    )
    assert kept(file, 12) == [list(row) for row in rows]
    assert [row[0] for row in kept(file, 14)] == ["12", "12", "14"]
