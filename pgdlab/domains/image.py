"""Images: what digits, fashion and folders of images share."""

from __future__ import annotations

import functools
from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.config.program import ASSETS, program
from pgdlab.diffusion.conditioning import ClassLabels, Conditioning, NoLabels
from pgdlab.diffusion.denoisers import DiffusersDenoiser
from pgdlab.diffusion.files import read_diffusers
from pgdlab.diffusion.schedules import DiffusersSchedule
from pgdlab.diffusion.space import Dense, Space
from pgdlab.domains.base import Decoder, LabelledDomain
from pgdlab.functional.clamping import straight_through
from pgdlab.images.classifiers import Classifier, folder_of, load_classifier, predict
from pgdlab.images.drawing import picture
from pgdlab.images.features import Features
from pgdlab.images.metrics import copies, diversity, kid, nearest
from pgdlab.images.reference import read_reference

SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "timestep_spacing": "trailing",
}
THIRDS = ("reward", "heldout", "features")
REFERENCE_IMAGES = 2000


def stratified(labels: Int[Tensor, " N"], parts: int, seed: int) -> list[Int[Tensor, " P"]]:
    """Disjoint, exhaustive row numbers in `parts` parts with the same share of every class, drawn with seed."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = shuffled[labels[shuffled].argsort(stable=True)]
    return [order[i::parts].sort().values for i in range(parts)]


class Intensities(Decoder):
    """[-1, 1] -> [0, 1], clamped; gradients pass."""

    gives = "images"

    def decode(self, sample: Float[Tensor, "B C S S"]) -> Float[Tensor, "B C S S"]:
        return straight_through((sample.float() + 1) / 2)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageDomain(LabelledDomain):
    """Images (B, C, S, S), scaled to [-1, 1] for the denoiser and to [0, 1] for rewards and people.

    train_conditions: the classes that training and evaluation draw from, by number or by name; the number of classes stands
    for "no class". weights: a folder with diffusers' unet/ and scheduler/, or null for the base that ships. classifiers: the
    folder of the three classifiers and of what metrics compare with, a name among the assets or a path. classes: their
    names; without any there is one condition, 0. colours: 1 or 3 channels. Splits: "train" and "test", and the stratified
    disjoint thirds of train that the three classifiers see: "reward", "heldout", "features".
    """

    train_conditions: tuple[int | str, ...] = tuple(range(10))  # type: ignore[assignment]  # numbers once it is made
    weights: str | None = None
    classifiers: str | None
    conditioning: Conditioning = field(init=False)
    decoder: Decoder = field(default_factory=Intensities, init=False)
    name: str = field(init=False)
    classes: tuple[str, ...] = field(init=False)
    colours: int = field(default=1, init=False)
    size: int = field(init=False)
    widths: tuple[int, ...] = field(init=False)
    dropout: float = field(default=0.0, init=False)
    space: Space = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.classes)
        told = ClassLabels(count, (*self.classes, "")) if count else NoLabels(1)
        object.__setattr__(self, "conditioning", told)
        object.__setattr__(self, "space", Dense((self.colours, self.size, self.size)))
        try:
            conditions = told.numbers(self.train_conditions)
        except ValueError as error:
            raise ValueError(f"train_conditions is {list(self.train_conditions)}: {error}") from error
        if not conditions or any(not 0 <= c <= told.unconditional for c in conditions):
            allowed = f"classes are 0 to {count - 1}, {count} means no class" if count else "without classes it is [0]"
            raise ValueError(f"train_conditions is {list(self.train_conditions)}; {allowed}")
        object.__setattr__(self, "train_conditions", conditions)

    @abstractmethod
    def images(self) -> tuple[Tensor, Int[Tensor, " N"], Int[Tensor, " M"]]:
        """All samples (N, C, S, S) in [-1, 1], their classes, and the rows of the test split."""

    @abstractmethod
    def has_data(self) -> bool:
        """Whether images() can be called: figures that need the data are left out where it cannot."""

    @property
    def folder_of_weights(self) -> Path:
        """Where the base is read from, and where task=pretrain of the shipped base writes it."""
        return ASSETS / self.name if self.weights is None else Path(self.weights).expanduser()

    @property
    def pretraining(self) -> str:
        """The command that makes a base."""
        return f"{program()} experiment=pretrain/{self.name}"

    def fresh(self, generator: torch.Generator) -> DiffusersDenoiser:
        from diffusers import UNet2DModel

        depth = len(self.widths)
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            network: Any = UNet2DModel(
                sample_size=self.size, in_channels=self.colours, out_channels=self.colours, layers_per_block=1,
                block_out_channels=self.widths, down_block_types=("DownBlock2D",) * depth, dropout=self.dropout,
                up_block_types=("UpBlock2D",) * depth, num_class_embeds=self.embeddings, attention_head_dim=8,
                norm_num_groups=8,
            )  # fmt: skip
        return DiffusersDenoiser(network, DiffusersSchedule(SCHEDULER), self.conditioning)

    @property
    def embeddings(self) -> int | None:
        """Of classes, "no class" included; None for a network that is told nothing."""
        return len(self.classes) + 1 if self.classes else None

    def base(self) -> DiffusersDenoiser:
        from diffusers import UNet2DModel

        again = f"Make it with `{self.pretraining}`, or name another in domain.weights"
        wanted = {  # twice the channels out: it predicts its variance too
            "in_channels": self.colours, "out_channels": self.colours, "sample_size": self.size,
            "num_class_embeds": self.embeddings,
        }  # fmt: skip
        folder = self.folder_of_weights
        return read_diffusers(UNet2DModel, folder, wanted, self.conditioning, name=self.name, again=again)

    @functools.cached_property
    def _splits(self) -> dict[str, tuple[Tensor, Tensor]]:
        sample, label, test = self.images()
        keep = torch.ones(len(label), dtype=torch.bool).index_fill(0, test, False)
        train = keep.nonzero().squeeze(1)
        thirds = stratified(label[train], len(THIRDS), seed=1)
        rows = {"train": train, "test": test} | {k: train[part] for k, part in zip(THIRDS, thirds, strict=True)}
        return {name: (sample[r], label[r]) for name, r in rows.items()}

    def data(self, split: str) -> tuple[Tensor, Int[Tensor, " N"]]:
        if split not in ("train", "test", *THIRDS):
            raise ValueError(f"split is {split!r}; it must be train, test, {', '.join(THIRDS)}")
        return self._splits[split]

    @functools.cached_property
    def features(self) -> Features:
        """What figures of sets of images are measured in."""
        return load_classifier(self.classifiers, "features")

    @functools.cached_property
    def judge(self) -> Classifier | None:
        """The held-out classifier."""
        return load_classifier(self.classifiers, "heldout")

    @functools.cached_property
    def reference(self) -> dict[str, Tensor]:
        """What metrics() compares with: see references()."""
        path = folder_of(self.classifiers) / "reference.safetensors"
        if not path.exists():
            raise ValueError(f"{path} is missing: make it with `{program()} task=classifiers domain={self.name}`")
        return read_reference(
            path, load_classifier(self.classifiers, "features").head.in_features, max(1, len(self.classes))
        )

    def references(self, network: Features) -> dict[str, Tensor]:
        """Features of real images the feature network was not fitted on, half of them unseen by the base too, their classes,
        and how near unseen real images are to the training images."""
        kept = {}
        for name, split in (("train", "reward"), ("test", "test")):
            sample, label = self.data(split)
            order = torch.randperm(len(label), generator=torch.Generator().manual_seed(2))
            rows = order[:REFERENCE_IMAGES].sort().values
            kept[f"{name}_features"] = predict(network, self.decoder(sample[rows]), features=True)
            kept[f"{name}_labels"] = label[rows].to(torch.uint8)
        seen, unseen = self.decoder(self.data("train")[0]), self.decoder(self.data("test")[0])
        return kept | {"nearest": nearest(unseen[:: max(1, len(unseen) // REFERENCE_IMAGES)], seen)}

    def write_reference(self) -> None:
        """Writes references() beside the classifiers, their features in half precision."""
        from safetensors.torch import save_file

        kept = self.references(load_classifier(self.classifiers, "features"))
        kept = {name: x.half() if name.endswith("features") else x for name, x in kept.items()}
        save_file(kept, folder_of(self.classifiers) / "reference.safetensors")

    @torch.no_grad()
    def metrics(self, sample: Tensor, cond: Tensor) -> dict[str, float]:
        """Real images of the prompted classes are what kid and diversity are compared with. Empty for one sample."""
        if len(sample) < 2:
            return {}
        image, cond = self.decoder(sample.detach()).cpu(), cond.cpu()
        out = self.likeness(image, cond)
        named = cond < len(self.classes)
        if named.any() and self.judge is not None:
            found = predict(self.judge, image[named]).argmax(1)
            out["class_match"] = float((found == cond[named]).double().mean())
        if self.has_data():
            real = self.reference["nearest"]
            distance = nearest(image, self.decoder(self.data("train")[0]))
            out |= {"nearest_distance": float(distance.mean()), "nearest_real": float(real.mean())}
            out["copies"] = copies(distance, real)
        return out

    def likeness(self, image: Tensor, cond: Tensor) -> dict[str, float]:
        """kid and diversity in features(), of samples and of real images; without those of fewer than two real images."""
        real, count = self.reference, max(1, len(self.classes))
        prompted = cond.unique() if int(cond.max()) < count else torch.arange(count)
        kept = {s: torch.isin(real[f"{s}_labels"].long(), prompted) for s in ("train", "test")}
        train, test = (real[f"{s}_features"][rows] for s, rows in kept.items())
        features = predict(self.features, image, features=True)
        out = {"diversity": diversity(features)}
        if len(test) > 1:
            out |= {"kid": kid(features, test), "diversity_real": diversity(test)}
        if min(len(train), len(test)) > 1:
            out["kid_real"] = kid(train, test)
        return out

    def show(self, rows: dict[str, Tensor], path: Path, cond: Int[Tensor, " B"] | None = None) -> None:
        texts = self.conditioning.texts
        captions = [texts[c] for c in cond.tolist()] if texts and cond is not None else None
        picture({title: self.decoder(sample.detach()).cpu() for title, sample in rows.items()}, path, captions)
