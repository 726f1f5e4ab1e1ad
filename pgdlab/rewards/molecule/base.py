"""Rewards of single molecules: invalid ones are worth 0, answers are cached, cache misses are counted."""

from __future__ import annotations

import itertools
import math
import warnings
from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.molecules.batch import Molecule, Molecules
from pgdlab.rewards.base import Reward, Score

REMEMBERED = 100_000


class CachedReward(Reward):
    """worth(quantity of m) of a valid molecule m, and 0 of an invalid one. Not measured where the oracle fails.

    Answers, failures too, are cached by canonical SMILES, the last `remembered` of them. So a quantity is one of the molecule
    without stereo, whatever the order of its atoms. The part that
    is named `part` is the quantity in its own unit, NaN where it is not known.
    """

    takes = "molecules"
    part: str

    def __init__(self, *, remembered: int = REMEMBERED) -> None:
        super().__init__()
        if remembered < 1:
            raise ValueError(f"remembered is {remembered}; it must be at least 1 molecule")
        self.remembered = remembered
        self.cache_misses: int = 0
        self.answers: dict[str, float] = {}  # what was used last is last
        self.warned = False

    @abstractmethod
    def ask(self, molecules: Molecules) -> list[float]:
        """The quantities of distinct valid molecules, NaN where the oracle fails."""

    @abstractmethod
    def worth(self, quantity: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Rewards of quantities; that of NaN is not used."""

    def score(self, sample: Molecules, cond: Tensor) -> Score:
        names = [m.smiles if m.valid else None for m in sample]
        quantity = torch.tensor(self.recalled(sample, names), dtype=torch.float64, device=cond.device)
        failed = quantity.isnan()
        measured = ~failed | torch.tensor([name is None for name in names], device=cond.device)
        return Score(torch.where(failed, 0.0, self.worth(quantity)), measured, {self.part: quantity})

    def recalled(self, sample: Molecules, names: list[str | None]) -> list[float]:
        """The quantities of all, in order; those that are not remembered are asked for, once each."""
        answers = self.answers
        new = {n: m for n, m in zip(names, sample, strict=True) if n is not None and n not in answers}
        self.cache_misses += len(new)
        for name in names:
            if name in answers:
                answers[name] = answers.pop(name)
        if new:
            answers.update(zip(new, self.ask(sample.some(new.values())), strict=True))
        found = [math.nan if name is None else answers[name] for name in names]
        for oldest in list(itertools.islice(answers, max(0, len(answers) - self.remembered))):
            del answers[oldest]
        return found

    def failure(self, molecule: Molecule, error: Exception) -> float:
        """NaN; the first one is shown as a warning."""
        if not self.warned:
            text = f"{type(self).__name__} failed on {molecule.smiles}: {error!r}. Further failures are only counted"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        self.warned = True
        return math.nan


class PerMolecule(CachedReward):
    """An oracle that looks at one molecule after another, in this process. An exception costs its molecule only."""

    @abstractmethod
    def of(self, molecule: Molecule) -> float:
        """The quantity of a valid molecule."""

    def ask(self, molecules: Molecules) -> list[float]:
        return [self.tried(m) for m in molecules]

    def tried(self, molecule: Molecule) -> float:
        """of(), NaN where it raises."""
        try:
            return float(self.of(molecule))
        except Exception as error:  # whatever RDKit raises: it is this molecule's alone
            return self.failure(molecule, error)
