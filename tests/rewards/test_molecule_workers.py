"""Worker processes: calls that raise, hang and crash cost their molecule only; work that begins ahead."""

import gc
import multiprocessing
import os
import time
from dataclasses import replace

import pytest
import torch

from pgdlab.rewards.base import Outcome, Prefetch, RewardError, Score
from pgdlab.rewards.guard import guarded
from pgdlab.rewards.molecule.energy import Strain
from pgdlab.rewards.molecule.workers import Workers
from pgdlab.trainers.reinforce import Reinforce
from tests.rewards.oracles import Plain, Process, Treacherous, Unborn
from tests.rewards.test_molecule_memory import batch
from tests.tiny import tiny_policy, tiny_world


@pytest.fixture
def made():
    """Makes Workers, and ends them after the test."""
    every = []

    def make(reward, **options):
        every.append(Workers(reward=reward, **options))
        return every[-1]

    yield make
    for workers in every:
        workers.retire()


def test_hanging_crashing_and_raising_calls_cost_their_molecule_only(made):
    """C raises, N sleeps for ten minutes, O leaves, F aborts, CC is NaN; the others come in their order."""
    workers = made(Treacherous(), workers=2, seconds=1.0)
    molecules, cond = batch("CCC", "C", "N", "O", "bad", "CCCC", "F", "CC", "CCO", "CCC")
    begun = time.perf_counter()
    with pytest.warns(RuntimeWarning, match="Workers failed on C: RuntimeError"):
        score = workers.score(molecules, cond)
    assert time.perf_counter() - begun < 60
    assert score.value.tolist() == [0.3, 0.0, 0.0, 0.0, 0.0, 0.4, 0.0, 0.0, 0.3, 0.3]
    assert score.measured.tolist() == [True, False, False, False, True, True, False, False, True, True]
    assert workers.cache_misses == 8
    # the workers that died were replaced, and nothing is asked twice
    assert workers.score(*batch("CCCCC", "CCCCCC")).value.tolist() == [0.5, 0.6]
    begun = time.perf_counter()
    torch.testing.assert_close(workers.score(molecules, cond).value, score.value)
    assert (time.perf_counter() - begun, workers.cache_misses) < (0.5, 11)


def test_many_crashes_in_a_row_do_not_end_the_pool(made):
    workers = made(Treacherous(), workers=1, seconds=5.0)
    with pytest.warns(RuntimeWarning):
        score = workers.score(*batch("O", "F", "CCC"))
    assert score.measured.tolist() == [False, False, True]


def test_they_are_other_processes_and_as_many_as_asked_for(made, tmp_path):
    workers = made(Process(file=tmp_path / "calls"), workers=2)
    who = workers.score(*batch(*("C" * n for n in range(1, 30)))).parts["atoms"]
    assert os.getpid() not in who
    assert 1 <= len(set(who.tolist())) <= 2
    assert {line.split()[1] for line in (tmp_path / "calls").read_text().splitlines()} == {"1"}


def test_what_is_prepared_is_begun_at_once_and_computed_once(made, tmp_path):
    file = tmp_path / "calls"
    workers = made(Process(file=file), workers=1)
    molecules, cond = batch("CC", "bad", "C", "CC")
    workers.submit(molecules, cond)
    patience = time.perf_counter() + 60
    while not (file.exists() and len(file.read_text().splitlines()) == 2):
        assert time.perf_counter() < patience, "nothing was begun"
        time.sleep(0.05)
    assert workers.cache_misses == 0
    assert workers.score(molecules, cond).measured.all()
    workers.submit(molecules, cond)  # remembered: nothing to do
    assert not workers.pending
    assert workers.cache_misses == len(file.read_text().splitlines()) == 2


def test_processes_that_cannot_begin_are_given_up_and_hang_nothing(made):
    """The first error is in the message of the run's, and what follows is not tried again."""
    workers = made(Unborn(), workers=1, seconds=5.0)
    molecules, cond = batch("C", "CC", "CCC", "CCCC")
    begun = time.perf_counter()
    with pytest.raises(RewardError, match="die before their first molecule"):
        guarded(workers, Outcome(molecules, cond, 1), max_failed=0.25)
    assert time.perf_counter() - begun < 60


def test_they_end_with_the_reward():
    workers = Workers(reward=Plain(), workers=1)
    workers.score(*batch("C"))
    own = [p for p in multiprocessing.active_children() if "pebble" in p.name]
    assert own
    del workers
    gc.collect()
    assert not [p for p in own if p.is_alive()]


def test_the_value_and_the_part_are_the_rewards(made):
    inner = Strain(scale=3.0)
    here, there = inner.score(*batch("C1CC1", "CCO")), made(inner, workers=1).score(*batch("C1CC1", "CCO"))
    torch.testing.assert_close(here.value, there.value)
    torch.testing.assert_close(here.parts["strain"], there.parts["strain"])


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"seconds": 0.0}])
def test_no_workers_and_no_time_are_refused(wrong):
    with pytest.raises(ValueError, match="workers is"):
        Workers(reward=Plain(), **wrong)


class Diary(Prefetch):
    """Notes when it is shown and asked what."""

    def __init__(self):
        super().__init__()
        self.notes = []

    def submit(self, sample, cond):
        self.notes.append(("submit", sample))

    def score(self, sample, cond):
        self.notes.append(("score", sample))
        return Score.of(sample.sum(1))


def test_a_rollout_shows_each_batch_before_it_samples_the_next():
    """8 samples in batches of 3: the third batch is shown before scoring; together they are what is scored. The denoiser's
    row count at the first showing is that of one batch."""
    world = tiny_world(tiny_policy(), samples=8, group=4, rollout_batch=3)
    diary, rows = Diary(), []
    world = replace(world, reward=diary)
    note = diary.submit
    diary.submit = lambda sample, cond: (rows.append(world.policy.denoiser.rows), note(sample, cond))
    Reinforce().collect(world, 0)
    kinds, samples = zip(*diary.notes, strict=True)
    assert kinds == ("submit", "submit", "submit", "score")
    assert [len(x) for x in samples] == [3, 3, 2, 8]
    torch.testing.assert_close(torch.cat(samples[:3]), samples[3])
    assert rows[0] < rows[1] < rows[2]
