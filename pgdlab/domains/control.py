"""Control: an environment, demonstrations of its scripted controller, and the policy that is cloned from them."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.config.program import ASSETS, program
from pgdlab.control.demonstrations import Demonstrations, chunks_of, demonstrate
from pgdlab.control.environment import Environment
from pgdlab.diffusion import files
from pgdlab.diffusion.conditioning import SMALLEST_SPREAD, Observations
from pgdlab.diffusion.observed import ActionDenoiser
from pgdlab.diffusion.schedules import Cosine
from pgdlab.diffusion.space import Dense
from pgdlab.domains.base import Decoder, LabelledDomain

UNSEEN = 5  # every that many-th demonstration is of the test split


class Actions(Decoder):
    """Samples -> chunks of actions in the environment's units: mean + spread sample."""

    gives = "actions"
    mean: Tensor
    spread: Tensor

    def __init__(self, given: Float[Tensor, "M C A"]) -> None:
        super().__init__()
        self.register_buffer("mean", given.mean((0, 1)).float())
        self.register_buffer("spread", given.std((0, 1), correction=0).float().clamp(min=SMALLEST_SPREAD))

    def __deepcopy__(self, memo: dict[int, object]) -> Actions:
        return self

    def decode(self, sample: Float[Tensor, "B C A"]) -> Float[Tensor, "B C A"]:
        return self.mean.to(sample) + self.spread.to(sample) * sample

    def encode(self, action: Float[Tensor, "B C A"]) -> Float[Tensor, "B C A"]:
        """Back again."""
        return ((action.float() - self.mean) / self.spread).float()


@dataclass(frozen=True, kw_only=True, eq=False)
class Control(LabelledDomain):
    """Chunks of actions (B, chunk, A) that follow an observation. An iteration's samples are environments times the chunks of
    an episode.

    demonstrations: episodes of the environment's expert that the base is cloned from. chunk: actions that are taken before the
    environment is looked at again. weights: a folder with config.json and model.safetensors, or null for the base that ships.
    hidden, layers: of a network before pretraining.
    """

    environment: Environment
    demonstrations: int = 200
    chunk: int = 1
    weights: str | None = None
    hidden: int = 64
    layers: int = 2
    conditioning: Observations = field(init=False)
    decoder: Actions = field(init=False)
    space: Dense = field(init=False)
    train_conditions: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        if self.demonstrations < UNSEEN or not 1 <= self.chunk <= self.environment.limit:
            raise ValueError(
                f"demonstrations is {self.demonstrations} and chunk {self.chunk}; they must be at least {UNSEEN}, and from 1 "
                f"to the {self.environment.limit} steps of an episode"
            )
        pairs, rows = self.pairs, self.rows
        object.__setattr__(self, "space", Dense(tuple(pairs.action.shape[1:])))
        object.__setattr__(self, "conditioning", Observations(pairs.observation))
        object.__setattr__(self, "decoder", Actions(pairs.action))
        object.__setattr__(self, "train_conditions", tuple(rows["test"].tolist()))

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.environment.name

    @property
    def chunks(self) -> int:
        """Of an episode, at most."""
        return chunks_of(self.environment, self.chunk)

    @functools.cached_property
    def pairs(self) -> Demonstrations:
        """All demonstrations: the conditions 0 .. M - 1."""
        return demonstrate(self.environment, self.demonstrations, self.chunk)

    @functools.cached_property
    def rows(self) -> dict[str, Int[Tensor, " N"]]:
        """The pairs of each split; episodes are not cut."""
        unseen = self.pairs.episode % UNSEEN == 0
        return {"train": (~unseen).nonzero()[:, 0], "test": unseen.nonzero()[:, 0]}

    def data(self, split: str) -> tuple[Float[Tensor, "N C A"], Int[Tensor, " N"]]:
        if split not in self.rows:
            raise ValueError(f"split is {split!r}; it must be train or test")
        rows = self.rows[split]
        return self.decoder.encode(self.pairs.action[rows].to(self.decoder.mean)).cpu(), rows

    def build(self, **sizes: int) -> ActionDenoiser:
        """A denoiser with untrained weights."""
        size = self.chunk * self.environment.action
        own = {"size": size, "hidden": self.hidden, "layers": self.layers}
        if sizes.get("size", size) != size:
            raise ValueError(f"it is of {sizes['size']} numbers an action chunk, and here are {size}")
        return ActionDenoiser(self.conditioning, self.decoder, Cosine(sigma_min=0.05), self.name, **own | sizes)

    def fresh(self, generator: torch.Generator) -> ActionDenoiser:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            return self.build()

    def base(self) -> ActionDenoiser:
        folder = ASSETS / self.name if self.weights is None else Path(self.weights).expanduser()
        again = f"Make one with `{program()} experiment=pretrain/{self.name}`, and name its folder in domain.weights"
        try:
            with torch.random.fork_rng(devices=[]):
                denoiser = self.build(**files.sizes(folder))
            denoiser.read(folder)
        except (ValueError, TypeError) as error:
            raise ValueError(f"cannot load the base of {self.name} from {folder}: {error}. {again}") from error
        return denoiser.eval()

    def metrics(self, sample: Float[Tensor, "B C A"], cond: Int[Tensor, " B"]) -> dict[str, float]:
        action = self.decoder(sample.detach()).cpu().double()
        figures = {"action_rms": action.square().mean().sqrt().item()}
        shown = cond.cpu() < len(self.pairs.action)
        if shown.any():
            off = action[shown] - self.pairs.action[cond.cpu()[shown]]
            figures["action_error"] = off.square().mean().sqrt().item()
        return figures

    def show(self, rows: dict[str, Tensor], path: Path, cond: Tensor | None = None) -> None:
        """The first action of each chunk, in the order of the samples: of a closed loop, over time."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(1, len(rows), figsize=(4 * len(rows), 3), squeeze=False, sharey=True)
        for axis, (title, sample) in zip(axes[0], rows.items(), strict=True):
            axis.plot(self.decoder(sample.detach()).cpu()[:, 0], marker=".")
            axis.set(title=title, xlabel="sample", ylabel="action")
            axis.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        figure.savefig(path, dpi=120)
        plt.close(figure)
