"""The work items of benchmarks/loop.py, and the latent domain that some of them are on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pgdlab.diffusion.conditioning import ClassLabels, Conditioning, NoLabels
from pgdlab.diffusion.denoisers import DiffusersDenoiser
from pgdlab.diffusion.schedules import DiffusersSchedule
from pgdlab.diffusion.space import Dense, Space
from pgdlab.domains.base import Decoder, Domain, Identity
from pgdlab.domains.image import SCHEDULER
from pgdlab.rewards.base import Reward, Score

CLASSES, CHANNELS, SIZE = 10, 4, 8


class Stub(nn.Module):
    """Eight weights in the place of a network: what is left of an iteration is not the network's."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.shift = (nn.Parameter(torch.zeros(CHANNELS, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor, t: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        return (self.gain * x + self.shift,)


def unet(width: int) -> nn.Module:
    """A conditional UNet, untrained; of a million weights where its width is 56."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=SIZE, in_channels=CHANNELS, out_channels=CHANNELS, layers_per_block=1, norm_num_groups=8,
        block_out_channels=(width, width + 16), down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        num_class_embeds=CLASSES + 1, attention_head_dim=8,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Latent(Domain):
    """Latents (B, 4, 8, 8) in ten classes, as of a small autoencoder, which is not there: no data, nothing to decode.
    width: of the network, a multiple of 8."""

    network: Literal["unet", "stub"] = "unet"
    width: int = 56
    train_conditions: tuple[int, ...] = tuple(range(CLASSES))
    name: str = field(default="latent", init=False)
    space: Space = field(default=Dense((CHANNELS, SIZE, SIZE)), init=False)
    decoder: Decoder = field(default_factory=Identity, init=False)

    @property
    def conditioning(self) -> Conditioning:  # type: ignore[override]
        return (ClassLabels if self.network == "unet" else NoLabels)(CLASSES)

    def base(self) -> DiffusersDenoiser:
        return self.fresh(torch.Generator().manual_seed(0))

    def fresh(self, generator: torch.Generator) -> DiffusersDenoiser:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            network = unet(self.width) if self.network == "unet" else Stub()
        return DiffusersDenoiser(network.eval(), DiffusersSchedule(SCHEDULER), self.conditioning)

    def metrics(self, sample: Tensor, cond: Tensor) -> dict[str, float]:
        return {}

    def show(self, rows: dict[str, Tensor], path: Path, cond: Tensor | None = None) -> None: ...


class Mean(Reward):
    """The mean coordinate: next to no work."""

    def score(self, sample: Any, cond: Tensor) -> Score:
        return Score.of(sample.flatten(1).mean(1))


LATENT = (
    "experiment=null", "domain={_target_: benchmarks.items.Latent}", "reward={_target_: benchmarks.items.Mean}", "heldout=null",
    "plan.samples=64",
)  # fmt: skip

# PPO with a path KL: 64 samples (stub: 128), 20 steps of which the last has no noise, 2 epochs of 4 minibatches. Each is what
# follows `python run.py`.
ITEMS: dict[str, tuple[str, ...]] = {
    "latent": LATENT,
    "latent_lora": (*LATENT, "policy=lora"),
    "latent_guided": (*LATENT, "policy.guidance=2.0"),
    "latent_part": (*LATENT, "plan.trained_steps={_target_: pgdlab.rollout.plan.RandomSteps, fraction: 0.3}"),
    "latent_reinforce": (*LATENT, "trainer=reinforce", "penalty=none"),
    "digits": ("experiment=digits/ppo",),
    "digits_lora": ("experiment=digits/lora",),
    "fashion": ("experiment=fashion/ppo",),
    "molecules": ("experiment=molecules/ppo_kl",),
    "stub": (*LATENT, "domain.network=stub", "plan.samples=128"),
}
