"""The adapter and the kernel against diffusers' own schedulers, on the same weights and the same noise."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab.diffusion.conditioning import ClassLabels
from pgdlab.diffusion.denoisers import DiffusersDenoiser
from pgdlab.diffusion.initial import Standard
from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.policy import Policy, build_policy
from pgdlab.diffusion.schedules import DiffusersSchedule
from pgdlab.diffusion.space import Dense
from pgdlab.diffusion.tuning import Full, LoRA
from pgdlab.rollout.sampler import Extras, rollout
from tests.networks import Listed, config, unet

ROWS, SHAPE = 2, (1, 8, 8)
COND = torch.tensor([0, 1])
# the same fp64 arithmetic in another order; early x0 estimates divide by an alpha of 0.2 and are of size 10
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@functools.cache
def network() -> Any:
    return unet().double().requires_grad_(False)


def exact(kind: type, settings: dict[str, Any]) -> Any:
    """A diffusers scheduler whose (fp32) table is used in fp64, so that rounding does not hide a difference."""
    scheduler = kind.from_config(settings)
    for name in ("alphas_cumprod", "final_alpha_cumprod", "one", "betas", "alphas"):
        if hasattr(scheduler, name):
            setattr(scheduler, name, getattr(scheduler, name).double())
    return scheduler


def ours(settings: dict[str, Any], eta: float, steps: int) -> Policy:
    schedule = DiffusersSchedule(settings)
    initial = Standard(space=Dense(SHAPE), num_conditions=2, std=schedule.initial_std)
    return Policy(DiffusersDenoiser(network(), schedule, ClassLabels(2)), Dense(SHAPE), initial, DDIM(eta=eta), steps)


def sampled(policy: Policy, drawn: Tensor) -> Tensor:
    """A whole chain through rollout()."""
    extras = Extras(tuned_deterministic=True)
    return rollout(policy, policy.reference(), Listed(drawn).of(0, range(ROWS)), COND, batch=ROWS, extras=extras).sample


def drawn_noise(steps: int) -> Tensor:
    return torch.randn(ROWS, steps + 1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


CASES = list(itertools.product(
    ("epsilon", "v_prediction", "sample"), (None, 0.5), (("leading", 5), ("trailing", 5), ("linspace", 10)),
    (0.0, 0.3, 1.0),
))  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize(("case", "to_one"), [(case, i % 2 == 0) for i, case in enumerate(CASES)])
def test_ddim(case: tuple[str, float | None, tuple[str, int], float], to_one: bool) -> None:
    """Every step's mean, and the whole chain. With clipping diffusers needs use_clipped_model_output to stay on the
    path that DDIM's equation 12 describes; without it the noise part is that of another x0."""
    from diffusers import DDIMScheduler

    kind, clip, spacing, eta = case
    steps = spacing[1]
    settings = config(
        prediction_type=kind, clip_sample=clip is not None, clip_sample_range=clip or 1.0, timestep_spacing=spacing[0],
        set_alpha_to_one=to_one,
    )  # fmt: skip
    theirs, policy, drawn = exact(DDIMScheduler, settings), ours(settings, eta, steps), drawn_noise(steps)
    theirs.set_timesteps(steps)
    x = drawn[:, 0]
    for h, t in enumerate(theirs.timesteps):
        out = network()(x, t, class_labels=COND).sample
        options = {"eta": eta, "use_clipped_model_output": clip is not None}
        mean = theirs.step(out, t, x, variance_noise=torch.zeros_like(x), **options).prev_sample
        at = torch.full((ROWS,), h)
        x0 = policy.estimate(x, at, COND)
        torch.testing.assert_close(policy.step(x, x0, at).mean, mean, **CLOSE)
        assert clip is None or x0.abs().max() <= clip
        x = theirs.step(out, t, x, variance_noise=drawn[:, h + 1], **options).prev_sample
    torch.testing.assert_close(sampled(policy, drawn), x, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("tuning", [Full(), LoRA(rank=2)])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_guidance_comes_before_clipping(kind: str, tuning: Full | LoRA) -> None:
    """As in every pipeline: the outputs are extrapolated, and the guided estimate is clipped. Two clipped estimates would
    be extrapolated out of the range again, by up to 2 scale - 1 times of it."""
    from diffusers import DDIMScheduler

    scale, clip, steps = 5.0, 0.5, 5
    settings = config(prediction_type=kind, clip_sample=True, clip_sample_range=clip)
    theirs, drawn, space = exact(DDIMScheduler, settings), drawn_noise(steps), Dense(SHAPE)
    policy = build_policy(
        denoiser=DiffusersDenoiser(unet().double(), DiffusersSchedule(settings), ClassLabels(2)), space=space,
        initial=Standard(space=space, num_conditions=2, std=1.0), unconditional=2, kernel=DDIM(eta=0.0), tuning=tuning,
        steps=steps, guidance=scale,
    )  # fmt: skip
    theirs.set_timesteps(steps)
    x = drawn[:, 0]
    for h, t in enumerate(theirs.timesteps):
        given, null = (network()(x, t, class_labels=c).sample for c in (COND, torch.full_like(COND, 2)))
        estimate = policy.estimate(x, torch.full((ROWS,), h), COND)
        assert estimate.abs().max() == clip, "nothing is clipped here"
        x = theirs.step(null + scale * (given - null), t, x, use_clipped_model_output=True).prev_sample
    torch.testing.assert_close(sampled(policy, drawn), x, **CLOSE)


def test_the_default_of_ddim_is_another_step_and_the_export_says_so(tmp_path: Path) -> None:
    """DDIMScheduler keeps the noise of the unclipped estimate unless told: not a mean in x and one estimate."""
    from diffusers import DDIMScheduler

    settings = config(clip_sample=True, clip_sample_range=0.5)
    theirs, x = exact(DDIMScheduler, settings), drawn_noise(1)[:, 0]
    theirs.set_timesteps(5)
    out = network()(x, 8, class_labels=COND).sample
    one, two = (theirs.step(out, 8, x, use_clipped_model_output=b).prev_sample for b in (True, False))
    assert (one - two).abs().max() > 0.1
    denoiser = ours(settings, 0.0, 5).denoiser
    assert "use_clipped_model_output=True" in denoiser.save(tmp_path)
    assert "use_clipped_model_output" not in ours(config(), 0.0, 5).denoiser.save(tmp_path)


def test_training_does_not_see_the_clip() -> None:
    """Of the regression of the estimate: beyond the range it would have no gradient."""
    free, clipped = (ours(config(clip_sample=c, clip_sample_range=0.1), 1.0, 5).denoiser for c in (False, True))
    x, t = drawn_noise(1)[:, 0], torch.tensor([9, 5])
    assert torch.equal(free.loss(x, x, t, COND), clipped.loss(x, x, t, COND))


@torch.no_grad()
@pytest.mark.parametrize("spacing", [("leading", 5), ("trailing", 5), ("linspace", 4), ("leading", 10)])
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_ddpm(kind: str, clip: float | None, spacing: tuple[str, int]) -> None:
    """eta 1 is DDPM's ancestral sampling with the posterior variance (fixed_small). linspace in 4 steps has unequal
    gaps, which diffusers' DDIM does not follow (it always goes back T // steps) but its DDPM does."""
    from diffusers import DDPMScheduler

    steps = spacing[1]
    settings = config(
        prediction_type=kind, clip_sample=clip is not None, clip_sample_range=clip or 1.0, timestep_spacing=spacing[0]
    )
    theirs = exact(DDPMScheduler, settings | {"variance_type": "fixed_small"})
    theirs.set_timesteps(steps)
    g, twin = (torch.Generator().manual_seed(1) for _ in range(2))
    x = torch.randn(ROWS, *SHAPE, dtype=torch.float64, generator=g)
    drawn = [torch.randn(ROWS, *SHAPE, dtype=torch.float64, generator=twin)]
    for t in theirs.timesteps:
        out = network()(x, t, class_labels=COND).sample
        x = theirs.step(out, t, x, generator=g).prev_sample
        drawn.append(torch.randn(ROWS, *SHAPE, dtype=torch.float64, generator=twin) if t > 0 else torch.zeros_like(x))
    # diffusers floors the last variance at 1e-20, so that its last step carries noise of 1e-10
    torch.testing.assert_close(sampled(ours(settings, 1.0, steps), torch.stack(drawn, 1)), x, rtol=1e-9, atol=1e-8)


def test_offsets_are_the_schedulers_own() -> None:
    """Stable Diffusion's schedulers start one time later (steps_offset)."""
    from diffusers import DDIMScheduler

    settings = config(steps_offset=1, set_alpha_to_one=False)
    theirs = DDIMScheduler.from_config(settings)
    theirs.set_timesteps(5)
    assert DiffusersSchedule(settings).times(5).tolist() == [*theirs.timesteps.tolist(), -1]
    assert theirs.timesteps.tolist() == [9, 7, 5, 3, 1]


def test_the_final_alpha() -> None:
    end = torch.tensor([-1])
    assert DiffusersSchedule(config(set_alpha_to_one=True)).alpha(end) == 1
    kept = DiffusersSchedule(config(set_alpha_to_one=False))
    assert kept.alpha(end) == kept.alpha(torch.tensor([0])) < 1
    assert kept.alpha(end).dtype == torch.float64


@pytest.mark.parametrize("steps", [0, 11])
def test_too_many_steps_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps is {steps}; it must be 1 to 10"):
        DiffusersSchedule(config()).times(steps)


def test_what_the_adapter_does_not_do_is_refused() -> None:
    """An option of the scheduler that would silently do nothing."""
    with pytest.raises(ValueError, match="thresholding"):
        DiffusersSchedule(config(thresholding=True))
    with pytest.raises(ValueError, match="prediction_type 'flow'"):
        DiffusersSchedule(config(prediction_type="flow"))


def test_a_network_that_predicts_its_variance_is_refused() -> None:
    """Twice the channels out, the second half for variance_type learned_range."""
    from diffusers import UNet2DModel

    twice = UNet2DModel.from_config(dict(network().config) | {"out_channels": 2})
    denoiser = DiffusersDenoiser(twice.double(), DiffusersSchedule(config()), ClassLabels(2))
    with pytest.raises(ValueError, match=r"gives out \(2, 8, 8\) for samples of \(1, 8, 8\).*its variance too"):
        denoiser(drawn_noise(1)[:, 0], torch.tensor([9, 5]), COND)
