"""domain=folder: what comes from the images, names of conditions, the base's shape, figures, classifiers of the folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pgdlab.domains.digits import Digits
from pgdlab.domains.fashion import Fashion
from pgdlab.domains.folder import Folder
from pgdlab.images.classifiers import fit_classifiers
from pgdlab.rewards.image.classes import ClassProbability

COLOURS = {"blue": (0, 0, 255), "green": (0, 160, 0), "red": (255, 0, 0)}


def draw(folder: Path, each: int = 16, side: int = 8, grey: bool = False) -> Path:
    """Squares of three colours, a subfolder each, on noise."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(each):
            image = rng.integers(200, 256, (side, side, 3)).astype(np.uint8)
            at = rng.integers(0, side // 2, 2)
            image[at[0] : at[0] + side // 2, at[1] : at[1] + side // 2] = colour
            Image.fromarray(image).convert("L" if grey else "RGB").save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("folder") / "squares")


def test_size_colours_classes_and_splits_come_from_the_folder(images: Path) -> None:
    domain = Folder(path=str(images))
    assert (domain.size, domain.colours, domain.classes) == (8, 3, ("blue", "green", "red"))
    assert domain.space.shape == (3, 8, 8)
    assert domain.conditioning.texts == ("blue", "green", "red", "")
    assert domain.train_conditions == (0, 1, 2)
    train, test = domain.data("train"), domain.data("test")
    assert (len(train[1]), len(test[1])) == (43, 5)  # a tenth of 48
    assert train[0].min() >= -1
    assert train[0].max() <= 1
    reds = train[0][train[1] == 2]
    red, green, blue = reds.mean((0, 2, 3)).tolist()
    assert red > max(green, blue) + 0.2
    assert Folder(path=str(images), channels=1).data("test")[0].shape == (5, 1, 8, 8)
    assert Folder(path=str(images), size=16).data("test")[0].shape == (5, 3, 16, 16)


def test_conditions_have_names(images: Path) -> None:
    assert Folder(path=str(images), train_conditions=("red", 0, 3)).train_conditions == (2, 0, 3)
    assert Digits(train_conditions=("7",)).train_conditions == (7,)
    assert Fashion(train_conditions=("ankle boot", 0)).train_conditions == (9, 0)
    with pytest.raises(
        ValueError, match=r"train_conditions is \['rde'\]: 'rde' is no condition here. Did you mean red"
    ):
        Folder(path=str(images), train_conditions=("rde",))
    with pytest.raises(ValueError, match="classes are 0 to 2, 3 means no class"):
        Folder(path=str(images), train_conditions=(4,))
    plain = Folder(path=str(images / "red"))
    assert (plain.classes, plain.train_conditions, plain.conditioning.texts) == ((), (0,), None)
    assert plain.fresh(torch.Generator()).network.config["num_class_embeds"] is None
    with pytest.raises(ValueError, match="'red' is no condition here: they are numbers"):
        Folder(path=str(images / "red"), train_conditions=("red",))


def test_what_cannot_be_is_refused(images: Path) -> None:
    for options, match in (
        ({"path": None}, "domain.path is null"), ({"channels": 2}, "channels is 2"), ({"size": 4}, "size is 4"),
        ({"size": 18, "widths": (8, 16, 32)}, "size a multiple of 4"), ({"widths": (9, 16)}, "multiples of 8"),
        ({"classifiers": "mine"}, r"\./mine"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            Folder(**({"path": str(images)} | options))
    with pytest.raises(ValueError, match=r"domain.weights is null.*experiment=pretrain/folder domain.path="):
        Folder(path=str(images)).base()


def test_a_base_of_another_shape_is_refused(images: Path, tmp_path: Path) -> None:
    Folder(path=str(images), widths=(8, 8)).fresh(torch.Generator()).save(tmp_path)
    Folder(path=str(images), weights=str(tmp_path)).base()  # its widths are the file's
    for other in ({"channels": 1}, {"size": 16}, {"path": str(images / "red")}):
        with pytest.raises(ValueError, match=r"is no base of folder: .* 'num_class_embeds': 4\}, \{"):
            Folder(**({"path": str(images), "weights": str(tmp_path)} | other)).base()


def test_figures_know_the_data_copies_and_noise(images: Path) -> None:
    domain = Folder(path=str(draw(images.parent / "many", each=100)))
    test, label = domain.data("test")
    real = domain.metrics(test, label)
    assert abs(real["kid_real_random"]) < 0.2
    assert real["copies"] == pytest.approx(0.05, abs=0.03)
    assert "kid" not in real
    assert "class_match" not in real
    train, seen = domain.data("train")
    copied = domain.metrics(train[::2], seen[::2])
    assert copied["copies"] == 1.0
    assert abs(copied["kid_random"]) < 0.2  # other images than the test ones, of the same kind
    noise = torch.randn(50, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert domain.metrics(noise, seen[:50])["kid_random"] > 1
    small = Folder(path=str(images))
    assert small.metrics(small.data("test")[0], small.data("test")[1])  # classes with no or one test image


def test_classifiers_of_the_folder_judge_it_and_no_other(images: Path, tmp_path: Path) -> None:
    where = f"{tmp_path}/fitted"
    domain = Folder(path=str(images), classifiers=where)
    assert min(fit_classifiers(domain, steps=60, batch=32).values()) > 0.7  # chance is a third
    test, label = domain.data("test")
    figures = domain.metrics(test, label)
    assert figures["class_match"] > 0.7
    assert {"kid", "diversity"} < figures.keys()
    reward = ClassProbability(domain=where, target="red")
    value = reward.score(domain.decoder(domain.data("train")[0]), domain.data("train")[1]).value
    assert value[domain.data("train")[1] == 2].mean() > value[domain.data("train")[1] != 2].mean() + 0.3
    with pytest.raises(ValueError, match=r"target is 'rot'; it must be a class, 0 to 2 \(blue, green, red\)"):
        ClassProbability(domain=where, target="rot")
    with pytest.raises(ValueError, match=r"domain\.classifiers is null"):
        ClassProbability(domain=None, target=0)
    other = Folder(path=str(images), size=16, classifiers=where)
    with pytest.raises(ValueError, match="fit them again with task=classifiers"):
        other.metrics(*other.data("test"))
