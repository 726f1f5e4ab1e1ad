"""Denoisers around networks: conditions, guidance, frozen copies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pgdlab.diffusion.analytic import Mixture, Points
from pgdlab.diffusion.conditioning import Conditioning, NoLabels
from pgdlab.diffusion.denoisers import ClassifierFreeGuidance, DiffusersDenoiser
from pgdlab.diffusion.initial import Standard
from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.policy import build_policy
from pgdlab.diffusion.schedules import DiffusersSchedule
from pgdlab.diffusion.space import Dense
from pgdlab.diffusion.tuning import Affine, Frozen, Full, LoRA, Network, Tuning
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
@pytest.mark.parametrize("tuning", [Affine(), Network(hidden=8)], ids=repr)
def test_states_may_be_more_precise_than_the_network(tuning: Tuning) -> None:
    """A correction is fp64 and so are the states under it, above a network of fp32, which sees them rounded."""
    single, double = (tuned(tuning, denoiser(double=double)) for double in (False, True))
    randomise([p for p in double.parameters() if p.requires_grad])
    single.load_state_dict({name: x.to(single.state_dict()[name]) for name, x in double.state_dict().items()})
    x = points().double()
    for mine, exact in ((single, double), (single.frozen(), double.frozen())):
        found = mine(x, T, COND)
        assert found.dtype == torch.float64
        # a few thousand fp32 operations on numbers of size 1, over an alpha of .2 at the first time
        torch.testing.assert_close(found, exact(x, T, COND), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_network_without_classes_ignores_conditions() -> None:
    d = DiffusersDenoiser(unet(classes=None), DiffusersSchedule(scheduler()), NoLabels(NULL))
    assert torch.equal(d(points(), T, COND), d(points(), T, COND.roll(1)))


class Table(Conditioning):
    """A row of a table for every condition and for "none", as the embedding of a prompt would be."""

    def __init__(self, size: int) -> None:
        super().__init__(size, texts=("a cat", "a dog", ""))
        self.register_buffer("rows", torch.arange(size + 1.0)[:, None] + 0.5)

    def forward(self, cond: Tensor) -> dict[str, Tensor]:
        return {"shift": self.rows[cond]}


class Shifted(nn.Module):
    """Noise that is what it is told."""

    def forward(self, x: Tensor, t: Tensor, shift: Tensor, return_dict: bool) -> tuple[Tensor]:
        return (torch.zeros_like(x) + shift[:, :, None, None],)


@torch.no_grad()
def test_the_network_is_told_what_the_conditioning_says_of_the_number() -> None:
    schedule = DiffusersSchedule(scheduler())
    d = DiffusersDenoiser(Shifted(), schedule, Table(NULL))
    alpha, sigma = schedule.alpha(T)[:, None, None, None], schedule.sigma(T)[:, None, None, None]
    expected = (points() - sigma * (COND[:, None, None, None] + 0.5)) / alpha
    torch.testing.assert_close(d(points(), T, COND), expected.float(), rtol=1e-6, atol=1e-6)
    assert d.conditioning.unconditional == NULL
    assert "conditioning.rows" in d.state_dict()
    assert not denoiser().conditioning.state_dict(), "a checkpoint of class labels has new names"


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


@pytest.mark.parametrize("scale", [1e30, -1001.0, float("nan"), float("inf")])
def test_guidance_without_bounds_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=r"guidance is .*; it must be from -1000 to 1000"):
        ClassifierFreeGuidance(denoiser(), scale, NULL)


def test_guidance_needs_an_estimate_without_a_condition() -> None:
    """Exact denoisers of points have no conditions, and an affine correction no row for their absence."""
    exact = Mixture(tiny_schedule(), torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    affine = tuned(Affine(), denoiser())
    for guided in (exact, Points(tiny_schedule(), torch.zeros(1, 2)), affine, tuned(Affine(), exact)):
        with pytest.raises(ValueError, match=r"knows no estimate without one.*policy.guidance=1"):
            ClassifierFreeGuidance(guided, 3.0, NULL)
    ClassifierFreeGuidance(tuned(Network(), denoiser()), 3.0, NULL)  # its correction does not look at the condition


@torch.no_grad()
def test_a_correction_is_clipped_with_what_it_corrects() -> None:
    space = Dense((1, 8, 8))
    policy = build_policy(
        denoiser=denoiser(double=True, clip_sample=True, clip_sample_range=0.5), space=space, unconditional=NULL,
        initial=Standard(space=space, num_conditions=NULL, std=1.0), kernel=DDIM(eta=1.0), tuning=Network(unit="x0"), steps=5,
    )  # fmt: skip
    randomise([p for p in policy.parameters() if p.requires_grad])
    h, x = torch.tensor([0, 1, 2, 3]), points().double()
    free = policy.denoiser(x, policy.times[h], COND)
    assert free.abs().max() > 0.6
    torch.testing.assert_close(policy.estimate(x, h, COND), free.clamp(-0.5, 0.5), rtol=0, atol=0)
