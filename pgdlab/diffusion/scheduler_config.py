"""What a diffusers scheduler_config.json says about the chain: every field is followed, or the file is refused."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Predicted = Literal["epsilon", "v_prediction", "sample"]

# Classes whose first-order step is that of this chain, and what their networks may predict. Of the others some are
# another process (flow matching, variance exploding, consistency models), some step on times between the integers.
PREDICTIONS: dict[str, tuple[str, ...]] = {
    "DDIMScheduler": ("epsilon", "v_prediction", "sample"),
    "DDIMParallelScheduler": ("epsilon", "v_prediction", "sample"),
    "DDPMScheduler": ("epsilon", "v_prediction", "sample"),
    "DDPMParallelScheduler": ("epsilon", "v_prediction", "sample"),
    "DPMSolverMultistepScheduler": ("epsilon", "v_prediction", "sample"),
    "EulerAncestralDiscreteScheduler": ("epsilon", "v_prediction"),
    "EulerDiscreteScheduler": ("epsilon", "v_prediction"),
    "PNDMScheduler": ("epsilon", "v_prediction"),
}
OWN_TIMES = ("DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler")
FOLLOWED = {
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr",
    "prediction_type", "clip_sample", "clip_sample_range", "timestep_spacing", "steps_offset", "set_alpha_to_one",
    "final_sigmas_type", "lambda_min_clipped", "variance_type",
}  # fmt: skip
# of the solver, in whose place policy.kernel steps
SOLVER = {"skip_prk_steps", "solver_order", "algorithm_type", "solver_type", "lower_order_final", "euler_at_final"}
# the same, of all classes, those of flows too
OF_THE_SOLVER = SOLVER | {"predict_x0", "disable_corrector", "stochastic_sampling"}
# without effect unless another field asks for it, and that one is refused
IDLE = {"dynamic_thresholding_ratio", "sample_max_value", "flow_shift", "time_shift_type", "sigma_min", "sigma_max"}
VARIANCES = {"fixed_small": False, "fixed_small_log": False, "fixed_large": True, None: False}


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """kind: the scheduler's class. fields: all that its constructor takes, defaults filled in."""

    kind: str
    fields: Mapping[str, Any]

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> SchedulerConfig:
        """Of the content of a scheduler_config.json. Without a _class_name it is DDPM's or DDIM's, and says itself whether
        estimates are clipped. Raises ValueError for what is missing, unknown, or cannot be followed."""
        kind = config.get("_class_name", "DDPMScheduler" if "variance_type" in config else "DDIMScheduler")
        if kind not in PREDICTIONS:
            raise ValueError(
                f"the scheduler is {kind}, whose process or steps are not those of this chain; it must be one of "
                f"{', '.join(PREDICTIONS)}. If the network was trained on a discrete variance-preserving chain, save "
                f"that as a DDIMScheduler with the betas and prediction_type of the training"
            )
        needed = {"num_train_timesteps", "beta_schedule"} - (
            {"beta_schedule"} if config.get("trained_betas") else set()
        )
        if "_class_name" not in config:
            needed |= {"prediction_type", "clip_sample"}
        if missing := sorted(needed - config.keys()):
            raise ValueError(f"the scheduler's config does not say {', '.join(missing)}")
        known = set().union(*(defaults(name) for name in PREDICTIONS))
        if unknown := sorted(k for k in config.keys() - known if not k.startswith("_")):
            raise ValueError(f"the scheduler's config has {', '.join(unknown)}, which {kind} does not know")
        own = defaults(kind)  # keys of other classes stay behind in converted files, and diffusers ignores them
        found = cls(kind=kind, fields=own | {k: v for k, v in config.items() if k in own})
        found.refuse(own)
        return found

    def refuse(self, own: Mapping[str, Any]) -> None:
        """Raises ValueError for values that cannot be followed. own: the class's defaults."""
        fields, kind = self.fields, self.kind
        for name in sorted(fields.keys() - FOLLOWED - SOLVER - IDLE):
            if fields[name] != own[name] and (fields[name] or own[name]):
                raise ValueError(f"the scheduler's {name} is {fields[name]!r}; only {own[name]!r} can be followed")
        predicted, variance = fields["prediction_type"], fields.get("variance_type")
        if predicted not in PREDICTIONS[kind]:
            raise ValueError(f"prediction_type {predicted!r} of {kind}; it must be {', '.join(PREDICTIONS[kind])}")
        if variance not in VARIANCES or (variance is not None and own["variance_type"] is None):
            raise ValueError(
                f"the scheduler's variance_type is {variance!r}; it must be fixed_small, fixed_small_log or fixed_large: "
                "a network that predicts its variance is not supported"
            )
        if fields.get("rescale_betas_zero_snr") and predicted == "epsilon":
            raise ValueError(
                "rescale_betas_zero_snr makes the first state pure noise (zero terminal SNR), of which a prediction of "
                "epsilon says nothing about x0; it goes with a network of prediction_type v_prediction or sample"
            )
        if fields.get("clip_sample") and not fields["clip_sample_range"] > 0:
            raise ValueError(f"the scheduler's clip_sample_range is {fields['clip_sample_range']}; it must be above 0")

    def build(self) -> Any:
        """The scheduler. Raises ValueError for betas that are none."""
        try:
            scheduler = scheduler_class(self.kind)(**self.fields)
        except (NotImplementedError, TypeError) as error:
            raise ValueError(f"the scheduler's config is not valid: {error}") from error
        betas, times = scheduler.betas, self.fields["num_train_timesteps"]
        if len(betas) != times or not (betas > 0).all() or not (betas <= 1).all():
            raise ValueError(f"the scheduler has {len(betas)} betas for {times} times; they must be above 0, at most 1")
        if scheduler.alphas_cumprod.min() <= 0 and self.fields["prediction_type"] == "epsilon":
            raise ValueError("a beta is 1 (zero terminal SNR): epsilon says nothing about x0 there")
        return scheduler

    def final(self, scheduler: Any) -> Float[Tensor, ""]:
        """The squared alpha that the last step leads to."""
        to_one = self.fields.get("set_alpha_to_one", self.fields.get("final_sigmas_type", "zero") == "zero")
        return torch.ones(()) if to_one else scheduler.alphas_cumprod[0]

    def as_ddim(self, scheduler: Any) -> Any:
        """The DDIMScheduler of the same chain."""
        own, ddim = defaults("DDIMScheduler"), dict(self.fields)
        ddim |= {"set_alpha_to_one": bool(self.final(scheduler) == 1), "clip_sample": bool(ddim.get("clip_sample"))}
        if ddim["beta_schedule"] not in ("linear", "scaled_linear", "squaredcos_cap_v2"):
            ddim |= {"trained_betas": scheduler.betas.tolist()}
        return scheduler_class("DDIMScheduler")(**{k: v for k, v in ddim.items() if k in own})


def scheduler_class(name: str) -> Any:
    """A scheduler's class of diffusers."""
    import diffusers

    return getattr(diffusers, name)


def defaults(name: str) -> dict[str, Any]:
    """What a scheduler's constructor takes, and what it takes where it is not told."""
    given = inspect.signature(scheduler_class(name).__init__).parameters
    return {key: value.default for key, value in given.items() if key != "self"}
