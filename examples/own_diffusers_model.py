"""A diffusers model of your own: a folder with unet/ and scheduler/, as save_pretrained() writes it, is what is steered."""

from __future__ import annotations

import sys
from pathlib import Path

from diffusers import DDIMScheduler, UNet2DModel

import pgdlab


def model(folder: Path) -> Path:
    """Writes an untrained one: grey images of 8 x 8 in ten classes and "no class". Yours comes from your own training."""
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    network = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4, num_class_embeds=11,
        block_out_channels=(8, 16), attention_head_dim=4, **blocks,
    )  # fmt: skip
    network.save_pretrained(folder / "unet")
    scheduler = DDIMScheduler(prediction_type="v_prediction", clip_sample=False, timestep_spacing="trailing")
    scheduler.save_pretrained(folder / "scheduler")
    return folder


def main(overrides: list[str]) -> pgdlab.Run:
    """Steers it toward bright images, and loads what came of it with plain diffusers."""
    folder = model(Path("my_model").resolve())
    words = ["name=own-model", f"domain.weights='{folder}'", *overrides]
    run = pgdlab.train("digits/ppo", reward=lambda samples, prompts: samples.mean((1, 2, 3)), overrides=words)
    tuned = UNet2DModel.from_pretrained(run.export(), subfolder="unet")
    print(run, f"\n{sum(p.numel() for p in tuned.parameters()):,} weights in {run.folder / 'export'}")
    return run


if __name__ == "__main__":
    main(sys.argv[1:])
