"""Domains of laws: what a sample stands for, figures that see hacks, data, and bases that are not theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pgdlab.domains.base import labelled
from pgdlab.domains.darcy import Darcy
from pgdlab.domains.field import LawDomain
from pgdlab.domains.pendulum import Pendulum
from pgdlab.physics import darcy, pendulum

DOMAINS: list[LawDomain] = [Darcy(), Pendulum()]
COND = torch.zeros(64, dtype=torch.long)


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda d: d.name)
def test_held_out_data_follow_the_law_in_fp32_and_are_those_of_training_in_law(domain: LawDomain) -> None:
    sample, cond = labelled(domain).data("test")
    assert sample.shape[1:] == domain.space.shape
    assert not cond.any()
    assert 0.5 < sample.std(0).mean() < 1.2  # what noise of size 1 is added to
    assert not torch.equal(sample[0], domain.draw(1, seed=0)[0].float())  # the first of training
    own = domain.draw(64, seed=2)
    figures = domain.metrics(own, COND)
    assert figures["resolved_error"] < 1e-9
    near = [abs(x) for name, x in figures.items() if name.startswith("energy_distance")]
    assert max(near) < 0.5  # of norms of order 10; noise of 64 samples
    assert domain.metrics(own[:1], COND[:1]) == {}
    with pytest.raises(ValueError, match="split is 'all'"):
        domain.data("all")


def test_fields_are_decoded_without_a_mean_of_p() -> None:
    domain = Darcy(size=8)
    fields = darcy.draw(3, 8, seed=0)
    sample = domain.decoder.encode(fields)
    torch.testing.assert_close(domain.decoder(sample), fields, rtol=0, atol=1e-14)
    sample[:, 1] += 3
    torch.testing.assert_close(domain.decoder(sample), fields, rtol=0, atol=1e-14)
    assert domain.decoder(sample.float()).dtype is torch.float64
    even = domain.decoder(torch.zeros(1, 2, 8, 8))
    assert not even[0, 0].any()
    assert (darcy.relative_error(*(x.numpy() for x in even.unbind(1))) < 1e-12).all()


def test_figures_see_the_hacks() -> None:
    """Even K solves the law and is no sample of the data; a pendulum at rest too."""
    domain = Darcy()
    real = domain.draw(64, seed=2)
    flat = domain.metrics(torch.zeros_like(real), COND)
    assert flat["resolved_error"] < 1e-9
    assert flat["log_k_std"] == 0
    assert flat["energy_distance_log_k"] > 5  # 2 E||x|| - E||x - x'||, of norms of about 16: 2 * 16 - 22
    broken = real.clone()
    broken[0, 0, 0, 0] = torch.nan
    assert domain.metrics(broken, COND)["unsolved"] == 1 / 64
    swings = Pendulum().metrics(0.01 * Pendulum().draw(64, seed=2), COND)
    assert swings["drift"] < 1e-4
    assert swings["swing"] < 1e-3
    assert swings["energy_distance"] > 3


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda d: d.name)
def test_pictures(domain: LawDomain, tmp_path: Path) -> None:
    sample = domain.draw(9, seed=0)
    domain.show({"before": sample, "after": 2 * sample}, tmp_path / "x.png")
    red, green, blue = np.asarray(Image.open(tmp_path / "x.png"))[..., :3].transpose(2, 0, 1).astype(int)
    if domain.name == "darcy":  # the red of the pressure at the source, which no colour of K is
        assert ((red > 170) & (green < 60) & (blue < 60)).any()
    assert ((red != green) | (green != blue)).sum() > 1000


@pytest.mark.parametrize("kind", [Darcy, Pendulum])
def test_bases_that_are_missing_or_of_another_are_refused(kind: type[LawDomain], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot load the base of \w+ from .*experiment=pretrain/"):
        kind(weights=str(tmp_path)).base()
    fresh = kind().fresh(torch.Generator().manual_seed(0))
    loading = fresh.save(tmp_path)
    assert f"{type(fresh.network).__name__}.from_pretrained(" in loading
    again = kind(weights=str(tmp_path)).base()
    x, t = torch.randn(2, *kind().space.shape, generator=torch.Generator().manual_seed(1)), torch.tensor([10, 500])
    with torch.no_grad():
        torch.testing.assert_close(again(x, t, COND[:2]), fresh.eval()(x, t, COND[:2]))


def test_a_base_of_another_grid_is_refused(tmp_path: Path) -> None:
    Darcy(size=8).fresh(torch.Generator()).save(tmp_path)
    with pytest.raises(ValueError, match=r"is no base of darcy: .*'sample_size': 8.*'sample_size': 16"):
        Darcy(weights=str(tmp_path)).base()
    with pytest.raises(ValueError, match="multiple of 8"):
        Darcy(size=12)


def test_the_twin_is_in_units_of_its_own() -> None:
    sample = Pendulum().draw(4, seed=5)
    assert torch.equal(Pendulum().decoder(sample.float()), sample.float().double())
    assert sample.shape[-1] == pendulum.POINTS
