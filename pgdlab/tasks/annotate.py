"""task=annotate: asks which of two samples is better, on a page of this machine or of a reward, and keeps the answers."""

from __future__ import annotations

import functools
import io
import tempfile
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.config.configuration import Config
from pgdlab.domains.base import Domain
from pgdlab.images.drawing import eight_bit
from pgdlab.molecules.batch import Molecules
from pgdlab.molecules.drawing import grid
from pgdlab.preferences.annotator import Annotator, Sitting, names_of, questions, unanswered
from pgdlab.preferences.gallery import read_samples
from pgdlab.preferences.pairs import PairFile
from pgdlab.rewards.base import Outcome
from pgdlab.rewards.guard import guarded
from pgdlab.training.build import reward_for

READS = ("experiment", "domain", "reward", "annotator", "seed")
INSTEAD = "it asks about samples that there are"


def main(cfg: Config) -> None:
    """Goes on after the answers that annotator.pairs has."""
    if cfg.nodes["annotator"] is None:
        raise ValueError(
            "task=annotate needs to know who answers: annotator=page asks a person, annotator=simulated the reward"
        )
    annotator, domain = cfg.make(Annotator, "annotator"), cfg.make(Domain, "domain")
    samples, file = Path(annotator.samples).expanduser(), PairFile(Path(annotator.pairs).expanduser())
    sample, cond = read_samples(samples, domain.space.shape)
    asked = questions(cond, annotator.count, functools.partial(prompt, domain), cfg.seed)
    names = names_of(samples, file.path, len(sample))
    before = unanswered(asked, names, file)
    with torch.no_grad():
        decoded = domain.decoder(sample)
    annotator.answer(
        Sitting(
            open=before, answered=len(asked) - len(before), file=file, names=names, seed=cfg.seed,
            picture=lambda row: png(domain, sample, decoded, row), rewards=lambda: rewards(cfg, domain, decoded, cond),
        )
    )  # fmt: skip
    left = len(unanswered(asked, names, file))
    more = f"; {left} are left: the same command goes on" if left else ""
    print(f"{len(asked) - left} of {len(asked)} pairs are answered in {file.path}{more}")


def prompt(domain: Domain, cond: int) -> str:
    """The text of a condition. Raises ValueError for one that the domain does not have."""
    if not 0 <= cond <= domain.conditioning.unconditional:
        most = domain.conditioning.unconditional
        raise ValueError(f"samples were drawn under condition {cond}, and domain {domain.name} has 0 to {most}")
    texts = domain.conditioning.texts
    return texts[cond] if texts is not None else ""


def rewards(cfg: Config, domain: Domain, decoded: Any, cond: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Of all samples under the run's reward. Raises ValueError where one cannot be scored, or intermediate states would be asked
    for."""
    reward = reward_for(cfg, "reward", domain)
    if reward is None or reward.needs_estimates():
        raise ValueError(
            "annotator=simulated answers by a reward of finished samples: choose one, such as reward=target"
        )
    return guarded(reward.eval(), Outcome(decoded, cond, 1), max_failed=0.0).total


def png(domain: Domain, sample: Tensor, decoded: Any, row: int) -> bytes:
    """A sample as a picture: images as they are, molecules drawn, anything else as the domain shows it."""
    out = io.BytesIO()
    if isinstance(decoded, Molecules):
        grid(decoded[row : row + 1]).save(out, "PNG")
    elif domain.decoder.gives == "images":
        pixels(decoded[row : row + 1]).save(out, "PNG")
    else:
        with tempfile.TemporaryDirectory() as folder:
            domain.show({" ": sample[row : row + 1]}, Path(folder) / "sample.png")
            return (Path(folder) / "sample.png").read_bytes()
    return out.getvalue()


def pixels(image: Float[Tensor, "1 C H W"]) -> Any:
    """PIL's image of one in [0, 1]."""
    from PIL import Image

    return Image.fromarray(eight_bit(image)[0].permute(1, 2, 0).squeeze(2).numpy())
