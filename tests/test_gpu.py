"""What only a card can show: pytest -m gpu -n0. What is asked of it here the CPU's tests ask of the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from pgdlab.config.compose import compose
from pgdlab.rollout.memory import kept_for_backward
from pgdlab.rollout.trajectory import replay
from pgdlab.training.build import build_module
from pgdlab.training.checks import examine
from tests.diffusion.tiny_pipelines import made
from tests.worlds import BRIGHT, Recorder, distance, fitted, tiny

CARD = "runtime=gpu"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
RUN = (
    BRIGHT, "heldout=null", "trainer=ppo", "penalty=path_kl", "trainer.minibatches=2", "plan.pass_size=12", "plan.iterations=1",
)  # fmt: skip
PIPELINE = (
    "experiment=diffusers/jpeg", "domain.pipeline=base", "domain.prompts=prompts.txt", "policy.steps=4", "plan.samples=8",
    "plan.group=4", "domain.call={guidance_scale: 5, height: 16, width: 16}", "domain.dtype=bfloat16",
)  # fmt: skip


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of a text-to-image run in bf16 under adapters."""
    monkeypatch.chdir(tmp_path)
    made("stable diffusion").pipe.save_pretrained("base")
    Path("prompts.txt").write_text("a red cat\nthe sea\n")
    return build_module(compose([*PIPELINE, CARD]))


def test_the_doctor_passes_a_pipeline_in_bf16(pipeline: Any) -> None:
    """The ratio of the untouched policy, of frozen weights in bf16, and fused attention, on the device."""
    found = {check.name: check for check in examine(pipeline)}
    assert not [check for check in found.values() if check.verdict == "failed"]
    assert found["attention"].verdict == "ok", found["attention"]


def test_replay_is_sampling_bit_for_bit(pipeline: Any) -> None:
    """In passes of as many rows, of the same step."""
    experience = pipeline.algorithm.collect(pipeline.world, 0)
    trajectory, policy = experience.trajectory, pipeline.policy
    for some in torch.arange(trajectory.log_prob.numel(), device=policy.device).reshape(8, -1).T:
        with torch.no_grad():
            again = replay(policy, trajectory, trajectory.pairs(some))[1]
        assert torch.equal(again, trajectory.log_prob.flatten()[some])


def test_a_card_gives_what_the_cpu_gives(tmp_path: Path) -> None:
    """Noise is drawn on the CPU, so that the first gradient is the same but for the rounding of fp32 in other kernels."""
    one, other = (fitted(tmp_path / name, *RUN, f"runtime={name}") for name in ("cpu", CARD.partition("=")[2]))
    assert distance({n: g.cpu() for n, g in other.gradients[0].items()}, one.gradients[0]) < 1e-3


class Strict(Callback):
    """An update that waits for the device raises."""

    def on_train_batch_start(self, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")


def test_an_update_waits_for_nothing(tmp_path: Path) -> None:
    fitted(tmp_path, *RUN, CARD, more=[Strict()])


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """So many bytes of the card."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(size / torch.cuda.mem_get_info()[1])
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_memory_that_runs_out_makes_passes_smaller_once(tmp_path: Path) -> None:
    """A run whose passes need more than there is goes on in smaller ones, says so once a size, and has the same gradient."""
    words = (
        *RUN,
        CARD,
        "plan.samples=512",
        "plan.group=4",
        "plan.pass_size=1024",
        "plan.rollout_batch=64",
        "plan.iterations=2",
    )
    torch.cuda.reset_peak_memory_stats()
    whole = fitted(tmp_path / "whole", *words)
    with (
        at_most(torch.cuda.max_memory_reserved() * 6 // 10),
        pytest.warns(UserWarning, match="memory has run out") as said,
    ):
        some = fitted(tmp_path / "some", *words)
    assert some.world.capacity.pass_size < 1024
    texts = [str(one.message) for one in said if "memory has run out" in str(one.message)]
    assert len(texts) == len(set(texts))
    assert distance(some.gradients[0], whole.gradients[0]) < 1e-3


def test_what_a_pass_keeps_is_what_the_card_holds() -> None:
    """As it is counted on two rows, for the size of passes, and as 512 rows take; blocks of memory are rounded up."""
    module = build_module(compose(tiny(*RUN, CARD)))
    inputs = {
        n: (torch.zeros(n, 1, 8, 8, device=module.device), torch.zeros(n, dtype=torch.long, device=module.device))
        for n in (2, 512)
    }
    each = kept_for_backward(module.policy, *inputs[2]) / 2
    before = torch.cuda.memory_allocated()
    kept = module.policy(inputs[512][0].requires_grad_(), inputs[512][1], inputs[512][1])
    held = torch.cuda.memory_allocated() - before
    assert kept.mean.requires_grad
    assert held == pytest.approx(512 * each, rel=0.15)


def test_compiled_passes_are_the_eager_ones(tmp_path: Path) -> None:
    eager, compiled = (fitted(tmp_path / str(n), *RUN, CARD, f"policy.compiled_rows={n}") for n in (0, 4))
    assert distance(compiled.gradients[0], eager.gradients[0]) < 1e-2


@pytest.mark.parametrize("word", ["policy.channels_last=true", "plan.offload=true"])
def test_layout_and_offloading_leave_the_gradient(word: str, tmp_path: Path) -> None:
    plain, other = (fitted(tmp_path / str(k), *RUN, CARD, *words) for k, words in enumerate(([], [word])))
    assert distance(other.gradients[0], plain.gradients[0]) < 1e-3


def test_a_reward_in_a_thread_leaves_the_gradient(tmp_path: Path) -> None:
    """The thread sees the samples when they are there."""
    judge = "{_target_: tests.rewards.test_overlapped.Judge}"
    kinds = judge, f"{{_target_: pgdlab.rewards.overlapped.Overlapped, reward: {judge}}}"
    plain, other = (
        fitted(tmp_path / str(k), *RUN, CARD, f"reward={kind}", "plan.rollout_batch=2") for k, kind in enumerate(kinds)
    )
    assert distance(other.gradients[0], plain.gradients[0]) < 1e-6


def test_cut_weights_on_one_card_give_what_whole_ones_give(tmp_path: Path) -> None:
    """nccl, with a process; more than one card is another matter."""
    whole = fitted(tmp_path / "whole", *RUN, CARD)
    try:
        cut: Recorder = fitted(tmp_path / "cut", *RUN, "runtime=fsdp", "runtime.devices=1")
    finally:
        torch.distributed.destroy_process_group()
    assert distance(cut.gradients[0], whole.gradients[0]) < 1e-3
