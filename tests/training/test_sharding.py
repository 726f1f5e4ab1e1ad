"""Networks whose weights are cut over two gloo processes: what one process gives, whole checkpoints, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pgdlab.config.compose import compose, instantiate
from pgdlab.rollout.memory import Capacity, halved, rows_that_fit
from pgdlab.training.build import build_world
from pgdlab.training.fit import LAST, load, make_trainer
from pgdlab.training.module import SteeringModule
from pgdlab.training.sharding import FullyShardedStrategy, networks, refuse_sharding
from tests.training.test_processes import ROOT, last_words, python, same_as_one
from tests.two_processes import RESUMED, SHARDED
from tests.worlds import BRIGHT, POINTS, continued, distance, fitted, recorder, tiny


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenarios' results in two processes."""
    folder = tmp_path_factory.mktemp("cut")
    fitted(folder / "one_first", *RESUMED, "plan.iterations=2", double=True)
    done = python("-m", "tests.two_processes", str(folder), "fsdp_cpu", cwd=ROOT)
    assert done.returncode == 0, last_words(done)
    return folder


@pytest.mark.parametrize("name", SHARDED)
def test_cut_weights_give_what_whole_ones_give(name: str, cut: Path, tmp_path: Path) -> None:
    """Adapters on weights that are cut, and networks that train and are cut; unequal numbers of passes in the processes, and one
    that has none, are among them."""
    same_as_one(SHARDED[name], cut / f"{name}.pt", tmp_path)


def test_each_process_has_its_part(cut: Path) -> None:
    """Of the network's weights, which train, and of their moments: what is stored in one of two processes, as it says."""
    kept = torch.load(cut / "parts.pt", weights_only=False)
    assert kept["all"] > 1000
    assert kept["all"] / 2 <= kept["weights"] < 0.6 * kept["all"]  # rows that do not divide by two are in the first one
    assert kept["moments"] == 2 * (kept["weights"] + 2 * 8 * 8)  # rho's mean and scale are whole
    assert kept["whole"] == 0


def test_passes_are_measured_again_once_weights_are_cut(cut: Path) -> None:
    """What a pass of cut weights keeps is what one of whole weights does: they are put together, and let go of again. On a CPU
    the room is always the same, and so is the size; on a card there is more of it than before."""
    policy = recorder(*RESUMED, double=True)[0].policy
    x, cond = torch.zeros(2, *policy.space.shape, dtype=torch.float64), torch.zeros(2, dtype=torch.long)
    assert torch.load(cut / "parts.pt", weights_only=False)["pass_size"] == rows_that_fit(policy, x, cond) > 1


def test_a_checkpoint_goes_from_cut_weights_to_whole_ones_and_back(cut: Path, tmp_path: Path) -> None:
    """Raw and averaged weights, moments and the course of the learning rate go on as one process's do, whoever began."""
    fitted(tmp_path, *RESUMED, "plan.iterations=2", double=True)
    for folder in (tmp_path, cut / "two_first"):
        continued(folder, 2, *RESUMED, "plan.iterations=4")
    one, *others = (load(folder / LAST) for folder in (tmp_path, cut / "two_first", cut / "one_first"))
    for other in others:
        assert other.keys() == one.keys()
        for part in ("state_dict", "current_model_state"):
            assert distance(weights(other[part]), weights(one[part])) < 1e-8
        states = [state["optimizer_states"][0]["state"] for state in (other, one)]
        assert states[0].keys() == states[1].keys()
        for k, own in states[1].items():
            for name, x in own.items():
                torch.testing.assert_close(states[0][k][name], x, rtol=1e-6, atol=1e-12)


def weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: x for name, x in state.items() if name.startswith("policy.")}


def test_what_cut_weights_cannot_serve_is_refused() -> None:
    sizes = ("plan.pass_size=4", "plan.rollout_batch=4")  # else a pass is measured, and compiled
    for words, why in {
        ("penalty=[path_kl,trust_region]",): "a trust region copies the policy",
        ("plan.sheet_every=1",): "set plan.sheet_every=0",
        ("policy.channels_last=true",): "policy.channels_last lays weights out otherwise",
        ("optimizer.kind={_target_: torch.optim.NAdam, _partial_: true}",): "set runtime=ddp",
        ("policy.compiled_rows=4",): "policy.compiled_rows compiles networks",
        POINTS: r"runtime.strategy cuts networks, and a \w+ has none: set runtime=ddp",
    }.items():
        cfg = compose(tiny(*words) if words == POINTS else tiny(BRIGHT, *words, *sizes))
        world = build_world(cfg)
        made = SteeringModule(world, instantiate(cfg.nodes["trainer"]), instantiate(cfg.nodes["optimizer"]))
        with pytest.raises(ValueError, match=why):
            refuse_sharding(made.world, world.plan.sheet_every, made.optimization.kind)


def test_a_pass_of_all_processes_is_not_made_smaller_by_one() -> None:
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    with pytest.warns(UserWarning, match="memory has run out in a pass of 8 rows: the run goes on with passes of 4"):
        assert halved(8, full) == 4
    with pytest.raises(ValueError, match=r"set plan.rollout_batch and plan.pass_size below 8"):
        halved(8, full, shared=True)
    with pytest.raises(ValueError, match=r"below 6"):
        Capacity(pass_size=6).shrink(12, full, shared=True)


def test_the_strategy_of_the_gpus() -> None:
    """As far as it can be made without any."""
    nodes = {name: compose([*tiny(), f"runtime={name}"]).nodes["runtime"] for name in ("fsdp", "fsdp_cpu")}
    assert nodes["fsdp"]["strategy"] | {"process_group_backend": "gloo"} == nodes["fsdp_cpu"]["strategy"]
    strategy = make_trainer(nodes["fsdp_cpu"], logger=False).strategy
    assert type(strategy) is FullyShardedStrategy
    assert len(networks(build_world(compose(tiny(BRIGHT, "policy=lora"))))) == 1
    assert len(networks(build_world(compose(tiny(BRIGHT, "policy=full"))))) == 2
