"""What an iteration of each trainer costs, counted where it is spent, against the table of docs/trainers_compared.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.passes import Passes, networks
from pgdlab.config.compose import compose, options
from pgdlab.domains.table import Table
from pgdlab.training.build import build_module
from tests.worlds import BRIGHT, tiny

PAGE = Path(__file__).resolve().parents[2] / "docs" / "trainers_compared.md"
SIZES = {"N": 8, "H": 4, "S": 3, "U": 2, "B": 8, "K": 2, "E": 2}
REGRESSIONS = ["penalty=none", "trainer.updates=2", "trainer.batch=8"]
WORDS: dict[str, list[str]] = {
    **{name: ["penalty=path_kl"] for name in ("reinforce", "adjoint_matching", "draft", "refl")},
    **{
        name: ["penalty=path_kl", "trainer.epochs=2", "trainer.minibatches=2"]
        for name in ("ppo", "ddpo", "grpo", "control_variate")
    },
    "actor_critic": ["penalty=path_kl", "trainer.epochs=2", "trainer.minibatches=2"],
    "per_part": ["penalty=path_kl", "trainer.epochs=2", "trainer.minibatches=2"],
    "grpo_guard": [],  # on flows
    "dppo": [],  # in an environment
    "eager": ["penalty=none"],
    **dict.fromkeys(("rwr", "awm", "nft", "ram", "crd", "dgpo", "offline", "pretrain", "d3po"), REGRESSIONS),
    **{name: [*REGRESSIONS, "trainer.times=2"] for name in ("fpo", "dpo", "kto")},
    "spo": [*REGRESSIONS, "trainer.start=0"],
}


def rows() -> dict[str, list[int]]:
    """Trainer -> its numbers, the expressions of the table at SIZES. A row may be of several trainers."""
    found = {}
    for line in re.findall(r"^\| (`\w+`.*) \|$", PAGE.read_text(), re.MULTILINE):
        names, *cells = line.split(" | ")
        if len(cells) == 4 and all(re.fullmatch(r"`[0-9NHSUBKE+*() ]+`", cell) for cell in cells):
            numbers = [int(eval(cell.strip("`"), {}, SIZES)) for cell in cells]
            found |= dict.fromkeys(re.findall(r"`(\w+)`", names), numbers)
    return found


def test_every_trainer_has_a_row() -> None:
    assert set(rows()) == set(options("trainer")) == set(WORDS)


@pytest.mark.parametrize("name", [n for n in WORDS if n not in ("per_part", "pretrain", "grpo_guard", "dppo")])
def test_an_iteration_costs_what_the_page_says(name: str, tmp_path: Path) -> None:
    """Network rows without and with a gradient, decoded samples, reward queries; and the first two are what is written into
    `evaluations`. Passes are small, so that nothing is differentiated as it is sampled."""
    words = [f"trainer={name}", *WORDS[name]]
    if name == "offline":
        g = torch.Generator().manual_seed(0)
        sample, reward = torch.randn(40, 1, 8, 8, generator=g), torch.randn(40, generator=g)
        Table(sample, reward, torch.full((40,), 10)).write(tmp_path / "t.safetensors")
        words.append(f"trainer.table={tmp_path / 't.safetensors'}")
    module = build_module(compose(tiny(BRIGHT, "heldout=null", "plan.rollout_batch=5", "plan.pass_size=4", *words)))
    world, algorithm, decoded = module.world, module.algorithm, []
    algorithm.refuse(world)
    passes = Passes(networks(world))
    world.domain.decoder.register_forward_hook(lambda _, args, out: decoded.append(len(args[0])))
    experience: Any = algorithm.collect(world, 0)
    counted = experience.evaluations
    for update in range(algorithm.updates_per_iteration(world.plan)):
        for piece in algorithm.micro_batches(experience, update, world):
            loss = algorithm.loss(experience, piece, world)
            loss.value.backward()  # type: ignore[no-untyped-call]
            counted += loss.rows
    passes.close()
    alone = sum(call.rows for call in passes.calls if not call.gradient)
    differentiated = sum(call.rows for call in passes.calls if call.gradient)
    assert [alone, differentiated, sum(decoded), experience.queries] == rows()[name]
    assert counted == alone + differentiated
