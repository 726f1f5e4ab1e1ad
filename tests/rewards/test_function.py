"""Rewards that are plain functions or metrics: what they are given, what they may return, and what is said where they do not."""

from __future__ import annotations

import functools
import math
import re
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
import torchmetrics
from PIL import Image
from rdkit import Chem
from torch import Tensor

from pgdlab.diffusion.conditioning import ClassLabels, Conditioning, NoLabels
from pgdlab.molecules.batch import Molecules
from pgdlab.rewards.base import Outcome, Score, ShapeError
from pgdlab.rewards.combine import Sum
from pgdlab.rewards.function import Function, as_reward, record
from pgdlab.rewards.guard import guarded
from tests.worlds import Bright

COND = torch.tensor([0, 1, 2])
IMAGES = torch.stack([torch.full((1, 2, 2), level) for level in (0.0, 0.5, 1.0)])


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a user's run: without the checks of annotations that tests have."""
    monkeypatch.setitem(jaxtyping.config.__dict__, "jaxtyping_disable", True)


def scores(
    function: Any, sample: Any = IMAGES, cond: Tensor = COND, told: Conditioning | None = None, **how: Any
) -> Any:
    """What a reward of the function is worth, and what failed."""
    reward = Function(function=function, **how)
    if told is not None:
        reward.meet(told)
    return guarded(reward, Outcome(sample, cond, 2), 0.7)


RETURNS = {
    "a list of floats": lambda x: [0.25, 0.5, 1.0],
    "a tuple": lambda x: (0.25, 0.5, 1.0),
    "numpy": lambda x: np.array([0.25, 0.5, 1.0]),
    "numpy of float32": lambda x: np.array([0.25, 0.5, 1.0], dtype=np.float32),
    "a list of numpy's numbers": lambda x: list(np.array([0.25, 0.5, 1.0])),
    "a tensor": lambda x: torch.tensor([0.25, 0.5, 1.0]),
    "a tensor with a gradient": lambda x: torch.tensor([0.25, 0.5, 1.0], requires_grad=True) * 1,
    "a list of tensors": lambda x: [torch.tensor(0.25), torch.tensor(0.5), torch.tensor(1.0)],
    "a Score": lambda x: Score.of(torch.tensor([0.25, 0.5, 1.0])),
}


@pytest.mark.parametrize("kind", RETURNS)
def test_scores_are_taken_as_they_come(kind: str) -> None:
    paid = scores(lambda samples, prompts: RETURNS[kind](samples))
    assert paid.values.tolist() == [[0, 0.25], [0, 0.5], [0, 1]]
    assert paid.measured.all()


@pytest.mark.parametrize("given", [[1, 2, 3], [True, False, True], np.array([1, 2, 3]), torch.tensor([1, 2, 3])])
def test_whole_numbers_and_truth_values_are_numbers(given: Any) -> None:
    assert scores(lambda samples, prompts: given).total.tolist() == [float(x) for x in given]


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_what_could_not_be_scored_is_counted(bad: Any) -> None:
    paid = scores(lambda samples, prompts: [1.0, bad, 3.0])
    assert paid.measured.tolist() == [True, False, True]
    assert paid.total.tolist() == [1, 0, 3]


WRONG = {
    "returned nothing: return": None,
    "returned a str": "1",
    "returned a dict": {"score": 1},
    "of shape (3, 1), expected (3,): leave the last": np.ones((3, 1)),
    "values of shape (2,), expected (3,)": [1.0, 2.0],
    "values of shape (), expected (3,)": 1.0,
    "returned complex values": np.array([1j, 2, 3]),
    "complex values: take": [1j, 2, 3],
    "returned a list of <U1, which are no numbers": ["1", "2", "3"],
    "scores that are no numbers": [[1.0], [1.0, 2.0], 3.0],
    "of object, which are no numbers": [object()] * 3,
}


@pytest.mark.parametrize("said", WRONG)
def test_what_is_no_score_a_sample_is_named_at_the_first_call(said: str) -> None:
    calls: list[int] = []

    def odd(samples: Tensor, prompts: list[Any]) -> Any:
        calls.append(len(samples))
        return WRONG[said]

    with pytest.raises(ShapeError, match=f"reward test_\\S+odd .*{re.escape(said)}"):
        scores(odd)
    assert calls == [3]


def test_images_are_handed_out_as_tensors_or_as_pictures() -> None:
    seen: list[Any] = []
    scores(lambda samples, prompts: seen.append(samples) or [0.0] * 3)
    assert torch.equal(seen[0], IMAGES)
    colours = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 3, 1, 1).expand(3, 3, 2, 4)
    for sample, mode in ((IMAGES, "L"), (colours, "RGB")):
        seen.clear()
        scores(lambda samples, prompts: seen.extend(samples) or [0.0] * 3, sample, images="pil")
        assert [(type(x), x.mode) for x in seen] == [(Image.Image, mode)] * 3
    assert seen[0].size == (4, 2)
    assert seen[0].getpixel((3, 1)) == (0, 128, 255)


@pytest.mark.parametrize(
    "sample", [torch.zeros(3, 2), torch.zeros(3, 4, 2, 2), Molecules.from_smiles(["C", "CC", "O"])]
)
def test_pictures_of_what_are_no_images_are_refused(sample: Any) -> None:
    with pytest.raises(ShapeError, match="images is pil, but the samples"):
        scores(lambda samples, prompts: [0.0] * 3, sample, images="pil")


def test_molecules_are_handed_out_as_rdkits_and_invalid_ones_as_none() -> None:
    seen: list[Any] = []
    sample = Molecules.from_smiles(["CCO", "C.C", "C"])
    scores(lambda samples, prompts: seen.extend(samples) or [0.0] * 3, sample)
    assert [x and Chem.MolToSmiles(x) for x in seen] == ["CCO", None, "C"]
    seen[0].SetProp("mine", "1")
    assert not sample[0].mol.HasProp("mine"), "it is a copy"


class Words(NoLabels):
    def __init__(self) -> None:
        super().__init__(2, ("a cat", "a dog", ""))


@pytest.mark.parametrize(
    ("told", "prompts"),
    [(None, [0, 1, 2]), (Words(), ["a cat", "a dog", ""]), (ClassLabels(2), [0, 1, None]), (ClassLabels(9), [0, 1, 2])],
)
def test_prompts_are_texts_or_numbers_and_none_for_no_condition(told: Any, prompts: list[Any]) -> None:
    seen: list[Any] = []
    scores(lambda samples, some: seen.extend(some) or [0.0] * 3, told=told)
    assert seen == prompts


def test_samples_go_in_batches() -> None:
    sizes: list[int] = []
    paid = scores(lambda samples, prompts: sizes.append(len(prompts)) or samples.flatten(1).mean(1), batch=2)
    assert sizes == [2, 1]
    assert paid.total.tolist() == [0, 0.5, 1]


class Ink(torchmetrics.Metric):
    """Mean over all samples that were seen since the reset."""

    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, image: Tensor) -> None:
        self.total += image.mean()
        self.count += 1

    def compute(self) -> Tensor:
        return self.total / self.count


class Error(Ink):
    higher_is_better = False


class Matches(Ink):
    def update(self, image: Tensor, prompts: list[str]) -> None:
        self.total += float(prompts == ["a dog"])
        self.count += 1


def test_a_metric_scores_one_sample_at_a_time() -> None:
    """As accumulated ones, the values would be 0, .25 and .5; nor does what it has seen before count."""
    used = Ink()
    used.update(torch.ones(1, 1, 8, 8))
    assert scores(used).total.tolist() == scores(Ink()).total.tolist() == [0, 0.5, 1]
    assert scores(Matches(), told=Words()).total.tolist() == [0, 1, 0]


def method(self: Any, samples: Any, prompts: Any) -> list[float]:
    return [0.0]


NO_FUNCTIONS = {
    "its own are \\['samples'\\]": lambda samples: samples,
    "its own are \\['a', 'b', 'c'\\]": lambda a, b, c: a,
    "is a class; give an object": Bright,
    "is no reward: it must be a function": 3,
    "is better where it is lower": Error(),
}


@pytest.mark.parametrize("said", NO_FUNCTIONS)
def test_what_cannot_be_called_so_is_refused_before_it_is(said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Function(function=NO_FUNCTIONS[said])


@pytest.mark.parametrize("fits", [lambda a, b, c=1: a, lambda *all: all, functools.partial(method, None), max])
def test_whatever_takes_two_arguments_is_a_function(fits: Any) -> None:
    assert Function(function=fits).arity == 2


def test_a_reward_stays_what_it_is() -> None:
    bright = Bright()
    assert as_reward(bright) is bright
    with pytest.raises(ValueError, match="images is for functions"):
        as_reward(bright, "pil")
    assert record(bright)["recorded"] == "Bright of tests.worlds"


FILE = """
import beside

def mine(samples, prompts):
    return samples.flatten(1).mean(1) + beside.MORE

class Judge:
    def score(samples, prompts):
        return [beside.MORE] * len(prompts)
"""


def test_a_function_is_found_in_a_file_and_in_a_module(tmp_path: Path) -> None:
    (tmp_path / "my file.py").write_text(FILE)
    (tmp_path / "beside.py").write_text("MORE = 2")
    assert scores(f"{tmp_path}/my file.py:mine").total.tolist() == [2, 2.5, 3]
    assert scores(f"{tmp_path}/my file.py:Judge.score").total.tolist() == [2, 2, 2]
    assert Function(function="tests.rewards.test_function:plain").called == "plain"
    both = Sum(rewards={"a": Function(function=f"{tmp_path}/my file.py:mine"), "b": Function(function=plain)})
    assert guarded(both, Outcome(IMAGES, COND, 2), 0.0).total.tolist() == [3, 3.5, 4]


def test_a_differentiable_function_keeps_its_gradient() -> None:
    """d mean(x^2) / dx = 2 x / N; without the word the scores are cut off."""
    x = torch.rand(3, 1, 2, 2, requires_grad=True)
    own = Function(function=lambda samples, prompts: samples.square().flatten(1).mean(1), differentiable=True)
    (slope,) = torch.autograd.grad(own.scored(x, COND).value.sum(), x)
    torch.testing.assert_close(slope, x.detach() / 2)
    assert own.differentiable
    assert record(own)["differentiable"]
    other = Function(function=own.function)
    assert not other.scored(x, COND).value.requires_grad
    assert not other.differentiable


@pytest.mark.parametrize("extra", [{"images": "pil"}, {"function": torchmetrics.MeanMetric()}], ids=["pil", "metric"])
def test_what_carries_no_gradient_is_not_differentiable(extra: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no gradient: give a function of tensors"):
        Function(**{"function": plain, "differentiable": True, **extra})


def test_a_file_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "again.py"
    for value in (1, 22):
        file.write_text(f"def f(samples, prompts):\n    return [{value}] * len(prompts)\n")
        assert scores(f"{file}:f").total.tolist() == [value] * 3


def plain(samples: Tensor, prompts: list[Any]) -> list[float]:
    return [1.0] * len(prompts)


BROKEN = {
    "must be file.py:name or module:name": "mine.py",
    "there is no file": "nowhere.py:f",
    "the module nowhere_at_all cannot be imported: ModuleNotFoundError": "nowhere_at_all:f",
    "has no g; it has f": "{0}/fine.py:g",
    r"cannot be executed: SystemExit\(1\)": "{0}/ends.py:f",
    r"cannot be executed: SyntaxError": "{0}/typo.py:f",
}


@pytest.mark.parametrize("said", BROKEN)
def test_a_function_that_is_not_there_is_a_sentence(said: str, tmp_path: Path) -> None:
    (tmp_path / "fine.py").write_text("def f(samples, prompts): return [0]")
    (tmp_path / "ends.py").write_text("import sys\nsys.exit(1)")
    (tmp_path / "typo.py").write_text("def f(:")
    with pytest.raises(ValueError, match=said):
        Function(function=BROKEN[said].format(tmp_path))


def test_a_function_of_which_only_the_name_is_left_asks_for_it() -> None:
    stub = Function(recorded="mine of __main__")
    assert stub.called == "mine"
    with pytest.raises(ShapeError, match=r"the function mine of __main__.*give it again"):
        guarded(stub, Outcome(IMAGES, COND, 2), 1.0)
    with pytest.raises(ValueError, match=r"function is missing: reward.function=my_file.py:my_reward"):
        Function()
    with pytest.raises(ValueError, match=r"batch is 2; it must be .* 0 for a function that compares"):
        Function(function=plain, batch=2, compares=True)
