"""Grey images in ten classes: what digits and fashion share."""

from __future__ import annotations

import functools
import json
from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.diffusion.conditioning import ClassLabels, Conditioning
from pgdlab.diffusion.denoisers import DiffusersDenoiser
from pgdlab.diffusion.schedules import DiffusersSchedule
from pgdlab.diffusion.space import Dense, Space
from pgdlab.domains.base import Decoder, LabelledDomain
from pgdlab.images.classifiers import ASSETS, CLASSES, Classifier, folder_of, load_classifier, predict
from pgdlab.images.drawing import picture
from pgdlab.images.metrics import copies, diversity, kid, nearest

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


class GreyLevels(Decoder):
    """[-1, 1] -> [0, 1], clamped; the gradient is 0 outside."""

    def decode(self, sample: Float[Tensor, "B 1 S S"]) -> Float[Tensor, "B 1 S S"]:
        return ((sample.float() + 1) / 2).clamp(0, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageDomain(LabelledDomain):
    """Images (B, 1, S, S), scaled to [-1, 1] for the denoiser and to [0, 1] for rewards and people.

    train_conditions: the classes that training and evaluation draw from; 10 stands for "no class". weights: a folder with
    diffusers' unet/ and scheduler/, or null for the base that ships. classifiers: the folder of the three classifiers and of
    what metrics compare with, a name among the assets or a path. Splits: "train" and "test", and the stratified
    disjoint thirds of train that the three classifiers see: "reward", "heldout", "features".
    """

    train_conditions: tuple[int, ...] = tuple(range(10))
    weights: str | None = None
    classifiers: str
    conditioning: Conditioning = field(default_factory=lambda: ClassLabels(CLASSES), init=False)
    decoder: Decoder = field(default_factory=GreyLevels, init=False)
    name: str = field(init=False)
    size: int = field(init=False)
    channels: tuple[int, ...] = field(init=False)
    dropout: float = field(default=0.0, init=False)
    space: Space = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "space", Dense((1, self.size, self.size)))
        unknown = [p for p in self.train_conditions if not 0 <= p <= self.conditioning.unconditional]
        if unknown or not self.train_conditions:
            raise ValueError(
                f"train_conditions is {list(self.train_conditions)}; classes are 0 to {CLASSES - 1}, {CLASSES} means no class"
            )

    @abstractmethod
    def images(self) -> tuple[Tensor, Int[Tensor, " N"], Int[Tensor, " M"]]:
        """All samples (N, 1, S, S) in [-1, 1], their classes, and the rows of the test split."""

    @abstractmethod
    def has_data(self) -> bool:
        """Whether images() can be called: figures that need the data are left out where it cannot."""

    @property
    def folder_of_weights(self) -> Path:
        """Where the base is read from, and where task=pretrain of the shipped base writes it."""
        return ASSETS / self.name if self.weights is None else Path(self.weights).expanduser()

    def fresh(self, generator: torch.Generator) -> DiffusersDenoiser:
        from diffusers import UNet2DModel

        depth = len(self.channels)
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            network: Any = UNet2DModel(
                sample_size=self.size, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=8,
                block_out_channels=self.channels, down_block_types=("DownBlock2D",) * depth, dropout=self.dropout,
                up_block_types=("UpBlock2D",) * depth, num_class_embeds=CLASSES + 1, attention_head_dim=8,
            )  # fmt: skip
        return DiffusersDenoiser(network, DiffusersSchedule(SCHEDULER), self.conditioning)

    def base(self) -> DiffusersDenoiser:
        from diffusers import UNet2DModel
        from safetensors import SafetensorError

        folder = self.folder_of_weights
        again = f"Make it with `python run.py experiment=pretrain/{self.name}`, or name another in domain.weights"
        try:
            scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
            network, found = UNet2DModel.from_pretrained(
                folder, subfolder="unet", local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False,
                output_loading_info=True,
            )  # fmt: skip
            schedule = DiffusersSchedule(scheduler)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"cannot load the base of {self.name} from {folder}: {error}. {again}") from error
        has = (network.config["in_channels"], network.config["sample_size"], network.config["num_class_embeds"])
        wanted = (1, self.size, CLASSES + 1)
        if has != wanted or found["missing_keys"] or found["unexpected_keys"]:
            raise ValueError(
                f"{folder} is no base of {self.name}: (channels, size, classes + 1) is {has}, {wanted} is wanted; "
                f"{len(found['missing_keys'])} weights missing, {len(found['unexpected_keys'])} unknown. {again}"
            )
        return DiffusersDenoiser(network, schedule, self.conditioning).eval()

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
    def _networks(self) -> tuple[Classifier, Classifier]:
        return load_classifier(self.classifiers, "features"), load_classifier(self.classifiers, "heldout")

    @functools.cached_property
    def _reference(self) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        path = folder_of(self.classifiers) / "reference.safetensors"
        if not path.exists():
            raise ValueError(f"{path} is missing: make it with `python run.py task=classifiers domain={self.name}`")
        return {name: x if x.dtype == torch.uint8 else x.float() for name, x in load_file(path).items()}

    def write_reference(self) -> None:
        """Writes what metrics() compares with: features of real images the feature network was not fitted on, half of
        them unseen by the base too, and how near unseen real images are to the training images."""
        from safetensors.torch import save_file

        network, kept = load_classifier(self.classifiers, "features"), {}
        for name, split in (("train", "reward"), ("test", "test")):
            sample, label = self.data(split)
            order = torch.randperm(len(label), generator=torch.Generator().manual_seed(2))
            rows = order[:REFERENCE_IMAGES].sort().values
            kept[f"{name}_features"] = predict(network, self.decoder(sample[rows]), features=True).half()
            kept[f"{name}_labels"] = label[rows].to(torch.uint8)
        seen, unseen = self.decoder(self.data("train")[0]), self.decoder(self.data("test")[0])
        kept["nearest"] = nearest(unseen[:: max(1, len(unseen) // REFERENCE_IMAGES)], seen)
        save_file(kept, folder_of(self.classifiers) / "reference.safetensors")

    @torch.no_grad()
    def metrics(self, sample: Tensor, cond: Tensor) -> dict[str, float]:
        """Real images of the prompted classes are what kid and diversity are compared with. Empty for one sample."""
        if len(sample) < 2:
            return {}
        image, cond, real = self.decoder(sample.detach()).cpu(), cond.cpu(), self._reference
        prompted = cond.unique() if int(cond.max()) < CLASSES else torch.arange(CLASSES)
        kept = {s: torch.isin(real[f"{s}_labels"].long(), prompted) for s in ("train", "test")}
        train, test = (real[f"{s}_features"][rows] for s, rows in kept.items())
        network, judge = self._networks
        features = predict(network, image, features=True)
        out = {
            "kid": kid(features, test),
            "kid_real": kid(train, test),
            "diversity": diversity(features),
            "diversity_real": diversity(test),
        }
        named = cond < CLASSES
        if named.any():
            out["class_match"] = float((predict(judge, image[named]).argmax(1) == cond[named]).double().mean())
        if self.has_data():
            distance = nearest(image, self.decoder(self.data("train")[0]))
            near = {"nearest_distance": distance.mean(), "nearest_real": real["nearest"].mean()}
            out |= {k: float(v) for k, v in near.items()} | {"copies": copies(distance, real["nearest"])}
        return out

    def show(self, rows: dict[str, Tensor], path: Path) -> None:
        picture({title: self.decoder(sample.detach()).cpu() for title, sample in rows.items()}, path)
