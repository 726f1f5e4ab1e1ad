"""Decoder and rewards that rest on the CPU: moved for each call, with the same figures, and refused where it cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pgdlab.config.compose import compose
from pgdlab.rollout.offload import offload
from pgdlab.training.build import build_world, steering
from pgdlab.training.fit import fit
from tests.worlds import BRIGHT, equal, fitted, recorder, tiny


class Noting(nn.Module):
    """Notes where it is sent, and "works"; it raises for 0."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def to(self, device: torch.device) -> Noting:  # type: ignore[override]
        self.notes.append(device.type)
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.notes.append("works")
        if not x.any():
            raise ValueError("nothing to see")
        return x


def test_a_part_is_on_the_device_while_it_works() -> None:
    """Also where it raises, and where it is placed anew, as after training."""
    part = Noting()
    for _ in range(2):
        offload(part, torch.device("meta"))
    assert part(torch.ones(1)) == 1
    with pytest.raises(ValueError, match="nothing"):
        part(torch.zeros(1))
    assert part.notes == ["cpu", "cpu", *["meta", "works", "cpu"] * 2]


def test_the_figures_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two iterations of two batches: two calls of the decoder each, one of the reward; both are moved once more
    when training begins."""
    words = (BRIGHT, "plan.rollout_batch=4")
    plain, (module, cfg) = fitted(tmp_path / "plain", *words), recorder(*words)
    world = module.world
    module.world = replace(world, plan=replace(world.plan, offload=True))
    moves: dict[int, list[str]] = {}
    to = nn.Module.to

    def counted(self: nn.Module, *given: Any, **named: Any) -> nn.Module:
        moves.setdefault(id(self), []).append(str(given[0]) if given else "")
        return to(self, *given, **named)

    monkeypatch.setattr(nn.Module, "to", counted)
    fit(module, cfg, tmp_path / "offloaded")
    assert [len(moves[id(part)]) for part in (world.domain.decoder, world.reward)] == [1 + 2 * 4, 1 + 2 * 2]
    assert equal(module.weights[-1], plain.weights[-1])
    for a, b in zip(module.history, plain.history, strict=True):
        assert {k: v for k, v in a.items() if "seconds" not in k} == {k: v for k, v in b.items() if "seconds" not in k}


def test_where_it_makes_no_sense_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"plan\.offload is true, but the run is on the CPU"):
        build_world(compose(tiny(BRIGHT, "plan.offload=true")))
    cfg = compose(tiny(BRIGHT, "trainer=draft", "policy=lora"))
    world = build_world(cfg)
    with pytest.raises(ValueError, match=r"plan\.offload is true, but this trainer carries gradients back"):
        steering(cfg).refuse(replace(world, plan=replace(world.plan, offload=True)))
