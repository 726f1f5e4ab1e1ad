"""Fitted values: right ones on a line, honest figures of paths that were held out, what is kept and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pgdlab import cli
from pgdlab.credit.critic import Critic, Perceptron, Quadratic
from pgdlab.credit.fitted import Fitted, FittedCritic, facts_of, read, save
from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.values import FittedValue, Value
from pgdlab.guidance.learned import LearnedValue
from pgdlab.guidance.multiplier import Multiplier
from pgdlab.guidance.projection import Projection
from pgdlab.guidance.smc import SMC
from pgdlab.guidance.svdd import SVDD
from pgdlab.guidance.value import ValueGuidance
from pgdlab.rewards.base import RewardError, Score
from pgdlab.rollout.noise import Noise
from pgdlab.tasks.steer import values_of
from pgdlab.training.value_fit import Paths, ValueFit, collected, figures, fit, off
from tests.guidance.lines import GRID, PROBLEMS, OnALine, chain, policy_of, soft_values, source_of
from tests.guidance.test_smc import mean_reward
from tests.guidance.test_soft_best_of_n import mean_of
from tests.worlds import tiny

CPU = {"_target_": "lightning.pytorch.Trainer", "accelerator": "cpu"}
VAR = 0.680566  # of the base's samples in GL


def silent(text: str) -> None: ...


def world_of(name: str, paths: int, seed: int = 0) -> Any:
    world = source_of(name, 2).world
    plan = replace(world.plan, iterations=1, samples=paths, group=1)
    return replace(world, plan=plan, noise=Noise(seed))


def kept(name: str, folder: Path, of: str = "soft", paths: int = 2048, **more: Any) -> tuple[Fitted, dict[str, Any]]:
    """A fitted value of a problem, through its files."""
    world = world_of(name, paths)
    how = ValueFit(of=of, lam=PROBLEMS[name].lam, **({"updates": 800, "critic": Perceptron(hidden=64)} | more))
    with torch.no_grad():
        found, costs = collected(world, silent)
    value, said = fit(how, world, found, CPU, bar=False)
    save(value, {"of": of, "lam": how.lam, "reward": None, **facts_of(world), **costs}, folder)
    return read(folder), said


def error(fitted: Fitted, name: str, h: int) -> float:
    """Root mean square difference to psi_h on the base's states, whatever constant apart."""
    world = world_of(name, 1000, seed=9)
    with torch.no_grad():
        paths, _ = collected(world, silent)
        x = paths.states[:, h]
        value = fitted.value(x, torch.full((len(x),), h), paths.cond) / PROBLEMS[name].lam
    exact = torch.from_numpy(np.interp(x[:, 0].double().numpy(), GRID, soft_values(name)[h]))
    return (value - exact).square().mean().sqrt().item()


@pytest.mark.parametrize(("name", "h", "within"), [("GL", 5, 0.35), ("GQ", 8, 0.6), ("GQ", 4, 0.6), ("MI", 8, 0.6)])
def test_a_soft_value_is_psi(name: str, h: int, within: float, tmp_path: Path) -> None:
    """psi by a grid of the tests' own. The mean of exp(r / lam) has a variance of e^KL: 2,048 paths leave some tenths of a nat;
    E[r | s] / lam is 1.5 to 5 nats off."""
    fitted, _ = kept(name, tmp_path)
    assert error(fitted, name, h) < within


def test_a_mean_value_is_the_expected_reward(tmp_path: Path) -> None:
    """GL: E[x_H | s_h] = s_h times the gains to come, by least squares to the sampling error."""
    fitted, said = kept("GL", tmp_path, of="mean", critic=Quadratic(), lr=0.02, updates=1500)
    alpha, _, u, v, std = chain(1.0, 10)
    gains, var = u + v * alpha[:-1], 1.0
    for h in range(8):
        var = gains[h] ** 2 * var + std[h] ** 2  # of the states 8
    x = torch.tensor([[-1.0], [0.0], [1.5]], dtype=torch.float64)
    for h in (5, 8):
        found = fitted.value(x, torch.full((3,), h), torch.zeros(3, dtype=torch.long))
        assert found.tolist() == pytest.approx((x[:, 0] * float(np.prod(gains[h:]))).tolist(), abs=0.15)
    expected = float(np.prod(gains[8:]) ** 2 * var / VAR)
    assert said["by_state"][8]["explained"] == pytest.approx(expected, abs=0.12)
    assert abs(said["by_state"][8]["calibration"]) < 0.15


def test_the_costs_are_counted(tmp_path: Path) -> None:
    _, said = kept("GL", tmp_path, paths=100, updates=5)
    assert LearnedValue(run=tmp_path).costs() == {"queries": 100, "evaluations": 1000}
    assert said["heldout_paths"] == 10
    assert len(said["by_state"]) == 10
    inside = SMC(potential=LearnedValue(run=tmp_path))
    for guidance in (inside, Multiplier(particles=inside), Projection(then=Multiplier(particles=inside))):
        assert [value.run for value in values_of(guidance)] == [tmp_path]


class Dice(OnALine):
    """Nothing that a state could know: the thousandth digits of the sample."""

    def score(self, sample: Any, cond: Tensor) -> Score:
        return Score.of((1e5 * sample[:, 0].double()).sin())


def test_what_is_held_out_is_not_fitted() -> None:
    """Rewards that no state foretells: a large network learns the 60 paths by heart, and none of the 40 held out."""
    world = replace(world_of("GL", 100), reward=Dice("linear", 0.0))
    how = ValueFit(of="mean", held_out=0.4, updates=1500, lr=1e-2, critic=Perceptron(hidden=128, layers=3))
    with torch.no_grad():
        paths, _ = collected(world, silent)
    parts = [torch.arange(100)[part].tolist() for part in how.parts(100)]
    assert [len(part) for part in parts] == [60, 20, 20]
    assert sorted(row for part in parts for row in part) == list(range(100))
    _, said = fit(how, world, paths, CPU, bar=False)
    assert said["value_explained"] < 0.1


def test_figures_by_hand() -> None:
    """Soft: e^d - d - 1, and the mean of e^d; mean: d^2, and the mean of d."""
    error = torch.tensor([[0.0, 1.0], [2.0, -1.0]], dtype=torch.float64)
    constant = torch.tensor([1.0, -1.0], dtype=torch.float64)
    soft, mean = (figures(ValueFit(of=of), error, constant) for of in ("soft", "mean"))
    one, two, minus = np.e - 2, np.exp(2) - 3, np.exp(-1)
    assert [row["loss"] for row in soft["by_state"]] == pytest.approx([two / 2, (one + minus) / 2])
    assert [row["calibration"] for row in soft["by_state"]] == pytest.approx([(1 + np.exp(2)) / 2, (np.e + minus) / 2])
    assert soft["value_explained"] == pytest.approx(1 - soft["heldout_loss"] / ((one + minus) / 2))
    assert [row["loss"] for row in mean["by_state"]] == pytest.approx([2.0, 1.0])
    assert [row["calibration"] for row in mean["by_state"]] == pytest.approx([1.0, 0.0])


def test_the_loss_goes_on_as_its_tangent() -> None:
    """Beyond 12 nats: finite, and its slope keeps pulling the value up."""
    d = torch.tensor([11.999, 12.001, 300.0], dtype=torch.float64, requires_grad=True)
    loss = ValueFit().loss(d)
    (slope,) = torch.autograd.grad(loss.sum(), d)
    assert loss.isfinite().all()
    assert slope == pytest.approx(np.exp(12) - 1, rel=2e-3)


def test_off_is_in_nats() -> None:
    """(r - V) / lam of a soft value, r - V of a mean one, row by row and step by step."""

    class Plus(Value):
        def sizes(self) -> dict[str, int]:
            return {"steps": 3, "size": 1}

        def forward(self, x: Tensor, h: Tensor, cond: Tensor) -> Tensor:
            return x[:, 0] + h

    value = FittedValue(Plus(), torch.zeros(3, 3, dtype=torch.float64))
    paths = Paths(torch.zeros(2, 3, 1), torch.zeros(2, dtype=torch.long), torch.tensor([1.0, 2.0], dtype=torch.float64))
    found = off(ValueFit(lam=0.5), value, paths)
    torch.testing.assert_close(found, torch.tensor([[2.0, 0.0, -2.0], [4.0, 2.0, 0.0]], dtype=torch.float64))


def test_beyond_the_paths_a_value_is_constant(tmp_path: Path) -> None:
    fitted, _ = kept("GL", tmp_path, paths=200, updates=50)
    x, h, cond = torch.tensor([[50.0], [60.0]]), torch.full((2,), 4), torch.zeros(2, dtype=torch.long)
    one, two = fitted.value(x, h, cond).tolist()
    assert one == two
    found = LearnedValue(run=tmp_path).slope(world_of("GL", 2), x.requires_grad_(), x, 4, cond)
    assert (found.gradient == 0).all()


def test_it_steers(tmp_path: Path) -> None:
    """GQ, base -4.68, T_full -.47: means that follow the value reach the attainable -.51 to a tenth or so, and as a potential it
    leaves the law right: the mean of one of 64 to .02, the estimate of Z without bias."""
    kept("GQ", tmp_path)
    learned = LearnedValue(run=tmp_path)
    (found,) = ValueGuidance(lam=0.5, potential=learned).steer(source_of("GQ", 4000), 10**9)
    assert mean_of(found.value)[0] == pytest.approx(-0.509, abs=0.15)
    for twist in (0.0, 2.0):
        how = SMC(lam=0.5, scored="all", potential=learned, twist=twist)
        population = how.population(source_of("GQ", 300, seed=3), 64, 300)
        mean, error = mean_reward(population)
        assert mean == pytest.approx(-0.4715, abs=4 * error + 0.02)
        assert population.queries == 300 * 64
        z = (population.log_z - PROBLEMS["GQ"].log_z).exp()
        assert z.mean().item() == pytest.approx(1, abs=4 * (z.std() / len(z) ** 0.5).item())


def test_a_critic_begins_with_it(tmp_path: Path) -> None:
    """The same values, unbounded, and trained; a soft one is refused."""
    fitted, _ = kept("GL", tmp_path / "mean", of="mean", paths=200, updates=50)
    world = world_of("GL", 10)
    critic = FittedCritic(run=tmp_path / "mean").build(world)
    x, h, cond = torch.tensor([[0.1], [-0.4]]), torch.tensor([2, 7]), torch.zeros(2, dtype=torch.long)
    torch.testing.assert_close(critic(x, h, cond).double(), fitted.value(x, h, cond), rtol=1e-5, atol=1e-6)
    assert all(p.requires_grad for p in critic.parameters())
    assert critic(torch.tensor([[50.0]]), h[:1], cond[:1]) != critic(torch.tensor([[60.0]]), h[:1], cond[:1])
    kept("GL", tmp_path / "soft", paths=200, updates=5)
    with pytest.raises(ValueError, match="value=mean"):
        FittedCritic(run=tmp_path / "soft").build(world)


def test_a_value_of_something_else_is_refused(tmp_path: Path) -> None:
    fitted, _ = kept("GL", tmp_path, paths=100, updates=5)
    world = world_of("GL", 10)
    fitted.require(world)

    def refused(match: str, **change: Any) -> None:
        with pytest.raises(ValueError, match=match):
            fitted.require(replace(world, **change))

    refused("another base", reference=policy_of(True, 1.0, 10))
    refused("10 steps, and policy.steps is 20", reference=policy_of(False, 1.0, 20))
    refused("another sampler", reference=world.reference.with_kernel(DDIM(eta=0.5)))
    refused("domain gaussian, and this is gaussianmixture", domain=world_of("ML", 10).domain)
    learned = LearnedValue(run=tmp_path)
    with pytest.raises(ValueError, match=r"guidance.lam is 0.1, and the value was fitted for 0.5"):
        ValueGuidance(lam=0.1, potential=learned).refuse(source_of("GL", 2))
    with pytest.raises(ValueError, match=r"fitted for 0.5"):
        SVDD(lam=0.1, potential=learned).refuse(source_of("GL", 2))
    SMC(lam=0.1, potential=learned).refuse(source_of("GL", 2))  # weights mend it


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    kept("GL", tmp_path, paths=100, updates=5)
    weights, config = tmp_path / "value" / "model.safetensors", tmp_path / "value" / "config.json"
    whole, facts = load_file(weights), json.loads(config.read_text())
    with pytest.raises(ValueError, match="holds no fitted value"):
        read(tmp_path / "value")
    with pytest.raises(ValueError, match="no fitted value is given"):
        read(None)
    name = next(n for n in whole if n.startswith("value."))
    for broken in (torch.nan, torch.inf):
        save_file(whole | {name: torch.full_like(whole[name], broken)}, weights)
        with pytest.raises(ValueError, match="not finite"):
            read(tmp_path)
    save_file({n: x for n, x in whole.items() if n != name}, weights)
    with pytest.raises(ValueError, match="damaged"):
        read(tmp_path)
    weights.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="damaged"):
        read(tmp_path)
    save_file(whole, weights)
    for change, match in (
        ({"kind": "Evil"}, "look at kind"),
        ({"lam": "x"}, "look at lam"),
        ({"sizes": {"steps": 3}}, "damaged"),
    ):
        config.write_text(json.dumps(facts | change))
        with pytest.raises(ValueError, match=match):
            read(tmp_path)
    config.write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path)


class Same(OnALine):
    """1 for all."""

    def score(self, sample: Any, cond: Tensor) -> Score:
        return Score.of(torch.ones(len(cond)))


def test_fits_that_cannot_be_are_refused() -> None:
    for wrong, match in (
        ({"lam": 0.0}, "lam is"),
        ({"held_out": 1.0}, "held_out"),
        ({"updates": 0}, "updates"),
        ({"lr": 0.0}, "lr is"),
    ):
        with pytest.raises(ValueError, match=match):
            ValueFit(**wrong)
    with pytest.raises(ValueError, match="of 10 measured paths"):
        ValueFit().parts(10)
    world = replace(world_of("GL", 40), reward=Same("linear", 0.0))
    with torch.no_grad():
        paths, _ = collected(world, silent)
    with pytest.raises(RewardError, match="nothing to fit"):
        fit(ValueFit(), world, paths, CPU, bar=False)


# ---- from the command line

FIT = ("task=value", "plan.iterations=5", "value.updates=5", "value.batch=16", "reward=target")
USE = ("task=steer", "plan.iterations=6", "reward=target")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PGDLAB_RUN", raising=False)
    return tmp_path / "runs"


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def run(*words: str) -> int:
    return cli.main(tiny(*words))


def test_it_is_fitted_and_used_from_the_command_line(here: Path, capsys: Any) -> None:
    assert run(*FIT, "name=a") == 0
    found = summary(here / "value-a")
    metrics = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    assert [name for name in [*found, *found["by_state"][0]] if f"`{name}`" not in metrics] == []
    assert (found["reward_queries"], found["network_evaluations"], found["paths"]) == (40, 160, 40)
    assert "guidance.potential.run=runs/value-a" in capsys.readouterr().out
    assert run(*USE, "guidance=value", "guidance.potential.run=runs/value-a", "name=b") == 0
    used = summary(here / "steer-b")
    assert [name for name in used if f"`{name}`" not in metrics] == []
    assert (used["value_queries"], used["reward_queries"], used["samples"]) == (40, 44, 88)
    assert (used["law"], used["kl_kind"]) == ("attainable", "path")
    assert used["kl_nats"] == used["evaluations"]["steered/sde"]["kl_nats"] > 0
    potential = "guidance.potential={_target_: pgdlab.guidance.learned.LearnedValue, run: runs/value-a}"
    assert run(*USE, "guidance=smc", potential, "guidance.twist=1.0", "name=c") == 0
    assert summary(here / "steer-c")["particles"] == 48  # no query but of the samples


def test_a_training_begins_with_a_fitted_critic(here: Path) -> None:
    assert run(*FIT, "value=mean", "name=a") == 0
    critic = "trainer.credit.critic={_target_: pgdlab.credit.fitted.FittedCritic, run: runs/value-a}"
    assert run("trainer=actor_critic", "reward=target", critic, "name=b") == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["guidance=value"], "no fitted value is given"),
        (["guidance=value", "guidance.potential.run=runs/none"], "runs/none holds no fitted value"),
        (["guidance=value", "guidance.potential.run=runs/value-a", "guidance.lam=0"], "lam is 0.0; it must be above 0"),
        (["guidance=value", "guidance.potential.run=runs/value-a", "reward.target=5"], "value of another reward: reward.target"),
        (["guidance=value", "guidance.potential.run=runs/value-a", "policy.steps=5"], "4 steps, and policy.steps is 5"),
    ],
)  # fmt: skip
def test_refusals(words: list[str], said: str, here: Path, capsys: Any) -> None:
    assert run(*FIT, "name=a") == 0
    assert run(*{word.partition("=")[0]: word for word in [*USE, *words]}.values()) == 2
    assert said in capsys.readouterr().err
    assert [folder.name for folder in here.iterdir()] == ["value-a"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task=value", "plan.iterations=1"], "of 8 measured paths"),
        (["task=value", "reward=every_step"], "pays intermediate states"),
        (["task=value", "trainer=ppo"], "trainer is set, but task=value"),
        (["task=value", "budget=seconds", "budget.seconds=5"], "the budget of a value is reward queries"),
        (["task=value", "plan.iterations=5", "runtime=ddp_cpu"], "fitted by one process"),
        (["value=soft"], "value is set, but task=train"),
    ],
)
def test_fits_are_refused(words: list[str], said: str, here: Path, capsys: Any) -> None:
    assert run(*words) == 2
    assert said in capsys.readouterr().err
    assert not here.exists()


def test_a_critic_of_ones_own_cannot_be_kept(here: Path, capsys: Any) -> None:
    assert run("task=value", "value.critic={_target_: tests.guidance.test_learned.Strange}") == 2
    assert "network that cannot be kept" in capsys.readouterr().err


class Strange(Critic):
    def build(self, world: Any) -> Any:
        class Own(type(Perceptron().build(world))): ...  # type: ignore[misc]

        return Own(2, 4, 64, 8, 1)
