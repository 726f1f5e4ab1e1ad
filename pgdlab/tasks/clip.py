"""task=clip: trains the two CLIPs of a text-to-image base on a domain's pictures and captions."""

from __future__ import annotations

import json
from typing import Any

import torch

from pgdlab.config.configuration import Config
from pgdlab.diffusion.pipeline_files import quiet
from pgdlab.domains.base import Domain
from pgdlab.domains.captioned import CaptionedPictures
from pgdlab.images import contrastive
from pgdlab.trainers.base import Algorithm
from pgdlab.trainers.denoising import Pretrain
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
    """Writes clip/ and judge/ into domain.weights, going on from what is there. Where unet/ is there too, which knows the words
    of clip/ as they are, judge/ alone is trained."""
    domain, sizes = parts_of(cfg, "clip")
    for number, part in enumerate(contrastive.SIZES):
        if part == "judge" or not (domain.folder / "unet").is_dir():
            fit(cfg, domain, part, sizes | {"seed": cfg.seed + number})


def fit(cfg: Config, domain: CaptionedPictures, name: str, sizes: dict[str, Any]) -> None:
    """Trains one of them."""
    pictures, folder = domain.read, domain.folder / name
    print(f"training {folder}", flush=True)
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(sizes["seed"])
        network, tokenizer = contrastive.begun(pictures, domain.folder, name)
    ids = contrastive.tokens(tokenizer, list(pictures.captions))
    contrastive.write_words(tokenizer, folder)
    (folder / contrastive.PREPROCESSING).write_text(json.dumps(contrastive.preprocessing(pictures), indent=2) + "\n")
    with torch.random.fork_rng():
        torch.manual_seed(sizes["seed"])
        made = train(
            contrastive.Contrastive(network, sizes["seed"]),
            [pictures.pixels, ids],
            folder,
            cfg.nodes["runtime"],
            **sizes,
        )
    right = contrastive.accuracy(made, pictures, ids)
    print(f"{folder}: of {len(ids)} captions the own one is the nearest to {right:.3f} of the pictures", flush=True)


def parts_of(cfg: Config, task: str) -> tuple[CaptionedPictures, dict[str, Any]]:
    """The domain, and how long and how fast its parts are trained. Raises ValueError for a domain without captions."""
    if cfg.resume:
        raise ValueError(f"task={task} goes on with what is in domain.weights, not with a run: leave resume out")
    domain, algorithm = cfg.make(Domain, "domain"), cfg.make(Algorithm, "trainer")
    if not isinstance(domain, CaptionedPictures):
        raise ValueError(f"domain {domain.name} has no pictures with captions; domain=captioned has")
    if not isinstance(algorithm, Pretrain):
        raise ValueError(f"task={task} trains with trainer=pretrain: take experiment=pretrain/captioned_{task}")
    updates = cfg.nodes["plan"]["iterations"] * algorithm.updates
    return domain, {"updates": updates, "batch": algorithm.batch, "lr": cfg.nodes["optimizer"]["lr"]}
