"""Zero-order search: neighbours by hand, the norm held, what it keeps."""

from __future__ import annotations

import pytest
import torch

from pgdlab.guidance.best_of_n import candidates
from pgdlab.guidance.noises import Kept, drawn, squared
from pgdlab.guidance.search import Search
from tests.guidance.lines import source_of
from tests.guidance.test_smc import tiny_source


def test_a_neighbour_has_the_norm_of_the_pivot() -> None:
    source = tiny_source(slots=4)
    z, xi = drawn(source, 0, 4), drawn(source, 1, 4)
    other = Search(radius=0.5).beside(z, xi)
    torch.testing.assert_close(squared(other), squared(z), rtol=1e-6, atol=0)
    straight = (z + 0.5 * xi).flatten(1)
    cosine = torch.nn.functional.cosine_similarity(other.flatten(1), straight)
    torch.testing.assert_close(cosine, torch.ones(4), rtol=0, atol=1e-6)


def test_two_pivots_by_hand() -> None:
    """2 neighbours: the first two of the noise of candidate 0, the next two of the best so far."""
    source = tiny_source(slots=6)
    how = Search(neighbours=2, radius=0.7)
    steps = list(how.steer(source, 30))
    at, value = drawn(source, 0, 6), candidates(source, source.noise.of(0, range(6))).value
    for k in (1, 3):
        tried = [how.beside(at, drawn(source, j, 6)) for j in (k, k + 1)]
        rewards = torch.stack([value, *(candidates(source, Kept(z)).value for z in tried)])
        best = rewards.argmax(0)
        at = torch.stack([at, *tried])[best, torch.arange(6)]
        value = rewards.max(0).values
        torch.testing.assert_close(steps[k + 1].value, value, rtol=1e-6, atol=1e-6)
    assert [step.queries for step in steps] == [6, 12, 18, 24, 30]
    assert steps[-1].figures["noise_square"] == pytest.approx(squared(at).mean().item(), rel=1e-6)
    assert (steps[-1].value > steps[0].value).any()


def test_the_noise_does_not_grow() -> None:
    """GL, 160 queries: its mean square is that of what it began with; let free it is near 18."""
    source = source_of("GL", 60)
    first = squared(drawn(source, 0, 60)).mean().item()
    *_, found = Search().steer(source, 60 * 160)
    assert found.figures["noise_square"] == pytest.approx(first, rel=1e-9)
    assert found.value.mean() > 2.5  # best of 160 has 2.2


@pytest.mark.parametrize("wrong", [{"neighbours": 0}, {"radius": 0.0}])
def test_settings_that_no_run_can_have(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Search(**wrong)  # type: ignore[arg-type]
    assert Search().law == "none"
