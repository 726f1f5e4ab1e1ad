"""A reward in a thread: the figures, failures and precision of the reward by itself; it works while the policy samples."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pgdlab.config.compose import compose
from pgdlab.rewards.base import Outcome, Reward, RewardError, Score, StepRewards
from pgdlab.rewards.dense import EveryStep
from pgdlab.rewards.function import Function
from pgdlab.rewards.guard import guarded
from pgdlab.rewards.overlapped import Overlapped
from pgdlab.rollout.offload import refuse_offloading
from pgdlab.trainers.reinforce import Reinforce
from pgdlab.training.build import build_world
from tests.tiny import tiny_policy, tiny_world
from tests.worlds import equal, fitted, tiny


class Judge(Reward):
    """A fixed network, `batch` samples at a time, which raises for a batch with a first number above the limit. asked: the thread
    and the rows of every call."""

    def __init__(self, *, batch: int = 3, limit: float = 9.0, size: int = 64) -> None:
        super().__init__()
        self.batch, self.limit, self.asked = batch, limit, list[tuple[int, int]]()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Linear(size, 32), nn.Tanh(), nn.Linear(32, 1)).requires_grad_(False)

    def score(self, sample: Tensor, cond: Tensor) -> Score:
        self.asked.append((threading.get_ident(), len(cond)))
        if (sample.flatten(1)[:, 0] > self.limit).any():
            raise OSError("a pixel is too bright")
        value = self.network(sample.flatten(1))[:, 0]
        return Score.of(value.double(), half=torch.full_like(value, value.dtype == torch.bfloat16))


def samples(count: int = 8) -> Outcome:
    drawn = torch.randn(count, 64, generator=torch.Generator().manual_seed(1))
    return Outcome(drawn, torch.arange(count) % 2, steps=4)


def in_parts(reward: Overlapped, outcome: Outcome, size: int = 2) -> None:
    """As a rollout in batches of that size shows them."""
    for start in range(0, len(outcome), size):
        rows = outcome.rows(start, start + size)
        reward.submit(rows.sample, rows.cond)


def alike(a: StepRewards, b: StepRewards) -> bool:
    """To the bit."""
    one, other = ({"values": p.values, "initial": p.initial, "measured": p.measured, **p.parts} for p in (a, b))
    same = [torch.allclose(x, other[name], rtol=0, atol=0, equal_nan=True) for name, x in one.items()]
    return one.keys() == other.keys() and all(same) and a.queries == b.queries


def test_the_figures_are_the_same(tmp_path: Path) -> None:
    """Eight samples in batches of two, scored three at a time, in two iterations: every sample is asked for once."""
    judge = "{_target_: tests.rewards.test_overlapped.Judge}"
    words = ("heldout=null", "trainer=ppo", "plan.rollout_batch=2")
    plain = fitted(tmp_path / "plain", f"reward={judge}", *words)
    other = fitted(
        tmp_path / "other", f"reward={{_target_: pgdlab.rewards.overlapped.Overlapped, reward: {judge}}}", *words
    )
    assert equal(other.weights[-1], plain.weights[-1])
    for a, b in zip(other.history, plain.history, strict=True):
        assert {k: v for k, v in a.items() if "seconds" not in k} == {k: v for k, v in b.items() if "seconds" not in k}
    asked: Any = other.world.reward.reward.asked  # type: ignore[union-attr]
    assert [rows for _, rows in asked] == [3, 3, 2] * 2
    assert len({thread for thread, _ in asked} - {threading.get_ident()}) == len({thread for thread, _ in asked}) == 1


def test_it_works_while_the_next_batch_is_sampled() -> None:
    """Its first answer waits until the policy has been asked again since it began."""
    world = tiny_world(tiny_policy(), samples=8, group=4, rollout_batch=4)
    denoiser: Any = world.policy.denoiser
    seen: list[bool] = []

    class Waiting(Judge):
        def score(self, sample: Tensor, cond: Tensor) -> Score:
            began, late = denoiser.rows, time.monotonic() + 5
            while not seen and denoiser.rows == began and time.monotonic() < late:
                time.sleep(0.001)
            seen.append(denoiser.rows > began)
            return Score.of(sample.flatten(1).sum(1))

    Reinforce().collect(replace(world, reward=Overlapped(reward=Waiting())), 0)
    assert seen[0]


@pytest.mark.parametrize("limit", [9.0, 0.7, -9.0])
def test_what_fails_fails_as_it_would_by_itself(limit: float) -> None:
    """Nothing, the samples at fault alone, or all, with the same words and the same count of what was asked."""
    outcome, plain, other = samples(), Judge(limit=limit), Overlapped(reward=Judge(limit=limit))
    in_parts(other, outcome)
    if limit == -9.0:
        with pytest.raises(RewardError) as one:
            guarded(plain, outcome, 0.5)
        with pytest.raises(RewardError) as two:
            guarded(other, outcome, 0.5)
        assert str(one.value) == str(two.value)
        assert "reward Judge failed" in str(one.value)
        return
    alone, ahead = guarded(plain, outcome, 0.5), guarded(other, outcome, 0.5)
    assert int((~alone.measured).sum()) == int((outcome.sample[:, 0] > limit).sum()) == (limit < 9)
    assert alike(ahead, alone)


def test_the_precision_is_the_run_s() -> None:
    """Autocast is each thread's own."""
    outcome, other = samples(), Overlapped(reward=Judge())
    found = []
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            in_parts(other, outcome)
            found.append(guarded(other, outcome, 0.0))
            assert alike(found[-1], guarded(Judge(), outcome, 0.0))
    assert [bool(f.parts["half"].all()) for f in found] == [True, False]


def test_samples_that_were_not_shown_are_scored() -> None:
    """Others than those that were begun, and the same in another order; nothing of an earlier iteration is left."""
    shown, outcome, other = samples(), samples(7).some([6, 1, 4, 0, 2]), Overlapped(reward=Judge())
    in_parts(other, shown)
    assert alike(guarded(other, outcome, 0.0), guarded(Judge(), outcome, 0.0))
    assert other.left == other.begun == []
    in_parts(other, shown)
    assert alike(guarded(other, shown, 0.0), guarded(Judge(), shown, 0.0))


def test_what_cannot_begin_early_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reward Judge is asked for all samples at once, .* set its batch"):
        Overlapped(reward=Judge(batch=0))
    dense = EveryStep(reward=Judge())
    dense.batch = 2
    with pytest.raises(ValueError, match=r"reward EveryStep is asked for all samples at once"):
        Overlapped(reward=dense)
    with pytest.raises(ValueError, match=r"reward Judge begins early by itself: take it out of Overlapped"):
        Overlapped(reward=Overlapped(reward=Judge()))
    refuse_offloading(torch.device("cuda"), overlapped=False)
    with pytest.raises(ValueError, match=r"plan\.offload is true, but the reward is Overlapped"):
        refuse_offloading(torch.device("cuda"), overlapped=True)


def test_the_option_of_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of one's own."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def dark(samples, prompts):\n    return -samples.mean((1, 2, 3))\n")
    sizes = ("plan.pass_size=2", "plan.rollout_batch=2", "heldout=null")
    world = build_world(compose(tiny(*sizes, "reward=overlapped", "reward.reward.function=mine.py:dark")))
    assert isinstance(world.reward, Overlapped)
    assert isinstance(world.reward.reward, Function)
    assert world.reward.batch == 8
    image = torch.rand(10, 1, 8, 8)
    value = world.reward.scored(image, torch.zeros(10, dtype=torch.long)).value
    torch.testing.assert_close(value, -image.mean((1, 2, 3)))
