"""Three small classifiers a domain, that share no architecture, no seed and no training image.

"reward" is what a policy may be trained on, "heldout" judges it, "features" is what KID and diversity are measured in.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from pgdlab.config.program import ASSETS
from pgdlab.images.features import Features

SMOOTHING = 0.02  # keeps probabilities off 0 and 1, where a reward says nothing about better or worse


class Classifier(Features):
    """Logits of images in [0, 1]; features() is what the last, linear layer sees. size: pixels a side; channels: 1 or 3;
    classes: their number; names: of the classes, where they have any."""

    head: nn.Linear
    names: tuple[str, ...] = ()

    def __init__(self, size: int, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.size, self.channels, self.classes = size, channels, classes

    def forward(self, image: Float[Tensor, "B D S S"]) -> Float[Tensor, "B C"]:
        if image.shape[1:] != (self.channels, self.size, self.size):
            kind = f"{self.size}x{self.size} images of {self.channels} channels"
            raise ValueError(f"this classifier reads {kind}, not {tuple(image.shape[-2:])} of {image.shape[1]}")
        return self.head(self.features(image))


class PlainCNN(Classifier):
    """Three 3x3 convolutions and a hidden layer of 128."""

    def __init__(self, size: int, channels: int = 1, classes: int = 10) -> None:
        super().__init__(size, channels, classes)
        strides = (1, 2, 1) if size < 16 else (1, 2, 2)
        side = functools.reduce(lambda s, k: (s - 1) // k + 1, strides, size)
        convs = [nn.Conv2d(i, o, 3, k, 1) for i, o, k in zip((channels, 32, 64), (32, 64, 64), strides, strict=True)]
        layers = [layer for conv in convs for layer in (conv, nn.ReLU())]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * side**2, 128), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(128, classes)

    def features(self, image: Float[Tensor, "B D S S"]) -> Float[Tensor, "B F"]:
        return self.body(image)


class ResidualBlock(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))), pre-activation (He et al. 2016, arXiv:1603.05027)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        parts = [(nn.GroupNorm(8, width), nn.GELU(), nn.Conv2d(width, width, 3, padding=1)) for _ in range(2)]
        self.body = nn.Sequential(*[layer for part in parts for layer in part])

    def forward(self, x: Float[Tensor, "B W S S"]) -> Float[Tensor, "B W S S"]:
        return x + self.body(x)


class ResidualCNN(Classifier):
    """A small pre-activation residual network with a global mean at the end."""

    def __init__(self, size: int, channels: int = 1, classes: int = 10) -> None:
        super().__init__(size, channels, classes)
        stride = 1 if size < 16 else 2
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, stride, 1), ResidualBlock(32), nn.Conv2d(32, 64, 2, 2), ResidualBlock(64),
            nn.GroupNorm(8, 64), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(64, classes)

    def features(self, image: Float[Tensor, "B D S S"]) -> Float[Tensor, "B F"]:
        return self.body(image)


class PatchCNN(Classifier):
    """Overlapping patches, depthwise 5x5 mixing, and 64 features of mean 0 and variance 1 for each image."""

    def __init__(self, size: int, channels: int = 1, classes: int = 10) -> None:
        super().__init__(size, channels, classes)
        patch = 3 if size < 16 else 4
        self.body = nn.Sequential(
            nn.Conv2d(channels, 96, patch, patch // 2, 1), nn.SiLU(),
            nn.Conv2d(96, 96, 5, padding=2, groups=96), nn.Conv2d(96, 96, 1), nn.SiLU(),
            nn.Conv2d(96, 96, 3, 2, 1, groups=96), nn.Conv2d(96, 96, 1), nn.SiLU(),
            nn.Flatten(), nn.LazyLinear(64), nn.LayerNorm(64, elementwise_affine=False),
        )  # fmt: skip
        self.head = nn.Linear(64, classes)
        with torch.no_grad():
            self.body(torch.zeros(1, channels, size, size))  # gives the lazy layer its size

    def features(self, image: Float[Tensor, "B D S S"]) -> Float[Tensor, "B F"]:
        return self.body(image)


ARCHITECTURES: dict[str, type[Classifier]] = {"reward": PlainCNN, "heldout": ResidualCNN, "features": PatchCNN}


@runtime_checkable
class Labelled(Protocol):
    """A domain as a fit sees it: where its classifiers are, the names of its classes, its splits ("test", and one named after
    each classifier), decoded."""

    @property
    def classifiers(self) -> str | None: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    def data(self, split: str) -> tuple[Tensor, Int[Tensor, " N"]]: ...

    @property
    def decoder(self) -> Callable[[Tensor], Any]: ...


class ClassifierFit(LightningModule):
    """Cross-entropy on shifted, noisy images, so that the classifier also knows what to make of generated ones.

    shift: pixels, each way. noise: the largest standard deviation, in units of the grey scale [0, 1].
    """

    def __init__(self, network: Classifier, steps: int, seed: int, shift: int, noise: float = 0.1, lr: float = 2e-3):
        super().__init__()
        self.network, self.steps, self.lr, self.shift, self.noise = network, steps, lr, shift, noise
        self.generator = torch.Generator().manual_seed(seed)

    def augment(self, image: Float[Tensor, "B D S S"]) -> Float[Tensor, "B D S S"]:
        """One shift for the batch, and noise of its own strength for every image."""
        dx, dy = torch.randint(-self.shift, self.shift + 1, (2,), generator=self.generator).tolist()
        strength = self.noise * torch.rand(len(image), 1, 1, 1, generator=self.generator)
        noise = strength * torch.randn(image.shape, generator=self.generator)
        moved = F.pad(image, [self.shift] * 4).roll((dy, dx), (2, 3))
        end = -self.shift or None
        return (moved[..., self.shift : end, self.shift : end] + noise.to(image)).clamp(0, 1)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        image, label = batch
        return F.cross_entropy(self.network(self.augment(image)), label, label_smoothing=SMOOTHING)

    def configure_optimizers(self) -> Any:
        adam = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.05)
        plan = torch.optim.lr_scheduler.OneCycleLR(adam, self.lr, total_steps=self.steps + 1)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": plan, "interval": "step"}}


def fit(domain: Labelled, kind: str, seed: int, steps: int, batch: int) -> Classifier:
    """Trains the classifier `kind` on the split of that name."""
    sample, label = domain.data(kind)
    image = domain.decoder(sample)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = ARCHITECTURES[kind](image.shape[-1], image.shape[1], len(domain.classes))
        order = RandomSampler(image, True, steps * batch, generator=torch.Generator().manual_seed(seed))
        # a sampler of batches with batch_size None indexes the tensors once a batch
        loader = DataLoader(TensorDataset(image, label), batch_size=None, sampler=BatchSampler(order, batch, False))
        trainer = Trainer(
            max_steps=steps, logger=False, enable_checkpointing=False, enable_model_summary=False,
            enable_progress_bar=False, accelerator="auto", devices=1,
        )  # fmt: skip
        trainer.fit(ClassifierFit(network, steps, seed, shift=image.shape[-1] // 28), loader)
    return network.cpu().eval().requires_grad_(False)


@torch.no_grad()
def predict(network: Features, image: Tensor, features: bool = False, batch: int = 1000) -> Tensor:
    """Logits (N, C) of a classifier, or features (N, F), of many images, in passes of `batch`."""
    call = network.features if features else network
    return torch.cat([call(part) for part in image.split(batch)])


def folder_of(classifiers: str | None) -> Path:
    """The folder of that name that ships (digits, fashion), or, with a slash in it, one of the user's. Raises ValueError for
    None: a domain without classifiers."""
    if classifiers is None:
        raise ValueError(
            "domain.classifiers is null, so that there are no classifiers: `task=classifiers` with this domain and "
            "domain.classifiers=./FOLDER fits them into that folder; then name it in domain.classifiers"
        )
    return Path(classifiers).expanduser() if "/" in classifiers else ASSETS / classifiers


def fit_classifiers(domain: Labelled, *, steps: int = 2500, batch: int = 128, seed: int = 0) -> dict[str, float]:
    """Fits all three into the domain's folder of classifiers, with a card `classifiers.json`.

    Returns the test accuracies. Classifier i has the seed `seed + i`.
    """
    from safetensors.torch import save_file

    into = folder_of(domain.classifiers)
    into.mkdir(parents=True, exist_ok=True)
    sample, label = domain.data("test")
    image, cards = domain.decoder(sample), {}
    for i, (kind, architecture) in enumerate(ARCHITECTURES.items()):
        network = fit(domain, kind, seed + i, steps, batch)
        accuracy = (predict(network, image).argmax(1) == label).double().mean().item()
        save_file(network.state_dict(), into / f"{kind}.safetensors")
        cards[kind] = {
            "architecture": architecture.__name__, "size": image.shape[-1], "channels": image.shape[1],
            "classes": list(domain.classes), "split": kind,
            "training_images": len(domain.data(kind)[1]), "test_images": len(label), "seed": seed + i,
            "steps": steps, "batch": batch, "test_accuracy": round(accuracy, 4),
        }  # fmt: skip
    (into / "classifiers.json").write_text(json.dumps(cards, indent=2) + "\n")
    return {kind: float(card["test_accuracy"]) for kind, card in cards.items()}


def load_classifier(classifiers: str | None, kind: str) -> Classifier:
    """The classifier `kind` in a folder_of() classifiers, frozen. Raises ValueError where there is none or it is broken."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = folder_of(classifiers)
    if not (folder / "classifiers.json").is_file():
        known = ", ".join(sorted(path.parent.name for path in ASSETS.glob("*/classifiers.json")))
        raise ValueError(
            f"there are no classifiers in {classifiers!r}; it must be {known} or a folder that task=classifiers wrote"
        )
    if kind not in ARCHITECTURES:
        raise ValueError(f"classifier is {kind!r}; it must be one of {', '.join(ARCHITECTURES)}")
    try:
        card = json.loads((folder / "classifiers.json").read_text())[kind]
        names = tuple(card.get("classes", ()))  # digits and fashion: ten, whose names their domains have
        network = ARCHITECTURES[kind](card["size"], card.get("channels", 1), len(names) or 10)
        network.names = names
        network.load_state_dict(load_file(folder / f"{kind}.safetensors"))
    except (OSError, SafetensorError, RuntimeError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"cannot load {folder / kind}.safetensors: {error}. Fit it again with task=classifiers"
        ) from error
    return network.eval().requires_grad_(False)
