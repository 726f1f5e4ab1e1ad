"""Sizes of passes: what they are estimated from, and that a run survives running out of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pgdlab.config.compose import compose
from pgdlab.rollout import memory
from pgdlab.rollout.memory import kept_for_backward, rows_that_fit
from pgdlab.training.build import build_world
from pgdlab.training.fit import LAST, load
from tests.worlds import BRIGHT, distance, fitted, graphs, tiny

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB."  # as torch says it


def inputs(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(rows, 1, 8, 8), torch.zeros(rows, dtype=torch.long)


def test_what_a_forward_keeps_is_what_the_profiler_sees_allocated() -> None:
    """What the forward allocated and did not release, but for its own result; the same number a row of any pass."""
    policy = build_world(compose(tiny(BRIGHT, "heldout=null", "plan.pass_size=1", "plan.rollout_batch=1"))).policy
    trained = {rows: kept_for_backward(policy, *inputs(rows)) / rows for rows in (2, 16)}
    assert trained[2] == pytest.approx(trained[16], rel=0.05)  # what does not grow with the rows is small
    x, cond = inputs(16)
    h = torch.zeros(16, dtype=torch.long)
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        g = policy(x.requires_grad_(), h, cond)
    allocated = sum(e.self_cpu_memory_usage for e in seen.key_averages())
    known = x.untyped_storage().nbytes() + g.mean.untyped_storage().nbytes()  # allocated before; and trained by nobody
    assert 16 * trained[16] == pytest.approx(allocated, abs=2 * known)
    assert allocated > 20 * known


def test_a_frozen_network_counts_as_if_it_were_trained() -> None:
    """Sampling takes less, but not none."""
    sizes = {"plan.pass_size=1", "plan.rollout_batch=1", "initial=diagonal"}
    trained = [
        kept_for_backward(
            build_world(compose(tiny(BRIGHT, "heldout=null", *sizes, f"policy={name}"))).policy, *inputs(4)
        )
        for name in ("full", "frozen")
    ]
    assert 0.5 * trained[0] < trained[1] <= trained[0]


def test_a_plan_that_leaves_sizes_open_gets_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    known = build_world(compose(tiny(BRIGHT, "heldout=null", "plan.pass_size=3")))
    each = kept_for_backward(known.policy, *inputs(2)) / 2
    monkeypatch.setattr(memory, "ROOM", int(7.5 * each))
    assert rows_that_fit(known.policy, *inputs(2)) == 7
    some = build_world(compose(tiny(BRIGHT, "heldout=null", "plan.pass_size=3"))).capacity
    assert (some.pass_size, some.rollout_batch) == (3, 7)
    monkeypatch.setattr(memory, "ROOM", 1)
    assert build_world(compose(tiny(BRIGHT, "heldout=null"))).capacity.pass_size == 1


def test_a_slow_reward_looks_at_batches() -> None:
    """Else there would be nothing to sample while it works."""
    known = (*graphs(), "reward=strain", "plan.samples=10", "plan.group=2")
    assert build_world(compose(tiny(*known))).capacity.rollout_batch == 3
    assert build_world(compose(tiny(*known, "plan.rollout_batch=7"))).capacity.rollout_batch == 7


def narrow(monkeypatch: pytest.MonkeyPatch, *, forward: int, backward: int, words: str = FULL) -> list[int]:
    """A network with room for so many rows. Returns the rows of all passes that it was asked for."""
    from pgdlab.diffusion.denoisers import DiffusersDenoiser

    whole, asked = DiffusersDenoiser.output, []

    def output(self: Any, x: Any, t: Any, cond: Any) -> Any:
        asked.append(len(x))
        if len(x) > forward:
            raise torch.OutOfMemoryError(words)
        out = whole(self, x, t, cond)
        if out.requires_grad and len(x) > backward:
            out.register_hook(lambda _: fail(words))
        return out

    monkeypatch.setattr(DiffusersDenoiser, "output", output)
    return asked


def fail(words: str) -> None:
    raise torch.OutOfMemoryError(words)


RUN = (BRIGHT, "heldout=null", "trainer=ppo", "penalty=path_kl", "trainer.minibatches=2", "plan.rollout_batch=8")


@pytest.mark.parametrize(("forward", "backward"), [(6, 6), (8, 3)])
def test_a_run_that_runs_out_of_memory_goes_on_in_smaller_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forward: int, backward: int
) -> None:
    """Eight rows of sampling, passes of twelve pairs; nothing is counted twice."""
    whole = fitted(tmp_path / "whole", *RUN, "plan.pass_size=12", double=True)
    asked = narrow(monkeypatch, forward=forward, backward=backward)
    with pytest.warns(UserWarning, match="memory has run out in a pass of 12 rows") as said:
        some = fitted(tmp_path / "some", *RUN, "plan.pass_size=12", double=True)
    assert max(asked) == 12
    ran_out = [str(one.message) for one in said if "memory has run out" in str(one.message)]
    assert len(ran_out) == len(set(ran_out)) == 2, ran_out  # of 8 and 12 rows, or of 12 and 6: once in both iterations
    assert some.world.capacity.rollout_batch == (4 if forward == 6 else 8)
    assert some.world.capacity.pass_size == (6 if backward == 6 else 3)
    assert load(tmp_path / "some" / LAST)["pass_size"] == some.world.capacity.pass_size
    for k, gradient in enumerate(whole.gradients):
        assert distance(some.gradients[k], gradient) < 1e-7
    for a, b in zip(whole.history, some.history, strict=True):
        assert {k: v for k, v in a.items() if "seconds" not in k} == pytest.approx(
            {k: v for k, v in b.items() if "seconds" not in k}, rel=1e-6, abs=1e-12
        )


@pytest.mark.parametrize(("room", "words"), [(0, FULL), (6, "device-side assert triggered")])
def test_what_smaller_passes_do_not_mend_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, words: str
) -> None:
    """One row is too many; or the error is another."""
    narrow(monkeypatch, forward=room, backward=room, words=words)
    with pytest.raises(torch.OutOfMemoryError, match=words[:12]):
        fitted(tmp_path, *RUN)


def test_a_resumed_run_starts_with_the_size_that_was_left(tmp_path: Path) -> None:
    module = fitted(tmp_path, *RUN, "plan.pass_size=5")
    for saved, wanted in ({}, 5), ({"pass_size": 9}, 5), ({"pass_size": 2}, 2):
        module.on_load_checkpoint(saved)
        assert module.world.capacity.pass_size == wanted


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_activations_that_are_computed_again_leave_the_gradient(tuning: str, tmp_path: Path) -> None:
    """The same operations on the same numbers, so bit for bit; less is kept, and so more rows fit in a pass."""
    words = ("heldout=null", f"policy={tuning}", "plan.pass_size=8")
    plain, again = (
        fitted(tmp_path / str(on), BRIGHT, *words, f"policy.checkpoint_activations={on}") for on in (False, True)
    )
    assert distance(again.gradients[-1], plain.gradients[-1]) == 0
    assert distance(again.weights[-1], plain.weights[-1]) == 0
    policies = (
        build_world(compose(tiny(BRIGHT, *words, f"policy.checkpoint_activations={on}"))).policy for on in (True, False)
    )
    less, more = (kept_for_backward(policy, *inputs(16)) for policy in policies)
    assert less < 0.6 * more


def test_a_network_without_blocks_cannot_compute_them_again() -> None:
    with pytest.raises(ValueError, match=r"checkpoint_activations is true, but a GraphTransformer has no blocks"):
        build_world(compose(tiny(*graphs(), "reward=valid", "policy.checkpoint_activations=true")))
    with pytest.raises(ValueError, match=r"but a Mixture has no blocks"):
        build_world(compose(["experiment=oracle/linear", "policy.checkpoint_activations=true"]))
