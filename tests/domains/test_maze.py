"""The maze: samples and plans, what the base is told, whole runs, execution in MuJoCo."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pgdlab import cli
from pgdlab.config.compose import compose
from pgdlab.config.groups import options
from pgdlab.domains.maze import Maze
from pgdlab.planning import execution
from pgdlab.planning.demonstrations import demonstrations
from pgdlab.planning.figures import near
from pgdlab.planning.tasks import Tasks, drawn
from pgdlab.rollout.trajectory import Samples
from pgdlab.training.build import build_world
from tests.worlds import fitted

SMALL = ["domain.layouts=8", "domain.unseen=4", "domain.demonstrations=40"]
PLAN = ["plan.samples=8", "plan.group=4", "plan.iterations=1", "plan.eval_samples=4", "policy.steps=3"]


def small(**given: object) -> Maze:
    return Maze(layouts=8, unseen=4, demonstrations=40, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A pretraining of two updates, and what it wrote."""
    folder, before = tmp_path_factory.mktemp("maze"), Path.cwd()
    os.chdir(folder)
    os.environ.pop("PGDLAB_RUN", None)
    words = [
        "experiment=pretrain/maze",
        *SMALL,
        "domain.width=16",
        "domain.layers=1",
        "trainer.updates=2",
        "trainer.batch=4",
    ]
    assert cli.main([*words, "plan.iterations=1", "plan.eval_samples=4", "policy.steps=2", "trainer.probe=0"]) == 0
    os.environ.pop("PGDLAB_RUN", None)
    yield folder / "runs" / "pretrain-maze"
    os.chdir(before)


@pytest.mark.parametrize("kind", ["waypoints", "sines"])
def test_plans_and_samples_are_each_others_inverse(kind: str) -> None:
    """Of demonstrations as waypoints; as sines they keep their ends and still touch nothing."""
    domain = small(representation=kind)
    sample, cond = domain.data("train")
    plan = domain.decoder(sample.double())
    tasks = domain.tasks
    assert sample.shape[1:] == domain.space.shape == {"waypoints": (32, 2), "sines": (12, 2)}[kind]
    torch.testing.assert_close(plan[:, [0, -1]], tasks.ends[cond].double(), rtol=0, atol=1e-5)
    assert not near(plan, tasks.occupied[cond]).any()
    again = domain.encode(plan.float())
    torch.testing.assert_close(again, sample, rtol=0, atol=1e-4)
    torch.testing.assert_close(domain.conditioning(cond)["pinned"], sample[:, [0, -1]], rtol=0, atol=1e-6)
    test, other = domain.data("test")
    assert len(test) + len(sample) >= 39
    assert not set(other.tolist()) & set(cond.tolist())
    with pytest.raises(ValueError, match="split is 'unseen'"):
        domain.data("unseen")


def test_sines_by_hand() -> None:
    """Start (0, 0), goal (4, 0), and one of mode 2 to the side: a whole wave, 2 x 2^-1.6 cells high."""
    sample = torch.zeros(1, 12, 2, dtype=torch.float64)
    sample[0, -1, 0], sample[0, 2, 1] = 2.0, 1.0
    plan = small(representation="sines").decoder(sample)[0]
    share = torch.linspace(0, 1, 32, dtype=torch.float64)
    torch.testing.assert_close(plan[:, 0], 4 * share)
    torch.testing.assert_close(plan[:, 1], 2 * 2**-1.6 * (2 * torch.pi * share).sin())


def test_training_and_evaluation_have_tasks_of_their_own() -> None:
    domain = small(blocks=8)
    assert domain.train_conditions == tuple(range(8))
    assert domain.eval_conditions == (8, 9, 10, 11)
    occupied = domain.tasks.occupied.flatten(1)
    assert (occupied[:12].sum(1) == occupied[12].sum() + 8).all()
    assert not (occupied[:8, None] == occupied[None, 8:12]).all(2).any()
    assert torch.equal(small(blocks=8).tasks.ends, domain.tasks.ends)
    with pytest.raises(ValueError, match="layouts is 0; it must be at least 1"):
        Maze(layouts=0)


def test_the_base_is_blind_to_blocks_until_it_is_tuned(run: Path) -> None:
    """Two tasks that differ in nothing but blocks: the same estimate; another one once the layer that hears of them moves."""
    domain = small(weights=str(run / "base"))
    base = domain.base()
    told = base.conditioning
    told.pinned[1], told.cells[1] = told.pinned[0], told.cells[0]  # type: ignore[operator]
    x = torch.randn(1, 32, 2, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1)
    t, cond = torch.tensor([500, 500]), torch.tensor([0, 1])
    assert not torch.equal(told.blocks[0], told.blocks[1])  # type: ignore[index]
    with torch.no_grad():
        one, two = base(x, t, cond)
        assert torch.equal(one, two)
        base.denoiser.network.facts[2].weight.add_(0.1)  # type: ignore[union-attr, index]
        one, two = base(x, t, cond)
    assert not torch.allclose(one[1:-1], two[1:-1], atol=1e-4)
    assert torch.equal(one[[0, -1]], two[[0, -1]])


def test_the_loss_is_min_snr(run: Path) -> None:
    base = small(weights=str(run / "base")).base().denoiser
    x0 = torch.zeros(3, 32, 2)
    t, cond = torch.tensor([5, 500, 999]), torch.tensor([0, 0, 0])
    with torch.no_grad():
        error = base(x0, t, cond).square().flatten(1).mean(1)
        ratio = base.loss(x0, x0, t, cond) / error
    alpha, sigma = base.schedule.alpha(t), base.schedule.sigma(t)
    assert ratio[0].item() == pytest.approx(5.0, rel=1e-5)
    assert ratio[1:].tolist() == pytest.approx(((alpha / sigma) ** 2)[1:].tolist(), rel=1e-4)


def test_a_missing_base_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot load the base of maze from .* experiment=pretrain/maze"):
        small(weights=str(tmp_path)).base()


@pytest.mark.parametrize("name", ["initial", "joint"])
def test_a_run_trains_what_sees_the_blocks(run: Path, tmp_path: Path, name: str) -> None:
    module = fitted(
        tmp_path, f"experiment=maze/{name}", *SMALL, *PLAN, f"domain.weights={run / 'base'}", "trainer.minibatches=1"
    )
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=False)["current_model_state"]
    blocks = "denoiser.denoiser.network.facts.2.weight"
    assert any(key.endswith("initial.head.body.0.weight") for key in state)
    assert any(key.endswith(blocks) for key in state) == (name == "joint")
    assert set(module.world.domain.tasks.occupied[:8].flatten(1).sum(1).tolist()) == {49}
    row = module.history[-1]
    assert {"reward/free", "reward/share", "reward/short"} <= row.keys()


EXPERIMENTS = sorted(name for name in options("experiment") if name.startswith("maze/"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_builds(run: Path, name: str) -> None:
    world = build_world(compose([f"experiment={name}", *SMALL, f"domain.weights={run / 'base'}"]))
    assert world.domain.name == "maze"
    assert world.reward.takes in ("plans", None)


@pytest.mark.parametrize("name", ["gradient", "multiplier"])
def test_steering_runs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Along the gradient of a reward, or by particles whose share in walls has a limit, on unseen tasks."""
    monkeypatch.chdir(tmp_path)
    sizes = [
        *SMALL,
        f"domain.weights={run / 'base'}",
        "policy.steps=3",
        "plan.samples=8",
        "plan.iterations=2",
        "plan.eval_samples=4",
    ]
    os.environ.pop("PGDLAB_RUN", None)
    own = {"gradient": [], "multiplier": ["guidance.limit=0.9", "guidance.particles.particles=2"]}[name]
    assert cli.main([f"experiment=maze/{name}", *sizes, *own]) == 0
    os.environ.pop("PGDLAB_RUN", None)
    (folder,) = (tmp_path / "runs").iterdir()
    found = json.loads((folder / "summary.json").read_text())
    assert 0 < found["evaluations"]["steered/sde"]["collision"] < 1
    assert (folder / "before_after.png").stat().st_size > 5000


def straight(domain: Maze, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Demonstrations of blocked tasks that know nothing of the blocks."""
    part = Tasks(*(getattr(domain.tasks, n)[rows] for n in ("occupied", "cells", "ends", "shortest")))
    open_ = Tasks(domain.grid.walls.expand(len(rows), -1, -1), part.cells, part.ends, part.shortest)
    plans, kept = demonstrations(domain.grid, open_, 32, 0)
    return plans, rows[kept]


def test_executions_touch_what_plans_touch(capfd: pytest.CaptureFixture[str]) -> None:
    """The simulator's contacts against the plans' own clearance, and one simulator for all layouts against one of a layout."""
    robotics = pytest.importorskip("gymnasium_robotics")
    assert robotics.__version__
    from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv

    domain = small()
    plans, rows = straight(domain, torch.arange(8))
    found = execution.execute(plans, domain.grid, domain.tasks, rows)
    clear = ~near(plans, domain.tasks.occupied[rows]).any(1)
    assert 0 < clear.sum() < len(rows)
    assert torch.equal(found.reached & ~found.touched, clear)
    figures = found.figures()
    assert figures["executed"] == clear.double().mean()
    assert figures["executed"] <= figures["reached"]
    k = int((~clear).nonzero()[0])
    ball = PointMazeEnv(maze_map=[[int(c) for c in row] for row in domain.tasks.occupied[rows[k]]]).point_env
    model = ball.model
    walls = np.array([i for i in range(model.ngeom) if model.geom(i).name.startswith("block_")])
    ends = domain.tasks.ends[rows[k]].double().numpy()
    reached, touched, way = execution.driven(ball, plans[k].double().numpy(), *ends, walls)
    assert (reached, touched) == (bool(found.reached[k]), True)
    assert (way == found.ways[k]).all()


def test_executed_plans_are_measured_and_shown(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium_robotics")
    domain = small(executed=2)
    sample, cond = domain.data("train")
    assert domain.metrics(sample[:3], cond[:3])["executed"] == 1
    (gif,) = domain.report({"base": Samples(sample[:2], cond[:2])}, tmp_path)
    with Image.open(gif) as shown:
        assert shown.n_frames > 10
    assert small().report({"base": Samples(sample[:2], cond[:2])}, tmp_path) == []


def test_without_the_extra_executions_are_left_out_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(execution, "installed", lambda: False)
    domain = small(executed=2)
    sample, cond = domain.data("train")
    with pytest.warns(UserWarning, match=r"gymnasium_robotics is not installed \(pip install -e '.\[planning\]'\)"):
        found = domain.metrics(sample[:3], cond[:3])
    assert "executed" not in found
    assert found["success"] == 1
    tasks = drawn(Maze(map=("#####", "#...#", "#####")).grid, 1, 0, 1.0, 0)
    with pytest.raises(ValueError, match="plans cannot be executed"):
        execution.execute(tasks.ends, Maze(map=("#####", "#...#", "#####")).grid, tasks, torch.tensor([0]))


def test_pictures_show_each_plan_on_its_map(tmp_path: Path) -> None:
    domain = small()
    sample, cond = domain.data("train")
    for name, given in (("own", cond[:3]), ("all", None)):
        domain.show({"before": sample[:3], "after": sample[:3]}, tmp_path / f"{name}.png", given)
        with Image.open(tmp_path / f"{name}.png") as shown:
            colours = {colour[:3] for _, colour in shown.convert("RGB").getcolors(maxcolors=2**20)}
        assert (0x2A, 0x7F, 0x62) in colours  # of plans that touch nothing
        assert (0xC8, 0x55, 0x3D) not in colours  # of those that do
