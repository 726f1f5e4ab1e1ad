"""Denoisers around networks: conditions, guidance, adapters, frozen copies."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from pgdlab.diffusion.denoisers import ClassifierFreeGuidance, DiffusersDenoiser
from pgdlab.diffusion.tuning import Adapted, AdaptersOff, Frozen, Full, LoRA
from tests.networks import CLASSES, denoiser, tuned, unet
from tests.networks import config as scheduler
from tests.tiny import GaussianDenoiser, tiny_schedule

NULL = CLASSES - 1
T = torch.tensor([9, 4, 0, 4])
COND = torch.tensor([0, 1, 1, NULL])


def points() -> Tensor:
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def randomise(parameters: list[torch.nn.Parameter]) -> None:
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in parameters:
            p += 0.1 * torch.randn(p.shape, generator=g)


@torch.no_grad()
def test_every_row_has_its_own_time_and_condition() -> None:
    """Rows may come in any company and order."""
    d, x = denoiser(double=True), points().double()
    together = d(x, T, COND)
    for i in range(4):
        # fp64 convolutions over another batch size may sum in another order
        torch.testing.assert_close(
            d(x[i : i + 1], T[i : i + 1], COND[i : i + 1])[0], together[i], rtol=1e-10, atol=1e-11
        )
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(d(x[order], T[order], COND[order]), together[order], rtol=1e-10, atol=1e-11)
    assert (d(x, T, COND.roll(1)) - together).abs().max() > 1e-3, "the condition does nothing"
    assert (d(x, T.roll(1), COND) - together).abs().max() > 1e-3, "the time does nothing"


@torch.no_grad()
def test_a_network_without_classes_ignores_conditions() -> None:
    from pgdlab.diffusion.schedules import DiffusersSchedule

    d = DiffusersDenoiser(unet(classes=None), DiffusersSchedule(scheduler()))
    assert torch.equal(d(points(), T, COND), d(points(), T, COND.roll(1)))


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_guidance_on_the_x0_estimate_is_guidance_on_the_noise(scale: float) -> None:
    """Ho & Salimans' eps = (1 + w) eps(c) - w eps(null) with scale = 1 + w, then x0 from eps; affine, so the same."""
    d, x = denoiser(double=True), points().double()
    guided = ClassifierFreeGuidance(d, scale, NULL)(x, T, COND)
    given, null = d.output(x, T, COND), d.output(x, T, torch.full_like(COND, NULL))
    eps = (1 + (scale - 1)) * given - (scale - 1) * null
    alpha, sigma = (v.reshape(-1, 1, 1, 1) for v in (d.schedule.alpha(T), d.schedule.sigma(T)))
    torch.testing.assert_close(guided, (x - sigma * eps) / alpha, rtol=1e-9, atol=1e-9)


def test_guidance_keeps_rows_apart() -> None:
    """With the exact denoiser: the guided estimate is extrapolated between the two exact ones, row by row."""
    d = GaussianDenoiser(tiny_schedule())
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t, cond = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 1, 2])
    guided = ClassifierFreeGuidance(d, 2.5, 2)(x, t, cond)
    given, null = d(x, t, cond), d(x, t, torch.full_like(cond, 2))
    torch.testing.assert_close(guided, 2.5 * given - 1.5 * null, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(guided[3], null[3], rtol=1e-12, atol=1e-12)


def test_guidance_freezes_what_it_guides() -> None:
    d = tuned(Full(), denoiser())
    frozen = ClassifierFreeGuidance(d, 2.0, NULL).frozen()
    assert isinstance(frozen, ClassifierFreeGuidance)
    assert (frozen.scale, frozen.unconditional) == (2.0, NULL)
    before = frozen(points(), T, COND)
    randomise(list(d.parameters()))
    assert torch.equal(frozen(points(), T, COND), before)


def test_full_tuning_trains_all_and_the_frozen_one_is_a_copy() -> None:
    d = tuned(Full(), denoiser())
    assert all(p.requires_grad for p in d.parameters())
    frozen = d.frozen()
    assert not any(p.requires_grad for p in frozen.parameters())
    before = frozen(points(), T, COND)
    assert torch.equal(before, d(points(), T, COND))
    randomise(list(d.parameters()))
    assert torch.equal(frozen(points(), T, COND), before)
    assert not torch.equal(d(points(), T, COND), before)


def test_frozen_tuning_trains_nothing() -> None:
    assert not any(p.requires_grad for p in tuned(Frozen(), denoiser()).parameters())


@pytest.mark.parametrize("tuning", [Full(), Frozen(), LoRA(rank=2)])
def test_dropout_is_off_for_training(tuning: Full | Frozen | LoRA) -> None:
    """Two passes over the same rows agree exactly, though the network was built and left with dropout on."""
    noisy = denoiser(dropout=0.5)
    noisy.network.train()
    assert not torch.equal(noisy(points(), T, COND), noisy(points(), T, COND))
    d = tuned(tuning, noisy)
    assert torch.equal(d(points(), T, COND), d(points(), T, COND))


def test_adapters_start_at_zero_and_only_they_train() -> None:
    base = denoiser()
    expected = copy.deepcopy(base)(points(), T, COND)
    d = tuned(LoRA(rank=2), base)
    assert torch.equal(d(points(), T, COND), expected)
    trained = {name for name, p in d.named_parameters() if p.requires_grad}
    assert trained
    assert trained == {name for name, _ in d.named_parameters() if "lora_" in name}


def test_adapters_off_is_the_base_exactly_and_costs_no_second_model() -> None:
    base = denoiser()
    expected = copy.deepcopy(base)(points(), T, COND)
    d = tuned(LoRA(rank=2), base)
    off = d.frozen()
    assert isinstance(off, AdaptersOff)
    assert not list(off.parameters())
    randomise([p for p in d.parameters() if p.requires_grad])
    assert (d(points(), T, COND) - expected).abs().max() > 1e-3
    assert torch.equal(off(points(), T, COND), expected)
    assert (d(points(), T, COND) - expected).abs().max() > 1e-3, "the adapters stayed off"
    assert off.frozen() is off


def test_a_reference_pass_leaves_gradients_as_they_were() -> None:
    """peft's disable_adapter() restores what it thinks was trained. One weight of the base is trained here too."""
    d = tuned(LoRA(rank=2), denoiser())
    assert isinstance(d, Adapted)
    next(iter(p for n, p in d.named_parameters() if "lora" not in n)).requires_grad_(True)
    off, before = d.frozen(), {n: p.requires_grad for n, p in d.named_parameters()}
    out = d(points(), T, COND)
    with torch.no_grad():
        off(points(), T, COND)
    assert {n: p.requires_grad for n, p in d.named_parameters()} == before
    out.square().sum().backward()  # the graph was made before the reference pass
    missing = [n for n, p in d.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


def test_a_wrong_target_is_named() -> None:
    with pytest.raises(ValueError, match="no_such_layer"):
        tuned(LoRA(targets=("no_such_layer",)), denoiser())
