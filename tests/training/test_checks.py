"""Every check of the doctor fails in a world that is broken on purpose, names the cause, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab.config.compose import compose, instantiate
from pgdlab.diffusion.denoisers import DiffusersDenoiser
from pgdlab.penalties.base import Penalties
from pgdlab.penalties.path_kl import PathKL
from pgdlab.rewards.base import Reward, Score
from pgdlab.rollout.noise import Noise, Stream
from pgdlab.rollout.sampler import rollout
from pgdlab.trainers import interaction
from pgdlab.trainers.ppo import PPO
from pgdlab.training import checks as doctor
from pgdlab.training.checks import Check, DoctorError, examine, require
from pgdlab.training.findings import table
from pgdlab.training.module import SteeringModule
from pgdlab.training.optimizer import Optimization
from tests.worlds import BRIGHT, POINTS, Broken, Patchy, base, equal, recorder, tiny


def module(*overrides: str) -> SteeringModule:
    return recorder(BRIGHT, "initial=diagonal", "penalty=path_kl", *overrides)[0]


def named(findings: list[Check], name: str) -> Check:
    return next(c for c in findings if c.name == name)


def failing(findings: list[Check]) -> set[str]:
    return {c.name for c in findings if c.verdict == "failed"}


@pytest.mark.parametrize(
    "extra",
    [
        (),
        ("policy=lora", "penalty=none"),
        ("policy=frozen",),
        ("penalty.path_kl.form=B",),
        ("policy.guidance=2.0", "policy.kernel.eta=0.3", "domain.train_conditions=[3]"),
    ],
)
def test_a_healthy_world_passes(extra: tuple[str, ...]) -> None:
    findings = examine(module(*extra))
    assert not failing(findings)
    assert {c.name for c in findings} >= {
        "parameters",
        "noise",
        "ratio",
        "kl gradient",
        "reward",
        "groups",
        "throughput",
    }
    require(findings)


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_changed(training: bool) -> None:
    """Weights, buffers, gradients, the modes of every part, and torch's global generator."""
    some = module()
    some.train(training)
    some.policy.denoiser.eval()
    before = {n: x.clone() for n, x in some.state_dict().items()}
    reference = {n: x.clone() for n, x in some.world.reference.state_dict().items()}
    modes = [part.training for part in some.modules()]
    state = torch.get_rng_state()
    examine(some)
    assert equal(some.state_dict(), before)
    assert equal(some.world.reference.state_dict(), reference)
    assert [part.training for part in some.modules()] == modes
    assert all(p.grad is None for p in some.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@dataclass(frozen=True, kw_only=True)
class Careless(PPO):
    """Replays with dropout on."""

    dropout = True


def test_dropout_at_replay_is_found() -> None:
    cfg = compose(tiny(BRIGHT, f"domain.weights={base(dropout=0.5)}"))
    some = recorder(BRIGHT, f"domain.weights={base(dropout=0.5)}")[0]
    assert not failing(examine(some))
    careless = SteeringModule(some.world, Careless(), instantiate(cfg.nodes["optimizer"]))
    with pytest.raises(DoctorError, match=r"ratio: log-ratio mean .* replay does not give the density .*dropout"):
        require(examine(careless))


def test_a_perturbed_log_probability_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(*given: Any, **more: Any) -> Any:
        trajectory = rollout(*given, **more)
        trajectory.log_prob[3, 1] += 0.1
        return trajectory

    monkeypatch.setattr(interaction, "rollout", shifted)
    finding = named(examine(module()), "ratio")
    assert finding.verdict == "failed"
    assert "worst 1.0e-01 nats at step 1" in finding.message


@dataclass(frozen=True, kw_only=True)
class Forgetful(Optimization):
    """Leaves the last parameter out, and takes one in that is nobody's."""

    def build(self, trained: Any) -> torch.optim.AdamW:
        every = [p for part in trained.values() for p in part.parameters()]
        return torch.optim.AdamW([*every[:-1], torch.nn.Parameter(torch.zeros(2))])


def test_a_parameter_outside_the_optimizer_is_found() -> None:
    some = module()
    some.optimization = Forgetful()
    message = named(examine(some), "parameters").message
    left_out = [n for n, _ in some.policy.named_parameters()][-1]
    assert f"not in the optimizer: ['{left_out}']" in message
    assert "in it though not the policy's: 1" in message
    assert "parameters" in failing(examine(some))


def test_a_frozen_parameter_in_the_optimizer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    some = module("policy=frozen")
    every = torch.optim.AdamW(some.policy.parameters())
    monkeypatch.setattr(SteeringModule, "configure_optimizers", lambda self: every)
    assert "in it though frozen: ['denoiser" in named(examine(some), "parameters").message


def test_a_reference_that_trains_is_found() -> None:
    some = module()
    some.world.reference.requires_grad_(True)
    finding = named(examine(some), "parameters")
    assert finding.verdict == "failed"
    assert "trainable outside the policy: ['denoiser" in finding.message


class Unkeyed(Noise):
    """The same numbers for every sample: shared noise collapsed a published run."""

    def steps(self, iteration: int, index: range, steps: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
        return (x.expand(len(index), *shape) for x in super().steps(iteration, range(1), steps, shape))


def test_shared_noise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "Noise", Unkeyed)
    finding = named(examine(module()), "noise")
    assert finding.verdict == "failed"
    assert "samples share noise" in finding.message


class Detached(PathKL):
    """A KL under no_grad: one framework trained for months with it."""

    def loss_term(self, kl: Tensor) -> Tensor:
        return super().loss_term(kl.detach())

    def initial_loss_term(self, kl: Tensor) -> Tensor:
        return super().initial_loss_term(kl.detach())


def test_a_kl_without_gradient_is_found() -> None:
    some = module()
    some.world = replace(some.world, penalties=Penalties({"path_kl": Detached(coefficient=0.1)}))
    finding = named(examine(some), "kl gradient")
    assert finding.verdict == "failed"
    assert "computed without gradient" in finding.message


def test_a_reference_that_is_the_policy_is_found() -> None:
    """The KL to oneself is 0 wherever one goes; a reference that was moved has a gradient from the start."""
    some = module("initial=standard")
    some.world = replace(some.world, reference=some.policy)
    assert "kl gradient" in failing(examine(some))
    moved = module("initial=standard")
    with torch.no_grad():
        for p in moved.world.reference.parameters():
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    assert "kl gradient" in failing(examine(moved))


class Moody(Reward):
    """Another value every time."""

    def score(self, sample: Any, cond: Tensor) -> Score:
        self.times = getattr(self, "times", 0) + 1
        return Score.of(sample.flatten(1).mean(1) + self.times)


class Shuffled(Reward):
    """Values in the order of their size, as of a sort that nobody undid."""

    def score(self, sample: Any, cond: Tensor) -> Score:
        return Score.of(sample.flatten(1).mean(1).sort().values)


class Declared(Shuffled):
    def compares(self) -> bool:
        return True


def test_a_reward_that_compares_samples_says_so() -> None:
    some = module()
    for reward, found in ((Declared(), False), (Shuffled(), True)):
        some.world = replace(some.world, reward=reward)
        assert ("order" in {c.name for c in examine(some)}) == found


class Constant(Reward):
    def score(self, sample: Any, cond: Tensor) -> Score:
        return Score.of(torch.full((len(sample),), 0.3))


@pytest.mark.parametrize(
    ("reward", "cause"),
    [
        (Moody(), "paid otherwise the second time"),
        (Patchy(limit=-1.0), "Patchy failed on 100% of 16 samples.*values were not finite"),
        (Broken(), "Broken failed on at least 31% of 16 samples.*scorer went away"),
    ],
)
def test_a_reward_that_cannot_be_relied_on_is_found(reward: Reward, cause: str) -> None:
    some = module()
    some.world = replace(some.world, reward=reward)
    with pytest.raises(DoctorError, match=f"the doctor stopped the run. reward: .*{cause}"):
        require(examine(some))


def test_a_held_out_reward_that_fails_is_a_warning_and_a_misshapen_one_an_error() -> None:
    some = module("heldout=null")
    assert not [c for c in examine(some) if c.name == "held-out"]
    for reward, verdict, cause in ((Broken(), "warning", "scorer went away"), (Bare(), "failed", "returned a Tensor")):
        some.world = replace(some.world, heldout=reward)
        finding = named(examine(some), "held-out")
        assert finding.verdict == verdict
        assert cause in finding.message


class Bare(Reward):
    """A tensor where a Score is expected."""

    def score(self, sample: Any, cond: Tensor) -> Any:
        return sample.flatten(1).mean(1)


def test_brackets_in_a_message_are_printed(capsys: Any) -> None:
    table([Check("reward", "failed", "KeyError('[/bold] [red]')"), Check("noise", "ok", "a[0]")])
    said = capsys.readouterr().err
    assert "failed  reward: KeyError('[/bold] [red]')" in said
    assert "ok  noise: a[0]" in said


def test_a_constant_reward_is_a_warning() -> None:
    some = module()
    some.world = replace(some.world, reward=Constant())
    findings = examine(some)
    assert named(findings, "groups") == Check(
        "groups", "warning", "100% of groups have equal rewards; there is nothing to learn from yet"
    )
    require(findings)


class Banded(Reward):
    """Equal within the groups of four, different between them: dead for a group baseline."""

    def score(self, sample: Any, cond: Tensor) -> Score:
        value = (torch.arange(len(sample)) // 4).float()
        value[0] = 9.0
        return Score.of(value)


def test_the_share_of_dead_groups_is_that_of_the_plan() -> None:
    some = module()
    some.world = replace(some.world, reward=Banded())
    assert named(examine(some), "groups") == Check("groups", "ok", "75% of groups have equal rewards")


def test_samples_that_are_groups_of_their_own_are_compared_over_the_batch() -> None:
    some = module("plan.group=1")
    some.world = replace(some.world, reward=Banded())
    assert named(examine(some), "groups") == Check("groups", "ok", "0% of batches have equal rewards")
    some.world = replace(some.world, reward=Constant())
    assert named(examine(some), "groups").message.startswith("100% of batches have equal rewards")


class Slow(Constant):
    def score(self, sample: Any, cond: Tensor) -> Score:
        import time

        time.sleep(1.0)
        return super().score(sample, cond)


def test_a_slow_reward_is_a_warning() -> None:
    some = module("policy.steps=2")
    some.world = replace(some.world, reward=Slow())
    finding = named(examine(some), "throughput")
    assert finding.verdict == "warning"
    assert "the reward is the bottleneck" in finding.message


def test_the_doctor_uses_a_stream_of_its_own() -> None:
    seed = replace(Noise(3), stream=Stream.DOCTOR)
    draws = [next(n.steps(0, range(1), 1, (4,))) for n in (Noise(3), seed, Noise(3, Stream.EVALUATE))]
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[1], draws[2])


def reused(*given: Any, **more: Any) -> Any:
    """A rollout that draws one step's noise and takes it at all: the source itself is sound."""
    policy, reference, sound, cond = given

    class Once(Noise):
        def steps(self, iteration: int, index: range, steps: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
            drawn = list(super().steps(iteration, index, steps, shape))
            return iter([drawn[0], *[drawn[1]] * (steps - 1)])

    assert policy.steps > 2
    noise = Once(sound.noise.seed, sound.noise.stream).of(sound.iteration, sound.index)
    return rollout(policy, reference, noise, cond, **more)


@pytest.mark.parametrize("settings", [(), (*POINTS, "penalty=none")], ids=["images", "points"])
def test_noise_that_is_reused_by_the_rollout_is_found(
    settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked for in the trajectories, where it matters, and not in the source."""
    some = module() if not settings else recorder(*settings)[0]
    assert named(examine(some), "noise").verdict == "ok"
    monkeypatch.setattr(interaction, "rollout", reused)
    finding = named(examine(some), "noise")
    assert finding.verdict == "failed"
    assert "steps share noise" in finding.message


def test_the_ratio_is_checked_in_the_precision_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    forward = DiffusersDenoiser.output

    def watching(self: Any, *given: Any) -> Tensor:
        seen.add(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32)
        return forward(self, *given)

    monkeypatch.setattr(DiffusersDenoiser, "output", watching)
    for precision, dtype in (("bf16-mixed", torch.bfloat16), ("32-true", torch.float32), (None, torch.float32)):
        some = module()
        seen.clear()  # of what was asked to choose the size of passes
        findings = examine(some, precision)
        assert not failing(findings)
        assert seen == {dtype}


@pytest.mark.filterwarnings("ignore:one update per rollout")
@pytest.mark.parametrize(("epochs", "verdict"), [(1, "warning"), (2, "ok")])
def test_one_update_a_rollout_is_said(epochs: int, verdict: str) -> None:
    """With one update the ratio is identically 1 and the clip does nothing."""
    some = module(f"trainer.epochs={epochs}", "trainer.minibatches=1")
    assert named(examine(some), "clip").verdict == verdict
    assert not [c for c in examine(module("trainer=reinforce")) if c.name == "clip"]


class Narrow(Reward):
    """One part in ten thousand of difference: what a base without diversity earns."""

    def score(self, sample: Any, cond: Tensor) -> Score:
        return Score.of(0.3 + 3e-5 * sample.flatten(1).mean(1))


def test_rewards_without_a_spread_are_a_warning() -> None:
    """A base without diversity: best-of-64 is best-of-4, and there is nothing to steer to."""
    some = module()
    some.world = replace(some.world, reward=Narrow())
    finding = named(examine(some), "groups")
    assert finding.verdict == "warning"
    assert finding.message.startswith("0% of groups have equal rewards; in 100% they differ by less than a thousandth")


class Reversed(Reward):
    """Mean grey levels, the last sample's first: the same whenever it is asked."""

    def score(self, sample: Any, cond: Tensor) -> Score:
        return Score.of(sample.flatten(1).mean(1).flip(0))


def test_values_in_a_wrong_order_are_a_warning() -> None:
    for reward, found in ((Reversed(), True), (None, False)):
        some = module()
        if reward is not None:
            some.world = replace(some.world, reward=reward)
        assert ("order" in {c.name for c in examine(some)}) == found
