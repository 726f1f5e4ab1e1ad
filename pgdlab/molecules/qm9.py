"""QM9 (Ramakrishnan et al. 2014, doi 10.1038/sdata.2014.22) from the package qm9pack, prepared once into a cached file."""

from __future__ import annotations

import csv
import functools
import importlib.util
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from rdkit import Chem

from pgdlab.config.cache import cache_folder
from pgdlab.config.program import extra
from pgdlab.molecules.batch import SYMBOLS, no_messages
from pgdlab.molecules.encoding import encoded

ATOMS = 9  # heavy atoms at most
ALL_ATOMS = 29  # with hydrogens, at most
PAIRS = tuple(zip(*(x.tolist() for x in np.triu_indices(ATOMS, 1)), strict=True))  # (i, j), i < j, row by row
HELD_OUT = 10_000  # distinct molecules that no base is trained on
RADIUS = {6: 0.76, 7: 0.71, 8: 0.66, 9: 0.57}  # covalent, angstrom (Cordero et al. 2008, doi 10.1039/b801115j)
VERSION = 1  # of the prepared files


class Record(NamedTuple):
    """A row of the source. elements: symbols of all atoms; xyz: angstrom."""

    smiles: str
    elements: list[str]
    xyz: Float[Any, "N 3"]


class Graphs(NamedTuple):
    """Prepared molecules. types: 0..3 (C, N, O, F; 0 past the last atom); bonds: orders 0..3 in the order of PAIRS;
    sizes: heavy atoms; smiles: canonical, without stereo. xyz: heavy atoms, angstrom."""

    types: UInt8[Any, "N 9"]
    bonds: UInt8[Any, "N 36"]
    sizes: UInt8[Any, " N"]
    smiles: Any
    xyz: Float[Any, "N 9 3"]

    def rows(self, chosen: Any) -> Graphs:
        """Some of them."""
        return Graphs(*(x[chosen] for x in self))


class Geometries(NamedTuple):
    """The same molecules, in the same order, with their hydrogens. numbers: atomic, 0 past the last atom; xyz: angstrom, of
    density functional theory (B3LYP/6-31G(2df,p)); smiles: as in Graphs."""

    numbers: UInt8[Any, "N 29"]
    xyz: Float[Any, "N 29 3"]
    smiles: Any


def source() -> Path:
    """The folder of qm9pack's tables. It is not imported: its import fails with new versions of setuptools.

    Raises ValueError where the package is not installed.
    """
    spec = importlib.util.find_spec("qm9pack")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"the QM9 data are in the package qm9pack (104 MB): {extra('molecules')}. Training, rewards and "
            "metrics do without; pretraining, the data's own figures and the nearest neighbours need it"
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def has_data() -> bool:
    """Whether source() would find the package."""
    return importlib.util.find_spec("qm9pack") is not None


def records(folder: Path) -> Iterator[Record]:
    """All rows of qm9_part1.csv to qm9_part3.csv. Raises ValueError where a file is missing or of another kind."""
    csv.field_size_limit(10**9)
    number = re.compile(r"-?\d+\.?\d*(?:[eE][-+]?\d+)?")
    for part in (1, 2, 3):
        path = folder / f"qm9_part{part}.csv"
        try:
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    xyz = np.array(number.findall(row["XYZ_Ang"]), dtype=np.float32).reshape(-1, 3)
                    yield Record(row["SMILES"], re.findall("[A-Z]", row["Elements"]), xyz)
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"cannot read {path}: {error!r}. Is qm9pack 1.0.3 complete?") from error


def fault(mol: Chem.Mol | None, record: Record) -> str | None:
    """Why a molecule is left out, if it is: what RDKit cannot read, charged atoms, another composition or order of atoms
    than in its geometry, bonds that the geometry does not show."""
    if mol is None:
        return "unreadable"
    if any(atom.GetFormalCharge() for atom in mol.GetAtoms()):
        return "charged"
    symbols = [atom.GetSymbol() for atom in mol.GetAtoms()]
    hydrogens = sum(atom.GetTotalNumHs() for atom in mol.GetAtoms())
    if record.elements != symbols + ["H"] * hydrogens:
        return "composition"
    radius = np.array([RADIUS[atom.GetAtomicNum()] for atom in mol.GetAtoms()])
    heavy = record.xyz[: len(radius)]
    ratio = np.linalg.norm(heavy[:, None] - heavy[None], axis=-1) / (radius[:, None] + radius[None])
    bonded = Chem.GetAdjacencyMatrix(mol) > 0
    np.fill_diagonal(ratio, 1.2)
    return "geometry" if ((ratio > 1.25) & bonded).any() or ((ratio < 1.15) & ~bonded).any() else None


def arrays(mol: Chem.Mol, record: Record) -> tuple[Any, ...]:
    """One molecule as the fields of Graphs. Kekulises mol in place."""
    types, bonds, size, smiles = encoded(mol, SYMBOLS, ATOMS)
    xyz = np.zeros((ATOMS, 3), np.float32)
    xyz[:size] = record.xyz[:size]
    return types, bonds, size, smiles, xyz


def place(mol: Chem.Mol, record: Record) -> tuple[Any, ...]:
    """One molecule as the fields of Geometries."""
    numbers, xyz = np.zeros(ALL_ATOMS, np.uint8), np.zeros((ALL_ATOMS, 3), np.float32)
    size = len(record.elements)
    numbers[:size] = [Chem.GetPeriodicTable().GetAtomicNumber(symbol) for symbol in record.elements]
    xyz[:size] = record.xyz
    return numbers, xyz, Chem.MolToSmiles(mol, isomericSmiles=False)


def prepare(folder: Path, fields: Callable[[Chem.Mol, Record], tuple[Any, ...]]) -> tuple[list[Any], dict[str, int]]:
    """The fields of all molecules of the source, one array each, and how many were left out for what reason."""
    kept, left, quiet = [], Counter[str](), no_messages()
    for record in records(folder):
        mol = Chem.MolFromSmiles(record.smiles)
        why = fault(mol, record)
        if why:
            left[why] += 1
        else:
            kept.append(fields(mol, record))
    del quiet
    if not kept:
        raise ValueError(f"no molecule of {folder} could be read")
    return [np.array(column) for column in zip(*kept, strict=True)], dict(left)


def cache(name: str = "qm9") -> Path:
    """A prepared file in the cache folder."""
    return cache_folder() / f"{name}_v{VERSION}.npz"


def kept(name: str, names: tuple[str, ...], fields: Callable[[Chem.Mol, Record], tuple[Any, ...]]) -> list[Any]:
    """The named arrays of a cached file, which is made of the source where it is missing or broken."""
    path = cache(name)
    try:
        with np.load(path, allow_pickle=False) as stored:
            return [stored[field] for field in names]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):  # not there, of another version, or cut off
        pass
    print("preparing QM9 (once, about half a minute)")
    columns, left = prepare(source(), fields)
    print(f"{len(columns[0]):,} molecules; left out: {', '.join(f'{n:,} {why}' for why, n in sorted(left.items()))}")
    keep(path, dict(zip(names, columns, strict=True)))
    return columns


def keep(path: Path, arrays: dict[str, Any]) -> None:
    """Writes a cached file, whole or not at all; where it cannot be written, that is said and no more."""
    part = path.with_name(f"{path.stem}.{os.getpid()}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(part, **arrays)
        part.replace(path)
    except OSError as error:
        print(f"{path} cannot be written, and is made again next time: {error}. Is PGDLAB_CACHE a folder of yours?")


@functools.cache
def load() -> Graphs:
    """All molecules as graphs of heavy atoms, from the cached file (14 MB)."""
    return Graphs(*kept("qm9", Graphs._fields, arrays))


@functools.cache
def load_3d() -> Geometries:
    """All molecules with their hydrogens and geometries, from a second cached file (28 MB)."""
    return Geometries(*kept("qm9_3d", Geometries._fields, place))


def split(smiles: Any) -> dict[str, Any]:
    """Row numbers of "train" and "test". HELD_OUT distinct SMILES, drawn with a fixed seed, make the test split with all
    their stereoisomers, so that no test molecule is in the training set."""
    distinct, which = np.unique(smiles, return_inverse=True)
    held = np.zeros(len(distinct), bool)
    held[np.random.default_rng(0).permutation(len(distinct))[: min(HELD_OUT, len(distinct) // 10)]] = True
    return {"train": np.flatnonzero(~held[which]), "test": np.flatnonzero(held[which])}
