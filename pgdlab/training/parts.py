"""Trains a part of a text-to-image base, and writes its averaged weights as it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from pgdlab.diffusion.pipeline_files import quiet
from pgdlab.images.parts import Part
from pgdlab.training.fit import make_trainer

WARMUP, COOLDOWN = 100, 0.2  # updates; share of all
LONGEST_AVERAGE = 0.999
BETWEEN_SAVES = 500  # updates


def average(averaged: Sequence[Tensor], live: Sequence[Tensor], count: Any) -> None:
    """An exponential mean that forgets its beginning: over a tenth of the updates at first, over the last thousand later."""
    keep = min(LONGEST_AVERAGE, 1 - 10 / (float(count) + 10))
    for one, other in zip(averaged, live, strict=True):
        one.lerp_(other.to(one), 1 - keep)


class PartFit(LightningModule):
    """AdamW with a warm-up, a constant rate and a linear cooldown. The averaged weights are written into `folder`, in the format
    of the network's own library, every BETWEEN_SAVES updates and at the end: a fit that is stopped loses no more."""

    def __init__(self, part: Part, folder: Path, updates: int, lr: float) -> None:
        super().__init__()
        self.part, self.averaged = part, AveragedModel(part.network, multi_avg_fn=average)
        self.folder, self.updates, self.lr = folder, updates, lr

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        loss, figures = self.part.loss(batch)
        self.log_dict({"loss": loss.detach(), **figures}, prog_bar=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
        self.averaged.update_parameters(self.part.network)
        if (index + 1) % BETWEEN_SAVES == 0 or index + 1 == self.updates:
            network: Any = self.averaged.module
            with quiet():
                network.save_pretrained(self.folder, safe_serialization=True)

    def rate(self, update: int) -> float:
        """The share of lr at an update."""
        return min(1.0, (update + 1) / WARMUP, (1 - update / self.updates) / COOLDOWN)

    def configure_optimizers(self) -> Any:
        trained = [weight for weight in self.part.network.parameters() if weight.requires_grad]
        adam = torch.optim.AdamW(trained, lr=self.lr, betas=(0.9, 0.99), weight_decay=0.01)
        plan = torch.optim.lr_scheduler.LambdaLR(adam, self.rate)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": plan, "interval": "step"}}


def train(
    part: Part, rows: Sequence[Tensor], folder: Path, runtime: Mapping[str, Any], *, updates: int, batch: int, lr: float,
    seed: int,
) -> Any:  # fmt: skip
    """The averaged network, which lies in the folder too. rows: what batches are drawn from, in an order of the seed."""
    order = RandomSampler(rows[0], True, updates * batch, generator=torch.Generator().manual_seed(seed))
    loader = DataLoader(TensorDataset(*rows), batch_size=None, sampler=BatchSampler(order, batch, False))
    fitted = PartFit(part, folder, updates, lr)
    trainer = make_trainer(
        dict(runtime), max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=True,
        gradient_clip_val=1.0,
    )  # fmt: skip
    trainer.fit(fitted, loader)
    return fitted.averaged.module.cpu().eval()
