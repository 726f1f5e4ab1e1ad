"""The list of mistakes fits the code (whether the tests notice them: `python -m tests.mutants`)."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests import mutants
from tests.mutants import MUTANTS, ROOT, Mutant, applied, chosen


def unfit(listed: Sequence[Mutant]) -> list[str]:
    """Mistakes that are not one change, do not parse, whose tests are not there, or that are listed twice."""
    found = []
    for mutant in listed:
        try:
            text = applied(mutant, ROOT)
            ast.parse(text)
        except (ValueError, SyntaxError) as error:
            found.append(f"{mutant.what}: {error}")
            continue
        if text == (ROOT / "pgdlab" / mutant.file).read_text():
            found.append(f"{mutant.what}: changes nothing")
        if not (ROOT / "tests" / mutant.test).is_file():
            found.append(f"{mutant.what}: there is no tests/{mutant.test}")
    twice = [what for what, n in Counter(m.what for m in listed).items() if n > 1]
    twice += [m.what for m in listed if sum((m.file, m.old, m.new) == (o.file, o.old, o.new) for o in listed) > 1]
    return found + [f"{what}: listed twice" for what in dict.fromkeys(twice)]


def test_a_mistake_is_one_change_that_still_parses_and_no_two_are_alike() -> None:
    found = unfit(MUTANTS)
    assert not found, "\n" + "\n".join(found)


def test_an_unfit_mistake_is_seen() -> None:
    first, other = MUTANTS[:2]
    wrong = {
        "not there": replace(first, what="not there", old="no such line"),
        "changes nothing": replace(first, what="changes nothing", new=first.old),
        "syntax": replace(first, what="syntax", new="(" + first.old),
        "no such test": replace(first, what="no such test", new=first.new + " ", test="no/test.py"),
        "again": replace(other, what="again"),
        other.what: other,
    }
    assert {line.partition(":")[0] for line in unfit(list(wrong.values()))} == wrong.keys()


def test_the_parts_are_all_of_them_once() -> None:
    parts = [chosen("", f"{k}/10") for k in range(1, 11)]
    assert Counter(m.what for part in parts for m in part) == Counter(m.what for m in MUTANTS)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert {m.what for m in chosen("sweep: ", "1/1")} == {m.what for m in MUTANTS if m.what.startswith("sweep: ")}


@pytest.mark.parametrize("words", [["--part", "11/10"], ["--part", "0/10"], ["--part", "x"], ["no mistake says this"]])
def test_a_part_or_word_that_selects_nothing_ends_with_an_error(words: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"must be k/n|no mistake's description contains"):
        mutants.main(words)
