"""Pictures with captions: what is read from folders, how often each is drawn, and what the parts of a base learn from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pgdlab.images import contrastive
from pgdlab.images.autoencoder import Autoencoder, fresh, measured
from pgdlab.images.captioned import Captioned, captioned
from pgdlab.images.contrastive import Contrastive, ranks, tokens, vocabulary
from pgdlab.training.parts import average

COLOURS = ("red", "green", "blue", "black")


def pictures(folder: Path, side: int = 32) -> Path:
    """A folder with a square of each colour, listed as Hugging Face's image folders are."""
    folder.mkdir(exist_ok=True)
    lines = []
    for colour in COLOURS:
        Image.new("RGB", (side, side), colour).save(folder / f"{colour}.png")
        lines.append(json.dumps({"file_name": f"{colour}.png", "text": f" {colour}  square "}))
    (folder / "metadata.jsonl").write_text("\n".join([*lines, ""]))
    return folder


def test_a_listed_folder(tmp_path: Path) -> None:
    found = captioned(pictures(tmp_path / "all", 40), 16)
    assert found.captions == tuple(f"{colour} square" for colour in COLOURS)
    assert found.pixels.shape == (4, 3, 16, 16)
    assert found.pixels[0, :, 8, 8].tolist() == [255, 0, 0]
    assert found.kind.tolist() == [0, 1, 2, 3]


def package(folder: Path, entries: list[dict[str, Any]]) -> Path:
    """A folder as the npm package emoji-datasource-google has it; a transparent picture for each file."""
    (folder / "img/google/64").mkdir(parents=True)
    for entry in entries:
        for one in (entry, *entry.get("skin_variations", {}).values()):
            Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(folder / "img/google/64" / one["image"])
    (folder / "emoji.json").write_text(json.dumps(entries))
    return folder


def one(name: str, image: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "image": image, "subcategory": "none", "has_img_google": True, **more}


def test_emoji_are_named_with_their_tones_and_flags(tmp_path: Path) -> None:
    tones = {"1F3FB": one("", "b.png"), "1F3FB-1F3FF": one("", "c.png"), "1F3FD-1F3FD": one("", "d.png")}
    found = captioned(
        package(
            tmp_path / "all",
            [
                one("WAVING HAND SIGN", "a.png", skin_variations=tones),
                one("Japan Flag", "e.png", subcategory="country-flag"),
                one("Face: \N{RIGHT SINGLE QUOTATION MARK}x", "f.png"),
                one("NOT DRAWN", "g.png", has_img_google=False),
            ],
        ),
        16,
    )
    assert found.captions == (
        "waving hand sign", "waving hand sign, light skin tone", "waving hand sign, light and dark skin tone",
        "waving hand sign, medium skin tone", "flag of japan", "face, 'x",
    )  # fmt: skip
    assert found.kind.tolist() == [0, 0, 0, 0, 1, 2]
    assert found.pixels.min() == 255  # transparent is white
    # six draws of a kind: 6/4 rounds to even, so twice each of four variants, six times each of the others
    assert found.balanced().bincount().tolist() == [2, 2, 2, 2, 6, 6]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (None, "neither metadata.jsonl"), ("not json", "line 1 must be an object"), ('{"file_name": "red.png"}', "line 1"),
        ('{"file_name": "red.png", "text": " "}', "line 1 has no text"), ('{"file_name": "red.png", "text": "x"}', "at least 4"),
        ("\n".join(['{"file_name": "gone.png", "text": "x"}'] * 4), "gone.png cannot be read"),
    ],
)  # fmt: skip
def test_a_folder_that_is_wrong(tmp_path: Path, lines: str | None, said: str) -> None:
    folder = pictures(tmp_path / "all")
    if lines is None:
        (folder / "metadata.jsonl").unlink()
    else:
        (folder / "metadata.jsonl").write_text(lines)
    with pytest.raises(ValueError, match=said):
        captioned(folder, 16)


def test_a_vocabulary_of_the_captions() -> None:
    """Words that are frequent are one token; any text can be written; texts are as long as the longest caption, in eights."""
    captions = tuple(f"a {size} {colour} square" for colour in COLOURS for size in ("large", "small", "tiny"))
    words = vocabulary(captions)
    assert words.tokenize("Large square") == ["large</w>", "square</w>"]
    assert words.decode(words("zebra").input_ids, skip_special_tokens=True).strip() == "zebra"
    assert words.model_max_length == 8  # four words and two ends
    ids = tokens(words, ["a red square", ""])
    assert ids.shape == (2, 8)
    assert ids[1].tolist() == [words.bos_token_id] + [words.eos_token_id] * 7


def test_equal_captions_share_the_right_answer() -> None:
    """Two pictures of one caption among three: the loss of random logits, by hand."""
    words = vocabulary(("a red square", "a blue square", "a black square"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = contrastive.fresh(contrastive.Size(8, 2, 2, 16), words, 16)
    part = Contrastive(network.eval(), 0)
    picture = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    ids = tokens(words, ["a red square", "a blue square", "a red square"])
    value, figures = part.loss([picture, ids])
    part.generator.manual_seed(0)
    logits = network(pixel_values=part.augmented(picture / 127.5 - 1), input_ids=ids).logits_per_image.double()
    right = torch.tensor([[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]], dtype=torch.float64)
    both = [-(right * x.log_softmax(1)).sum(1).mean() for x in (logits, logits.T)]
    torch.testing.assert_close(value.double(), sum(both) / 2, rtol=1e-5, atol=0)
    chosen = logits.argmax(1).tolist()
    assert figures["right"] == pytest.approx(sum(bool(right[i, k]) for i, k in enumerate(chosen)) / 3)


def test_pictures_are_moved_on_white() -> None:
    """Of a black square on white, what is cut off or added is white, and its grey levels stay between its own."""
    part = Contrastive(torch.nn.Linear(1, 1), 0)
    x = torch.ones(1, 3, 32, 32)
    x[..., 8:24, 8:24] = -1
    for seed in range(8):
        part.generator.manual_seed(seed)
        y = part.augmented(x)
        assert y.shape == x.shape
        assert y[..., 0, :].mean() > 0.9
        dark = (y[0, 0] < 0).double().sum().item()
        assert 0.7 * 256 < dark < 1.4 * 256  # a tenth of zoom is a fifth of the area
    assert not torch.equal(part.augmented(x), part.augmented(x))


class Rounds(torch.nn.Module):
    """A CLIP whose picture's direction is its mean colour."""

    def vision_model(self, x: torch.Tensor) -> Any:
        return type("Seen", (), {"pooler_output": x.mean((2, 3))})

    def visual_projection(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_ranks_count_the_nearer_texts() -> None:
    """Red, green and blue as texts; a picture of .9 red and .6 green, in [-1, 1] as the network sees it."""
    told = torch.eye(3)
    image = (torch.tensor([0.9, 0.6, -0.2]).reshape(1, 3, 1, 1).expand(3, 3, 4, 4) + 1) / 2
    assert ranks(Rounds(), image, told, torch.tensor([0, 1, 2])).tolist() == [0, 1, 2]


def test_the_decoder_alone_trains_where_latents_are_known() -> None:
    x = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    eye = contrastive.fresh(contrastive.Size(8, 2, 2, 16), vocabulary(("a red square",)), 16).vision_model
    for frozen in (False, True):
        part = Autoencoder(fresh(), 0, eye, frozen=frozen)
        part.loss([x])[0].backward()
        trained = {name.split(".")[0] for name, weight in part.network.named_parameters() if weight.grad is not None}
        assert trained == {"decoder", "post_quant_conv"} | (set() if frozen else {"encoder", "quant_conv"})
        assert all(weight.grad is None for weight in part.eye.parameters())


def test_the_error_and_the_spread_of_an_autoencoder() -> None:
    """Of one that halves grey levels: errors by hand."""

    class Half(torch.nn.Module):
        def encode(self, x: torch.Tensor) -> Any:
            return type("Told", (), {"latent_dist": type("Normal", (), {"mean": x / 2})})

        def decode(self, z: torch.Tensor) -> Any:
            return type("Made", (), {"sample": z})

    levels = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 3, 8, 8)
    error, spread = measured(Half(), Captioned(levels, ("a", "b"), torch.arange(2)))
    assert error == pytest.approx(0.25**2)  # half of -1 and of 1, in grey levels of [0, 1]
    assert spread == pytest.approx(0.5, rel=2e-3)  # of +-.5; torch divides by N - 1


def test_averages_forget_their_beginning() -> None:
    averaged, live = [torch.tensor([0.0])], [torch.tensor([1.0])]
    average(averaged, live, torch.tensor(0))
    assert averaged[0].item() == 1.0
    average(averaged, [torch.tensor([3.0])], torch.tensor(10))
    assert averaged[0].item() == pytest.approx(2.0)
    average(averaged, [torch.tensor([102.0])], torch.tensor(10**6))
    assert averaged[0].item() == pytest.approx(2.1)
