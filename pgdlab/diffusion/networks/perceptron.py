"""A perceptron on a flat sample, the time it is noised to, and an observation."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class Perceptron(nn.Module):
    """size, observed: numbers of a sample and of an observation. hidden: width; layers: how many of that width."""

    def __init__(self, size: int, observed: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.sample, self.seen, self.time = (nn.Linear(n, hidden) for n in (size, observed, hidden))
        body: list[nn.Module] = []
        for _ in range(layers - 1):
            body += [nn.SiLU(), nn.Linear(hidden, hidden)]
        self.body = nn.Sequential(*body, nn.SiLU())
        self.head = nn.Linear(hidden, size)

    def forward(
        self, x: Float[Tensor, "P *D"], t: Float[Tensor, " P"], observation: Float[Tensor, "P O"]
    ) -> Float[Tensor, "P *D"]:
        """t: in [0, 1]."""
        from diffusers.models.embeddings import get_timestep_embedding

        time = get_timestep_embedding(1000 * t, self.hidden).to(x.dtype)
        read = self.sample(x.flatten(1)) + self.seen(observation) + self.time(time)
        return self.head(self.body(read)).view_as(x)


class Head(nn.Module):
    """A perceptron on an observation alone, 0 at first."""

    def __init__(self, observed: int, size: int, hidden: int, layers: int) -> None:
        super().__init__()
        body: list[nn.Module] = [nn.Linear(observed, hidden)]
        for _ in range(layers - 1):
            body += [nn.SiLU(), nn.Linear(hidden, hidden)]
        self.body, self.last = nn.Sequential(*body, nn.SiLU()), nn.Linear(hidden, size)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, observation: Float[Tensor, "P O"]) -> Float[Tensor, "P S"]:
        return self.last(self.body(observation.to(self.last.weight.dtype)))
