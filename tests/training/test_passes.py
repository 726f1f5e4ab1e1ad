"""The gate: an iteration makes exactly the network passes that its settings ask for, no operations beside them, and never waits
for the device while it samples or trains.

Counts only, so that it holds on any machine. All runs: 8 samples, sampled as 5 and 3; 4 steps, the last without noise; passes of
at most 4 pairs. Evaluation and doctor are no part of a run of fit().
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.passes import Passes, bare, networks
from pgdlab.config.compose import compose
from pgdlab.rollout.sampler import Batch, Sampler
from pgdlab.trainers.policy_gradient import PolicyGradient
from pgdlab.training.build import build_module
from pgdlab.training.fit import fit
from tests.worlds import BRIGHT, graphs, tiny

SIZES = ("plan.rollout_batch=5", "plan.pass_size=4", "heldout=null", BRIGHT)
PPO = ("trainer=ppo", "trainer.minibatches=3")  # 2 epochs of 3, 3 and 2 samples
DENSE = "reward={_target_: pgdlab.rewards.dense.EveryStep, weight: 0.25, reward: {_target_: tests.worlds.Bright}}"
THIRD = "plan.trained_steps={_target_: pgdlab.rollout.plan.RandomSteps, fraction: 0.34}"
INITIAL = ("policy=frozen", "initial=diagonal")


@dataclass(frozen=True)
class Counts:
    """Passes and rows without a gradient, and with one; optimiser steps. once: what only the first iteration samples."""

    sampling: tuple[int, int]
    training: tuple[int, int]
    steps: int
    once: tuple[int, int] = (0, 0)


# Sampling takes 2 batches. The policy takes 3 steps: 3 x 2 passes, 3 x 8 rows. The reference takes the last one: 2 passes, 8
# rows.
PLAIN = (6 + 2, 24 + 8)
# A KL to the reference: its passes at the same 3 steps, once; training reads what was kept.
COMPARED = (6 + 6 + 2, 24 + 24 + 8)
# An epoch's pairs are 3 x 3, 3 x 3 and 2 x 3: 9, 9 and 6, in passes of 4: 3 + 3 + 2. Two epochs.
TWO_EPOCHS = (2 * (3 + 3 + 2), 2 * 24)

CASES: dict[str, tuple[tuple[str, ...], Counts]] = {
    "no penalty, no reference passes": ((*PPO, "penalty=none"), Counts(PLAIN, TWO_EPOCHS, 6)),
    "a coefficient of 0 is no penalty": (
        (*PPO, "penalty=path_kl", "penalty.path_kl.coefficient=0"),
        Counts(PLAIN, TWO_EPOCHS, 6),
    ),
    "path KL": ((*PPO, "penalty=path_kl"), Counts(COMPARED, TWO_EPOCHS, 6)),
    "constraint": ((*PPO, "penalty=constraint"), Counts(COMPARED, TWO_EPOCHS, 6)),
    # the policy that sampled is asked again, without a gradient, in every training pass
    "a trust region": (
        (*PPO, "penalty=[path_kl,trust_region]"),
        Counts((COMPARED[0] + TWO_EPOCHS[0], COMPARED[1] + TWO_EPOCHS[1]), TWO_EPOCHS, 6),
    ),
    # 10 samples of the reference, in 2 batches of 4 steps, in the first iteration
    "mmd": ((*PPO, "penalty=mmd", "penalty.terminal.samples=10"), Counts(PLAIN, TWO_EPOCHS, 6, once=(8, 40))),
    "one update: 24 pairs in 6 passes": (("trainer=reinforce", "penalty=none"), Counts(PLAIN, (6, 24), 1)),
    "one update, path KL": (("trainer=reinforce", "penalty=path_kl"), Counts(COMPARED, (6, 24), 1)),
    # 24 pairs fit: they are differentiated as they are sampled, in the 3 x 2 passes that sample; what is left without a gradient
    # is the reference's
    "one update, one pass of each step": (
        ("trainer=reinforce", "penalty=path_kl", "plan.pass_size=24"),
        Counts((6 + 2, 24 + 8), (6, 24), 1),
    ),
    # one of three steps is kept: 4 of the 6 passes are made without a graph
    "one update, some of the steps": (
        ("trainer=reinforce", "penalty=none", "plan.pass_size=8", THIRD),
        Counts((4 + 2, 16 + 8), (2, 8), 1),
    ),
    "groups": (("trainer=grpo", "trainer.minibatches=3", "penalty=none"), Counts(PLAIN, TWO_EPOCHS, 6)),
    "a critic needs no pass of the network": (
        ("trainer=actor_critic", "trainer.minibatches=3", "penalty=none"),
        Counts(PLAIN, TWO_EPOCHS, 6),
    ),
    # a third of 3 steps is kept: 3, 3 and 2 pairs an epoch, a pass each; the KL still is that of all steps
    "some of the steps": (
        (*PPO, "penalty=path_kl", THIRD),
        Counts(COMPARED, (6, 16), 6),
    ),
    # the reference's estimate at 4 steps: it is what KL and the last step need too
    "estimates": ((*PPO, "penalty=none", DENSE), Counts((6 + 8, 24 + 32), TWO_EPOCHS, 6)),
    "estimates and path KL": ((*PPO, "penalty=path_kl", DENSE), Counts((6 + 8, 24 + 32), TWO_EPOCHS, 6)),
    "adapters": ((*PPO, "penalty=path_kl", "policy=lora"), Counts(COMPARED, TWO_EPOCHS, 6)),
    # two estimates of every pair in one pass
    "guidance": (
        (*PPO, "penalty=path_kl", "policy.guidance=2.0", "domain.train_conditions=[0]"),
        Counts((14, 2 * 56), (16, 2 * 48), 6),
    ),
    "joint": ((*PPO, "penalty=path_kl", "initial=diagonal"), Counts(COMPARED, TWO_EPOCHS, 6)),
    # the denoiser is its own reference, so that the steps' KL is 0 and needs no pass
    "the initial noise alone": ((*PPO, "penalty=path_kl", *INITIAL), Counts(PLAIN, (0, 0), 6)),
    "the initial noise of an ODE": (
        (*PPO, "penalty=path_kl", *INITIAL, "policy.kernel.eta=0"),
        Counts(PLAIN, (0, 0), 6),
    ),
    # 3 updates on 6 samples each, as 4 and 2
    "reward-weighted regression": (
        ("trainer=rwr", "trainer.updates=3", "trainer.batch=6", "penalty=none"),
        Counts(PLAIN, (6, 18), 3),
    ),
    # without a gradient in every training pass: the policy that sampled, and the reference
    "matching": (
        ("trainer=ram", "trainer.updates=3", "trainer.batch=6", "penalty=none"),
        Counts((PLAIN[0] + 2 * 6, PLAIN[1] + 2 * 18), (6, 18), 3),
    ),
    "matching, one update and no KL": (
        ("trainer=awm", "trainer.updates=1", "trainer.batch=6", "trainer.coefficient=0", "penalty=none"),
        Counts(PLAIN, (2, 6), 1),
    ),
    "eager": (("trainer=eager", "penalty=none"), Counts(PLAIN, (6, 24), 1)),
    # the reference once more at all 4 steps, differentiated in the states, 4 rows at a time: 2 x 4 passes; 24 pairs in 6
    "adjoint matching": (("trainer=adjoint_matching", "penalty=path_kl"), Counts(COMPARED, (8 + 6, 32 + 24), 1)),
    # through the policy, and through the reference's part of the KL: 2 networks at 3 steps, one at the last
    "direct gradients": (("trainer=draft", "penalty=path_kl"), Counts(COMPARED, (14 + 6, 56 + 24), 1)),
    "direct gradients, no penalty": (("trainer=draft", "penalty=none"), Counts(PLAIN, (8 + 6, 32 + 24), 1)),
    # the last step with noise, and the one after it, without
    "the last step": (("trainer=draft", "trainer.last=1", "penalty=path_kl"), Counts(COMPARED, (6 + 2, 24 + 8), 1)),
    # the policy's estimates at one step, in batches of 5 and 3
    "estimates that are followed": (("trainer=refl", "penalty=path_kl"), Counts((14 + 2, 56 + 8), (2, 8), 1)),
    # all 4 steps have noise: 8 passes each for policy and reference; 12, 12 and 8 pairs an epoch
    "molecules": (
        (*graphs(), *PPO, "penalty=path_kl", "reward={_target_: pgdlab.rewards.molecule.validity.Valid}"),
        Counts((8 + 8, 32 + 32), (2 * (3 + 3 + 2), 2 * 32), 6),
    ),
}


def run(folder: Path, words: tuple[str, ...], iterations: int = 1) -> tuple[Passes, Any]:
    """The passes of a run, and its Lightning trainer."""
    cfg = compose(tiny(*SIZES, *words, f"plan.iterations={iterations}"))
    module = build_module(cfg)
    passes = Passes(networks(module.world))
    trainer = fit(module, cfg, folder)
    passes.close()
    return passes, trainer


def counted(calls: list[Any]) -> tuple[int, int]:
    return len(calls), sum(call.rows for call in calls)


WAIT = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2")


class Waits(TorchDispatchMode):
    """Notes operations whose result the host must know before it goes on, as x.item(), `if x`, x[mask]: on a GPU each of them
    waits until all that was asked of it before is done. Not generators' numbers: they are drawn on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        indices = args[1] if name.startswith(("index", "_index_put")) and isinstance(args[1], list) else []
        if name in WAIT or any(x is not None and x.dtype == torch.bool for x in indices):
            self.noted.append(f"{name} from {''.join(traceback.format_stack(limit=9)[:-2])}")
        return func(*args, **(kwargs or {}))


class Watched(Callback):
    """Notes them in every update, from before its first pass until after its optimiser step and the moving average's."""

    def __init__(self) -> None:
        self.waits = Waits()

    def on_train_batch_start(self, *_: Any) -> None:
        self.waits.__enter__()

    def on_train_batch_end(self, *_: Any) -> None:
        self.waits.__exit__(None, None, None)


# regressions draw the seed of their dropout from a generator on the CPU, by the same operation
@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(("reward-weighted", "matching"))])
def test_nothing_waits_for_the_device(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in sampling, once its noise is drawn, nor in an update."""
    cfg, watched, sampling = compose(tiny(*SIZES, *CASES[name][0], "plan.iterations=2")), Watched(), Waits()
    run = Batch.run

    def sample(self: Batch, noise: Iterator[torch.Tensor], sampler: Sampler) -> Any:
        drawn = list(noise)
        with sampling:
            return run(self, iter(drawn), sampler)

    monkeypatch.setattr(Batch, "run", sample)
    fit(build_module(cfg), cfg, tmp_path, [watched])
    assert not sampling.noted, sampling.noted[0]
    assert not watched.waits.noted, watched.waits.noted[0]


def test_a_wait_is_seen() -> None:
    x = torch.arange(3.0)
    for wait in (
        x.sum().item,
        lambda: bool(x[0] > 0),
        lambda: x[x > 0],
        lambda: x.index_put_((x > 9,), x[0]),
        x.nonzero,
    ):
        with Waits() as waits:
            wait()
        assert len(waits.noted) == 1
    with Waits() as waits:
        torch.where(x > 0, x, 0.0).sum() + x[torch.tensor([0, 2])].masked_fill(x[:2] > 0, 1.0)
    assert not waits.noted


@pytest.mark.parametrize("name", CASES)
def test_passes_of_two_iterations(name: str, tmp_path: Path) -> None:
    words, expected = CASES[name]
    passes, trainer = run(tmp_path, words, iterations=2)
    sampling = counted([call for call in passes.calls if not call.gradient])
    training = counted([call for call in passes.calls if call.gradient])
    assert sampling == tuple(2 * each + once for each, once in zip(expected.sampling, expected.once, strict=True))
    assert training == tuple(2 * each for each in expected.training)
    assert passes.backwards == training[0]
    assert trainer.global_step == 2 * expected.steps
    assert max(call.rows for call in passes.calls) <= (10 if "guidance=2" in " ".join(words) else 5)


def test_the_reference_of_adapters_is_their_network_without_them(tmp_path: Path) -> None:
    """No second network: 6 passes for the KL and 2 for the last step are those with the adapters off."""
    passes, _ = run(tmp_path, CASES["adapters"][0])
    assert len({call.network for call in passes.calls}) == 1
    assert counted([call for call in passes.calls if call.off]) == (6 + 2, 24 + 8)


@pytest.mark.parametrize(
    "name",
    [
        "path KL",
        "one update: 24 pairs in 6 passes",
        "one update, one pass of each step",
        "adapters",
        "guidance",
        "the initial noise alone",
    ],
)
def test_operations_are_those_of_the_passes(name: str, tmp_path: Path) -> None:
    """Multiplications and additions of matrix products and convolutions, forward and backward, as torch counts them."""
    with FlopCounterMode(display=False) as spent:
        passes, _ = run(tmp_path, CASES[name][0])
    with FlopCounterMode(display=False) as floor:
        bare(passes.calls)
    assert spent.get_total_flops() == floor.get_total_flops() > 0


def test_a_pass_more_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the whole network, by its hook; of a part of it, by its operations."""
    loss = PolicyGradient.loss

    def wasteful(self: Any, experience: Any, piece: Any, world: Any) -> Any:
        network, x = world.policy.denoiser.network, experience.trajectory.sample
        network.conv_in(x)
        with torch.no_grad():
            network(x, torch.zeros(len(x)), class_labels=experience.trajectory.cond)
        return loss(self, experience, piece, world)

    monkeypatch.setattr(PolicyGradient, "loss", wasteful)
    with FlopCounterMode(display=False) as spent:
        passes, _ = run(tmp_path, CASES["path KL"][0])
    with FlopCounterMode(display=False) as floor:
        bare(passes.calls)
    sampling, training = COMPARED, TWO_EPOCHS
    assert counted([c for c in passes.calls if not c.gradient]) == (
        sampling[0] + training[0],
        sampling[1] + 8 * training[0],
    )
    # a 3x3 convolution from 1 to 4 channels over 8 images of 8x8, two operations a product, in each of the 16 passes
    assert spent.get_total_flops() - floor.get_total_flops() == 16 * 2 * 8 * 64 * 9 * 4
