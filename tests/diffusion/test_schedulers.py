"""Every scheduler of diffusers with every field of its config: steps as its own, in their first-order form, or a refusal."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from pgdlab.diffusion.conditioning import NoLabels
from pgdlab.diffusion.denoisers import DiffusersDenoiser
from pgdlab.diffusion.initial import Standard
from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.policy import Policy
from pgdlab.diffusion.scheduler_config import PREDICTIONS, SOLVER
from pgdlab.diffusion.schedules import DiffusersSchedule
from pgdlab.diffusion.space import Dense

T, ROWS, SIZE = 12, 3, 4
SCHEDULERS = sorted(n for n in dir(diffusers) if n.endswith("Scheduler") and inspect.isclass(getattr(diffusers, n)))
BETAS = [0.03 + 0.02 * i for i in range(T)]
VALUES: dict[str, list[Any]] = {
    "num_train_timesteps": [15], "beta_start": [0.05], "beta_end": [0.3], "trained_betas": [BETAS],
    "beta_schedule": ["scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "odd"],
    "clip_sample": [True, False], "clip_sample_range": [0.5], "set_alpha_to_one": [True, False], "steps_offset": [1],
    "prediction_type": ["epsilon", "v_prediction", "sample", "flow_prediction"], "rescale_betas_zero_snr": [True],
    "timestep_spacing": ["leading", "trailing", "linspace"], "thresholding": [True], "sample_max_value": [2.0],
    "dynamic_thresholding_ratio": [0.5], "final_sigmas_type": ["zero", "sigma_min"], "lambda_min_clipped": [-0.3],
    "variance_type": ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"],
    "skip_prk_steps": [True], "solver_order": [1, 3], "algorithm_type": ["sde-dpmsolver++"], "solver_type": ["heun"],
    "lower_order_final": [False], "euler_at_final": [True], "use_karras_sigmas": [True], "use_exponential_sigmas": [True],
    "use_beta_sigmas": [True], "use_lu_lambdas": [True], "use_flow_sigmas": [True], "flow_shift": [2.0],
    "use_dynamic_shifting": [True], "time_shift_type": ["linear"], "interpolation_type": ["log_linear"],
    "timestep_type": ["continuous"], "sigma_min": [0.1], "sigma_max": [5.0],
}  # fmt: skip
# diffusers' tables are fp32, and x0 is divided by an alpha of a tenth
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
Step = Callable[[Any, int, Tensor, Tensor, Tensor], Tensor]  # scheduler, step, output, state, noise -> next state


class Curve(nn.Module):
    """An output that depends on state and time, and leaves the range that estimates are clipped to."""

    def forward(self, x: Tensor, t: Tensor, return_dict: bool) -> tuple[Tensor]:
        return ((2 * x).sin() + 0.05 * t.reshape(-1, *(1,) * (x.ndim - 1)),)


def settings(kind: str, **more: Any) -> dict[str, Any]:
    """The content of a scheduler_config.json with T times."""
    given = inspect.signature(getattr(diffusers, kind).__init__).parameters
    own = {name: p.default for name, p in given.items() if name != "self"}
    small = {"num_train_timesteps": T, "beta_start": 0.02, "beta_end": 0.2}
    return {"_class_name": kind} | own | {k: v for k, v in small.items() if k in own} | more


def chains(
    schedule: DiffusersSchedule, eta: float, steps: int, drawn: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of each step: state, the network's output there, and the next state."""
    initial, denoiser = (
        Standard(space=Dense((SIZE,)), num_conditions=1, std=1.0),
        DiffusersDenoiser(Curve(), schedule, NoLabels(1)),
    )
    policy, x, cond = (
        Policy(denoiser, Dense((SIZE,)), initial, DDIM(eta=eta), steps),
        drawn[0],
        torch.zeros(ROWS).long(),
    )
    for h in range(steps):
        at = torch.full((ROWS,), h)
        after = policy.step(x, policy.estimate(x, at, cond), at).sample(drawn[h + 1])
        yield x, denoiser.output(x, policy.times[at], cond), after
        x = after


def noise_of(monkeypatch: pytest.MonkeyPatch, module: str, noise: Tensor) -> None:
    """What a scheduler draws."""
    monkeypatch.setattr(f"diffusers.schedulers.{module}.randn_tensor", lambda *_, **__: noise)


def ddim(s: Any, times: Tensor, h: int, out: Tensor, x: Tensor, noise: Tensor, eta: float) -> Tensor:
    # to the next time of the grid, also where DDIMScheduler would go back by T // steps
    before = int(times[h + 1]) if h + 1 < len(times) else -1
    s.num_inference_steps = Fraction(s.config.num_train_timesteps, int(times[h]) - before)
    return s.step(out, int(times[h]), x, eta=eta, use_clipped_model_output=True, variance_noise=noise).prev_sample


def pndm(s: Any, times: Tensor, h: int, out: Tensor, x: Tensor, noise: Tensor, eta: float) -> Tensor:
    return s._get_prev_sample(x, int(times[h]), int(times[h + 1]) if h + 1 < len(times) else -1, out)


def plain(s: Any, times: Tensor, h: int, out: Tensor, x: Tensor, noise: Tensor, eta: float) -> Tensor:
    return s.step(out, times[h], x).prev_sample


def euler(s: Any, times: Tensor, h: int, out: Tensor, x: Tensor, noise: Tensor, eta: float) -> Tensor:
    """Their states are x / alpha."""
    here, after = ((1 + s.sigmas[i].double() ** 2).sqrt() for i in (h, h + 1))
    s.scale_model_input(x * here, times[h])
    return s.step(out, times[h], x * here).prev_sample / after


THEIRS: dict[str, tuple[Any, tuple[float, ...]]] = {
    "DDIMScheduler": (ddim, (0.0, 0.4, 1.0)), "DDIMParallelScheduler": (ddim, (1.0,)),
    "DDPMScheduler": (plain, (1.0,)), "DDPMParallelScheduler": (plain, (1.0,)),
    "DPMSolverMultistepScheduler": (plain, (0.0,)), "EulerDiscreteScheduler": (euler, (0.0,)),
    "EulerAncestralDiscreteScheduler": (euler, (1.0,)), "PNDMScheduler": (pndm, (0.0,)),
}  # fmt: skip
MODULES = {"DDPMScheduler": "scheduling_ddpm", "DDPMParallelScheduler": "scheduling_ddpm_parallel",
           "EulerAncestralDiscreteScheduler": "scheduling_euler_ancestral_discrete"}  # fmt: skip


@torch.no_grad()
def compare(kind: str, config: dict[str, Any], steps: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the config is read, and then steps as the class itself does; False where it is refused."""
    step, etas = THEIRS[kind]
    try:
        schedule = DiffusersSchedule(config)
        expected = schedule.times(steps)[:-1]
    except ValueError:
        return False
    fields = {k: v for k, v in config.items() if k in inspect.signature(getattr(diffusers, kind).__init__).parameters}
    first = {"solver_order": 1, "algorithm_type": "dpmsolver++", "euler_at_final": False}
    theirs = getattr(diffusers, kind)(**fields | {k: v for k, v in first.items() if k in fields})
    drawn = torch.randn(steps + 1, ROWS, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for eta in etas:
        theirs.set_timesteps(steps)
        times = theirs.timesteps if kind != "PNDMScheduler" else torch.tensor(theirs._timesteps[::-1].copy())
        assert times.tolist() == expected.tolist(), config
        for h, (x, out, after) in enumerate(chains(schedule, eta, steps, drawn)):
            if kind in MODULES:
                noise_of(monkeypatch, MODULES[kind], drawn[h + 1])
            got = step(theirs, times, h, out, x, drawn[h + 1], eta)
            torch.testing.assert_close(
                after, got.double(), **CLOSE, msg=lambda m, h=h, eta=eta: f"{config}, {h}, {eta}: {m}"
            )
    return True


@pytest.mark.parametrize("kind", sorted(PREDICTIONS))
def test_every_field_is_followed_or_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own, read = settings(kind), set()
    assert compare(kind, own | {"timestep_spacing": "leading"}, 4, monkeypatch), "the defaults are refused"
    leading = {"timestep_spacing": "leading"}
    switched = [{}, leading, leading | {"prediction_type": "v_prediction"}, {"timestep_spacing": "trailing"}]
    switched += [{"clip_sample": True}, {"set_alpha_to_one": False}] if "clip_sample" in own else []
    for name in own.keys() - {"_class_name"}:
        assert name in VALUES, f"{name} is a new field of {kind}"
        for value in VALUES[name]:
            for more in switched:
                for steps in (4, 5):
                    config = own | {k: v for k, v in more.items() if k in own} | {name: value}
                    if compare(kind, config, steps, monkeypatch):
                        read.add(name)
    common = {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type"}
    common |= {"timestep_spacing", "steps_offset"} | {
        "clip_sample",
        "clip_sample_range",
        "set_alpha_to_one",
    } & own.keys()
    assert common | (SOLVER | {"final_sigmas_type", "rescale_betas_zero_snr"}) & own.keys() <= read
    assert not read & {"thresholding", "use_karras_sigmas", "use_flow_sigmas", "timestep_type", "interpolation_type"}


@pytest.mark.parametrize("kind", [name for name in SCHEDULERS if name not in PREDICTIONS])
def test_other_processes_are_refused_by_name(kind: str) -> None:
    base = {"_class_name": kind, "num_train_timesteps": T, "beta_schedule": "linear", "prediction_type": "epsilon"}
    with pytest.raises(ValueError, match=rf"the scheduler is {kind}, .*save that as a DDIMScheduler"):
        DiffusersSchedule(base)


def test_a_stable_diffusion_config_is_read() -> None:
    """As it is on the hub: PNDM's, with a key that its class ignores; the last step leads to the first alpha."""
    schedule = DiffusersSchedule({
        "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "clip_sample": False, "num_train_timesteps": 1000, "set_alpha_to_one": False,
        "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None,
    })  # fmt: skip
    assert schedule.times(50)[:3].tolist() == [981, 961, 941]
    assert schedule.clip is None
    assert (
        schedule.alpha(torch.tensor([-1])) == schedule.alpha(torch.tensor([0])) == pytest.approx((1 - 0.00085) ** 0.5)
    )


def test_the_noise_that_euler_starts_from() -> None:
    """init_noise_sigma in units of the variance-preserving state: max sigma / sqrt(max sigma^2 + 1), or 1."""
    for spacing, kind in (("trailing", "EulerDiscreteScheduler"), ("leading", "EulerAncestralDiscreteScheduler")):
        config = settings(kind, timestep_spacing=spacing)
        theirs = getattr(diffusers, kind)(**{k: v for k, v in config.items() if k != "_class_name"})
        expected = theirs.init_noise_sigma / (theirs.sigmas.max() ** 2 + 1) ** 0.5
        assert DiffusersSchedule(config).initial_std == pytest.approx(float(expected), rel=1e-6)


def test_fixed_large_is_at_full_noise_or_none() -> None:
    schedule = DiffusersSchedule(settings("DDPMScheduler", variance_type="fixed_large"))
    times = schedule.times(4)
    with pytest.raises(ValueError, match=r"eta is 0.5; under variance_type fixed_large it must be 0 or 1"):
        DDIM(eta=0.5).coefficients(schedule, times[:-1], times[1:])
    assert (DDIM(eta=0.0).coefficients(schedule, times[:-1], times[1:])[2] == 0).all()


REFUSED = {
    "rescale_betas_zero_snr makes": {"rescale_betas_zero_snr": True},
    "a beta is 1": {"trained_betas": [*BETAS[:-1], 1.0]},
    "12 betas for 20 times": {"num_train_timesteps": 20, "trained_betas": BETAS},
    "must be above 0, at most 1": {"beta_end": 1.5},
    "clip_sample_range is 0": {"clip_sample": True, "clip_sample_range": 0.0},
    "thresholding is True": {"thresholding": True},
    "prediction_type 'flow'": {"prediction_type": "flow"},
    "has clip_smaple, which": {"clip_smaple": True},
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_followed_is_said(said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DiffusersSchedule(settings("DDIMScheduler") | REFUSED[said])


def test_zero_terminal_snr_goes_with_the_other_predictions() -> None:
    """The first state is pure noise: its estimate is -v, finite."""
    for kind in ("v_prediction", "sample"):
        config = settings(
            "DDIMScheduler", rescale_betas_zero_snr=True, prediction_type=kind, timestep_spacing="trailing"
        )
        schedule = DiffusersSchedule(config)
        assert schedule.alpha(torch.tensor([T - 1])) == 0
        drawn = torch.randn(4, ROWS, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        assert all(after.isfinite().all() for _, _, after in chains(schedule, 1.0, 3, drawn))


def test_an_empty_config_says_nothing() -> None:
    with pytest.raises(
        ValueError, match=r"does not say beta_schedule, clip_sample, num_train_timesteps, prediction_type"
    ):
        DiffusersSchedule({})
    with pytest.raises(ValueError, match=r"does not say beta_schedule, num_train_timesteps"):
        DiffusersSchedule({"_class_name": "DDIMScheduler"})


def test_only_classes_that_clip_inherit_it() -> None:
    assert DiffusersSchedule(settings("DDIMScheduler")).clip == 1.0
    base = {"num_train_timesteps": T, "beta_schedule": "linear"}
    assert DiffusersSchedule(base | {"_class_name": "DDPMScheduler"}).clip == 1.0
    assert DiffusersSchedule(base | {"_class_name": "PNDMScheduler"}).clip is None
    assert DiffusersSchedule(base | {"_class_name": "EulerDiscreteScheduler", "clip_sample": True}).clip is None


def test_times_outside_the_schedule_are_refused() -> None:
    """With an offset of 1 as many steps as times begin at time T, which is none: its entry would be the final alpha."""
    schedule = DiffusersSchedule(settings("DDIMScheduler", steps_offset=1, clip_sample=False))
    assert schedule.times(6).tolist() == [11, 9, 7, 5, 3, 1, -1]
    with pytest.raises(ValueError, match=f"12 steps reach from time 12 to 1 \\(steps_offset 1\\).*0 to {T - 1}"):
        schedule.times(T)


def test_times_between_the_integers_are_refused() -> None:
    """Euler's linspace: 0, 11/3, ... are times that no table holds."""
    schedule = DiffusersSchedule(settings("EulerDiscreteScheduler", timestep_spacing="linspace"))
    assert schedule.times(12).tolist() == [*range(11, -1, -1), -1]
    with pytest.raises(ValueError, match=r"4 steps do not lie on 4 whole times"):
        schedule.times(4)


def test_times_of_training_stay_below_the_end() -> None:
    """(127 + u) / 128 in fp32 is 1 for the largest u: time T would be the final one, which has no noise to learn from."""
    largest = torch.tensor(1 - 2**-24)
    u = torch.stack([torch.tensor(0.0), torch.tensor(0.9994), (127 + largest) / 128])
    assert u[2] == 1
    assert DiffusersSchedule(settings("DDPMScheduler")).spread(u).tolist() == [0, T - 1, T - 1]
