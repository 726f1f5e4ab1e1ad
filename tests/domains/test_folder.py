"""Images of a folder: what becomes of every kind of file, how they are split, and a run from pictures to an exported model."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pgdlab import cli
from pgdlab.domains.folder import Folder
from pgdlab.images.folder import pixels

SIDE = 8
COUNT = 12  # of each class


def painted(seed: int, colour: bool = True) -> Image.Image:
    """An image of noise, no two alike."""
    values = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return Image.fromarray(values) if colour else Image.fromarray(values[..., 0])


def filled(folder: Path, kinds: tuple[str, ...] = ("cat", "dog"), colour: bool = True) -> Path:
    """A folder with COUNT images of each class."""
    for k, kind in enumerate(kinds):
        (folder / kind).mkdir(parents=True)
        for i in range(COUNT):
            painted(100 * k + i, colour).save(folder / kind / f"{i:02}.png")
    return folder


def made(folder: Path, **options: Any) -> Folder:
    return Folder(path=str(folder), **options)


def test_subfolders_are_classes_with_names(tmp_path: Path) -> None:
    domain = made(filled(tmp_path / "pets"))
    assert domain.classes == ("cat", "dog")
    assert domain.conditioning.texts == ("cat", "dog", "")
    assert domain.train_conditions == (0, 1)
    assert (domain.colours, domain.size, domain.space.shape) == (3, SIDE, (3, SIDE, SIDE))
    sample, label = domain.data("train")
    test, test_label = domain.data("test")
    assert len(sample) + len(test) == 2 * COUNT
    assert sorted([*label.tolist(), *test_label.tolist()]) == [0] * COUNT + [1] * COUNT
    assert made(tmp_path / "pets", train_conditions=("dog",)).train_conditions == (1,)
    with pytest.raises(ValueError, match=r"train_conditions is \['dgo'\].*dog"):
        made(tmp_path / "pets", train_conditions=("dgo",))


def test_images_without_subfolders_are_of_one_kind(tmp_path: Path) -> None:
    for i in range(8):
        painted(i, colour=False).save(tmp_path / f"{i}.png")
    domain = made(tmp_path)
    assert (domain.classes, domain.conditioning.size, domain.colours) == ((), 1, 1)
    assert made(tmp_path, channels=3).data("train")[0].shape[1:] == (3, SIDE, SIDE)


def test_one_image_in_colour_makes_all_of_them_colour(tmp_path: Path) -> None:
    for i in range(8):
        painted(i, colour=i == 7).save(tmp_path / f"{i}.png")
    assert made(tmp_path).colours == 3


def test_every_kind_of_file_has_the_pixels_that_one_sees(tmp_path: Path) -> None:
    """By hand: half transparent black on white is 127.5; 16 bits are divided by 257; a picture that says it lies on its side
    is turned; a palette has its colours; a rectangle is cut to its middle."""
    Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 128)).save(tmp_path / "half.png")
    assert np.abs(pixels(tmp_path / "half.png", 3, SIDE).astype(int) - 127).max() <= 1
    Image.fromarray(np.full((SIDE, SIDE), 257 * 40, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert (pixels(tmp_path / "deep.png", 1, SIDE) == 40).all()
    upright = np.zeros((SIDE, SIDE), np.uint8)
    upright[0] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to see it"
    Image.fromarray(upright).save(tmp_path / "turned.png", exif=exif)
    seen = pixels(tmp_path / "turned.png", 1, SIDE)[0]
    assert (seen[:, -1] == 200).all()  # the top row is on the right then
    assert (seen[:, :-1] == 0).all()
    Image.new("RGB", (SIDE, SIDE), (10, 200, 30)).quantize(4).save(tmp_path / "palette.png")
    assert pixels(tmp_path / "palette.png", 3, SIDE)[:, 0, 0].tolist() == [10, 200, 30]
    wide = np.zeros((SIDE, 3 * SIDE, 3), np.uint8)
    wide[:, SIDE : 2 * SIDE] = 90
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (pixels(tmp_path / "wide.png", 3, SIDE)[:, :, 1:-1] == 90).all()


def test_values_are_levels_between_minus_one_and_one(tmp_path: Path) -> None:
    domain = made(filled(tmp_path / "pets"))
    sample, _ = domain.data("train")
    assert domain.decoder(sample).sub((sample + 1) / 2).abs().max() < 1e-6
    assert -1 <= sample.min() < sample.max() <= 1


def test_equal_images_are_on_one_side_of_the_split(tmp_path: Path) -> None:
    """Copies under other names, twenty of each of ten: whatever the split, no image of the test set is in train."""
    for i in range(10):
        for j in range(20):
            painted(i).save(tmp_path / f"{j:02}-{i}.png")
    domain = made(tmp_path)
    train, test = (domain.data(name)[0].flatten(1) for name in ("train", "test"))
    assert len(test) == 2 * 20  # a tenth of ten different ones, but two at least
    assert torch.cdist(test, train).min() > 0.1


def test_a_folders_own_split_is_kept_and_what_is_in_both_is_not_trained_on(tmp_path: Path, capsys: Any) -> None:
    filled(tmp_path / "train")
    for i in range(4):
        (tmp_path / "test" / "cat").mkdir(parents=True, exist_ok=True)
        painted(i if i == 0 else 900 + i).save(tmp_path / "test" / "cat" / f"{i}.png")
    domain = made(tmp_path)
    assert (len(domain.data("train")[0]), len(domain.data("test")[0])) == (2 * COUNT - 1, 4)
    assert "1 images of" in capsys.readouterr().out


def test_a_damaged_file_is_left_out_and_many_are_refused(tmp_path: Path) -> None:
    filled(tmp_path / "pets")
    (tmp_path / "pets" / "cat" / "zz.png").write_bytes(b"\x89PNG not really")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        domain = made(tmp_path / "pets")
        assert len(domain.data("train")[0]) + len(domain.data("test")[0]) == 2 * COUNT
    assert any("1 of 25 image files" in str(w.message) and "zz.png" in str(w.message) for w in said)
    for i in range(5):
        (tmp_path / "pets" / "dog" / f"x{i}.jpg").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"6 of 30 image files in .* cannot be read: .*Repair or remove them"):
        made(tmp_path / "pets")


def test_a_bomb_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    painted(0).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="more than 50 pixels"):
        pixels(tmp_path / "a.png", 3, SIDE)


@pytest.mark.parametrize("kind", ["missing", "empty", "one", "text", "file"])
def test_a_folder_that_is_none_is_said(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    if kind == "file":
        folder.write_text("x")
    elif kind != "missing":
        folder.mkdir()
    if kind == "one":
        painted(0).save(folder / "a.png")
    if kind == "text":
        (folder / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"pets"):
        made(folder).data("train")


def test_options_are_bounded(tmp_path: Path) -> None:
    filled(tmp_path / "pets")
    for options, said in (
        ({"size": 4}, "8 to 256 pixels"), ({"channels": 2}, "1 .grey. or 3"), ({"widths": (12, 16)}, "multiples of 8"),
        ({"size": 20, "widths": (8, 8, 8, 8)}, "multiple of 8"), ({"classifiers": "mine"}, "a folder of yours has a slash"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            made(tmp_path / "pets", **options)
    with pytest.raises(ValueError, match=r"domain.path is null"):
        Folder()
    with pytest.raises(ValueError, match=r"no base of your images ships.*experiment=pretrain/folder"):
        made(tmp_path / "pets").base()


def test_figures_tell_the_data_from_noise(tmp_path: Path) -> None:
    """In random features too: the data are near themselves, a plain grey is far, and a copy is found."""
    for i in range(60):
        image = np.full((SIDE, SIDE, 3), 255, np.uint8)
        image[:, : 1 + i % 6, i % 3] = 4 * (i // 6)
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    domain = made(tmp_path)
    cond = torch.zeros(40, dtype=torch.long)
    data = domain.metrics(domain.data("train")[0][:40], cond)
    noise = domain.metrics(torch.rand(40, 3, SIDE, SIDE) * 2 - 1, cond)
    assert noise["kid_random"] > 5 * abs(data["kid_random"])
    assert data["nearest_distance"] == pytest.approx(0, abs=1e-3)  # of a distance by way of a product
    assert noise["nearest_distance"] > 0.1


def test_from_pictures_to_an_exported_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Pretrain, tune, export, and load it with plain diffusers; a base of other images is refused in a sentence."""
    from diffusers import UNet2DModel

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PGDLAB_RUN", raising=False)
    filled(tmp_path / "pets")
    shape = ["domain.path=pets", "domain.widths=[8,16]"]
    small = ["policy.steps=3", "plan.eval_samples=8", "plan.iterations=1", "plan.pass_size=64"]
    pretrain = [
        "experiment=pretrain/folder",
        *shape,
        *small,
        "trainer.updates=2",
        "trainer.batch=8",
        "optimizer.warmup=1",
    ]
    assert cli.main([*pretrain, "name=base"]) == 0, capsys.readouterr().err
    monkeypatch.delenv("PGDLAB_RUN", raising=False)
    tune = [
        "reward.scale=2",
        "heldout=null",
        "experiment=folder/jpeg",
        *shape,
        *small,
        "plan.samples=8",
        "plan.group=2",
        "domain.weights=runs/base/base",
    ]
    assert cli.main([*tune, "name=tuned"]) in (0, 3), capsys.readouterr().err  # 3: so little learns nothing
    with Image.open("runs/tuned/before_after.png") as picture:
        seen = np.asarray(picture.convert("RGB")).astype(int)
    assert (seen.max(-1) - seen.min(-1)).max() > 50  # in colour
    monkeypatch.delenv("PGDLAB_RUN", raising=False)
    assert cli.main(["task=export", "resume=runs/tuned"]) == 0
    network = UNet2DModel.from_pretrained("runs/tuned/export", subfolder="unet")
    assert (network.config["in_channels"], network.config["num_class_embeds"]) == (3, 3)
    monkeypatch.delenv("PGDLAB_RUN", raising=False)
    filled(tmp_path / "birds", ("finch", "tit", "wren"))
    birds = [word.replace("pets", "birds") for word in tune]
    assert cli.main([*birds, "name=other"]) == 2
    assert "'num_class_embeds': 3}, " in capsys.readouterr().err
