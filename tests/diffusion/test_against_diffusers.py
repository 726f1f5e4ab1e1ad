"""The adapter and the kernel against diffusers' own schedulers, on the same weights and the same noise."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab.diffusion.conditioning import ClassLabels
from pgdlab.diffusion.denoisers import DiffusersDenoiser
from pgdlab.diffusion.initial import Standard
from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.policy import Policy
from pgdlab.diffusion.schedules import DiffusersSchedule
from pgdlab.diffusion.space import Dense
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
        DiffusersDenoiser(network(), DiffusersSchedule(config(prediction_type="flow")), ClassLabels(2))
