"""Contact sheets: what the policy makes of every prompt, from the same noise, on the way through training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import lightning
import torch
from jaxtyping import UInt8
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from pgdlab.domains.base import Domain
from pgdlab.images.drawing import COLUMNS, eight_bit, sheet
from pgdlab.rollout.noise import Noise, Stream
from pgdlab.rollout.sampler import Extras, rollout
from pgdlab.training.loggers import Keeper
from pgdlab.training.module import SteeringModule
from pgdlab.world import World

SHOWN = 48  # prompts a sheet
SHEETS = "sheets"  # a folder of the run's


class ContactSheets(Callback):
    """Writes sheets/iteration_000010.png every few iterations, and that of the base as iteration 0; shows them to the loggers.
    Drawn by the first process, while the others wait."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder / SHEETS, every

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, SteeringModule)
        if trainer.is_global_zero and not int(pl_module.iterations):
            self.attempt(trainer, pl_module)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, SteeringModule)
        if trainer.is_global_zero and int(pl_module.iterations) % self.every == 0:
            self.attempt(trainer, pl_module)

    def attempt(self, trainer: lightning.Trainer, module: SteeringModule) -> None:
        """Draws, or says why not: a picture must not cost a run."""
        try:
            self.draw(trainer, module)
        except Exception as error:  # of a domain's own code as well
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            print(
                f"error: contact sheet of iteration {int(module.iterations)}: {said}; training goes on", file=sys.stderr
            )

    def draw(self, trainer: lightning.Trainer, module: SteeringModule) -> None:
        """The sheet of the weights as they are."""
        world, done = module.world, int(module.iterations)
        texts, conditions = world.domain.conditioning.texts, chosen(world.domain.train_conditions)
        captions = [texts[c] if texts else "" for c in conditions]
        with trainer.precision_plugin.forward_context():
            images = pictured(world, conditions)
        file = self.folder / f"iteration_{done:06d}.png"
        sheet(images, captions, titled(done, conditions, world.domain), file)
        for logger in trainer.loggers:
            if isinstance(logger, Keeper):
                logger.show(file, list(zip(images, captions, strict=True)), done)


def require_pictures(domain: Domain) -> None:
    """Raises ValueError for a domain whose samples are no images."""
    if domain.decoder.gives != "images":
        raise ValueError(
            f"plan.sheet_every asks for contact sheets of images, but domain={domain.name} gives "
            f"{domain.decoder.gives}: set it to 0"
        )


def chosen(conditions: Sequence[int]) -> tuple[int, ...]:
    """At most SHOWN conditions, spread evenly over all; those of a short list several times, until they fill a row."""
    count = len(conditions)
    if count <= SHOWN:
        return tuple(conditions) * max(1, COLUMNS // count)
    return tuple(conditions[i * count // SHOWN] for i in range(SHOWN))


def titled(done: int, conditions: Sequence[int], domain: Domain) -> str:
    """Which iteration it is, and how many prompts are there besides."""
    shown, count = len(set(conditions)), len(domain.train_conditions)
    return f"iteration {done}" + (f": {shown:,} of {count:,} prompts" if shown < count else "")


@torch.no_grad()
def pictured(world: World, conditions: Sequence[int]) -> UInt8[Tensor, "B C H W"]:
    """Images of the policy under its sampler, one for each condition; the noise of a place is the same every time."""
    policy, training = world.policy, world.policy.training
    extras = Extras(tuned_deterministic=not policy.stochastic_steps)
    noise = Noise(world.noise.seed, Stream.EVALUATE).of(0, range(len(conditions)))
    drawn = rollout(
        policy.eval(), world.reference, noise, torch.tensor(conditions),
        batch=world.capacity.rollout_batch, extras=extras,
    )  # fmt: skip
    policy.train(training)
    return torch.cat([eight_bit(world.domain.decoder(part)) for part in drawn.sample.split(COLUMNS)])
