"""QM9 as graphs: samples and molecules, sizes, the base that ships, its figures and files."""

from __future__ import annotations

import functools
import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from pgdlab.diffusion.initial import Standard
from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.policy import Policy
from pgdlab.domains.molecule import spaced
from pgdlab.domains.qm9 import BOND_SHARES, QM9, TYPE_SHARES
from pgdlab.molecules import known, qm9
from pgdlab.molecules.batch import Molecules
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.sampler import rollout
from pgdlab.rollout.trajectory import Samples
from tests.molecules.tiny import instead_of_qm9, write_graphs

SOME = known.test_sample()[::250]  # 20 molecules


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> QM9:
    """A domain whose data are 60 molecules."""
    instead_of_qm9(tmp_path, monkeypatch)
    return QM9()


def test_the_data_decode_to_themselves(small: QM9) -> None:
    seen = []
    for split, count in (("train", 54), ("test", 6)):
        sample, sizes = small.data(split)
        assert sample.shape == (count, 180)
        assert sizes.dtype == torch.long
        molecules = small.decoder(sample)
        assert [m.mol.GetNumAtoms() for m in molecules] == sizes.tolist()
        seen += [m.smiles for m in molecules]
    assert sorted(map(str, seen)) == sorted(known.test_sample()[:60])
    with pytest.raises(ValueError, match="must be train or test"):
        small.data("reward")


def test_probabilities_are_kept_and_the_likeliest_is_decoded(small: QM9) -> None:
    sample, sizes = small.data("test")
    estimate = torch.where(sample > 0, 0.2, -0.4) * sample.ne(0)  # one class at .7, the others at .1
    molecules = small.decoder(estimate)
    assert [m.smiles for m in molecules] == [m.smiles for m in small.decoder(sample)]
    assert molecules.soft is not None
    inside = small.space.mask(sizes, sample).bool()
    assert set(molecules.soft[inside].mul(10).round().int().tolist()) == {1, 7}
    assert not molecules.soft[~inside].any()


def test_the_last_noise_of_a_sample_is_no_probability(small: QM9) -> None:
    """The noise of a final sample has a standard deviation of .01, whatever it is, a sample is as sure as it is decoded."""
    sample, sizes = small.data("test")
    noisy = small.space.project(
        sample + 0.01 * torch.randn(sample.shape, generator=torch.Generator().manual_seed(0)), sizes
    )
    clean, seen = small.decoder(sample).soft, small.decoder(noisy).soft
    assert clean is not None
    assert seen is not None
    assert torch.equal(clean, (sample > 0).float())
    torch.testing.assert_close(seen, clean, rtol=0, atol=1e-6)


def test_the_shares_of_classes_are_those_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 test molecules: 8,800 atoms and 34,500 pairs; atoms of a molecule are not independent, so 6 errors and a bit."""
    write_graphs(tmp_path, known.test_sample()[::5])
    monkeypatch.setenv("PGDLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(qm9, "load", functools.cache(qm9.load.__wrapped__))
    sample, _ = QM9().data("train")
    for part, expected in zip(QM9().space.unpack(sample), (TYPE_SHARES, BOND_SHARES), strict=True):
        found = (part > 0).flatten(0, 1).sum(0).double()
        found /= found.sum()
        error = torch.tensor([(p * (1 - p) / 8000) ** 0.5 for p in expected])
        assert ((found - torch.tensor(expected)).abs() < 6 * error + 0.003).all(), found


@pytest.mark.parametrize("sizes", [{"width": 100}, {"width": 0}, {"layers": 0}])
def test_networks_that_cannot_be_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="a multiple of twice the heads"):
        QM9(**sizes).fresh(torch.Generator())  # type: ignore[arg-type]


def test_sizes_are_drawn_as_in_the_data() -> None:
    """5,000 test molecules against the hundredths of the train_conditions: half a hundredth of rounding, 4.5 errors of .0053."""
    counts = Counter(len(m.mol.GetAtoms()) for m in Molecules.from_smiles(known.test_sample()))
    train_conditions = QM9().train_conditions
    assert len(train_conditions) == 100
    for size in range(1, 10):
        assert train_conditions.count(size) / 100 == pytest.approx(counts[size] / 5000, abs=0.005 + 0.024)
    runs = [Counter(train_conditions[i : i + 25]) for i in range(0, 100, 25)]  # each has about the shares
    assert all(abs(run[size] - train_conditions.count(size) / 4) <= 1 for run in runs for size in (6, 7, 8, 9))
    assert spaced({1: 2, 2: 1}) == (1, 2, 1)


@pytest.mark.parametrize("train_conditions", [(), (0,), (9, 10)])
def test_sizes_that_are_none_are_refused(train_conditions: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="numbers of heavy atoms, 1 to 9"):
        QM9(train_conditions=train_conditions)


def test_the_base_that_ships_is_as_good_as_its_card_says() -> None:
    """300 samples in 20 steps; the card's share of valid ones, less 4.5 errors of both measurements."""
    domain = QM9()
    card = json.loads((known.ASSETS / "README.md").read_text().split("```json")[1].split("```")[0])["quality"]
    rho = Standard(space=domain.space, num_conditions=domain.conditioning.size, std=1.0)
    policy = Policy(domain.base(), domain.space, rho, DDIM(), 20)
    cond = torch.tensor([domain.train_conditions[i % 100] for i in range(300)])
    sample = rollout(policy, policy, Noise(5).of(0, range(300)), cond, batch=300).sample
    molecules = domain.decoder(sample)
    share = card["valid"]
    error = (share * (1 - share) * (1 / 300 + 1 / 1000)) ** 0.5
    assert share >= 0.85
    assert len(molecules.valid) / 300 > share - 4.5 * error
    assert len({m.smiles for m in molecules.valid}) >= 0.98 * len(molecules.valid)
    assert [m.mol.GetNumAtoms() for m in molecules] == cond.tolist()


def test_figures_pictures_and_files(small: QM9, tmp_path: Path) -> None:
    sample, sizes = small.data("train")
    figures = small.metrics(sample, sizes)
    assert figures["valid"] == figures["sanitised"] == figures["projected_valid"] == 1.0
    small.show({"data": sample[:4]}, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 2000
    written = small.report({"base": Samples(sample[:5], sizes[:5])}, tmp_path)
    assert all(path.stat().st_size > 0 for path in written)
    assert len(written) == 3


@pytest.mark.parametrize(
    ("name", "text"), [("config.json", "{"), ("model.safetensors", "x"), ("config.json", '{"width": 24}')]
)
def test_a_broken_base_is_an_error_that_says_what_to_do(name: str, text: str, tmp_path: Path) -> None:
    QM9(width=8, pair_width=4, heads=2, layers=1).fresh(torch.Generator().manual_seed(0)).save(tmp_path)
    assert QM9(weights=str(tmp_path)).base().sizes["width"] == 8
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=r"cannot load the base of qm9 from .*experiment=pretrain/qm9"):
        QM9(weights=str(tmp_path)).base()


def test_fresh_networks_depend_on_their_generator_alone() -> None:
    small = QM9(width=8, pair_width=4, heads=2, layers=1)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    a, b, c = (small.fresh(torch.Generator().manual_seed(s)).network.state_dict() for s in (0, 0, 1))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)
    assert torch.equal(torch.get_rng_state(), state)
