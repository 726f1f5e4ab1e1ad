"""Rewards made of rewards: a weighted sum, a product, and a gate."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pgdlab.rewards.base import Outcome, Reward, Score, ShapeError, StepRewards, terminal


def named(name: str, value: Tensor, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A reward's value and its parts, under its name."""
    return {name: value} | {f"{name}/{key}": part for key, part in parts.items()}


class Named(Reward):
    """Of several rewards, name -> reward. Parts keep every reward's value under its name. Measured where all are."""

    def __init__(self, *, rewards: dict[str, Reward]) -> None:
        super().__init__()
        odd = [name for name in rewards if not re.fullmatch(r"[\w.+-]+", str(name))]
        if odd:
            raise ValueError(
                f"rewards names {odd}; a name is a column of the figures: letters, digits and _ . + - alone"
            )
        self.names, self.rewards = tuple(rewards), nn.ModuleList(rewards.values())  # a ModuleDict refuses some names

    def _each(self) -> dict[str, Reward]:
        return {name: r for name, r in zip(self.names, self.rewards, strict=True) if isinstance(r, Reward)}

    @abstractmethod
    def combined(self, values: Mapping[str, Tensor]) -> Tensor:
        """The value (B,) of the rewards' values, by name."""

    def score(self, sample: Any, cond: Tensor) -> Score:
        scores = {name: r.scored(sample, cond) for name, r in self._each().items()}
        value = self.combined({name: s.value for name, s in scores.items()})
        measured = torch.stack([s.measured for s in scores.values()]).all(0)
        return Score(value, measured, _merged({name: named(name, s.value, s.parts) for name, s in scores.items()}))


class Sum(Named):
    """sum_k weight_k reward_k. rewards: name -> reward. weights: name -> weight, 1 where none is given."""

    def __init__(self, *, rewards: dict[str, Reward], weights: dict[str, float] | None = None) -> None:
        super().__init__(rewards=rewards)
        given = weights or {}
        if not rewards or given.keys() - rewards.keys():
            raise ValueError(f"weights names {sorted(given)}; this sum's rewards are {sorted(rewards)}, one or more")
        self.weights = {name: float(given.get(name, 1.0)) for name in rewards}
        self.differentiable = all(r.differentiable for name, r in rewards.items() if self.weights[name])

    def needs_estimates(self) -> bool:
        return any(r.needs_estimates() for r in self._each().values())

    def combined(self, values: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[name] * value for name, value in values.items()]).sum(0)

    def forward(self, outcome: Outcome) -> StepRewards:
        paid = {name: r(outcome) for name, r in self._each().items()}
        values = self.combined({name: p.values for name, p in paid.items()})
        initial = self.combined({name: p.initial for name, p in paid.items()})
        measured = torch.stack([p.measured for p in paid.values()]).all(0)
        parts = _merged({name: named(name, p.total, p.parts) for name, p in paid.items()})
        return StepRewards(values, initial, measured, parts)


def _merged(groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {key: part for group in groups.values() for key, part in group.items()}


class Product(Named):
    """prod_k reward_k of the final sample: all must be good, where a Sum lets one make up for another. rewards: name -> reward,
    whose values are 0 and more: two that are bad would make a good one.
    """

    def __init__(self, *, rewards: dict[str, Reward]) -> None:
        super().__init__(rewards=rewards)
        early = [name for name, reward in rewards.items() if reward.needs_estimates()]
        if len(rewards) < 2 or early:
            raise ValueError(
                f"rewards names {early or sorted(rewards)}; a product is of two or more rewards of final samples"
                + (", and these pay on the way too: put the product inside of them" if early else "")
            )
        self.differentiable = all(r.differentiable for r in rewards.values())

    def combined(self, values: Mapping[str, Tensor]) -> Tensor:
        for name, value in values.items():
            if (value < 0).any():
                raise ShapeError(
                    f"rewards.{name} is {value.min():.3g} at a sample; a product takes rewards of 0 and more: take a Sum"
                )
        return torch.stack([*values.values()]).prod(0)


class Gate(Reward):
    """reward where gate's value of the final sample is at least threshold, else 0 (a bad sample, yet a measured one).

    The whole return is paid at the last step: every action has a part in whether the gate opens, so that what is paid
    before cannot be credited before. To keep the credit of EveryStep or Shaped, put the Gate inside of them.

    Parts: the reward's own, "ungated" (its value), "gate" (the gate's value) and "open" (1 or 0).
    """

    def __init__(self, *, reward: Reward, gate: Reward, threshold: float = 0.5) -> None:
        super().__init__()
        self.reward, self.gate, self.threshold = reward, gate, threshold

    def needs_estimates(self) -> bool:
        return self.reward.needs_estimates()

    def score(self, sample: Any, cond: Tensor) -> Score:
        return self._gated(self.reward.scored(sample, cond), self.gate.scored(sample, cond))

    def _gated(self, inner: Score, gate: Score) -> Score:
        is_open = gate.value >= self.threshold
        # behind a closed gate it does not matter whether the reward could be measured
        measured = gate.measured & (inner.measured | ~is_open)
        more = {"ungated": inner.value, "gate": gate.value, "open": is_open.to(inner.value.dtype)}
        return Score(torch.where(is_open, inner.value, 0.0), measured, {**inner.parts, **more})

    def forward(self, outcome: Outcome) -> StepRewards:
        paid = self.reward(outcome)
        inner, gate = Score(paid.total, paid.measured, paid.parts), self.gate.scored(outcome.sample, outcome.cond)
        return terminal(self._gated(inner, gate), outcome.steps)
