"""Values that task=value has fitted: what lies in a run folder, read back and held against the world that it is used in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pgdlab.config.runs import short
from pgdlab.credit.critic import Critic
from pgdlab.diffusion import files
from pgdlab.diffusion.denoisers import ClassifierFreeGuidance
from pgdlab.diffusion.digest import digest
from pgdlab.diffusion.policy import Policy
from pgdlab.diffusion.values import KINDS, FittedValue, Value
from pgdlab.rollout.trajectory import dtype_of
from pgdlab.world import World

FOLDER = "value"  # inside the run's
UNBOUNDED = 1e30  # of a state; a checkpoint holds finite numbers
DTYPES = {"float32": torch.float32, "float64": torch.float64}
FACTS = {
    "kind": str,
    "sizes": dict,
    "dtype": str,
    "of": str,
    "lam": float,
    "domain": str,
    "base": str,
    "guidance": float,
}


def facts_of(world: World) -> dict[str, Any]:
    """What a value belongs to: the domain, the base by its digest, the scale of its guidance."""
    return {
        "domain": world.domain.name, "base": digest(world.reference), "guidance": guidance_scale(world.reference),
    }  # fmt: skip


def guidance_scale(policy: Policy) -> float:
    """Of classifier-free guidance, 1 without."""
    scales = [m.scale for m in policy.denoiser.modules() if isinstance(m, ClassifierFreeGuidance)]
    return float(scales[0]) if scales else 1.0


def chain_of(policy: Policy) -> torch.Tensor:
    """The coefficients (3, H) of the steps: another sampler is another chain, and has other values."""
    return policy.coefficients.detach().double()


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A value and what is known of it. facts: `of` is "soft" or "mean", `lam` the temperature of a soft one, `queries` and
    `evaluations` what it has cost, `reward` the node of the reward."""

    run: Path
    value: FittedValue
    facts: dict[str, Any]

    def require(self, world: World) -> None:
        """Raises ValueError where it is not the value of this world's base."""
        policy, own = world.reference, facts_of(world)
        steps = self.value.coefficients.shape[1]
        said = f"{short(self.run)} has the value of"
        if self.facts["domain"] != own["domain"]:
            raise ValueError(
                f"{said} domain {self.facts['domain']}, and this is {own['domain']}: fit one with task=value"
            )
        if steps != policy.steps:
            raise ValueError(
                f"{said} {steps} steps, and policy.steps is {policy.steps}: set it, or fit one with task=value"
            )
        if self.facts["base"] != own["base"]:
            raise ValueError(f"{said} another base than the one that is loaded now: fit one with task=value")
        same = torch.allclose(self.value.coefficients.cpu(), chain_of(policy).cpu(), rtol=1e-6, atol=1e-9)
        if not same or not math.isclose(self.facts["guidance"], own["guidance"]):
            raise ValueError(
                f"{said} another sampler: policy.kernel and policy.guidance must be those of its run, or fit one with task=value"
            )


def save(value: FittedValue, facts: dict[str, Any], run: Path) -> None:
    """Writes both into the run's folder: numbers and text."""
    inner = value.value
    dtype = next(name for name, kind in DTYPES.items() if kind == next(inner.parameters()).dtype)
    made = {"kind": type(inner).__name__, "sizes": inner.sizes(), "dtype": dtype}
    files.write(value.cpu(), made | facts, run / FOLDER)


def read(run: str | Path | None) -> Fitted:
    """The value of a run of task=value. Nothing of it is executed. Raises ValueError where there is none, or it is damaged."""
    if not run:
        raise ValueError("no fitted value is given: run=runs/NAME, the folder that task=value has written")
    folder = Path(run).resolve() / FOLDER
    if not (folder / "config.json").is_file():
        raise ValueError(f"{run} holds no fitted value: it must be the folder of a run of task=value")
    try:
        facts = files.sizes(folder)
    except ValueError as error:
        raise ValueError(f"{short(folder / 'config.json')} cannot be read: {error}") from error
    wrong = [name for name, kind in FACTS.items() if not isinstance(facts.get(name), kind)]
    if wrong or facts["kind"] not in KINDS or facts["dtype"] not in DTYPES:
        raise ValueError(
            f"{short(folder / 'config.json')} is not what task=value writes: look at {(wrong or ['kind'])[0]}"
        )
    try:
        inner = KINDS[facts["kind"]](**facts["sizes"]).to(DTYPES[facts["dtype"]])
        value = FittedValue(inner, torch.zeros(3, int(facts["sizes"]["steps"]), dtype=torch.float64))
        files.read(value, folder)
    except (TypeError, KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{short(folder)} is damaged: {error}") from error
    require_finite(value, folder)
    return Fitted(run=Path(run).resolve(), value=value.eval().requires_grad_(False), facts=facts)


def require_finite(value: FittedValue, folder: Path) -> None:
    """Raises ValueError where it would give out what is no number."""
    for name, x in value.state_dict().items():
        if x.isnan().any() or (name not in ("low", "high") and not x.isfinite().all()):
            raise ValueError(f"{short(folder)} holds weights that are not finite ({name}): fit it anew with task=value")


@dataclass(frozen=True, kw_only=True)
class FittedCritic(Critic):
    """A critic that begins as the value that task=value value=mean has fitted to the base. run: its folder."""

    run: Path | None = None

    def build(self, world: World) -> Value:
        found = read(self.run)
        found.require(world)
        if found.facts["of"] != "mean":
            raise ValueError(
                f"{short(found.run)} has a soft value, and a critic's is the expected return: fit one with value=mean"
            )
        value = found.value
        value.low, value.high = torch.full_like(value.low, -UNBOUNDED), torch.full_like(value.high, UNBOUNDED)
        return value.requires_grad_(True).to(world.device, dtype_of(world.policy))
