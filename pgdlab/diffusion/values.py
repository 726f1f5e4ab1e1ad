"""Values of states, learned or set: V(s_h, h, cond) of the denoising MDP."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pgdlab.diffusion.conditioning import Observations, require_small
from pgdlab.diffusion.networks.perceptron import Head


class Value(nn.Module, ABC):
    """V(x, h, cond): the expected return of a state, in the reward's unit, the penalty's cost subtracted. 0 at first."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "P *D"], h: Int[Tensor, " P"], cond: Int[Tensor, " P"]) -> Float[Tensor, " P"]:
        """At P pairs of a state and a step."""

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """The keywords that build it again."""


class QuadraticValue(Value):
    """x'P x + q'x + c with parameters of their own for every condition and step: it holds the exact value of a
    linear-Gaussian problem. P is symmetric, its upper triangle is trained. size: D of the flattened sample. fp64."""

    rows: Tensor
    columns: Tensor
    square: Tensor
    linear: Tensor
    constant: Tensor

    def __init__(self, num_conditions: int, steps: int, size: int) -> None:
        super().__init__()
        again = "trainer.credit.critic={_target_: pgdlab.credit.critic.Perceptron} is a network for all"
        self.made = {"num_conditions": num_conditions, "steps": steps, "size": size}
        require_small("a quadratic a step", num_conditions, 8 * steps * (size + 1) * (size + 2) // 2, again)
        rows, columns = torch.triu_indices(size, size)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        shapes = {"square": (len(rows),), "linear": (size,), "constant": ()}
        for name, shape in shapes.items():
            start = torch.zeros(num_conditions, steps, *shape, dtype=torch.float64)
            self.register_parameter(name, nn.Parameter(start))

    def sizes(self) -> dict[str, int]:
        return self.made

    def forward(self, x: Float[Tensor, "P *D"], h: Int[Tensor, " P"], cond: Int[Tensor, " P"]) -> Float[Tensor, " P"]:
        x = x.flatten(1).to(self.linear.dtype)
        products = x[:, self.rows] * x[:, self.columns]
        bent, slanted = (self.square[cond, h] * products).sum(1), (self.linear[cond, h] * x).sum(1)
        return bent + slanted + self.constant[cond, h]


class PerceptronValue(Value):
    """A perceptron on the flattened state, a sinusoidal embedding of the step and one of the condition.

    Each of the three has a first layer of its own, so that the state's few coordinates are not lost among the embedding's.
    """

    def __init__(self, num_conditions: int, steps: int, size: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.steps, self.hidden = steps, hidden
        self.made = {
            "num_conditions": num_conditions, "steps": steps, "size": size, "hidden": hidden, "layers": layers,
        }  # fmt: skip
        self.state, self.time = nn.Linear(size, hidden), nn.Linear(hidden, hidden)
        self.condition = nn.Embedding(num_conditions, hidden)
        body: list[nn.Module] = []
        for _ in range(layers - 1):
            body += [nn.SiLU(), nn.Linear(hidden, hidden)]
        self.body = nn.Sequential(*body, nn.SiLU())
        self.head = nn.Linear(hidden, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def sizes(self) -> dict[str, int]:
        return self.made

    def forward(self, x: Float[Tensor, "P *D"], h: Int[Tensor, " P"], cond: Int[Tensor, " P"]) -> Float[Tensor, " P"]:
        from diffusers.models.embeddings import get_timestep_embedding

        with torch.autocast(x.device.type, enabled=False):  # values differ by less than bf16 can tell
            x = x.flatten(1).to(self.head.weight.dtype)
            time = get_timestep_embedding(h * (1000 / self.steps), self.hidden).to(x.dtype)
            return self.head(self.body(self.state(x) + self.time(time) + self.condition(cond)))[:, 0]


class ObservationValue(Value):
    """V of the environment's state: a perceptron on the observation, whatever the sample and the step. scale: what its output
    is multiplied by, so that values of that size are learnt as fast as those around 1."""

    def __init__(self, conditioning: Observations, hidden: int, layers: int, scale: float) -> None:
        super().__init__()
        self.made = {"hidden": hidden, "layers": layers}
        self.told, self.scale = (conditioning,), scale  # in a tuple: no part of its own
        self.head = Head(conditioning.width, 1, hidden, layers)

    def sizes(self) -> dict[str, int]:
        return self.made

    def forward(self, x: Float[Tensor, "P *D"], h: Int[Tensor, " P"], cond: Int[Tensor, " P"]) -> Float[Tensor, " P"]:
        return self.at(cond)

    def at(self, cond: Int[Tensor, " P"]) -> Float[Tensor, " P"]:
        """The values of the observations alone."""
        with torch.autocast(cond.device.type, enabled=False):
            return self.scale * self.head(self.told[0](cond)["observation"])[:, 0]


class FittedValue(Value):
    """offset + scale f(x, h, cond), f a value around 0 and 1, of the states nearest to x among the ranges (H, D) in which it was
    fitted: beyond them a fit rules nothing, and there it is constant. coefficients: (3, H), of the chain that it belongs to."""

    low: Tensor
    high: Tensor
    offset: Tensor
    scale: Tensor
    coefficients: Tensor

    def __init__(self, value: Value, coefficients: Float[Tensor, "3 H"]) -> None:
        """Its ranges are unbounded, offset 0 and scale 1 at first."""
        super().__init__()
        self.value = value
        shape = coefficients.shape[1], value.sizes()["size"]
        every = torch.full(shape, torch.inf, dtype=torch.float64, device=coefficients.device)
        one = every.new_ones(())
        first = {"low": -every, "high": every, "offset": 0 * one, "scale": one, "coefficients": coefficients.clone()}
        for name, start in first.items():
            self.register_buffer(name, start)

    def sizes(self) -> dict[str, int]:
        return self.value.sizes()

    def forward(self, x: Float[Tensor, "P *D"], h: Int[Tensor, " P"], cond: Int[Tensor, " P"]) -> Float[Tensor, " P"]:
        x = x.flatten(1)
        inside = torch.minimum(torch.maximum(x, self.low[h].to(x.dtype)), self.high[h].to(x.dtype))
        return self.offset + self.scale * self.value(inside, h, cond).double()


KINDS: dict[str, type[Value]] = {kind.__name__: kind for kind in (QuadraticValue, PerceptronValue)}
