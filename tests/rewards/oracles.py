"""Oracles that misbehave, for the tests of Workers: importable, because workers import them."""

import os
import time
from pathlib import Path

from pgdlab.rewards.molecule.base import PerMolecule


class Plain(PerMolecule):
    """Number of heavy atoms; worth a tenth of it. It counts its own calls in this process."""

    part = "atoms"

    def __init__(self, **options):
        super().__init__(**options)
        self.calls = []

    def of(self, molecule):
        self.calls.append(molecule.smiles)
        return molecule.mol.GetNumAtoms()

    def worth(self, quantity):
        return quantity / 10


class Treacherous(Plain):
    """As Plain, but methane raises, ammonia hangs, water exits, hydrogen fluoride aborts, and ethane is not finite."""

    def of(self, molecule):
        match molecule.smiles:
            case "C":
                raise RuntimeError("no methane")
            case "N":
                time.sleep(600)
            case "O":
                os._exit(3)
            case "F":
                os.abort()
            case "CC":
                return float("nan")
        return super().of(molecule)


class Process(Plain):
    """The number of the process that computes it, and a line in the file for each call."""

    def __init__(self, *, file, **options):
        super().__init__(**options)
        self.file = str(file)

    def of(self, molecule):
        with Path(self.file).open("a") as file:
            file.write(f"{molecule.smiles} {os.environ['OMP_NUM_THREADS']}\n")
        return os.getpid()


class Unborn(Plain):
    """Cannot be unpickled: no worker lives to see a molecule."""

    def __setstate__(self, state):
        os._exit(1)
