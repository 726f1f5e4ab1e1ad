"""Scores fitted to pairs: against the annotator's own law, split by sample, figures by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab.preferences.annotator import Simulated, Sitting, questions
from pgdlab.preferences.ensemble import Ensemble
from pgdlab.preferences.pairs import Answer, PairFile, Pairs, Row
from pgdlab.training.reward_model import BradleyTerry, Data, RewardModel, fit, judged, reliability, split

CPU = {"_target_": "lightning.pytorch.Trainer", "accelerator": "cpu"}


def truth(x: Tensor) -> Tensor:
    """An annotator's reward in nats."""
    return 2 * (2 * x).sin() - 0.3 * x**2


def points(count: int, seed: int) -> Tensor:
    """Half N(-1, .4^2), half N(1, .4^2)."""
    g = torch.Generator().manual_seed(seed)
    return (torch.randint(2, (count, 1), generator=g) * 2 - 1).float() + 0.4 * torch.randn(count, 1, generator=g)


def pairs_of(rows: Tensor, share: Tensor, probability: Tensor | None = None) -> Pairs:
    p = torch.full((len(rows),), math.nan) if probability is None else probability
    names = tuple(Row(Path("s.pt"), i) for i in range(int(rows.max()) + 1))
    return Pairs(names, rows, share.double(), ("",) * len(rows), p.double())


def labelled(count: int, seed: int, share: bool = False) -> tuple[Pairs, Tensor]:
    """Disjoint pairs with drawn answers, or with the odds themselves."""
    x, rows = points(2 * count, seed), torch.arange(2 * count).reshape(-1, 2)
    r = truth(x[:, 0]).double()
    p = (r[rows[:, 0]] - r[rows[:, 1]]).sigmoid()
    drawn = torch.rand(count, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64) < p
    return pairs_of(rows, p if share else drawn, p), x


def test_three_thousand_pairs_are_explained_as_well_as_they_can_be() -> None:
    """Judged on 20,000 fresh pairs by the annotator's own odds: accuracy within .01 of E max(q, 1 - q), log loss within .02 of
    the entropy, and the score itself within .4 nats (root mean square over the base, up to its constant)."""
    pairs, x = labelled(3000, 0)
    how = RewardModel(members=2, updates=300, batch=256, lr=5e-3)
    ensemble, parts = fit(pairs, x, torch.zeros(len(x), dtype=torch.long), how, conditions=1, seed=0, runtime=CPU)
    assert (len(parts.train), len(parts.held_out)) == (2400, 600)
    fresh, fx = labelled(20_000, 7, share=True)
    zero, rows = torch.zeros(len(fx), dtype=torch.long), torch.arange(len(fresh))
    with torch.no_grad():
        score = ensemble(fx, zero).mean(0)
    q, p = (score[fresh.rows[:, 0]] - score[fresh.rows[:, 1]]).sigmoid(), fresh.probability
    accuracy = torch.where(q > 0.5, p, 1 - p).mean().item()
    figures = judged(ensemble, fresh, fx, zero, rows)
    assert accuracy > figures["best_accuracy"] - 0.01
    assert figures["best_accuracy"] == pytest.approx(0.782, abs=0.005)  # the same integral on a grid
    assert 0 < figures["log_loss"] - figures["entropy"] < 0.02
    off = score - truth(fx[:, 0])
    assert off.std().item() < 0.4


def test_a_reward_that_says_nothing_is_learned_as_nothing() -> None:
    """Coin flips: members are kept as they were when they explained pairs outside their bootstrap, near no opinion at all."""
    pairs, x = labelled(60, 3)
    coins = torch.rand(60, generator=torch.Generator().manual_seed(5)) < 0.5
    how = RewardModel(members=2, updates=300, lr=1e-2)
    ensemble, _ = fit(
        pairs_of(pairs.rows, coins), x, torch.zeros(120, dtype=torch.long), how, conditions=1, seed=0, runtime=CPU
    )
    fresh, fx = labelled(2000, 9)
    even = pairs_of(fresh.rows, torch.full((2000,), 0.5))
    loss = judged(ensemble, even, fx, torch.zeros(len(fx), dtype=torch.long), torch.arange(2000))["log_loss"]
    assert math.log(2) <= loss < math.log(2) + 0.05


def test_no_sample_is_on_both_sides() -> None:
    """Disjoint pairs lose none; chains of pairs stay together; where all samples hang together the pairs between are left out."""
    disjoint = torch.arange(400).reshape(-1, 2)
    chains = torch.tensor([[5 * k + i, 5 * k + i + 1] for k in range(40) for i in range(4)])
    g = torch.Generator().manual_seed(0)
    tangled = torch.randint(100, (2000, 2), generator=g)
    tangled = tangled[tangled[:, 0] != tangled[:, 1]]
    for rows, lost in ((disjoint, False), (chains, False), (tangled, True)):
        parts = split(rows, 0.2, 1)
        train, held = (set(rows[part].flatten().tolist()) for part in parts)
        assert not train & held
        assert (len(parts.train) + len(parts.held_out) < len(rows)) == lost
        assert 0.1 < len(parts.held_out) / len(rows) < 0.3
        assert not torch.equal(split(rows, 0.2, 2).held_out, parts.held_out)
    with pytest.raises(ValueError, match=r"2 pairs of 3 samples leave none to fit or none to judge by"):
        split(torch.tensor([[0, 1], [1, 2]]), 0.2, 0)


class Fixed(torch.nn.Module):
    """Scores given by the sample itself, an output a condition."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_tie_is_half_a_vote_for_each() -> None:
    """-s log sigmoid(d) - (1 - s) log sigmoid(-d), by hand; the output is that of the pair's condition."""
    x = torch.tensor([[0.0, 2.0], [1.0, -1.0]])
    data = Data(x, torch.tensor([0, 0]), torch.tensor([[0, 1]] * 3), torch.tensor([1.0, 0.5, 0.0]))
    ensemble = Ensemble(shape=(2,), members=1, conditions=2)
    module = BradleyTerry(ensemble, data, torch.tensor([[0, 1, 2]]), 1, 1e-3, 0.0)
    up, down = math.log1p(math.exp(1)), math.log1p(math.exp(-1))  # d = -1 under condition 0
    for pair, value in enumerate((up, (up + down) / 2, down)):
        assert module.of(Fixed(), torch.tensor([pair])).item() == pytest.approx(value, rel=1e-6)
    other = BradleyTerry(ensemble, data._replace(cond=torch.tensor([1, 1])), torch.tensor([[0]]), 1, 1e-3, 0.0)
    assert other.of(Fixed(), torch.tensor([0])).item() == pytest.approx(math.log1p(math.exp(-3)), rel=1e-6)


def test_figures_by_hand() -> None:
    """Confidences .9, .9, .6, of which the right ones are 1 of 2 and 1 of 1: ECE (2 x .4 + 1 x .4) / 3. A tie has no right side,
    and its log loss is the mean of both."""
    found = reliability(torch.tensor([0.9, 0.9, 0.6]).double(), torch.tensor([1.0, 0.0, 1.0]).double())
    assert found["ece"] == pytest.approx(0.4)
    assert [(row["accuracy"], row["pairs"]) for row in found["reliability"]] == [(1.0, 1), (0.5, 2)]
    ensemble = Ensemble(shape=(1,), members=2)
    ensemble.members = torch.nn.ModuleList([torch.nn.Linear(1, 1, bias=False) for _ in range(2)])
    with torch.no_grad():
        for member, slope in zip(ensemble.members, (1.0, 3.0), strict=True):
            member.weight.fill_(slope)
    x, rows = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0, 1], [2, 1], [0, 2]])
    figures = judged(
        ensemble, pairs_of(rows, torch.tensor([0.0, 0.0, 0.5])), x, torch.zeros(3, dtype=torch.long), torch.arange(3)
    )
    # mean slope 2: odds -2 (right), 4 (wrong), -6 (a tie)
    softplus = [math.log1p(math.exp(v)) for v in (-2, 4, -6, 6)]
    assert figures["accuracy"] == 0.5
    assert figures["ties"] == 1
    assert figures["log_loss"] == pytest.approx(
        (softplus[0] + softplus[1] + (softplus[2] + softplus[3]) / 2) / 3, rel=1e-6
    )
    assert figures["disagreement"] == pytest.approx(math.sqrt(2) * (0 + 1 + 3) / 3, rel=1e-6)
    assert "best_accuracy" not in figures


def test_a_constant_of_a_condition_is_taken_away() -> None:
    ensemble = Ensemble(shape=(2,), members=3, conditions=2)
    x, cond = torch.randn(50, 2), torch.arange(50) % 2
    ensemble.centre_on(x, cond)
    score = ensemble(x, cond)
    before = score.clone()
    for c in (0, 1):
        torch.testing.assert_close(score[:, cond == c].mean(1), torch.zeros(3), rtol=0, atol=1e-5)
    with torch.no_grad():
        for member in ensemble.members:
            member[-1].bias += torch.tensor([5.0, -7.0])  # type: ignore[index, operator, union-attr]
    ensemble.centre_on(x, cond)
    torch.testing.assert_close(ensemble(x, cond), before, rtol=0, atol=1e-5)


def test_the_simulated_annotator_answers_with_its_own_odds(tmp_path: Any) -> None:
    """The odds that it says are those of r / T, and its answers are as frequent (three standard errors); a sitting that goes on
    answers what one sitting would have."""
    r = 0.1 * torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    asked, names = questions(torch.zeros(4000, dtype=torch.long), None, str, 0), [f"s.pt:{row}" for row in range(4000)]

    def sit(path: Any, open_: Any, answered: int) -> list[dict[str, Any]]:
        file = PairFile(path)
        Simulated(temperature=0.1).answer(Sitting(open_, answered, file, names, lambda row: b"", lambda: r, 3))
        return file.records()

    whole = sit(tmp_path / "a", asked, 0)
    p = torch.tensor([record["probability"] for record in whole], dtype=torch.float64)
    first, second = ([int(record[side].split(":")[1]) for record in whole] for side in ("first", "second"))
    torch.testing.assert_close(p, 1 / (1 + (-(r[first] - r[second]) / 0.1).exp()))
    won = torch.tensor([record["winner"] == "first" for record in whole]).double()
    assert abs((won - p).mean().item()) < 3 * (p * (1 - p)).mean().sqrt().item() / len(p) ** 0.5
    assert (
        abs(((won - p) * (p - 0.5)).mean().item())
        < 3 * (p * (1 - p) * (p - 0.5) ** 2).mean().sqrt().item() / len(p) ** 0.5
    )
    sit(tmp_path / "b", asked[:700], 0)
    assert sit(tmp_path / "b", asked[700:], 700) == whole
    with pytest.raises(ValueError, match=r"temperature is 0.0; it must be above 0"):
        Simulated(temperature=0.0)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [({"members": 0}, "members is 0"), ({"held_out": 1.0}, "held_out is 1.0"), ({"pairs": ()}, "pairs names no file")],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        RewardModel(**wrong)


def test_pairs_number_their_samples_in_order_of_appearance() -> None:
    a, b, c = (Row(Path("s.pt"), i) for i in (9, 4, 7))
    pairs = Pairs.of([Answer(a, b, 1.0), Answer(c, a, 0.0)], "it")
    assert pairs.sources == (a, b, c)
    assert pairs.rows.tolist() == [[0, 1], [2, 0]]
