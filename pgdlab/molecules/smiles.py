"""Molecules of a file of SMILES: read, and what a graph can hold of them."""

from __future__ import annotations

import csv
import functools
import gzip
import hashlib
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rdkit
from jaxtyping import UInt8
from rdkit import Chem

from pgdlab.molecules.batch import decode, no_messages
from pgdlab.molecules.elements import NUMBER
from pgdlab.molecules.encoding import encoded
from pgdlab.molecules.reference import stored

MOST = 40  # heavy atoms: a graph of n has n (n - 1) / 2 pairs, and the network's work grows with n^3
FEWEST = 10  # molecules
UNREADABLE = 0.5  # share of lines from which on the file is taken for one of another kind
SEPARATORS = {".csv": ",", ".tsv": "\t"}
COLUMNS = ("smiles", "canonical_smiles", "smile")  # of a table, in any case of letters


class Library(NamedTuple):
    """Distinct molecules, sorted by SMILES. symbols: of the elements that occur, by atomic number; types, bonds, sizes: as in
    Encoded; left_out: how many lines for what reason."""

    symbols: tuple[str, ...]
    types: UInt8[Any, "N A"]
    bonds: UInt8[Any, "N P"]
    sizes: UInt8[Any, " N"]
    smiles: Any
    left_out: dict[str, int]

    @property
    def atoms(self) -> int:
        """Heavy atoms of the largest."""
        return int(self.types.shape[1])


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, SMILES) of a file: .smi or .txt with a SMILES first in each line, .csv or .tsv with a column of them; .gz
    after that where it is compressed. Empty lines, and those that begin with #, are none.

    Raises ValueError where the file is missing, or a table without such a column.
    """
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig", errors="replace")
    except (OSError, EOFError) as error:
        raise ValueError(f"domain.path is {str(path)!r}, which cannot be read: {error}") from error
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if kind.lower() in SEPARATORS:
        yield from table(path, text, SEPARATORS[kind.lower()])
        return
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if words and not line.startswith("#") and not (number == 1 and words[0].lower() in COLUMNS):
            yield number, words[0]


def table(path: Path, text: str, separator: str) -> Iterator[tuple[int, str]]:
    """(line number, SMILES) of a table with a header."""
    reader = csv.DictReader(io.StringIO(text), delimiter=separator)
    names = {name.strip().lower(): name for name in reader.fieldnames or () if name}
    column = next((names[name] for name in COLUMNS if name in names), None)
    if column is None:
        raise ValueError(f"{path} has no column smiles; it has {', '.join(names.values()) or 'none'}")
    for row in reader:
        if (row[column] or "").strip():
            yield reader.line_num, row[column].strip()


def fault(mol: Chem.Mol | None, most: int) -> str | None:
    """Why a graph cannot hold a molecule, if it cannot."""
    if mol is None:
        return "unreadable"
    if any(atom.GetFormalCharge() for atom in mol.GetAtoms()):
        return "charged"
    if len(Chem.GetMolFrags(mol)) > 1:
        return "in pieces"
    if not 1 <= mol.GetNumAtoms() <= most:
        return f"more than {most} heavy atoms" if mol.GetNumAtoms() else "empty"
    return "other elements" if any(atom.GetSymbol() not in NUMBER for atom in mol.GetAtoms()) else None


def faithful(mol: Any) -> bool:
    """Whether the graph decodes to the molecule: not where it has radicals, dative bonds or unusual valences."""
    symbols = tuple(NUMBER)
    types, bonds, size, smiles = encoded(Chem.Mol(mol), symbols, mol.GetNumAtoms())
    pairs = zip(*np.triu_indices(int(size), 1), strict=True)
    orders = [(int(i), int(j), int(order)) for (i, j), order in zip(pairs, bonds, strict=True) if order]
    return max(bonds, default=0) <= 3 and decode(types.tolist(), orders, symbols).smiles == smiles


def library(path: Path, most: int = MOST) -> Library:
    """The molecules of a file with at most `most` heavy atoms, without stereo, isotopes and copies; prepared once and kept in
    the cache folder. Says how many lines were left out, and why.

    Raises ValueError where the file cannot be read, most of its lines are no SMILES, or hardly a molecule is left.
    """
    try:
        now = path.stat()
    except OSError as error:
        raise ValueError(f"domain.path is {str(path)!r}, which cannot be read: {error.strerror}") from error
    return read(path, most, (now.st_size, now.st_mtime_ns))


@functools.lru_cache(maxsize=2)
def read(path: Path, most: int, stamp: tuple[int, int]) -> Library:
    """library(), once a process for a file as it is now (its size, and when it was changed)."""
    texts = list(lines(path))
    key = hashlib.blake2b(repr((texts, most, rdkit.__version__, 1)).encode(), digest_size=12).hexdigest()
    found = stored(f"smiles_{key}", lambda: prepared(path, texts, most))
    left = dict(zip(found["why"].tolist(), found["count"].tolist(), strict=True))
    arrays = {name: found[name] for name in Library._fields[1:5]}
    out = Library(symbols=tuple(found["symbols"].tolist()), left_out=left, **arrays)
    reasons = f"; left out: {', '.join(f'{n:,} {why}' for why, n in left.items())}" if left else ""
    print(
        f"{path}: {len(out.smiles):,} molecules of {', '.join(out.symbols)} with {out.sizes.min()} to {out.sizes.max()} heavy "
        f"atoms{reasons}"
    )
    return out


def prepared(path: Path, texts: list[tuple[int, str]], most: int) -> dict[str, Any]:
    """The arrays of a Library."""
    kept: dict[str, Any] = {}  # SMILES -> molecule
    left, unread, quiet = Counter[str](), list[int](), no_messages()
    for number, text in texts:
        mol = plain(text)
        why = fault(mol, most) or (None if faithful(mol) else "not what its graph says (radicals, unusual valences)")
        smiles = Chem.MolToSmiles(mol, isomericSmiles=False) if mol is not None else ""
        if why == "unreadable":
            unread.append(number)
        left[why or ("copies" if smiles in kept else "")] += 1
        if why is None:
            kept.setdefault(smiles, mol)
    del quiet
    if unread:
        left[f"unreadable (lines {', '.join(map(str, unread[:5]))}{', ...' if len(unread) > 5 else ''})"] = left.pop(
            "unreadable"
        )
    del left[""]
    require(path, len(texts), len(kept), left, len(unread))
    mols = [kept[smiles] for smiles in sorted(kept)]
    there = {atom.GetSymbol() for mol in mols for atom in mol.GetAtoms()}
    symbols = tuple(symbol for symbol in NUMBER if symbol in there)
    columns = zip(*(encoded(mol, symbols, max(m.GetNumAtoms() for m in mols)) for mol in mols), strict=True)
    arrays = dict(zip(Library._fields[1:5], (np.array(column) for column in columns), strict=True))
    counts = left.most_common()
    return arrays | {
        "symbols": np.array(symbols), "why": np.array([why for why, _ in counts], dtype=str),
        "count": np.array([n for _, n in counts], dtype=np.int64),
    }  # fmt: skip


def plain(text: str) -> Chem.Mol | None:
    """A molecule without stereo and isotopes; None where RDKit does not read it."""
    mol = Chem.MolFromSmiles(text)
    if mol is not None:
        for atom in mol.GetAtoms():
            atom.SetIsotope(0)
        Chem.RemoveStereochemistry(mol)
        mol = Chem.RemoveHs(mol)
    return mol


def require(path: Path, given: int, kept: int, left: Counter[str], unread: int) -> None:
    """Raises ValueError where too little is left."""
    reasons = ", ".join(f"{n:,} {why}" for why, n in left.most_common()) or "nothing"
    if given and unread > UNREADABLE * given:
        raise ValueError(
            f"{unread:,} of {given:,} lines of {path} are no SMILES that RDKit reads; it must be .smi or .txt with a SMILES "
            "first in each line, or .csv or .tsv with a column smiles (and .gz after it where it is compressed)"
        )
    if kept < FEWEST:
        raise ValueError(
            f"{path} has {kept} molecules that can be used, at least {FEWEST} are needed; left out: {reasons}"
        )
