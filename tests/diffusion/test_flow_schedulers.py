"""Every scheduler that can be a flow, with every field of its config: steps as its own, to first order, or a refusal."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from pgdlab.diffusion.flow_scheduler import FLOWS, DiffusersFlow, schedule_of
from pgdlab.diffusion.kernels import DDIM, Chain
from pgdlab.diffusion.predictions import estimate_of
from pgdlab.diffusion.scheduler_config import PREDICTIONS
from pgdlab.diffusion.schedules import DiffusersSchedule
from tests.diffusion.test_schedulers import SCHEDULERS, VALUES

SHAPE = (3, 4)
MORE: dict[str, list[Any]] = {
    "num_train_timesteps": [40], "shift": [3.0, 0.5], "flow_shift": [3.0], "base_shift": [0.7], "max_shift": [1.5],
    "base_image_seq_len": [128], "max_image_seq_len": [2048], "invert_sigmas": [True], "shift_terminal": [0.1],
    "time_shift_type": ["linear"], "stochastic_sampling": [True], "predict_x0": [False], "disable_corrector": [[0, 1]],
    "solver_p": [diffusers.DPMSolverMultistepScheduler()], "solver_type": ["bh1", "heun"], "sigma_min": [0.05],
    "sigma_max": [3.0], "use_flow_sigmas": [False],
}  # fmt: skip
REFUSED = {"invert_sigmas", "thresholding", "solver_p", "use_lu_lambdas"}
CLOSE = {"rtol": 2e-6, "atol": 2e-6}  # FlowMatchEuler's steps are fp32, of numbers of size one


def settings(kind: str, **more: Any) -> dict[str, Any]:
    """The content of a scheduler_config.json of a flow."""
    given = inspect.signature(getattr(diffusers, kind).__init__).parameters
    own = {name: p.default for name, p in given.items() if name != "self"}
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    return {"_class_name": kind} | own | {k: v for k, v in flow.items() if k in own} | more


def theirs(config: dict[str, Any]) -> Any:
    """The scheduler, its steps of first order and without a corrector (whose other form, bh1, gives nan at the last step)."""
    fields = {k: v for k, v in config.items() if not k.startswith("_")}
    first = {"solver_order": 1, "disable_corrector": [*range(100)], "predict_x0": True}
    first |= {"solver_type": "bh2" if "solver_p" in fields else "midpoint"}
    return getattr(diffusers, config["_class_name"])(**fields | {k: v for k, v in first.items() if k in fields})


def step(s: Any, h: int, out: Tensor, x: Tensor, noise: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    for module in ("flow_match_euler_discrete", "dpmsolver_multistep"):
        monkeypatch.setattr(f"diffusers.schedulers.scheduling_{module}.randn_tensor", lambda *_, **__: noise)
    return s.step(out, s.timesteps[h], x).prev_sample


def eta_of(config: dict[str, Any]) -> float:
    """The kernel that the class's own step is."""
    return 1.0 if str(config.get("algorithm_type")).startswith("sde") else 0.0


def compare(config: dict[str, Any], steps: int, mu: float | None, even: bool, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the config is read, and then steps as the class itself does; False where it is refused."""
    try:
        flow = schedule_of(config, mu=mu, even=even)
        times = flow.times(steps)
    except ValueError:
        return False
    assert isinstance(flow, DiffusersFlow), config
    scheduler, generator = theirs(config), torch.Generator().manual_seed(0)
    given = ({"sigmas": np.linspace(1, 1 / steps, steps)} if even else {}) | ({} if mu is None else {"mu": mu})
    scheduler.set_timesteps(steps, **given)
    assert times.tolist() == scheduler.sigmas.tolist(), config
    scheduler.set_begin_index(0)  # else the second of two equal (rounded) timesteps is the first
    scheduler.sigmas = scheduler.sigmas.double()  # solvers take differences of logarithms of numbers near 1
    chain = Chain.of(flow, DDIM(eta=eta_of(config), quiet=0.0), steps)
    for h in range(steps):
        x, out, noise = torch.randn(3, *SHAPE, generator=generator, dtype=torch.float64)
        alpha, sigma = 1 - times[h], times[h]
        x0 = estimate_of(flow.prediction_type, x, out, alpha, sigma)
        after = chain.from_x[h] * x + chain.from_x0[h] * x0 + chain.std[h] * noise
        if config.get("stochastic_sampling"):  # noise of its own, none of it kept
            after = (1 - times[h + 1]) * x0 + times[h + 1] * noise
        got = step(scheduler, h, out, x, noise, monkeypatch)
        torch.testing.assert_close(after, got.double(), **CLOSE, msg=lambda m, h=h: f"{config}, {h}, {mu}, {even}: {m}")
    return True


@pytest.mark.parametrize("kind", FLOWS)
def test_every_field_is_followed_or_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own, read = settings(kind), set()
    assert compare(own, 4, None, False, monkeypatch), "the defaults are refused"
    bent: list[dict[str, Any]] = [{}, {"shift": 3.0, "flow_shift": 3.0}, {"use_dynamic_shifting": True}]
    bent += [{"use_dynamic_shifting": True, "shift_terminal": 0.05}, {"use_karras_sigmas": True}]
    for name in own.keys() - {"_class_name"}:
        values = VALUES.get(name, []) + MORE.get(name, [])
        assert values, f"{name} is a new field of {kind}"
        for value, more, steps, even in itertools.product(values, bent, (3, 8), (False, True)):
            config = own | {k: v for k, v in more.items() if k in own} | {name: value}
            mu = 0.8 if config["use_dynamic_shifting"] else None
            if compare(config, steps, mu, even, monkeypatch):
                read.add(name)
    followed = {
        "num_train_timesteps",
        "shift",
        "flow_shift",
        "use_dynamic_shifting",
        "shift_terminal",
        "time_shift_type",
    }
    followed |= {"stochastic_sampling", "solver_order", "algorithm_type", "prediction_type"}
    if kind != "DPMSolverMultistepScheduler":  # its other spacings give way to those of its other process
        followed |= {"use_karras_sigmas"}
    if kind == "FlowMatchEulerDiscreteScheduler":
        followed |= {"use_exponential_sigmas", "use_beta_sigmas"}
    assert followed & own.keys() <= read
    assert not read & REFUSED


@pytest.mark.parametrize("kind", [name for name in SCHEDULERS if name not in {*FLOWS, *PREDICTIONS}])
def test_other_processes_are_refused_by_name(kind: str) -> None:
    """use_flow_sigmas included, which more solvers have."""
    base = {"_class_name": kind, "num_train_timesteps": 12, "beta_schedule": "linear", "prediction_type": "epsilon"}
    for more in ({}, {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}):
        with pytest.raises(ValueError, match=rf"the scheduler is {kind}, "):
            schedule_of(base | more)
        with pytest.raises(ValueError, match=rf"the scheduler is {kind}; a flow's is FlowMatchEulerDiscreteScheduler"):
            DiffusersFlow.read(base | more)


def test_the_other_chains_are_read_as_before() -> None:
    for kind in PREDICTIONS:
        base = {"_class_name": kind, "num_train_timesteps": 12, "beta_schedule": "linear", "prediction_type": "epsilon"}
        assert isinstance(schedule_of(base), DiffusersSchedule)


def test_stable_diffusion_3s_grid() -> None:
    """The shift of 3 is applied to the ends and again to what lies between: the last sigma is .0089."""
    flow = DiffusersFlow.read(
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
    )
    times = flow.times(28)
    end = 3 * 0.001 / 1.002
    assert times[-2].item() == pytest.approx(3 * end / (1 + 2 * end), rel=1e-5)
    assert (times[0], times[-1], len(times)) == (1, 0, 29)
    assert flow.shift == 3.0


def test_the_shift_of_a_length() -> None:
    """FLUX at 1024 x 1024: 4,096 tokens, mu 1.15; sigma -> e^mu / (e^mu + 1 / sigma - 1), from an even grid."""
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
    flow = DiffusersFlow.read(config, length=4096, even=True)
    assert flow.mu == pytest.approx(1.15)
    assert DiffusersFlow.read(config, length=256).mu == pytest.approx(0.5)
    even = torch.linspace(1, 1 / 4, 4, dtype=torch.float64)
    expected = np.exp(1.15) / (np.exp(1.15) + 1 / even - 1)
    torch.testing.assert_close(flow.times(4)[:-1], expected, rtol=1e-6, atol=1e-6)
    # those of training are shifted alike
    u = torch.tensor([0.2, 0.7], dtype=torch.float64)
    small = 1e-3 + 0.999 * u
    torch.testing.assert_close(flow.spread(u), np.exp(1.15) / (np.exp(1.15) + 1 / small - 1), rtol=1e-12, atol=1e-12)


SAID = {
    "needs mu, or the number of tokens": ({"use_dynamic_shifting": True}, {}),
    "mu is 0.5, and the scheduler's use_dynamic_shifting is false": ({}, {"mu": 0.5}),
    "has sihft, which": ({"sihft": 3.0}, {}),
    "invert_sigmas is True; only False": ({"invert_sigmas": True}, {}),
}


@pytest.mark.parametrize("said", SAID)
def test_what_cannot_be_followed_is_said(said: str) -> None:
    config, more = SAID[said]
    with pytest.raises(ValueError, match=said):
        DiffusersFlow.read({"_class_name": "FlowMatchEulerDiscreteScheduler"} | config, **more)


def test_what_solvers_cannot_do_on_a_flow_is_said() -> None:
    with pytest.raises(
        ValueError, match=r"prediction_type 'epsilon' of UniPC.* on a flow; it must be flow_prediction or"
    ):
        DiffusersFlow.read(settings("UniPCMultistepScheduler", prediction_type="epsilon"))
    with pytest.raises(ValueError, match=r"needs mu$"):
        DiffusersFlow.read(settings("UniPCMultistepScheduler", use_dynamic_shifting=True), length=256)
    with pytest.raises(ValueError, match=r"even is set, and DPMSolverMultistepScheduler takes no grid"):
        DiffusersFlow.read(settings("DPMSolverMultistepScheduler"), even=True)
    last = DiffusersFlow.read(settings("DPMSolverMultistepScheduler", final_sigmas_type="sigma_min"))
    with pytest.raises(ValueError, match=r"4 steps of the DPMSolver.*must fall from 1 at most to 0"):
        last.times(4)
    with pytest.raises(ValueError, match=r"steps is 0; it must be at least 1"):
        last.times(0)
