"""Scores whose differences are the log odds of a preference, from several networks at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pgdlab.config.runs import write_bytes, write_json

CARD, WEIGHTS = "preference.json", "preference.safetensors"


def network(shape: Sequence[int], outputs: int, width: int = 32) -> nn.Module:
    """Two hidden layers of `width`; of images (C, S, S) behind convolutions of stride 2 down to 4 pixels a side or fewer."""
    before: list[nn.Module] = []
    size = shape[0]
    if len(shape) == 3:
        channels, side = shape[0], shape[-1]
        while side > 4:
            wider = 16 if not before else min(2 * channels, 64)
            before += [nn.Conv2d(channels, wider, 3, 2, 1), nn.SiLU()]
            channels, side = wider, (side + 1) // 2
        before, size = [*before, nn.Flatten()], channels * side**2
    hidden = [nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
    return nn.Sequential(*before, *hidden, nn.Linear(width, outputs))


class Ensemble(nn.Module):
    """r_m(x) of M members: P(a preferred to b) = sigmoid(r(a) - r(b)) (Bradley & Terry 1952). A constant is free in r, for each
    condition; `centre` takes it away, so that members can be compared.

    shape: of an encoded sample. conditions: 1 for a score that does not look at the condition, else their number.
    """

    centre: Tensor

    def __init__(self, *, shape: Sequence[int], members: int, conditions: int = 1) -> None:
        super().__init__()
        self.shape, self.conditions = tuple(shape), conditions
        self.members = nn.ModuleList(network(shape, conditions) for _ in range(members))
        self.register_buffer("centre", torch.zeros(members, conditions))

    def column(self, cond: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Which of the networks' outputs is read."""
        return cond if self.conditions > 1 else torch.zeros_like(cond)

    def forward(self, x: Float[Tensor, "B *F"], cond: Int[Tensor, " B"]) -> Float[Tensor, "M B"]:
        column = self.column(cond)[:, None]
        each = zip(self.members, self.centre, strict=True)
        return torch.stack([member(x).gather(1, column)[:, 0] - centre[column[:, 0]] for member, centre in each])

    @torch.no_grad()
    def centre_on(self, x: Float[Tensor, "N *F"], cond: Int[Tensor, " N"]) -> None:
        """Makes the mean over these samples 0, of every member under every condition that they have."""
        self.centre.zero_()
        score, column = self(x, cond), self.column(cond)
        for c in column.unique():
            self.centre[:, c] = score[:, column == c].mean(1)

    def save(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Weights as safetensors, and a card with what load() needs and the facts."""
        from safetensors.torch import save

        own = {"shape": list(self.shape), "members": len(self.members), "conditions": self.conditions}
        write_bytes(save(self.state_dict()), folder / WEIGHTS)
        write_json(own | dict(facts), folder / CARD)


def load(folder: str) -> tuple[Ensemble, dict[str, Any]]:
    """What task=preferences wrote, frozen, and its card; nothing is executed. Raises ValueError where it is missing or broken."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    place = Path(folder).expanduser()
    try:
        card = json.loads((place / CARD).read_text())
        made = Ensemble(shape=card["shape"], members=card["members"], conditions=card["conditions"])
        made.load_state_dict(load_file(place / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(
            f"cannot load a reward that was learned from pairs from {folder!r}: {why}. task=preferences makes one"
        ) from error
    return made.eval().requires_grad_(False), card
