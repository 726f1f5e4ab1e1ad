"""What asking a pipeline has told: its sampler's grid, the calls of its network, and how their outputs are put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.asking import NOISY, TIME, Caller, Leaf, Tape, named, rows_in, same
from pgdlab.diffusion.flow_scheduler import is_flow
from pgdlab.diffusion.mixing import Mix, mix_of
from pgdlab.diffusion.schedules import DiffusersSchedule, Flow

AGAIN = "domain.scheduler={_class_name: DDIMScheduler} replaces it"
AGAIN_FLOW = (
    "domain.scheduler={_class_name: FlowMatchEulerDiscreteScheduler, shift: 3} replaces it (shift as in its config)"
)
HIGHER_ORDER = (
    "PNDMScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler",
    "DPMSolverSinglestepScheduler",
)  # fmt: skip
ROUNDED = 0.02  # relative: states that are handed to a network in bf16


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkCall:
    """One call of the network in a step. rows: the arguments that have a row for each sample; fixed: the others; blocks: how many
    branches it takes at once, one under the other."""

    rows: tuple[Leaf, ...]
    fixed: Mapping[Leaf, Any]
    blocks: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A pipeline as its own call has shown it. shape: of a state. told: what the network is told of the time at each step, (H,).
    noisy, time: the names of those arguments. calls: of a step. extra: dimensions of size 1 that the network has and states
    have not. scaled: whether the pipeline's states are ours over alpha."""

    schedule: Flow | DiffusersSchedule
    shape: tuple[int, ...]
    told: Float[Tensor, " H"] | Tensor
    noisy: str
    time: str
    calls: tuple[NetworkCall, ...]
    mix: Mix
    extra: int
    scaled: bool

    @property
    def steps(self) -> int:
        """H."""
        return len(self.told)

    def trimmed(self, out: Tensor) -> Tensor:
        """A network's output in the shape of a state: without what it has besides."""
        for _ in range(self.extra):
            out = out.squeeze(2)
        keep = (slice(None), *(slice(0, size) for size in self.shape))
        return out[keep]


def ask(caller: Caller) -> Asked:
    """Asks with two dry calls, of 2 and 3 rows. Raises ValueError, saying what to change, for what a Markov chain of Gaussian
    steps cannot represent, and where a pipeline gives its network what depends on the step."""
    schedule_class(caller.pipe)
    more, tape = (
        caller.tape([0, 0, 0], 1),
        caller.tape([0, 0], caller.steps),
    )  # the scheduler keeps the grid of the last one
    per = per_step(caller, tape)
    schedule = schedule_of(caller.pipe, tape)
    state, made = tape.steps[0][2][:2], tape.steps[0][0]
    extra = tape.answers[0].ndim - made.ndim
    asked = Asked(
        schedule=schedule, shape=tuple(state.shape[1:]), extra=extra, scaled=is_scaled(caller.pipe),
        told=torch.stack([tape.told(h * per) for h in range(caller.steps)]),
        noisy=named(NOISY, tape.calls[0]), time=named(TIME, tape.calls[0]),
        calls=tuple(network_call(tape, more, k) for k in range(per)), mix=mix_of(*outputs(tape, 0, per, extra)),
    )  # fmt: skip
    require_constant(tape, asked, per)
    return asked


def per_step(caller: Caller, tape: Tape) -> int:
    """Calls of the network in a step. Raises ValueError where steps differ."""
    steps, calls = len(tape.steps), len(tape.calls)
    if steps != caller.steps or not calls or calls % steps:
        raise ValueError(
            f"{caller.steps} steps of the pipeline are {steps} of its scheduler and {calls} calls of its network, which is not "
            "the same number at every step: turn off guidance that skips layers or is cut off, and samplers of a higher order"
        )
    return calls // steps


def outputs(tape: Tape, h: int, per: int, extra: int) -> tuple[list[Tensor], Tensor]:
    """The network's random outputs of every branch at a step, and what the scheduler got, in fp64."""
    n, made = tape.rows, tape.steps[h][0].double()
    if not all(torch.equal(part, made[:n]) for part in made.split(n)):
        raise ValueError("the scheduler gets other rows than one a sample")
    made = made[:n]
    outs = [part for answer in tape.answers[h * per : (h + 1) * per] for part in answer.double().split(n)]
    for _ in range(extra):
        outs = [out.squeeze(2) for out in outs]
    keep = (slice(None), *(slice(0, size) for size in made.shape[1:]))
    return [out[keep] for out in outs], made


def network_call(tape: Tape, more: Tape, k: int) -> NetworkCall:
    """The k-th call of a step. Raises ValueError for an argument that depends on the batch in another way than by its rows."""
    blocks = len(tape.answers[k]) // tape.rows
    here, there = tape.given(k), more.given(k)
    rows = tuple(
        path for path, value in here.items()
        if rows_in(value) == blocks * tape.rows and rows_in(there.get(path)) == blocks * more.rows
    )  # fmt: skip
    fixed = {path: value for path, value in here.items() if path not in rows}
    for path, value in fixed.items():
        if not same(value, there.get(path)):
            raise ValueError(f"the network's {'.'.join(path)} depends on the size of the batch, but not by its rows")
    return NetworkCall(rows=rows, fixed=fixed, blocks=blocks)


def require_constant(tape: Tape, asked: Asked, per: int) -> None:
    """Raises ValueError where a step is given other conditions or states than the first, or is mixed in another way."""
    # a scheduler whose step is replaced stays at its first one, and so does its scale
    scale = float(asked.schedule.alpha(asked.schedule.times(asked.steps)[:1])) if asked.scaled else 1.0
    for h, (_, _, state) in enumerate(tape.steps):
        if not asked.mix.explains(*outputs(tape, h, per, asked.extra)):
            raise ValueError(
                f"guidance at step {h} is not that of the first step: set it to be the same at all of them"
            )
        for k in range(per):
            call, first = h * per + k, tape.given(k)
            given = tape.given(call)
            if given.keys() != first.keys() or not all(same(value, given[path]) for path, value in first.items()):
                raise ValueError(
                    f"the network is given other conditions at step {h} than at the first (guidance that is cut off?)"
                )
            require_state(tape.noisy(call), state * scale, tape.rows, asked.extra)


def require_state(noisy: Tensor, state: Tensor, rows: int, extra: int) -> None:
    """Raises ValueError where the network is given something else than the state."""
    for _ in range(extra):
        noisy = noisy.squeeze(2)
    wanted = state[:rows].float()
    for part in noisy.float().split(rows):
        if part.shape != wanted.shape or (part - wanted).abs().max() > ROUNDED * wanted.abs().max():
            raise ValueError(
                "the network is given something else than the state (an image to edit, a mask, a state that is rescaled): such "
                "a pipeline cannot be steered"
            )


def is_scaled(pipe: Any) -> bool:
    """Whether the scheduler's states are x_0 + sigma / alpha noise (Euler's), and not alpha x_0 + sigma noise."""
    return type(pipe.scheduler).__name__ in ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")


def schedule_class(pipe: Any) -> str:
    """The class of the scheduler. Raises ValueError for one whose steps depend on more than the state, or are drawn in it."""
    config, name = pipe.scheduler.config, type(pipe.scheduler).__name__
    if name in HIGHER_ORDER:
        raise ValueError(f"the pipeline's {name} makes a step of several evaluations of its network: {advice(pipe)}")
    if name == "DPMSolverMultistepScheduler" and config.solver_order != 1:
        raise ValueError(
            f"the pipeline's {name} has solver_order {config.solver_order}, and takes the step before into account: "
            "domain.scheduler={solver_order: 1} makes it a chain"
        )
    if config.get("stochastic_sampling"):
        raise ValueError(
            f"the pipeline's {name} has stochastic_sampling; here noise is the kernel's: domain.scheduler="
            "{stochastic_sampling: false}, and policy.kernel"
        )
    return name


def schedule_of(pipe: Any, tape: Tape) -> Flow | DiffusersSchedule:
    """The schedule with the sampler's grid, as it was in the call. Raises ValueError where it cannot be followed."""
    config = {**pipe.scheduler.config, "_class_name": type(pipe.scheduler).__name__}
    if is_flow(config) and config.get("prediction_type", "flow_prediction") == "flow_prediction":
        shift = 1.0 if config.get("use_dynamic_shifting") else config.get("flow_shift", config.get("shift", 1.0))
        return Flow(sigmas=pipe.scheduler.sigmas.double().tolist(), shift=float(shift))
    try:
        schedule = DiffusersSchedule(config)
    except ValueError as error:
        raise ValueError(f"the pipeline's scheduler cannot be followed: {error}. {advice(pipe)}") from error
    times = [float(t) for _, t, _ in tape.steps]
    own = schedule.times(len(times))[:-1].tolist()
    if times != own:
        raise ValueError(
            f"the pipeline's call steps through the times {times}, and its scheduler through {own}: leave timesteps out"
        )
    return schedule


def advice(pipe: Any) -> str:
    """The scheduler to take in the place of one that is refused."""
    config, name = pipe.scheduler.config, type(pipe.scheduler).__name__
    flow = "Flow" in name or config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    return AGAIN_FLOW if flow else AGAIN
