"""Figures of molecules: by hand on small batches, 100 % on the data, and what each of them must notice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from pgdlab.molecules import fingerprints, known, metrics, qm9, reference
from pgdlab.molecules.batch import REASONS, Molecules, examined
from pgdlab.molecules.properties import NAMES, properties

ROOT = Path(__file__).resolve().parents[2]
needs_data = pytest.mark.skipif(not qm9.has_data(), reason="needs the package qm9pack")
KNOWN, NOVEL = "CCO", "FC1NC2CC12F"  # ethanol is a training molecule, the other one is not


def sample(smiles: list[str]) -> Molecules:
    """Molecules of SMILES, invalid ones too."""
    return Molecules(examined(Chem.MolFromSmiles(s, sanitize=False)) for s in smiles)


def test_shares_by_hand() -> None:
    """Eight samples: ethanol twice and a novel one, two pieces twice, a carbon of five bonds, and two rings that have no
    Kekule form."""
    molecules = sample([KNOWN, NOVEL, "OCC", "C.CO", "CO.N", "C=C(C)(C)C", "c1cccc1", "c1cccccc1"])
    found = metrics.figures(molecules)
    assert found["sanitised"] == 5 / 8
    assert found["valid"] == 3 / 8
    assert found["valid_stderr"] == pytest.approx((3 / 8 * 5 / 8 / 8) ** 0.5)
    assert [found[f"invalid_{reason}"] for reason in REASONS] == [1 / 8, 2 / 8, 0, 2 / 8]
    assert found["valid"] + sum(found[f"invalid_{reason}"] for reason in REASONS) == 1
    assert found["unique"] == 2 / 3
    assert found["novel"] == 1 / 2
    assert found["vun"] == 1 / 8
    assert "unique_at_100" not in found
    assert "projected_valid" not in found
    # EDM counts pieces: methanol is the larger one, and known
    assert (found["edm_valid"], found["edm_unique"], found["edm_vun"]) == (5 / 8, 3 / 5, 1 / 8)


def test_unique_at_n_is_of_the_first_n_valid() -> None:
    smiles = ["C" * (1 + i % 50) for i in range(100)]
    molecules = sample([*smiles, *["c1cccc1"] * 7, "O"])
    found = metrics.distinctness(metrics.smiles_of(molecules), len(molecules))
    assert found["unique_at_100"] == 0.5
    assert found["unique"] == 51 / 101
    assert "unique_at_1000" not in found


def test_no_sample_and_no_valid_sample() -> None:
    assert metrics.figures(sample([])) == {}
    found = metrics.figures(sample(["c1cccc1", "C.C"]))
    assert (found["valid"], found["vun"]) == (0, 0)
    assert not {"unique", "novel", "element_C", "logp_w1", "internal_diversity"} & found.keys()


def test_composition_by_hand() -> None:
    """Fluoroethanol C2 O F, and an aziridine fused to a hexane ring: C6 N, rings of 3 and 6."""
    found = metrics.composition(["OCCF", "C1CCC2NC2C1"])
    assert [found[f"element_{e}"] for e in "CNOF"] == [8 / 11, 1 / 11, 1 / 11, 1 / 11]
    assert (found["rings"], found["ring_3"], found["ring_6"], found["ring_4"], found["ring_7_up"]) == (
        1,
        0.5,
        0.5,
        0,
        0,
    )
    assert metrics.composition(["C1CCCCCCC1"])["ring_7_up"] == 1
    # copies count: a collapse onto one cage has to show
    copies = metrics.composition(["C1CC1"] * 3 + ["CCO"])
    assert (copies["rings"], copies["element_O"]) == (3 / 4, 1 / 12)
    of_all = metrics.figures(sample(["C1CC1"] * 3 + ["CCO"]))
    assert {name: of_all[name] for name in copies} == copies
    assert "ring_3" not in metrics.composition(["CC"])


def test_rare_motifs_and_the_mean_sa() -> None:
    """One each of the three motifs, of which a copy counts again; allene and norbornene have none, and are no part of it."""
    rare, ordinary = ["C1CCC#CC1", "C1CC=C=CC1", "C1CC2=CC1CC2"], ["C=C=C", "C1CC2CC1C=C2", "CCO"]
    assert metrics.composition([*rare, rare[0], *ordinary])["motifs"] == 4 / 7
    assert metrics.composition(ordinary)["motifs"] == 0
    assert metrics.composition(["CCO", "CCO", "C1CC1"])["sa"] == pytest.approx(
        (2 * properties("CCO").sa + properties("C1CC1").sa) / 3
    )
    data = metrics.composition(known.test_sample())
    assert data["motifs"] <= 0.001
    assert data["sa"] == pytest.approx(4.26, abs=0.01)


def held_out_properties_of_ethanol() -> None:
    """Atomic weights 12.011, 1.008, 15.999; TPSA of a hydroxyl is 20.23 (Ertl et al. 2000, table 1)."""
    ethanol = properties("CCO")
    assert ethanol.weight == pytest.approx(2 * 12.011 + 6 * 1.008 + 15.999, abs=2e-3)
    assert ethanol.tpsa == pytest.approx(20.23)
    assert ethanol.elements == ("C", "C", "O")
    assert 1 <= ethanol.sa < 3 < properties("C1C2C3C1C1C2C31").sa  # a cage is hard to make
    assert properties("CCCCCC").logp > ethanol.logp
    with pytest.raises(ValueError, match="no SMILES"):
        properties("C1C")


def test_distance_to_the_data_is_that_of_optimal_transport() -> None:
    """To a single point all mass has to move: the mean of |x - c|. Else the area between the quantile functions."""
    data, some = reference.held_out_properties(), reference.scattered()[:200]
    point, found = metrics.distances(["CCO"] * 5), metrics.distances(some)
    level = (np.arange(100_000) + 0.5) / 100_000
    for name in NAMES:
        moved = np.abs(data[name] - getattr(properties("CCO"), name)).mean()
        assert point[f"{name}_w1"] == pytest.approx(moved, rel=1e-5)
        own = [getattr(properties(s), name) for s in some]
        x, y = (np.quantile(values, level, method="inverted_cdf") for values in (own, data[name]))
        assert found[f"{name}_w1"] == pytest.approx(np.abs(x - y).mean(), rel=2e-3)  # of the midpoint rule


def test_internal_diversity_is_that_of_rdkit_pair_by_pair() -> None:
    smiles = reference.scattered()[:30]
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    prints = [generator.GetFingerprint(Chem.MolFromSmiles(s)) for s in smiles]
    pairs = [DataStructs.TanimotoSimilarity(a, b) for i, a in enumerate(prints) for b in prints[:i]]
    assert fingerprints.internal_diversity(smiles) == pytest.approx(1 - np.mean(pairs), abs=1e-6)  # fp32 sums
    assert fingerprints.internal_diversity(["CCO", "CCO"]) == pytest.approx(0, abs=1e-6)


def test_the_sample_that_ships_is_valid_unique_and_unknown() -> None:
    molecules = Molecules.from_smiles(known.test_sample())
    found = metrics.validity(molecules) | metrics.distinctness(metrics.smiles_of(molecules), len(molecules))
    assert len(molecules) == known.SAMPLE
    assert {found[k] for k in ("sanitised", "valid", "unique", "unique_at_1000", "novel", "vun")} == {1.0}


@needs_data
def test_the_data_are_valid_and_the_training_split_is_known() -> None:
    graphs = qm9.load()
    train = qm9.split(graphs.smiles)["train"]
    some = graphs.rows(np.random.default_rng(3).choice(train, 2000, replace=False))
    bonds = torch.zeros(2000, qm9.ATOMS, qm9.ATOMS, dtype=torch.long)
    first, second = zip(*qm9.PAIRS, strict=True)
    bonds[:, first, second] = torch.from_numpy(some.bonds).long()
    molecules = Molecules.from_graphs(*(torch.from_numpy(x).long() for x in (some.types,)), bonds,
                                      torch.from_numpy(some.sizes).long())  # fmt: skip
    found = metrics.figures(molecules)
    assert (found["sanitised"], found["valid"], found["edm_valid"]) == (1, 1, 1)
    assert (found["novel"], found["vun"]) == (0, 0)
    assert found["unique"] > 0.99  # stereoisomers are one molecule here
    assert found["nearest_training"] == 1
    # shares of 8,800 atoms and 1,800 rings: 4.5 errors, were all atoms and rings independent
    data = metrics.composition(reference.scattered()[:1000])
    for name in ("element_C", "element_N", "element_O", "ring_3", "ring_4", "ring_5"):
        assert found[name] == pytest.approx(data[name], abs=0.06 if "ring" in name else 0.024), name
    assert found["logp_w1"] < 0.1  # 4.5 errors of std .95 / sqrt(2000)
    assert found["qed_w1"] < 0.007  # of std .07


@needs_data
def test_the_nearest_training_molecule() -> None:
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    for smiles in reference.scattered()[:5]:
        likeness, other = fingerprints.nearest(smiles)
        assert other in known.training_set()
        own = generator.GetFingerprint(Chem.MolFromSmiles(smiles))
        assert likeness == pytest.approx(
            DataStructs.TanimotoSimilarity(own, generator.GetFingerprint(Chem.MolFromSmiles(other)))
        )
        some = [generator.GetFingerprint(Chem.MolFromSmiles(s)) for s in fingerprints.training().smiles[::40]]
        assert likeness >= max(DataStructs.BulkTanimotoSimilarity(own, some))
    assert fingerprints.nearest("CCO")[0] == 1
    assert 0.5 < fingerprints.nearest_of_data() < 0.75


def test_what_a_collapse_onto_cages_looks_like() -> None:
    """The all-carbon cages that a validity reward is known to end in: valid, and nothing else."""
    cages = sample(["C1CC2CC3CC1C23", "C1CC2CCC12", "C1C2CC3CC1C23", "CC1CC2CC12"] * 30)
    found, data = metrics.figures(cages), metrics.composition(reference.scattered()[:200])
    assert found["valid"] == 1
    assert found["unique"] == 4 / 120
    assert found["element_C"] == 1 > data["element_C"]
    assert found["tpsa_w1"] > 20


def test_what_was_computed_once_is_read_again_and_mended(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PGDLAB_CACHE", str(tmp_path / "new"))
    made = []

    def make() -> dict[str, np.ndarray]:
        made.append(1)
        return {"x": np.arange(3)}

    for _ in range(2):
        assert reference.stored("thing", make)["x"].tolist() == [0, 1, 2]
    assert len(made) == 1
    file = next((tmp_path / "new").iterdir())
    file.write_bytes(file.read_bytes()[:50])
    assert reference.stored("thing", make)["x"].tolist() == [0, 1, 2]
    assert len(made) == 2
    monkeypatch.setenv("PGDLAB_CACHE", str(file / "no_folder"))  # cannot be written: computed again
    assert reference.stored("thing", make)["x"].tolist() == [0, 1, 2]


def test_every_figure_is_defined_in_the_docs() -> None:
    """With probabilities, so that the projected ones are there too; those of FCD by their names."""
    molecules = Molecules.from_smiles(["CCO", "FC1NC2CC12F"] * 500)
    molecules.soft = torch.zeros(1000, 36 + 144)
    names = metrics.figures(molecules).keys() | {"fcd", "fcd_floor", "atom_stable", "molecule_stable"}
    assert {"unique_at_1000", "projected_vun", "ring_7_up"} <= names
    for page in ("docs/metrics.md", "docs/molecules/metrics.md"):
        text = (ROOT / page).read_text()
        assert not [name for name in names if f"`{name}`" not in text], page


def test_without_the_data_package_the_neighbours_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qm9, "has_data", lambda: False)
    monkeypatch.setattr(qm9, "load", lambda: pytest.fail("the data are not there"))
    found = metrics.figures(Molecules.from_smiles(["CCO", "CCC"]))
    assert "internal_diversity" in found
    assert not [name for name in found if "nearest" in name]
