"""Figures of a batch of molecules; definitions, values of the data and caveats are in docs/molecules/metrics.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rdkit import Chem

from pgdlab.molecules import fcd as chemnet
from pgdlab.molecules import fingerprints
from pgdlab.molecules.batch import REASONS, Molecule, Molecules, no_messages
from pgdlab.molecules.elements import Source
from pgdlab.molecules.known import QM9, source_of
from pgdlab.molecules.projection import projected
from pgdlab.molecules.properties import NAMES, properties
from pgdlab.molecules.reference import held_out_properties

FIRST = (100, 1000)  # the N of "unique at N"
RINGS = (3, 4, 5, 6)  # sizes with a figure of their own


def figures(molecules: Molecules, fcd: bool = False) -> dict[str, float]:
    """All figures; what cannot be computed (of no valid sample, say) is left out. fcd: whether to compute it (2 s for 1,000
    samples, and 10 s once)."""
    if not len(molecules):
        return {}
    quiet = no_messages()
    valid, source = smiles_of(molecules), source_of(molecules)
    out = validity(molecules) | distinctness(valid, len(molecules), source) | edm(molecules)
    if molecules.soft is not None:
        out |= {f"projected_{name}": value for name, value in headline(projected(molecules)).items()}
    if valid:
        out |= (
            composition(valid, source.symbols) | distances(valid, source) | likeness(list(dict.fromkeys(valid)), source)
        )
        out |= chemnet.fcd(valid, source) if fcd else {}
    del quiet
    return out


def smiles_of(molecules: Molecules) -> list[str]:
    """Canonical SMILES of the valid ones, in order, copies included."""
    return [m.smiles for m in molecules if m.valid and m.smiles is not None]


def validity(molecules: Molecules) -> dict[str, float]:
    """Shares of all samples: sanitised, valid with its standard error, and the reasons why not."""
    total = len(molecules)
    valid = len(molecules.valid) / total
    why = Counter(m.reason for m in molecules)
    shares = {f"invalid_{reason}": why[reason] / total for reason in REASONS}
    sanitised = sum(m.sanitised for m in molecules) / total
    return {"sanitised": sanitised, "valid": valid, "valid_stderr": (valid * (1 - valid) / total) ** 0.5, **shares}


def distinctness(valid: Sequence[str], total: int, source: Source = QM9) -> dict[str, float]:
    """unique and unique_at_N of the valid, novel of the distinct, vun of all samples."""
    distinct = set(valid)
    novel = len(distinct) - int(source.training().contains(distinct).sum())
    out = {"vun": novel / total}
    if valid:
        out |= {"unique": len(distinct) / len(valid), "novel": novel / len(distinct)}
    return out | {f"unique_at_{n}": len(set(valid[:n])) / n for n in FIRST if len(valid) >= n}


def headline(molecules: Molecules) -> dict[str, float]:
    """valid and vun alone."""
    found = distinctness(smiles_of(molecules), len(molecules), source_of(molecules))
    return {"valid": validity(molecules)["valid"], "vun": found["vun"]}


def edm(molecules: Molecules) -> dict[str, float]:
    """EDM's way: what RDKit sanitises, if need be with charges, counts as its largest piece."""
    kept = [piece for piece in map(largest_piece, molecules) if piece is not None]
    found = distinctness(kept, len(molecules), source_of(molecules))
    return {"edm_valid": len(kept) / len(molecules)} | {f"edm_{k}": found[k] for k in ("unique", "vun") if k in found}


def largest_piece(molecule: Molecule) -> str | None:
    """Canonical SMILES of the piece with most atoms, the first of equals; None of a molecule that RDKit does not sanitise."""
    if molecule.valid and molecule.smiles is not None:
        return molecule.smiles
    mol = Chem.Mol(molecule.mol)
    charged = molecule.reason == "valence" and Chem.SanitizeMol(mol, catchErrors=True) == 0
    if not (molecule.sanitised or charged):
        return None
    piece = max(Chem.GetMolFrags(mol, asMols=True), key=lambda each: each.GetNumAtoms())
    return str(Chem.MolToSmiles(piece, isomericSmiles=False))


def composition(valid: Sequence[str], symbols: Sequence[str] = QM9.symbols) -> dict[str, float]:
    """Shares of the elements among heavy atoms, of ring sizes among rings; rings a molecule, the mean SA score, and the
    share of molecules with a rare motif."""
    found = [properties(s) for s in valid]
    elements = Counter(e for p in found for e in p.elements)
    rings = Counter(r for p in found for r in p.rings)
    atoms, count = elements.total(), rings.total()
    out = {f"element_{symbol}": elements[symbol] / atoms for symbol in symbols} | {"rings": count / len(valid)}
    out |= {"sa": sum(p.sa for p in found) / len(valid), "motifs": sum(bool(p.motifs) for p in found) / len(valid)}
    if count:
        out |= {f"ring_{size}": rings[size] / count for size in RINGS}
        out["ring_7_up"] = sum(n for size, n in rings.items() if size > max(RINGS)) / count
    return out


def distances(valid: Sequence[str], source: Source = QM9) -> dict[str, float]:
    """Wasserstein-1 distance of each property's distribution to the test sample's, in the property's unit."""
    from scipy.stats import wasserstein_distance

    columns = zip(*(properties(s)[: len(NAMES)] for s in valid), strict=True)
    data = held_out_properties(source)
    return {f"{name}_w1": float(wasserstein_distance(x, data[name])) for name, x in zip(NAMES, columns, strict=True)}


def likeness(distinct: Sequence[str], source: Source = QM9) -> dict[str, float]:
    """internal_diversity; of QM9, where the data can be read, also nearest_training, and nearest_training_data of the test
    sample."""
    out = {"internal_diversity": fingerprints.internal_diversity(distinct)} if len(distinct) > 1 else {}
    if source is QM9 and fingerprints.readable():
        out["nearest_training"] = fingerprints.mean_nearest(distinct)
        out["nearest_training_data"] = fingerprints.nearest_of_data()
    return out
