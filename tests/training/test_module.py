"""The LightningModule through real fits: passes, counters, modes, averaged weights, and what every switch trains."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from pgdlab.diffusion.denoisers import DiffusersDenoiser
from pgdlab.trainers.policy_gradient import PolicyGradient
from pgdlab.training.fit import LAST, fit, load
from pgdlab.training.module import SteeringModule
from pgdlab.training.optimizer import Optimization
from tests.worlds import BRIGHT, base, distance, equal, fitted, recorder

ONE = ("plan.iterations=1", BRIGHT)
JOINT = ("policy=full", "initial=diagonal", "penalty=path_kl")


def test_the_gradient_in_many_passes_is_that_in_one(tmp_path: Path) -> None:
    """32 pairs in passes of 3, through Lightning's closure and our clipping (the trap: zero_grad erases earlier passes)."""
    settings = (*ONE, *JOINT, "trainer=reinforce", "optimizer.clip_norm=0.01")
    one, many = (
        fitted(tmp_path / str(size), *settings, f"plan.pass_size={size}", double=True, nudge=0.02) for size in (1024, 3)
    )
    assert distance(many.gradients[0], one.gradients[0]) < 1e-12
    clipped = [torch.cat([p.grad.flatten() for p in m.policy.parameters()]) for m in (one, many)]
    for m, gradient in zip((one, many), clipped, strict=True):
        assert gradient.norm() == pytest.approx(0.01, rel=1e-3)
        assert m.history[0]["train/gradient_norm"] > 0.02
    assert (clipped[0] - clipped[1]).norm() < 1e-12 * clipped[0].norm()
    assert distance(many.weights[0], one.weights[0]) < 1e-9
    assert not equal(one.weights[0], dict(recorder(*settings, double=True, nudge=0.02)[0].policy.named_parameters()))


def test_many_passes_with_several_minibatches_and_failed_rewards(tmp_path: Path) -> None:
    patchy = "reward={_target_: tests.worlds.Patchy, limit: 0.7}"
    settings = (*JOINT, patchy, "plan.max_failed=0.9", "trainer=ppo", "trainer.minibatches=3")
    one, many = (fitted(tmp_path / str(size), *settings, f"plan.pass_size={size}", double=True) for size in (1024, 5))
    assert 0 < one.history[0]["failed"] < 0.9
    assert len(one.gradients) == 12
    for k in range(12):
        assert distance(many.gradients[k], one.gradients[k]) < 1e-7


def test_one_rollout_an_iteration_and_what_the_buffers_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collected, rows = [], []
    collect, forward = PolicyGradient.collect, DiffusersDenoiser.forward

    def counting(self: Any, world: Any, iteration: int) -> Any:
        collected.append(iteration)
        return collect(self, world, iteration)

    def network(self: Any, x: Any, t: Any, cond: Any) -> Any:
        rows.append(len(x))
        return forward(self, x, t, cond)

    monkeypatch.setattr(PolicyGradient, "collect", counting)
    monkeypatch.setattr(DiffusersDenoiser, "forward", network)
    module = fitted(
        tmp_path,
        BRIGHT,
        "plan.iterations=3",
        "trainer=ppo",
        "trainer.minibatches=2",
        "plan.rollout_batch=3",
        "plan.pass_size=64",
    )
    assert collected == [0, 1, 2]
    assert int(module.iterations) == 3
    assert int(module.queries) == 3 * 8
    assert int(module.evaluations) == sum(rows)
    assert len(module.weights) == 3 * 2 * 2
    assert [row["iteration"] for row in module.history] == [1, 2, 3]
    assert [row["queries"] for row in module.history] == [8, 16, 24]


def dropouts(module: SteeringModule) -> set[bool]:
    return {m.training for m in module.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0}


@pytest.mark.parametrize("start_training", [True, False])
def test_dropout_is_off_at_replay(tmp_path: Path, start_training: bool) -> None:
    """With dropout on, the ratio of the first update would be off 1 by far more than rounding."""
    weights = f"domain.weights={base(dropout=0.5)}"
    module, cfg = recorder(*ONE, weights, "trainer=ppo", "trainer.epochs=1", "trainer.minibatches=1")
    module.train(start_training)
    fit(module, cfg, tmp_path)
    assert dropouts(module) == {False}
    assert module.history[0]["train/log_ratio_abs"] < 1e-4


def test_rollout_and_replay_have_one_precision(tmp_path: Path) -> None:
    """A bf16 replay of an fp32 rollout is off by thousandths of a nat and more before the first update."""
    one_update = ("trainer=ppo", "trainer.epochs=1", "trainer.minibatches=1", "runtime.precision=bf16-mixed")
    module = fitted(tmp_path, *ONE, *one_update)
    assert module.experience is None
    assert all(g.dtype == torch.float32 for g in module.gradients[0].values())
    assert module.history[0]["train/log_ratio_abs"] < 1e-4


def test_dropout_is_on_in_pretraining_and_keyed(tmp_path: Path) -> None:
    """The same seed gives the same masks whatever torch's global state is, so that a resumed run draws the same."""
    gradients = []
    for state in (1, 2):
        sizes = ("plan.iterations=1", "trainer.updates=2", "trainer.batch=4", f"domain.weights={base(dropout=0.5)}")
        module, cfg = recorder("experiment=pretrain/digits", *sizes)
        with torch.random.fork_rng():
            torch.manual_seed(state)
            fit(module, cfg, tmp_path / str(state))
        assert dropouts(module) == {True}
        gradients.append(module.gradients[-1])
    assert equal(*gradients)
    without, cfg = recorder("experiment=pretrain/digits", *sizes[:-1])
    fit(without, cfg, tmp_path / "without")
    assert distance(without.gradients[-1], gradients[0]) > 1e-2


def test_the_average_is_the_one_computed_by_hand(tmp_path: Path) -> None:
    """After the first update the average starts as the weights; then d average + (1 - d) weights. Live weights stay."""
    module = fitted(
        tmp_path, BRIGHT, "heldout=null", "trainer=ppo", "trainer.minibatches=2", "optimizer.ema_halflife=0.5"
    )
    decay = 0.5 ** (1 / (0.5 * 8))
    expected = module.weights[0]
    for weights in module.weights[1:]:
        expected = {n: decay * expected[n] + (1 - decay) * w for n, w in weights.items()}
    state = load(tmp_path / LAST)
    averaged, raw = ({n: state[k][f"policy.{n}"] for n in expected} for k in ("state_dict", "current_model_state"))
    assert distance(averaged, expected) < 1e-7
    assert distance(averaged, raw) > 1e-5
    assert equal(raw, module.weights[-1])
    assert equal(dict(module.policy.named_parameters()), raw)


@pytest.mark.parametrize("updates", [40, 3000])
def test_the_half_life_is_a_share_of_all_updates(updates: int) -> None:
    assert Optimization(ema_halflife=0.1).ema_decay(updates) ** (updates / 10) == pytest.approx(0.5)
    assert Optimization(ema_halflife=0.1).ema_decay(4) == 0.5  # short runs: one update, never less


def test_averaging_leaves_equal_weights_alone(tmp_path: Path) -> None:
    """Under LoRA the average shares the frozen base: d p + (1 - d) p rounds, and would move it a little every update."""
    before = {n: p.detach().clone() for n, p in recorder(BRIGHT, "policy=lora")[0].policy.named_parameters()}
    module = fitted(tmp_path, BRIGHT, "policy=lora", "optimizer.ema_halflife=0.37", "trainer.epochs=4")
    frozen = {n: p for n, p in module.policy.named_parameters() if not p.requires_grad}
    assert frozen
    assert equal(frozen, {n: before[n] for n in frozen})


def test_what_is_not_the_policy_stays(tmp_path: Path) -> None:
    """Reference, rewards and penalty are outside the optimizer and come out bit for bit as they went in."""
    module, cfg = recorder("plan.iterations=1", "initial=diagonal", nudge=0.01)
    world = module.world
    parts = {"reference": world.reference, "reward": world.reward, "heldout": world.heldout, "penalty": world.penalties}
    before = {k: {n: x.clone() for n, x in part.state_dict().items()} for k, part in parts.items()}
    fit(module, cfg, tmp_path)
    assert all(equal(part.state_dict(), before[k]) for k, part in parts.items())
    held = {id(p) for group in module.configure_optimizers().param_groups for p in group["params"]}
    assert held == {id(p) for p in module.policy.parameters()}


WHO = {
    ("full", "standard"): {"denoiser"},
    ("lora", "standard"): {"adapters"},
    ("frozen", "diagonal"): {"initial"},
    ("frozen", "conditional"): {"initial"},
    ("full", "diagonal"): {"denoiser", "initial"},
    ("full", "conditional"): {"denoiser", "initial"},
    ("lora", "diagonal"): {"adapters", "initial"},
}


def kind(name: str) -> str:
    if name.startswith("initial."):
        return "initial"
    return "adapters" if "lora_" in name else "denoiser"


@pytest.mark.parametrize(("policy", "initial"), WHO)
def test_the_grid_of_combinations(policy: str, initial: str, tmp_path: Path) -> None:
    """By overrides alone: exactly the named parameters move, and every switch changes the first gradient.

    Off the reference, because on it the KL and its gradient are 0; PPO's first minibatch is half of REINFORCE's batch.
    """
    first = {}
    for trainer, penalty in itertools.product(("reinforce", "ppo"), ("none", "path_kl")):
        minibatches = ["trainer.minibatches=2"] if trainer == "ppo" else []
        settings = (f"trainer={trainer}", f"penalty={penalty}", f"policy={policy}", f"initial={initial}", *minibatches)
        module, cfg = recorder(*ONE, *settings, nudge=0.02)
        start = {n: p.detach().clone() for n, p in module.policy.named_parameters()}
        fit(module, cfg, tmp_path / f"{trainer}-{penalty}")
        moved = {kind(n) for n, p in module.policy.named_parameters() if not torch.equal(p, start[n])}
        trained = {kind(n) for n in module.gradients[0]}
        assert moved == trained == WHO[policy, initial]
        still = [
            n for n, p in module.policy.named_parameters() if kind(n) not in moved and not torch.equal(p, start[n])
        ]
        assert not still
        first[trainer, penalty] = module.gradients[0]
    for a, b in itertools.combinations(first.values(), 2):
        for part in WHO[policy, initial]:
            some = [{n: g for n, g in x.items() if kind(n) == part} for x in (a, b)]
            assert distance(*some) > 1e-3


def test_tuning_another_part_changes_no_gradient_of_this_one(tmp_path: Path) -> None:
    """The denoiser's first gradient does not depend on whether rho is trained beside it, while rho is the prior."""
    alone = fitted(tmp_path / "a", *ONE, "trainer=reinforce").gradients[0]
    joint = fitted(tmp_path / "b", *ONE, "trainer=reinforce", "initial=diagonal").gradients[0]
    assert distance({n: joint[n] for n in alone}, alone) < 1e-5
    assert joint.keys() - alone.keys() == {"initial.mean", "initial.log_scale"}


def test_a_checkpoint_of_adapters_is_three_times_their_moments_at_most(tmp_path: Path) -> None:
    """Their weights and averages are as much as AdamW's two moments: twice those, and the counters. Nothing of the base. Tensors
    are counted: their names are most of a file this small."""
    module = fitted(tmp_path, *ONE, "policy=lora", "policy.tuning.rank=16", "heldout=null")
    state = load(tmp_path / LAST)
    moments = [x for entry in state["optimizer_states"][0]["state"].values() for x in entry.values()]
    held = sum(x.nbytes for part in ("state_dict", "current_model_state") for x in state[part].values())
    adapters = sum(p.nbytes for p in module.policy.parameters() if p.requires_grad)
    assert sum(x.nbytes for x in moments if x.ndim) == 2 * adapters > 0
    assert held + sum(x.nbytes for x in moments) < 2.1 * 2 * adapters
    assert not {name for name in state["state_dict"] if "base_layer" in name}
