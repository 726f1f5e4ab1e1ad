"""Folders of images: what is found, how it is read, and that no image is on both sides of the split."""

from __future__ import annotations

import io
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pgdlab.images import folder as module
from pgdlab.images.folder import pictures, pixels, usual_channels, usual_size
from pgdlab.images.listing import listing


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def fill(folder: Path, count: int, first: int = 0, shape: tuple[int, ...] = (12, 12, 3)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + count):
        Image.fromarray(noise(seed, *shape)).save(folder / f"{seed:03}.png")


def test_subfolders_are_classes_by_name_and_one_subfolder_is_none(tmp_path: Path) -> None:
    for name, count in (("zebra", 3), ("ant", 2), (".hidden", 2)):
        fill(tmp_path / name / "deep", count)
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    found = listing(tmp_path)
    assert found.classes == ("ant", "zebra")
    assert [file.label for file in found.files] == [0, 0, 1, 1, 1]
    assert listing(tmp_path / "ant").classes == ()


def test_train_and_test_subfolders_are_the_splits_and_an_image_in_both_is_only_tested(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("test", 6)):
        for i, name in enumerate(("a", "b")):
            fill(tmp_path / split / name, 3, first + 3 * i)
    # the first test image once more, under another name, format and class, among the training images
    Image.open(tmp_path / "test" / "a" / "006.png").save(tmp_path / "train" / "b" / "copy.bmp")
    found = pictures(listing(tmp_path), 3, 12)
    names = [found.names[row] for row in found.test]
    assert names == [
        "test/a/006.png",
        "test/a/007.png",
        "test/a/008.png",
        "test/b/009.png",
        "test/b/010.png",
        "test/b/011.png",
    ]
    assert len(found.names) == 12
    assert not any("copy" in name for name in found.names)


def test_copies_are_on_one_side_and_the_split_is_by_name_alone(tmp_path: Path) -> None:
    fill(tmp_path, 40)
    for seed in range(40):
        shutil.copy(tmp_path / f"{seed:03}.png", tmp_path / f"again-{seed:03}.png")
    found = pictures(listing(tmp_path), 3, 12)
    held = {found.names[row] for row in found.test}
    assert len(held) == 8  # a tenth of 40 different images, twice each
    assert {name.removeprefix("again-") for name in held} == {name for name in held if not name.startswith("again-")}
    order = torch.ones(len(found.names), dtype=torch.bool)
    order[found.test] = False
    seen = {bytes(x) for x in found.pixels[order].numpy()}
    assert not seen & {bytes(x) for x in found.pixels[found.test].numpy()}
    # other pixels under the same names: the same images are held out
    other = tmp_path / "other"
    fill(other, 40, first=0, shape=(20, 12, 3))
    for seed in range(40):
        shutil.copy(other / f"{seed:03}.png", other / f"again-{seed:03}.png")
    again = pictures(listing(other), 3, 12)
    assert {again.names[row] for row in again.test} == held


def test_every_kind_of_file_is_read_as_it_looks(tmp_path: Path) -> None:
    half = np.full((8, 8), 128, np.uint8)
    clear = np.dstack([np.full((8, 8, 3), 200, np.uint8), np.zeros((8, 8), np.uint8)])
    deep = Image.fromarray(np.full((8, 8), 65535 // 2, np.uint16))
    palette = Image.fromarray(np.dstack([half, 0 * half, 0 * half])).convert("P", palette=Image.Palette.ADAPTIVE)
    kinds = {
        "grey": (Image.fromarray(half), (128,) * 3), "clear": (Image.fromarray(clear), (255,) * 3),
        "deep": (deep, (127,) * 3), "palette": (palette, (128, 0, 0)), "bit": (Image.new("1", (8, 8), 1), (255,) * 3),
        "pale": (Image.merge("LA", [Image.new("L", (8, 8), 0), Image.new("L", (8, 8), 51)]), (204,) * 3),
    }  # fmt: skip
    for name, (image, expected) in kinds.items():
        image.save(tmp_path / f"{name}.png")
        got = pixels(tmp_path / f"{name}.png", 3, 8)
        np.testing.assert_allclose(got[:, 4, 4], expected, atol=1, err_msg=name)
        assert got.shape == (3, 8, 8)
        assert pixels(tmp_path / f"{name}.png", 1, 8).shape == (1, 8, 8)
    found = listing(tmp_path)
    assert usual_channels(found) == 3  # a mixed folder
    (tmp_path / "palette.png").unlink()
    (tmp_path / "clear.png").unlink()
    assert usual_channels(listing(tmp_path)) == 1


def test_a_photograph_is_turned_upright_and_cut_to_its_centre(tmp_path: Path) -> None:
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:8, 16:32], wide[:, :16], wide[:, 32:] = (255, 255, 255), (255, 0, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees: the camera's left is the picture's top
    Image.fromarray(wide).save(tmp_path / "x.png", exif=exif)
    Image.fromarray(wide).save(tmp_path / "y.png")
    turned, plain = (pixels(tmp_path / f"{name}.png", 3, 16) for name in "xy")
    # the red and blue ends are cut off; the white upper half is on the right once it is turned
    assert plain[:, 4, 8].tolist() == [255, 255, 255]
    assert plain[:, 12, 8].tolist() == [0, 0, 0]
    assert turned[:, 8, 12].tolist() == [255, 255, 255]
    assert turned[:, 8, 4].tolist() == [0, 0, 0]


def test_scaling_down_averages(tmp_path: Path) -> None:
    board = (255 * (np.indices((64, 64)).sum(0) % 2)).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "x.png")
    inner = pixels(tmp_path / "x.png", 1, 8)[0, 1:-1, 1:-1]
    np.testing.assert_allclose(inner, 127.5, atol=2)  # without antialias it would be 0 or 255


@pytest.mark.parametrize(
    ("sides", "size"), [((28, 40), 32), ((32, 32), 32), ((500, 300), 64), ((5, 9), 8), ((12, 100), 16)]
)
def test_the_usual_size_is_a_power_of_two(sides: tuple[int, int], size: int, tmp_path: Path) -> None:
    fill(tmp_path, 2, shape=(*sides, 3))
    assert usual_size(listing(tmp_path)) == size


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb() -> bytes:
    """A PNG of 60 bytes that says it has 400 million pixels."""
    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_few_unreadable_files_are_named_and_left_out_and_many_are_an_error(tmp_path: Path) -> None:
    fill(tmp_path, 30)
    (tmp_path / "bad.png").write_bytes((tmp_path / "000.png").read_bytes()[:150])  # its head is whole
    with pytest.warns(UserWarning, match=r"1 of 31 image files .* bad\.png \(.*\); left out"):
        assert len(pictures(listing(tmp_path), 3, 12).names) == 30
    (tmp_path / "bad.png").write_bytes(bomb())
    with pytest.warns(UserWarning, match=r"bad\.png \(more than [\d,]+ pixels\)"):
        assert len(pictures(listing(tmp_path), 3, 12).names) == 30
    for name in ("text.png", "empty.jpg"):
        (tmp_path / name).write_bytes(b"text" * (name == "text.png"))
    with pytest.raises(ValueError, match=r"3 of 33 image files .*no image that PIL reads.*Repair or remove"):
        pictures(listing(tmp_path), 3, 12)


def test_folders_without_usable_images_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        listing(tmp_path / "no")
    (tmp_path / "file.png").write_bytes(b"")
    with pytest.raises(ValueError, match="is a file"):
        listing(tmp_path / "file.png")
    (tmp_path / "file.png").unlink()
    with pytest.raises(ValueError, match="it is empty"):
        listing(tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"no image \(\.png, .*1 other files \(1 \.txt\)"):
        listing(tmp_path)
    fill(tmp_path, 1)
    with pytest.raises(ValueError, match="has 1 different images that can be read; at least 4"):
        pictures(listing(tmp_path), 3, 12)
    fill(tmp_path / "a", 2)
    with pytest.raises(ValueError, match="1 images beside the subfolders a"):
        listing(tmp_path)
    (tmp_path / "000.png").unlink()
    for split in ("train", "test"):
        fill(tmp_path / split, 2)
    with pytest.raises(ValueError, match=r"train/ and test/.*and a beside them"):
        listing(tmp_path)


def test_slow_reading_is_kept_and_read_again_only_when_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGDLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "SLOW", -1.0)
    fill(tmp_path / "images", 6)
    found = listing(tmp_path / "images")
    first = pictures(found, 3, 12)
    asked: list[Path] = []

    def counting(path: Path, channels: int, size: int) -> np.ndarray:
        asked.append(path)
        return pixels(path, channels, size)

    monkeypatch.setattr(module, "pixels", counting)
    again = pictures.__wrapped__(found, 3, 12)
    assert not asked
    assert torch.equal(again.pixels, first.pixels)
    assert again.names == first.names
    buffer = io.BytesIO()
    Image.fromarray(noise(99, 12, 12, 3)).save(buffer, "PNG")
    (tmp_path / "images" / "000.png").write_bytes(buffer.getvalue() + b" ")
    changed = pictures.__wrapped__(listing(tmp_path / "images"), 3, 12)
    assert len(asked) == 6
    assert not torch.equal(changed.pixels, first.pixels)
