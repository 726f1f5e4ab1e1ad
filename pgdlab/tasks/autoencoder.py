"""task=autoencoder: trains the autoencoder of a text-to-image base on a domain's pictures."""

from __future__ import annotations

import math

import torch

from pgdlab.config.configuration import Config
from pgdlab.diffusion.pipeline_files import quiet
from pgdlab.images import autoencoder, contrastive
from pgdlab.tasks.clip import parts_of
from pgdlab.training.parts import train

READS = (
    "experiment",
    "domain",
    "trainer.updates",
    "trainer.batch",
    "plan.iterations",
    "optimizer.lr",
    "runtime",
    "seed",
)


def main(cfg: Config) -> None:
    """Writes vae/ into domain.weights, going on from what is there. Where unet/ is there too, which knows the latents as they
    are, the decoder alone is trained."""
    domain, sizes = parts_of(cfg, "autoencoder")
    pictures, folder, known = domain.read, domain.folder / "vae", (domain.folder / "unet").is_dir()
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(cfg.seed)
        eye = contrastive.read(domain.folder / "clip")[0].vision_model
        network = autoencoder.read(folder) if folder.is_dir() else autoencoder.fresh()
    part = autoencoder.Autoencoder(network, cfg.seed, eye, frozen=known)
    print(f"training {'the decoder of ' if known else ''}{folder}", flush=True)
    made = train(part, [pictures.pixels], folder, cfg.nodes["runtime"], seed=cfg.seed, **sizes)
    error, spread = autoencoder.measured(made, pictures)
    if not known:
        made.register_to_config(scaling_factor=1 / spread)
        made.save_pretrained(folder, safe_serialization=True)
    print(f"{folder}: PSNR {-10 * math.log10(error):.1f} dB on the {len(pictures.captions)} pictures")
