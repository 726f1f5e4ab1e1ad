"""Rewards of single molecules: 0 for invalid ones, memory, counts, order, failures."""

import warnings

import pytest
import torch
from rdkit import Chem

from pgdlab.molecules.batch import Molecules, examined
from pgdlab.rewards.base import Outcome
from pgdlab.rewards.combine import Gate, Sum
from pgdlab.rewards.dense import EveryStep
from pgdlab.rewards.guard import guarded
from pgdlab.training.fit import fit
from tests.rewards.oracles import Plain, Treacherous
from tests.worlds import fitted, graphs, recorder


def batch(*smiles):
    """Molecules and a condition for each; "bad" is a carbon with five bonds, "apart" two that are not bonded.
    Of any elements and charges: an oracle is asked what it knows, also where no sample can be such a molecule."""
    each = []
    for text in smiles:
        if text == "bad":
            bonds = torch.zeros(1, 3, 3, dtype=torch.long)
            bonds[0, 0, 1], bonds[0, 0, 2] = 3, 2
            each += Molecules.from_graphs(torch.zeros(1, 3, dtype=torch.long), bonds, torch.tensor([3]))
        elif text == "apart":
            two = torch.zeros(1, 2, 2, dtype=torch.long)
            each += Molecules.from_graphs(two[0, :1], two, torch.tensor([2]))
        else:
            each.append(examined(Chem.MolFromSmiles(text)))
    return Molecules(each), torch.zeros(len(each), dtype=torch.long)


def test_invalid_molecules_are_worth_0_and_measured_and_order_is_kept():
    molecules, cond = batch("CCC", "bad", "C", "apart", "CC")
    assert [m.reason for m in molecules] == [None, "valence", None, "disconnected", None]
    score = Plain().score(molecules, cond)
    assert score.value.tolist() == [0.3, 0.0, 0.1, 0.0, 0.2]
    assert score.measured.all()
    assert score.parts["atoms"].nan_to_num(-1).tolist() == [3.0, -1.0, 1.0, -1.0, 2.0]


def test_a_batch_without_valid_molecules_asks_nothing():
    reward = Plain()
    score = reward.score(*batch("bad", "apart"))
    assert score.value.tolist() == [0.0, 0.0]
    assert score.measured.all()
    assert reward.calls == []


def test_copies_and_remembered_molecules_are_asked_about_once():
    reward = Plain()
    reward.score(*batch("CCO", "OCC", "CC"))  # the first two are one molecule
    assert (reward.calls, reward.cache_misses) == (["CCO", "CC"], 2)
    assert reward.score(*batch("CC", "CCO", "bad", "CCC")).value.tolist() == [0.2, 0.3, 0.0, 0.3]
    assert (reward.calls, reward.cache_misses) == (["CCO", "CC", "CCC"], 3)


def test_what_was_used_longest_ago_is_forgotten_first():
    reward = Plain(remembered=2)
    reward.score(*batch("C", "CC"))
    reward.score(*batch("C"))  # used again: CC is now the oldest
    reward.score(*batch("CCC"))
    assert list(reward.answers) == ["C", "CCC"]
    reward.score(*batch("C"))
    assert reward.cache_misses == 3
    reward.score(*batch("CC"))
    assert reward.cache_misses == 4


def test_a_batch_may_be_larger_than_the_memory():
    reward = Plain(remembered=1)
    assert reward.score(*batch("C", "CC", "CCC", "CC")).value.tolist() == [0.1, 0.2, 0.3, 0.2]
    assert len(reward.answers) == 1
    with pytest.raises(ValueError, match="remembered is 0"):
        Plain(remembered=0)


def test_a_failing_oracle_is_not_measured_costs_its_molecule_only_and_is_shown_once():
    reward = Treacherous()
    with pytest.warns(RuntimeWarning, match="Treacherous failed on C: RuntimeError"):
        score = reward.score(*batch("C", "CCC", "CC", "bad"))
    assert score.value.tolist() == [0.0, 0.3, 0.0, 0.0]
    assert score.measured.tolist() == [False, True, False, True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not reward.score(*batch("C")).measured.any()
    assert reward.cache_misses == 3  # the failure is an answer, too


def test_a_failure_reaches_the_masks_of_training():
    molecules, cond = batch("CCC", "C", "bad", "CCCC")
    with pytest.warns(RuntimeWarning):
        paid = guarded(Treacherous(), Outcome(molecules, cond, steps=2), max_failed=0.25)
    assert paid.measured.tolist() == [True, False, True, True]
    assert paid.values[:, -1].tolist() == [0.3, 0.0, 0.0, 0.4]


def test_a_molecule_that_several_parts_look_at_counts_once():
    both = Sum(rewards={"one": Plain(), "two": Gate(reward=Plain(), gate=Plain(), threshold=0.15)})
    assert both.unique_queries() == 0
    both(Outcome(*batch("C", "CC", "CC"), steps=1))
    assert both.unique_queries() == 2
    steps = EveryStep(reward=Plain())
    molecules, cond = batch("CCCC")
    steps(Outcome(molecules, cond, 3, lambda h: batch("C" * (h % 2 + 1))[0]))
    assert steps.unique_queries() == 3  # the estimates CC (h = 1) and C (h = 2), and the sample


def test_unique_queries_are_logged_and_saved_and_evaluations_are_not_in_them(tmp_path):
    small = ["policy.steps=3", "plan.samples=8", "plan.group=2", "plan.iterations=3", "plan.eval_samples=4"]
    module = fitted(tmp_path, *graphs(), "reward=novel_valid", *small)
    seen = [row["unique_queries"] for row in module.history]
    assert 0 < seen[0] <= seen[1] <= seen[2] == module.world.reward.cache_misses
    assert all(count <= row["queries"] for count, row in zip(seen, module.history, strict=True))
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=False)["current_model_state"]
    assert float(saved["unique_queries"]) == seen[2]
    # a resumed run goes on from the saved count, and remembers nothing: half of its samples are single atoms, all valid
    resumed, cfg = recorder(*graphs(), "reward=novel_valid", *small, "plan.iterations=4")
    fit(resumed, cfg, tmp_path, done=3)
    assert resumed.history[0]["unique_queries"] == seen[2] + resumed.world.reward.cache_misses > seen[2]


def test_rewards_without_memory_log_no_count(tmp_path):
    small = ["policy.steps=3", "plan.samples=4", "plan.group=2", "plan.iterations=1", "plan.eval_samples=4"]
    assert "unique_queries" not in fitted(tmp_path, *graphs(), "reward=valid", *small).history[0]
