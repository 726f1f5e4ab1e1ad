"""PointMaze in closed loop: a base is cloned, tuned, resumed and drawn, through the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("gymnasium_robotics")
pytest.importorskip("mujoco")

from pgdlab import cli
from pgdlab.config.compose import compose
from pgdlab.config.program import ASSETS
from pgdlab.config.runs import rows
from pgdlab.control.demonstrations import demonstrate
from pgdlab.planning.point_maze import PointMaze
from pgdlab.training.build import build_module
from pgdlab.training.fit import LAST, load
from tests.worlds import fitted

SMALL = ["domain.demonstrations=5", "domain.environment.limit=80", "policy.steps=2"]
TUNED = [
    *SMALL,
    "plan.samples=80",
    "plan.eval_samples=3",
    "trainer.epochs=1",
    "trainer.minibatches=2",
    "optimizer.final_lr=1",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small base, cloned from four episodes of the expert, and runs that tune the one that ships for two iterations, and for
    one."""
    folder, before = tmp_path_factory.mktemp("pointmaze"), Path.cwd()
    os.chdir(folder)
    sizes = [*SMALL, "domain.hidden=8", "domain.layers=1", "plan.eval_samples=4"]
    words = ["experiment=pretrain/pointmaze", *sizes, "trainer.updates=2", "trainer.batch=8", "plan.iterations=2"]
    assert cli.main([*words, "trainer.probe=4", "trainer.probe_every=1"]) == 0
    os.environ.pop("PGDLAB_RUN", None)
    own = ["experiment=control/pointmaze", *TUNED]
    assert cli.main([*own, "plan.iterations=2", "name=whole"]) == 0
    os.environ.pop("PGDLAB_RUN", None)
    assert cli.main([*own, "plan.iterations=1", "name=cut"]) in (0, 3)  # 3: no goal was reached yet
    os.environ.pop("PGDLAB_RUN", None)
    yield folder / "runs"
    os.chdir(before)


def test_a_run_counts_steps_and_draws_its_episodes(folder: Path) -> None:
    """Four environments of twenty chunks of 4 steps, some of which reach a goal within one; a base and a tuned policy, of three
    episodes each."""
    course = rows(folder / "whole")
    assert 2 * 240 < course[-1]["queries"] <= 2 * 320
    assert all(row["episode_length"] <= 80 and row["success"] == row["return"] and row["failed"] == 0 for row in course)
    assert max(row["success"] for row in course) > 0
    for name in ("learning_curve.png", "episodes.png", "before_after.png"):
        assert (folder / "whole" / name).stat().st_size > 1000
    with Image.open(folder / "whole" / "episodes.gif") as moving:
        assert moving.n_frames > 2
    assert rows(folder / "pretrain-pointmaze")[-1]["probe/denoising_loss"] > 0


def test_a_run_resumes_bit_for_bit(folder: Path) -> None:
    """Simulators begin anew by seed; the normalisers are in the checkpoint."""
    assert cli.main(["resume=runs/cut", "plan.iterations=2"]) == 0
    os.environ.pop("PGDLAB_RUN", None)
    whole, cut = (load(folder / name / LAST)["current_model_state"] for name in ("whole", "cut"))
    assert any(name.endswith("conditioning.mean") for name in whole)
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole if name != "seconds")


def test_bases_are_read(folder: Path) -> None:
    """The one that ships is under a megabyte, with the means of its demonstrations: actions are bounded by 1, places by the map.
    One's own brings its own."""
    words = ["experiment=control/pointmaze", *SMALL, "plan.samples=20"]
    own = build_module(compose([*words, f"domain.weights={folder / 'pretrain-pointmaze' / 'base'}"])).world.domain
    module = build_module(compose(words))
    domain = module.world.domain
    assert domain.chunks == 20
    assert domain.decoder.mean.abs().max() < 0.5
    assert 0.5 < domain.decoder.spread.min() <= domain.decoder.spread.max() < 1
    assert domain.conditioning.mean[[0, 1, 4, 5]].abs().max() < 3
    assert not torch.equal(own.decoder.mean, domain.decoder.mean)
    assert (ASSETS / "pointmaze" / "model.safetensors").stat().st_size < 1_000_000


def test_the_noise_of_the_frozen_clone_is_tuned(tmp_path: Path) -> None:
    """Its weights stay, those of rho move."""
    module = fitted(tmp_path, "experiment=control/noise", *TUNED, "plan.iterations=1")
    policy, reference = module.world.policy, module.world.reference
    assert not policy.trains_denoiser
    assert module.history[-1]["kl_nats"] == 0  # of the rollout before its updates
    assert sum(p.numel() for p in policy.initial.parameters() if p.requires_grad) > 0
    base = dict(reference.denoiser.named_parameters())
    assert all(torch.equal(p, base[name]) for name, p in policy.denoiser.named_parameters())


def test_demonstrations_are_bounded() -> None:
    """Pushes as they were taken, by number: at most 1, and noise makes some of them less."""
    pairs = demonstrate(PointMaze(limit=20), 5, 4)
    assert pairs.action.abs().max() == 1
    assert 0.2 < (pairs.action.abs() == 1).double().mean() < 0.95
    assert pairs.observation.shape == (5 * 17, 6)
