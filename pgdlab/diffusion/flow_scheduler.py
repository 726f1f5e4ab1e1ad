"""What a flow scheduler's config says about the grid of a sampler: every field is followed, or the file is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.scheduler_config import OF_THE_SOLVER, defaults, scheduler_class
from pgdlab.diffusion.schedules import DiffusersSchedule, Flow

# Classes that step along straight lines, in their first-order form. The solvers among them do so with use_flow_sigmas alone.
FLOWS = ("FlowMatchEulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
ALWAYS = "FlowMatchEulerDiscreteScheduler"
PREDICTED = (
    "flow_prediction",
    "sample",
)  # what epsilon and v say is undefined, or another thing, where the signal is 0
FOLLOWED = {
    "num_train_timesteps", "shift", "flow_shift", "use_dynamic_shifting", "base_shift", "max_shift", "base_image_seq_len",
    "max_image_seq_len", "shift_terminal", "time_shift_type", "use_karras_sigmas", "use_exponential_sigmas",
    "use_beta_sigmas", "use_flow_sigmas", "final_sigmas_type", "sigma_min", "sigma_max", "prediction_type",
}  # fmt: skip
# of the other process that the class can be
IDLE = {
    "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr", "timestep_spacing", "steps_offset",
    "lambda_min_clipped", "dynamic_thresholding_ratio", "sample_max_value",
}  # fmt: skip


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether the content of a scheduler_config.json is that of straight lines."""
    kind = str(config.get("_class_name", ""))
    return kind == ALWAYS or (kind in FLOWS and bool(config.get("use_flow_sigmas")))


@dataclass(frozen=True, kw_only=True)
class DiffusersFlow(Flow):
    """A flow on the grid of a diffusers scheduler, whatever the number of steps; the steps on it are the kernel's.

    kind: the scheduler's class. fields: all that its constructor takes. mu: of use_dynamic_shifting, None without. even:
    whether the pipeline hands over 1, 1 - 1/H, ..., 1/H for the scheduler to shift (FLUX, Qwen-Image), or leaves the grid to
    it (SD3, Sana, Wan).
    """

    kind: str
    fields: Mapping[str, Any]
    mu: float | None = None
    even: bool = False

    @classmethod
    def read(
        cls, config: Mapping[str, Any], *, mu: float | None = None, length: int | None = None, even: bool = False
    ) -> DiffusersFlow:
        """Of the content of a scheduler_config.json. length: the number of tokens of a sample, of which mu is made where that is
        not given. Raises ValueError for what is unknown, missing, or cannot be followed."""
        kind = config.get("_class_name")
        if not is_flow(config):
            raise ValueError(
                f"the scheduler is {kind}; a flow's is {ALWAYS}, or has use_flow_sigmas: {', '.join(FLOWS[1:])}"
            )
        own = defaults(str(kind))
        known = set().union(*(defaults(name) for name in FLOWS))
        if unknown := sorted(k for k in config.keys() - known if not k.startswith("_")):
            raise ValueError(f"the scheduler's config has {', '.join(unknown)}, which {kind} does not know")
        fields = own | {k: v for k, v in config.items() if k in own}
        refuse(str(kind), fields, own)
        if even and "sigmas" not in scheduler_class(str(kind)).set_timesteps.__annotations__:
            raise ValueError(f"even is set, and {kind} takes no grid of sigmas")
        mu = mu_of(fields, mu, length)
        return cls(kind=str(kind), fields=fields, mu=mu, even=even, shift=shift_of(fields, mu))

    @property
    def prediction_type(self) -> str:
        return str(self.fields.get("prediction_type", "flow_prediction"))

    def times(self, steps: int) -> Float[Tensor, " H1"]:
        if steps < 1:
            raise ValueError(f"steps is {steps}; it must be at least 1")
        given = {"sigmas": np.linspace(1.0, 1 / steps, steps)} if self.even else {}
        moved = {} if self.mu is None else {"mu": self.mu}
        try:
            scheduler = scheduler_class(self.kind)(**self.fields)  # a new one: DPM-Solver's keeps the last call's shift
            with np.errstate(all="ignore"):
                scheduler.set_timesteps(steps, **given, **moved)
            return Flow(sigmas=scheduler.sigmas.tolist()).times(steps)
        except (ImportError, NotImplementedError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{steps} steps of the {self.kind}: {error}") from error


def refuse(kind: str, fields: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raises ValueError for values that cannot be followed. own: the class's defaults."""
    for name in sorted(fields.keys() - FOLLOWED - IDLE - OF_THE_SOLVER):
        if fields[name] != own[name] and (fields[name] or own[name]):
            raise ValueError(f"the scheduler's {name} is {fields[name]!r}; only {own[name]!r} can be followed")
    predicted = fields.get("prediction_type", "flow_prediction")
    if predicted not in PREDICTED:
        raise ValueError(f"prediction_type {predicted!r} of {kind} on a flow; it must be {' or '.join(PREDICTED)}")


def mu_of(fields: Mapping[str, Any], mu: float | None, length: int | None) -> float | None:
    """How far use_dynamic_shifting shifts: mu, or the line through (base_image_seq_len, base_shift) and (max_image_seq_len,
    max_shift) at a length, as pipelines take it. None without."""
    if not fields["use_dynamic_shifting"]:
        if mu is not None:
            raise ValueError(
                f"mu is {mu}, and the scheduler's use_dynamic_shifting is false: it shifts by a fixed amount"
            )
        return None
    if mu is not None:
        if "flow_shift" in fields and "shift_terminal" not in fields and fields["time_shift_type"] != "exponential":
            raise ValueError(f"time_shift_type is {fields['time_shift_type']!r}; DPM-Solver's only is 'exponential'")
        return mu
    if length is None or "base_shift" not in fields:
        made = ", or the number of tokens of which it is made" if "base_shift" in fields else ""
        raise ValueError(f"the scheduler's use_dynamic_shifting is true: it needs mu{made}")
    low, high = fields["base_image_seq_len"], fields["max_image_seq_len"]
    slope = (fields["max_shift"] - fields["base_shift"]) / (high - low)
    return float(fields["base_shift"] + slope * (length - low))


def shift_of(fields: Mapping[str, Any], mu: float | None) -> float:
    """Of the times of training: sigma -> shift sigma / (1 + (shift - 1) sigma)."""
    if mu is None:
        return float(fields.get("shift", fields.get("flow_shift")))
    return math.exp(mu) if fields["time_shift_type"] == "exponential" else mu


def schedule_of(
    config: Mapping[str, Any], *, mu: float | None = None, length: int | None = None, even: bool = False
) -> DiffusersSchedule | DiffusersFlow:
    """The chain of any scheduler_config.json that can be followed; mu, length, even: see DiffusersFlow.read."""
    if is_flow(config):
        return DiffusersFlow.read(config, mu=mu, length=length, even=even)
    return DiffusersSchedule(config)
