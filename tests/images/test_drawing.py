"""Grids in colour and with captions; features that nobody trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pgdlab.images.drawing import FRAME, grid, picture, wrapped
from pgdlab.images.features import RandomFeatures
from pgdlab.images.metrics import kid


def test_a_grid_keeps_colours_and_leaves_strips_for_captions() -> None:
    image = torch.zeros(3, 3, 8, 8)
    image[0, 0], image[1, 1], image[2, 2] = 1.0, 1.0, 1.0  # red, green, blue
    drawn = grid(image, 2, above=0.25)
    side, strip = 56, 14
    assert drawn.shape == (2 * (side + 2 * FRAME + strip), 2 * (side + 2 * FRAME), 3)
    middle = FRAME + strip + side // 2
    assert drawn[middle, side // 2].tolist() == [1, 0, 0]
    assert drawn[middle, -side // 2].tolist() == [0, 1, 0]
    assert drawn[middle + side + 2 * FRAME + strip, side // 2].tolist() == [0, 0, 1]
    assert drawn[-side // 2, -side // 2].tolist() == [1, 1, 1]  # no fourth image
    assert (drawn[: FRAME + strip] == 1).all()


def test_a_picture_is_in_colour_and_grey_stays_grey(tmp_path: Path) -> None:
    red = torch.zeros(4, 3, 8, 8)
    red[:, 0] = 1.0
    picture({"red": red}, tmp_path / "x.png", ["a", "b", "c", "d"])
    picture({"grey": torch.full((4, 1, 8, 8), 0.5)}, tmp_path / "y.png")
    x, y = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).astype(int) for name in "xy")
    assert ((x == [255, 0, 0]).all(-1)).mean() > 0.3
    assert ((abs(y - 128) < 3).all(-1)).mean() > 0.3
    assert np.ptp(y, axis=-1).max() < 3


def test_captions_are_written_above_the_images(tmp_path: Path) -> None:
    white = torch.ones(2, 3, 32, 32)
    picture({"": white}, tmp_path / "without.png", ["", ""])
    picture({"": white}, tmp_path / "with.png", ["circle", "a class with a long name"])
    without, named = (np.asarray(Image.open(tmp_path / f"{n}.png").convert("L")) for n in ("without", "with"))
    assert (without < 128).sum() == 0
    dark = np.argwhere(named < 128)
    assert len(dark) > 100
    left, right = dark[dark[:, 1] < named.shape[1] / 2], dark[dark[:, 1] >= named.shape[1] / 2]
    assert len(left)
    assert len(right)


def test_a_long_caption_is_wrapped_as_on_a_sheet(tmp_path: Path) -> None:
    """Its last word is there, in a third line; a fifth line is left out, and it shows."""
    white = torch.ones(8, 3, 32, 32)
    picture({"": white}, tmp_path / "x.png", ["ten moons on a sea at noon", *["sea"] * 7])
    dark = np.asarray(Image.open(tmp_path / "x.png").convert("L")) < 128
    first, second = dark[:, : dark.shape[1] // 8].any(1), dark[:, dark.shape[1] // 8 : dark.shape[1] // 4].any(1)
    assert [int(np.diff(column.astype(int)).clip(0).sum()) for column in (first, second)] == [3, 1]
    assert wrapped(["ten moons on a sea at noon", "sea", ""], 11) == ["ten moons\non a sea at\nnoon", "sea", ""]
    assert wrapped(["a " * 40], 11)[0].count("\n") == 3
    assert wrapped(["a " * 40], 11)[0].endswith(" …")


def test_the_longest_caption_ends_above_the_image(tmp_path: Path) -> None:
    """Four lines on red images: black letters on white alone, and none on the red."""
    red = torch.zeros(8, 3, 32, 32)
    red[:, 0] = 1.0
    picture({"": red}, tmp_path / "x.png", ["ten moons on a sea at noon once more " * 2] * 8)
    drawn = np.asarray(Image.open(tmp_path / "x.png").convert("RGB")).astype(int)
    black, coloured = (drawn.max(-1) < 100).any(1), ((drawn[..., 0] > 200) & (drawn[..., 1] < 50)).any(1)
    assert np.diff(black.astype(int)).clip(0).sum() == 4
    assert np.flatnonzero(black).max() < np.flatnonzero(coloured).min()


def test_fewer_images_a_row_have_longer_lines(tmp_path: Path) -> None:
    """Two images are four times as wide as eight: the caption fits into one line."""
    picture({"": torch.ones(2, 3, 32, 32)}, tmp_path / "x.png", ["ten moons on a sea at noon", "sea"])
    dark = (np.asarray(Image.open(tmp_path / "x.png").convert("L")) < 128).any(1)
    assert np.diff(dark.astype(int)).clip(0).sum() == 1


def blobs(seed: int, colour: tuple[float, float, float], count: int = 300) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    image = torch.full((count, 3, 16, 16), 0.9) + 0.05 * torch.randn(count, 3, 16, 16, generator=g)
    side = torch.randint(4, 10, (count,), generator=g)
    for row, s in enumerate(side.tolist()):
        image[row, :, 3 : 3 + s, 3 : 3 + s] = torch.tensor(colour)[:, None, None]
    return image.clamp(0, 1)


def test_random_features_tell_sets_apart_and_are_the_same_every_time() -> None:
    """KID of two halves of one set is near 0; of other colours, and of the same pixels in another order, far from it."""
    data, same, other = blobs(0, (1, 0, 0)), blobs(1, (1, 0, 0)), blobs(2, (0, 0, 1))
    state = torch.random.get_rng_state()
    network = RandomFeatures(data)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(network.features(same), RandomFeatures(data).features(same))
    real = network.features(data)
    torch.testing.assert_close(real.square().mean(1), torch.ones(len(real)), rtol=1e-3, atol=1e-3)
    near = abs(kid(network.features(same), real))
    shuffled = data.flatten(2)[..., torch.randperm(256, generator=torch.Generator().manual_seed(0))].reshape(data.shape)
    assert near < 0.05  # 300 against 300
    assert kid(network.features(other), real) > 10 * near
    assert kid(network.features(shuffled), real) > 10 * near
