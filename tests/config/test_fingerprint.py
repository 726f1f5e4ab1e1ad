"""Functions that are known again: by what they do, not by what is said beside it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgdlab.config.fingerprint import digest, named
from pgdlab.rewards.function import Function, resolved

SOURCE = """
def f(samples, prompts):
    return [1.0] * len(prompts)
class Judge:
    def __call__(self, samples, prompts):
        return self.score(samples)
    def score(self, samples):
        return [1.0] * len(samples)
judge = Judge()
"""
SAID = """
def other(): ...
def f(samples, prompts):
    '''What it does.'''
    # one each
    return [1.0] * len(
        prompts)
class Judge:
    '''It judges.'''
    def __call__(self, samples, prompts): return self.score(samples)  # all
    def score(self, samples): return [1.0] * len(samples)
judge = Judge()
"""


def of(tmp_path: Path, source: str, name: str, file: str = "mine.py") -> str | None:
    (tmp_path / file).write_text(source)
    return digest(resolved(f"{tmp_path / file}:{name}"))


@pytest.mark.parametrize("name", ["f", "judge", "judge.score"])
def test_what_is_said_beside_it_does_not_count_and_what_it_does_counts(name: str, tmp_path: Path) -> None:
    first = of(tmp_path, SOURCE, name)
    assert first is not None
    assert of(tmp_path, SAID, name, "another.py") == first
    assert of(tmp_path, SOURCE.replace("1.0", "1.5"), name) != first


@pytest.mark.parametrize("name", ["f", "Judge.score"])
def test_a_name_is_known_without_executing_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.py"
    known = of(tmp_path, SOURCE, name)
    file.write_text(SOURCE + "raise SystemExit")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert named(f"{file}:{name}") == named(f"mine:{name}") == known
    assert named(f"{file}:judge") is named("nowhere:f") is named(f"{file}:g") is None


def scaled(weight: Any) -> Callable[[Any, list[Any]], list[float]]:
    return lambda samples, prompts: [weight] * len(prompts)


def counted() -> Callable[[Any, list[Any]], list[float]]:
    calls = 0

    def count(samples: Any, prompts: list[Any]) -> list[float]:
        nonlocal calls
        calls += 1
        return [1.0] * len(prompts)

    return count


def test_the_numbers_that_it_was_made_with_count() -> None:
    assert digest(scaled(1)) == digest(scaled(1))
    assert len({digest(scaled(weight)) for weight in (1, 2, "a", "b")}) == 4
    loop = [lambda samples, prompts, k=k: [k] * len(prompts) for k in (1, 2)]
    assert digest(loop[0]) != digest(loop[1])
    assert digest(functools.partial(max, 1)) != digest(functools.partial(max, 2))
    count = counted()
    before = digest(count)
    count([], [])
    assert digest(count) == before


def test_without_a_source_the_bytecode_tells() -> None:
    space: dict[str, Any] = {}
    exec("a = lambda s, p: [1.0]\nb = lambda s, p: [2.0]\nc = lambda s, p: [1.0]", space)
    assert digest(space["a"]) == digest(space["c"]) != digest(space["b"])
    one, two = (lambda s, p: [1.0], lambda s, p: [2.0])
    assert digest(one) != digest(two), "two of a line"


def test_a_library_s_has_none() -> None:
    assert digest(max) is None
    assert digest(functools.reduce) is None
    assert Function(function=max).digest is None
