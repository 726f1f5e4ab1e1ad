"""Offline tuning: the table's file, the weights of its rows, what they can tell, and a whole run without a query."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pgdlab import cli
from pgdlab.domains.table import Table
from pgdlab.functional.returns import effective_size, temperature_for
from pgdlab.results import Run
from pgdlab.trainers.offline import Offline, told
from tests.tiny import tiny_world
from tests.worlds import QUICK, base, tiny


def columns(rows: int = 40) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    sample = torch.randn(rows, 2, generator=g)
    return {"sample": sample, "reward": sample[:, 0].clone(), "cond": torch.arange(rows) % 2}


@pytest.mark.parametrize("slope", [0.5, 1.0])
def test_the_effective_size_of_a_tilted_gaussian(slope: float) -> None:
    """exp(b x) on N(0, 1): E[w]^2 / E[w^2] = exp(-b^2), and KL = b^2 / 2, so size / N = exp(-2 KL). 40,000 quantiles."""
    x = torch.special.ndtri((torch.arange(40_000, dtype=torch.float64) + 0.5) / 40_000)
    weight = (slope * x).exp()
    assert effective_size(weight) / 40_000 == pytest.approx(math.exp(-(slope**2)), rel=0.01)
    assert told(weight) == pytest.approx(slope**2 / 2, rel=0.02)
    assert temperature_for(x, 40_000 * math.exp(-(slope**2))) == pytest.approx(1 / slope, rel=0.01)


def test_what_is_told_never_exceeds_the_limit() -> None:
    """Renyi's divergence grows with its order: KL <= log(N / size). Equal at one row of N, and at equal weights."""
    g = torch.Generator().manual_seed(1)
    for scale in (0.1, 1.0, 4.0):
        weight = (scale * torch.randn(200, generator=g, dtype=torch.float64)).exp()
        assert 0 < told(weight) < math.log(200 / effective_size(weight))
    one = torch.tensor([0.0, 0.0, 5.0, 0.0])
    assert (told(one), effective_size(one)) == pytest.approx((math.log(4), 1.0))


def test_best_rows_that_are_equal_share_all_the_weight() -> None:
    """Half of the rows have the best reward, and no temperature leaves fewer."""
    reward = torch.tensor([0.0, 1.0] * 10)
    weight = (reward / temperature_for(reward, 2.0)).softmax(0)
    torch.testing.assert_close(weight, reward / 10, rtol=0, atol=1e-9)


def test_weights_of_the_rows_by_hand(tmp_path: Path) -> None:
    """A softmax under each condition, whatever the offset of its rewards; they sum to its rows."""
    path, own = tmp_path / "t.safetensors", columns()
    own["reward"] = own["reward"] - 9.0 * own["cond"]
    save_file(own, path)
    experience = Offline(table=str(path), temperature=0.5).collect(tiny_world(), 0)
    for c in (0, 1):
        rows = own["cond"] == c
        raw = (own["reward"][rows].double() / 0.5).exp()
        torch.testing.assert_close(experience.weight[rows].double(), 20 * raw / raw.sum(), rtol=1e-5, atol=1e-6)
    assert (experience.queries, experience.evaluations) == (0, 0)
    shared = Offline(table=str(path), share=0.3).collect(tiny_world(), 0)
    for c in (0, 1):
        assert effective_size(shared.weight[own["cond"] == c]) == pytest.approx(6.0, rel=1e-4)
    assert shared.logs["table_nats"] < shared.logs["table_nats_limit"]


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another shape": (
        {"sample": torch.zeros(40, 3)},
        {},
        r"samples in .* have shape \(3,\), those of domain=tiny \(2,\)",
    ),
    "no reward": ({"reward": None}, {}, r"has no column reward; a table has sample, reward, cond"),
    "fewer rewards": ({"reward": torch.zeros(39)}, {}, r"rewards \(39,\).*a reward and a whole number for each"),
    "not finite": (
        {"reward": torch.full((40,), math.inf)},
        {},
        r"has a reward that is not finite: leave such rows out",
    ),
    "an unknown condition": (
        {"cond": torch.full((40,), 7)},
        {},
        r"has the condition 7; here they are numbers from 0 to 2",
    ),
    "equal rewards": ({"reward": torch.ones(40)}, {}, r"condition 0: all rewards are equal.*give a temperature"),
    "one row": ({}, {"temperature": 1e-3}, r"one of 20 rows has \(nearly\) all the weight.*raise trainer.temperature"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_table_that_does_not_fit_is_refused(name: str, tmp_path: Path) -> None:
    changed, options, said = WRONG[name]
    path = tmp_path / "t.safetensors"
    save_file({k: v.contiguous() for k, v in (columns() | changed).items() if v is not None}, path)
    with pytest.raises(ValueError, match=said):
        Offline(table=str(path), **options).refuse(tiny_world())


def test_files_and_options_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("sample,reward\n1,2\n")
    for path, said in (("none", "cannot be read: No such file"), ("text", r"is no table.*task=table writes one")):
        with pytest.raises(ValueError, match=said):
            Offline(table=str(tmp_path / path)).refuse(tiny_world())
    for options, said in (({"share": 0.0}, "share is 0.0"), ({"temperature": 0.0}, "temperature is 0.0")):
        with pytest.raises(ValueError, match=said):
            Offline(table="t", **options)  # type: ignore[arg-type]


def test_a_table_that_is_written_again_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    Table(*columns().values()).write(path)
    assert len(Table.read(path).reward) == 40
    Table(*columns(30).values()).write(path)
    assert len(Table.read(path).reward) == 30


def test_a_table_is_written_and_tuned_from(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """From the command line; the samples are no evaluation's, and training asks no reward."""
    monkeypatch.chdir(tmp_path)
    reward = "reward={_target_: tests.worlds.Bright}"
    sizes = [QUICK, f"domain.weights={base()}", "policy.steps=4"]
    assert cli.main(["task=table", *sizes, reward, "plan.eval_samples=40", "name=t"]) == 0
    file = tmp_path / "runs" / "table-t" / "table.safetensors"
    table = load_file(file)
    mean = table["sample"].clamp(-1, 1).flatten(1).mean(1)  # as it is decoded
    assert torch.corrcoef(torch.stack([mean.double(), table["reward"].double()]))[0, 1] > 0.9999
    more = ["trainer=offline", "penalty=none", f"trainer.table={file}", "trainer.updates=2", "trainer.batch=8"]
    assert cli.main([*tiny(*more, reward, "plan.eval_samples=40", "name=o")]) == 0
    assert "40 rows, of which weights leave 4 effective ones" in capsys.readouterr().out
    found = Run(tmp_path / "runs" / "o")
    assert found.summary["reward_queries"] == 0
    assert found.summary["network_evaluations"] == 2 * 2 * 8
    assert found.summary["kl_is_bound"]
    assert (tmp_path / "runs" / "o" / "learning_curve.png").stat().st_size > 1000
    assert cli.main(["task=sample", *sizes, "plan.eval_samples=40", "name=s"]) == 0
    fresh = torch.load(tmp_path / "runs" / "sample-s" / "samples.pt")["sample"]
    assert not torch.isin(fresh.flatten(1)[:, 0], table["sample"].flatten(1)[:, 0]).any()
