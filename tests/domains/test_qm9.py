"""QM9 as graphs: samples and molecules, sizes, the base that ships, its figures and files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from pgdlab.diffusion.initial import Standard
from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.policy import Policy
from pgdlab.domains.base import Samples
from pgdlab.domains.qm9 import QM9, spaced
from pgdlab.molecules import known
from pgdlab.molecules.batch import Molecules
from pgdlab.noise import Noise
from pgdlab.rollout import rollout
from tests.molecules.tiny import instead_of_qm9

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
        molecules = small.decode(sample)
        assert [m.mol.GetNumAtoms() for m in molecules] == sizes.tolist()
        seen += [m.smiles for m in molecules]
    assert sorted(map(str, seen)) == sorted(known.test_sample()[:60])
    with pytest.raises(ValueError, match="train and test"):
        small.data("reward")


def test_probabilities_are_kept_and_the_likeliest_is_decoded(small: QM9) -> None:
    sample, sizes = small.data("test")
    estimate = 0.6 * sample  # one-hot at .8, the others at .2
    molecules = small.decode(estimate)
    assert [m.smiles for m in molecules] == [m.smiles for m in small.decode(sample)]
    assert molecules.soft is not None
    inside = small.space.mask(sizes, sample).bool()
    assert set(molecules.soft[inside].mul(10).round().int().tolist()) == {2, 8}
    assert not molecules.soft[~inside].any()


def test_sizes_are_drawn_as_in_the_data() -> None:
    """5,000 test molecules against the hundredths of the prompts: half a hundredth of rounding, 4.5 errors of .0053."""
    counts = Counter(len(m.mol.GetAtoms()) for m in Molecules.from_smiles(known.test_sample()))
    prompts = QM9().prompts
    assert len(prompts) == 100
    for size in range(1, 10):
        assert prompts.count(size) / 100 == pytest.approx(counts[size] / 5000, abs=0.005 + 0.024)
    runs = [Counter(prompts[i : i + 25]) for i in range(0, 100, 25)]  # each has about the shares
    assert all(abs(run[size] - prompts.count(size) / 4) <= 1 for run in runs for size in (6, 7, 8, 9))
    assert spaced({1: 2, 2: 1}) == (1, 2, 1)


@pytest.mark.parametrize("prompts", [(), (0,), (9, 10)])
def test_sizes_that_are_none_are_refused(prompts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="numbers of heavy atoms, 1 to 9"):
        QM9(prompts=prompts)


def test_the_base_that_ships_is_as_good_as_its_card_says() -> None:
    """300 samples in 20 steps; the card's share of valid ones, less 4.5 errors of both measurements."""
    domain = QM9()
    card = json.loads((known.ASSETS / "README.md").read_text().split("```json")[1].split("```")[0])["quality"]
    rho = Standard(space=domain.space, conditions=domain.conditions, std=1.0)
    policy = Policy(domain.base(), domain.space, rho, DDIM(), 20)
    cond = torch.tensor([domain.prompts[i % 100] for i in range(300)])
    sample = rollout(policy, policy, Noise(5), 0, range(300), cond, [], 300).sample
    molecules = domain.decode(sample)
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
