"""The list of mistakes fits the code (whether the tests notice them: `python tests/mutants.py`)."""

from __future__ import annotations

import ast

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant, applied


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.what)
def test_a_mistake_is_one_change_that_still_parses(mutant: Mutant) -> None:
    text = applied(mutant, ROOT)
    ast.parse(text)
    assert text != (ROOT / "pgdlab" / mutant.file).read_text()
    assert (ROOT / "tests" / mutant.test).is_file()


def test_there_are_enough_and_no_two_alike() -> None:
    assert len(MUTANTS) >= 16
    assert len({(m.file, m.old, m.new) for m in MUTANTS}) == len({m.what for m in MUTANTS}) == len(MUTANTS)
