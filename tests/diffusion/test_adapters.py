"""Low-rank adapters on every kind of network: images, graphs, atoms in space."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from pgdlab.config.compose import compose
from pgdlab.diffusion.denoisers import NetworkDenoiser
from pgdlab.diffusion.tuning import Adapted, AdaptersOff, LoRA
from pgdlab.molecules.batch import Molecules
from pgdlab.rewards.base import Reward, Score
from pgdlab.training.build import build_module
from pgdlab.training.fit import fit
from tests.diffusion import test_atoms, test_denoisers, test_graphs
from tests.molecules.tiny import base_3d
from tests.networks import denoiser as images
from tests.networks import tuned
from tests.worlds import TINY

Input = tuple[Tensor, Tensor, Tensor]
GRAPH_SIZES = torch.tensor([2, 5, 9])
NETWORKS: dict[str, tuple[Callable[[], NetworkDenoiser], Input]] = {
    "images": (images, (test_denoisers.points(), test_denoisers.T, test_denoisers.COND)),
    "graphs": (
        test_graphs.small,
        (
            test_graphs.SPACE.project(test_graphs.draw(3, 180), GRAPH_SIZES),
            torch.tensor([0.1, 0.5, 0.9]).double(),
            GRAPH_SIZES,
        ),
    ),
    # one atom hears no other and moves nowhere
    "atoms": (test_atoms.denoiser, (test_atoms.X[1:], test_atoms.T[1:], test_atoms.SIZES[1:])),
}
each = pytest.mark.parametrize(("make", "x"), NETWORKS.values(), ids=NETWORKS)


@each
def test_adapters_start_at_zero_and_only_they_train(make: Callable[[], NetworkDenoiser], x: Input) -> None:
    base = make()
    expected = copy.deepcopy(base)(*x)
    d = tuned(LoRA(rank=2), base)
    assert torch.equal(d(*x), expected)
    trained = {name for name, p in d.named_parameters() if p.requires_grad}
    assert trained
    assert trained == {name for name, _ in d.named_parameters() if "lora_" in name}
    with_adapters = {name.partition(".lora_")[0] for name in trained}
    for target in base.adapter_targets:
        if make is not images or target in ("conv1", "conv2", "time_emb_proj"):  # this UNet has no attention
            assert any(name.endswith(f".{target}") for name in with_adapters), target
    d(*x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for n, p in d.named_parameters() if "lora_B" in n)


@each
def test_adapters_off_is_the_base_exactly_and_costs_no_second_model(
    make: Callable[[], NetworkDenoiser], x: Input
) -> None:
    base = make()
    expected = copy.deepcopy(base)(*x)
    d = tuned(LoRA(rank=2), base)
    off = d.frozen()
    assert isinstance(off, AdaptersOff)
    assert not list(off.parameters())
    test_denoisers.randomise([p for p in d.parameters() if p.requires_grad])
    assert (d(*x) - expected).abs().max() > 1e-3
    assert torch.equal(off(*x), expected)
    assert (d(*x) - expected).abs().max() > 1e-3, "the adapters stayed off"
    assert off.frozen() is off


@each
def test_saved_adapters_on_a_base_are_what_was_trained(
    make: Callable[[], NetworkDenoiser], x: Input, tmp_path: Path
) -> None:
    d = tuned(LoRA(rank=2), make())
    test_denoisers.randomise([p for p in d.parameters() if p.requires_grad])
    assert f"{tmp_path.name}/lora" in d.save(tmp_path)
    again = make()
    again.network = PeftModel.from_pretrained(again.network, tmp_path / "lora").eval()
    own, loaded = (dict(part.network.named_parameters()) for part in (d.denoiser, again))  # type: ignore[union-attr,operator]
    assert own.keys() == loaded.keys()
    assert all(torch.equal(own[name], loaded[name]) for name in own)
    # weights that lie elsewhere in memory may be taken by another kernel: a rounding of fp32
    assert (again(*x) - d(*x)).abs().max() < 1e-5


def test_a_reference_pass_leaves_gradients_as_they_were() -> None:
    """peft's disable_adapter() restores what it thinks was trained. One weight of the base is trained here too."""
    d, x = tuned(LoRA(rank=2), images()), NETWORKS["images"][1]
    assert isinstance(d, Adapted)
    next(iter(p for n, p in d.named_parameters() if "lora" not in n)).requires_grad_(True)
    off, before = d.frozen(), {n: p.requires_grad for n, p in d.named_parameters()}
    out = d(*x)
    with torch.no_grad():
        off(*x)
    assert {n: p.requires_grad for n, p in d.named_parameters()} == before
    out.square().sum().backward()  # the graph was made before the reference pass
    missing = [n for n, p in d.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


def test_a_wrong_target_is_named() -> None:
    with pytest.raises(ValueError, match="no_such_layer"):
        tuned(LoRA(targets=("no_such_layer",)), images())


class Protons(Reward):
    """How many there are: differs among molecules, whatever the network."""

    def score(self, sample: Molecules, cond: Tensor) -> Score:
        number = [sum(atom.GetAtomicNum() for atom in m.mol.GetAtoms()) for m in sample]
        return Score.of(torch.tensor(number, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["qm9", "qm9_3d"])
def test_a_run_on_molecules_moves_the_adapters_and_nothing_else(kind: str, tmp_path: Path) -> None:
    # the base of qm9 that ships: adapters do nothing below the untrained one's last layers, which are 0
    domain = () if kind == "qm9" else ("domain=qm9_3d", f"domain.weights={base_3d()}", "heldout=null")
    reward = "reward={_target_: tests.diffusion.test_adapters.Protons}"
    cfg = compose(["experiment=molecules", *TINY, *domain, reward, "domain.train_conditions=[4]", "policy=lora"])
    module = build_module(cfg)
    before = {n: p.detach().clone() for n, p in module.policy.named_parameters()}
    fit(module, cfg, tmp_path)
    moved = {n for n, p in module.policy.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n in before if "lora_" in n}
