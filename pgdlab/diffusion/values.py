"""Values of states, learned or set: V(s_h, h, cond) of the denoising MDP."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pgdlab.diffusion.conditioning import require_small


class Value(nn.Module, ABC):
    """V(x, h, cond): the expected return of a state, in the reward's unit, the penalty's cost subtracted. 0 at first."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "P *D"], h: Int[Tensor, " P"], cond: Int[Tensor, " P"]) -> Float[Tensor, " P"]:
        """At P pairs of a state and a step."""


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
        require_small("a quadratic a step", num_conditions, 8 * steps * (size + 1) * (size + 2) // 2, again)
        rows, columns = torch.triu_indices(size, size)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        shapes = {"square": (len(rows),), "linear": (size,), "constant": ()}
        for name, shape in shapes.items():
            start = torch.zeros(num_conditions, steps, *shape, dtype=torch.float64)
            self.register_parameter(name, nn.Parameter(start))

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
        self.state, self.time = nn.Linear(size, hidden), nn.Linear(hidden, hidden)
        self.condition = nn.Embedding(num_conditions, hidden)
        body: list[nn.Module] = []
        for _ in range(layers - 1):
            body += [nn.SiLU(), nn.Linear(hidden, hidden)]
        self.body = nn.Sequential(*body, nn.SiLU())
        self.head = nn.Linear(hidden, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Float[Tensor, "P *D"], h: Int[Tensor, " P"], cond: Int[Tensor, " P"]) -> Float[Tensor, " P"]:
        from diffusers.models.embeddings import get_timestep_embedding

        with torch.autocast(x.device.type, enabled=False):  # values differ by less than bf16 can tell
            x = x.flatten(1).to(self.head.weight.dtype)
            time = get_timestep_embedding(h * (1000 / self.steps), self.hidden).to(x.dtype)
            return self.head(self.body(self.state(x) + self.time(time) + self.condition(cond)))[:, 0]
