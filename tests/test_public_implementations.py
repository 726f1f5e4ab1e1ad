"""The page of public implementations prints what its command prints, and its numbers are those of other derivations."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from benchmarks import public_implementations as public

PAGE = Path(__file__).resolve().parents[1] / "docs" / "public_implementations.md"


def test_the_page_quotes_the_command() -> None:
    assert public.report() in PAGE.read_text()


def numbers(text: str) -> list[float]:
    return [float(x) for x in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", text)]


def test_the_numbers_by_other_ways() -> None:
    """softplus(-.1 log(1.1 / .9)); the expected loss between q and 1 - q; sigma^2 + (1 - sigma)^2 at one half; the median."""
    least = math.log(1 + math.exp(-0.1 * math.log(11 / 9)))
    assert numbers(public.d3po())[-1] == pytest.approx(least, abs=5e-4)
    assert numbers(public.diffusion_kto())[5:8] == [0.5, 0.42, 0.4]
    assert numbers(public.crd())[8] == 0.5
    assert numbers(public.diffusion_nft())[-1] == pytest.approx(0.0, abs=0.02)
    anew, once = (numbers(part) for part in public.alignprop().split(" where the cut is drawn at every step, "))
    assert all(a <= b for a, b in zip(anew, once, strict=False))
    assert anew[-1] == once[-1] == pytest.approx(10 / 11, abs=0.01)  # of the last step nothing comes after
