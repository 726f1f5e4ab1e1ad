"""Samples, answers, a learned reward and a policy tuned on it, command by command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pgdlab import cli
from pgdlab.config.compose import compose
from pgdlab.domains.base import Domain
from pgdlab.preferences.pairs import PairFile
from pgdlab.tasks.annotate import png
from tests.worlds import QUICK, base, graphs, tiny

ONE = (QUICK, "domain.train_conditions=[10]")
SIT = ["task=annotate", *ONE, "annotator=simulated", "annotator.samples=runs/sample/samples.pt"]


def drawn(count: int) -> None:
    assert (
        cli.main(
            [
                f"domain.weights={base()}",
                "task=sample",
                "name=null",
                *ONE,
                "policy.steps=2",
                f"plan.eval_samples={count}",
            ]
        )
        == 0
    )


def test_from_samples_to_a_policy_that_pleases(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    drawn(60)
    assert cli.main([*SIT, "annotator.count=20"]) == 0
    assert cli.main(SIT) == 0
    assert "30 of 30 pairs are answered" in capsys.readouterr().out
    records = PairFile(Path("pairs.jsonl")).records()
    assert len(records) == 30, "the second sitting asked for the ten that were open"
    assert len({record[side] for record in records for side in ("first", "second")}) == 60
    assert (
        cli.main(["task=preferences", *ONE, "preferences.pairs=[pairs.jsonl]", "preferences.updates=20", "name=null"])
        == 0
    )
    card = json.loads(Path("runs/preferences/preference.json").read_text())
    assert (card["pairs"], card["samples"], card["fitted"], card["held_out"]["pairs"], card["left_out"]) == (
        30,
        60,
        24,
        6,
        0,
    )
    assert card["domain"] == "pgdlab.domains.digits.Digits"
    assert 0.5 <= card["held_out"]["best_accuracy"] <= 1
    assert Path("runs/preferences/reliability.png").stat().st_size > 1000
    words = [
        "reward=preference",
        "reward.folder=runs/preferences",
        "reward.pessimism=1",
        "heldout=target",
        "name=steered",
    ]
    assert cli.main(tiny(*words, ONE[1], "plan.iterations=1")) == 0
    assert "reward/disagreement" in Path("runs/steered/metrics.csv").read_text().splitlines()[0]
    offline = [
        "trainer=dpo",
        "penalty=none",
        "trainer.pairs=[pairs.jsonl]",
        "trainer.updates=1",
        "trainer.batch=4",
        "name=dpo",
    ]
    assert cli.main(tiny(*offline, ONE[1], "plan.iterations=1")) == 0
    summary = json.loads(Path("runs/dpo/summary.json").read_text())
    assert summary["reward_queries"] == 0
    assert Path("runs/dpo/learning_curve.png").stat().st_size > 1000
    assert cli.main(tiny(*words, "domain=fashion", f"domain.weights={base(28)}")) == 2
    assert "fitted on samples of pgdlab.domains.digits.Digits, and this run's domain is" in capsys.readouterr().err


def test_bad_input_is_one_sentence(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)

    def said(*words: str) -> str:
        assert cli.main([*ONE, *words]) == 2
        return str(capsys.readouterr().err)

    assert "needs to know who answers: annotator=page" in said("task=annotate")
    assert "cannot read samples from samples.pt" in said("task=annotate", "annotator=page")
    torch.save({"sample": torch.zeros(4, 1, 9, 9), "cond": torch.full((4,), 10)}, "samples.pt")
    assert "has samples of (1, 9, 9), and the domain's are (1, 8, 8)" in said("task=annotate", "annotator=page")
    torch.save({"sample": torch.zeros(4, 1, 8, 8), "cond": torch.full((4,), 12)}, "samples.pt")
    assert "drawn under condition 12, and domain digits has 0 to 10" in said("task=annotate", "annotator=simulated")
    assert "there is no file of pairs pairs.jsonl" in said("task=preferences")
    torch.save({"sample": torch.zeros(4, 1, 8, 8), "cond": torch.tensor([10, 10, 3, 3])}, "samples.pt")
    PairFile(Path("pairs.jsonl")).append({"first": "samples.pt:0", "second": "samples.pt:2", "winner": "first"})
    assert "pair 1 is of samples of different prompts" in said("task=preferences")
    assert "preferences.members is set, but task=annotate" in said("task=annotate", "preferences.members=3")


@pytest.mark.parametrize("kind", ["digits", "points", "molecules"])
def test_a_sample_is_drawn_for_the_page(kind: str) -> None:
    from io import BytesIO

    from PIL import Image

    words = {
        "points": ["experiment=null", "domain=gaussian", "reward=quadratic", "heldout=null"],
        "molecules": [*graphs(), "reward=valid"],
    }
    domain = compose(words.get(kind, [QUICK])).make(Domain, "domain")
    sample = torch.zeros(2, *domain.space.shape)
    if kind == "molecules":
        sample = torch.randn(2, *domain.space.shape, generator=torch.Generator().manual_seed(0))
    if kind == "digits":
        sample[1, 0, 3, 4] = 1.0
        picture = Image.open(BytesIO(png(domain, sample, domain.decoder(sample), 1)))
        assert picture.size == (8, 8)
        assert picture.getpixel((4, 3)) == 255
        assert picture.getpixel((3, 4)) == 128
        return
    picture = Image.open(BytesIO(png(domain, sample, domain.decoder(sample), 1)))
    assert min(picture.size) > 50
    assert len(set(picture.convert("L").getdata())) > 2
