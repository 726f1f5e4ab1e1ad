"""GenEval: its rules on objects placed by hand, and a small Mask2Former in the public checkpoint's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from pgdlab.diffusion.conditioning import NoLabels
from pgdlab.rewards.base import ShapeError
from pgdlab.rewards.text.detection import Found, objects
from pgdlab.rewards.text.gen_eval import COLOURS, GenEval, Wanted, relations
from tests.rewards.tiny_judges import photographs, save_clip, seeded, write_processor

SIDE = 20
NAMES = {0: "cat", 1: "dog", 2: "cup"}


def thing(name: str, left: int, top: int, size: int = 4, score: float = 0.95) -> Found:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[top : top + size, left : left + size] = True
    return Found(name=name, score=score, mask=mask)


def test_a_box_is_around_the_mask() -> None:
    assert thing("cat", 3, 7).box == (3, 7, 7, 11)


def test_relations_by_hand() -> None:
    """Of size 4, things are apart beyond .1 (4 + 4) = .8 pixels; a direction counts beyond half of the distance."""
    at = thing("cat", 8, 8)
    assert relations(thing("dog", 2, 8), at) == {"left of"}
    assert relations(thing("dog", 14, 9), at) == {"right of"}
    assert relations(thing("dog", 8, 2), at) == {"above"}
    assert relations(thing("dog", 2, 14), at) == {"left of", "below"}
    assert relations(thing("dog", 8, 8), at) == relations(thing("dog", 9, 8), at) == set()


@pytest.fixture
def reward() -> Any:
    """Without its networks."""
    reward = GenEval.__new__(GenEval)
    torch.nn.Module.__init__(reward)
    return reward


CAT, DOG = {"class": "cat", "count": 1}, {"class": "dog", "count": 1}
IMAGE = torch.zeros(3, SIDE, SIDE)


@pytest.mark.parametrize(
    ("seen", "wanted", "right"),
    [
        ([thing("cat", 0, 0)], [CAT], True),
        ([thing("dog", 0, 0)], [CAT], False),
        ([thing("cat", 0, 0)], [CAT, DOG], False),
        ([thing("cat", 0, 0), thing("cat", 9, 0)], [{**CAT, "count": 2}], True),
        ([thing("cat", 0, 0), thing("dog", 9, 0)], [CAT, {**DOG, "position": ["right of", 0]}], True),
        ([thing("cat", 9, 0), thing("dog", 0, 0)], [CAT, {**DOG, "position": ["right of", 0]}], False),
    ],
)
def test_what_is_wanted_is_there_or_not(reward: Any, seen: list[Found], wanted: list[Any], right: bool) -> None:
    assert reward.holds(IMAGE, seen, Wanted(include=wanted)) is right


def test_a_count_is_exact_where_more_is_excluded_and_counts_only_the_certain(reward: Any) -> None:
    two = [{**CAT, "count": 2}]
    cats = [thing("cat", 5 * i, 0) for i in range(3)]
    exactly = Wanted(include=two, exclude=[{"class": "cat", "count": 3}], counted=True)
    assert reward.holds(IMAGE, cats[:2], exactly)
    assert not reward.holds(IMAGE, cats, exactly)
    assert reward.holds(IMAGE, [*cats[:2], thing("cat", 15, 0, score=0.5)], exactly)
    assert not reward.holds(IMAGE, [*cats[:1], thing("cat", 15, 0, score=0.5)], exactly)


class Reads(torch.nn.Module):
    """A stand-in for a CLIP: an image and a text are near where the image's mean of a channel is the text's colour."""

    def texts(self, prompts: list[str]) -> Tensor:
        return torch.stack(
            [torch.eye(len(COLOURS))[next(i for i, c in enumerate(COLOURS) if f" {c}" in p)] for p in prompts]
        )

    def images(self, image: Tensor) -> Tensor:
        red, _, blue = image[0].mean((1, 2))
        out = torch.zeros(1, len(COLOURS))
        out[0, COLOURS.index("red")], out[0, COLOURS.index("blue")] = red, blue
        return out


def test_a_colour_is_that_of_the_object_alone(reward: Any) -> None:
    """A small blue cat's mask in a red picture, of which the box has more red than blue pixels."""
    image = torch.zeros(3, SIDE, SIDE)
    image[0] = 1
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[[2, 9, 5], [2, 9, 6]] = True
    image[:, mask] = torch.tensor([0.0, 0.0, 1.0])[:, None]
    reward.clip = Reads()
    found = Found(name="cat", score=1.0, mask=mask)
    assert reward.colour_of(image, found) == "blue"
    for wanted, right in (("blue", True), ("red", False)):
        assert reward.holds(image, [found], Wanted(include=[{**CAT, "color": wanted}])) is right


def test_objects_of_queries_by_hand() -> None:
    """Three queries: a cat on the left (.8), nothing, and a dog that is sure, with an unsure mask."""
    classes = torch.tensor([[0.8, 0.1, 0.05, 0.05], [0.1, 0.1, 0.1, 0.7], [0.0, 0.99, 0.0, 0.01]]).clamp(min=1e-9).log()
    masks = torch.full((3, 2, 2), -20.0)
    masks[0, :, 0], masks[1], masks[2, 0] = 20.0, 20.0, 0.1
    found = objects(classes, masks, (4, 4), NAMES, 0.3)
    assert [f.name for f in found] == ["cat", "dog"]
    assert found[0].score == pytest.approx(0.8, abs=1e-3)
    assert 0.45 < found[1].score < 0.53, "sigmoid(.1) = .525 at most"
    assert found[0].mask[:, :2].all()
    assert not found[0].mask[:, 2:].any()
    assert [f.name for f in objects(classes, masks, (4, 4), NAMES, 0.6)] == ["cat"]


def save_mask2former(folder: Path) -> None:
    """Random, with a Swin trunk as facebook/mask2former-swin-small-coco-instance has it."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    trunk = SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=trunk, hidden_dim=32, feature_size=32, mask_feature_size=32, num_queries=5, encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2, dim_feedforward=16, encoder_feedforward_dim=16, id2label=NAMES,
        label2id={v: k for k, v in NAMES.items()},
    )  # fmt: skip
    seeded(lambda: Mask2FormerForUniversalSegmentation(config)).save_pretrained(folder)
    write_processor(folder, size={"height": 32, "width": 32}, do_center_crop=None, resample=2)


class Words(NoLabels):
    def __init__(self, *texts: str) -> None:
        super().__init__(len(texts), (*texts, ""))


def test_a_detector_is_loaded_and_asked(tmp_path: Path) -> None:
    save_mask2former(tmp_path / "detector")
    save_clip(tmp_path / "clip")
    lines = [
        {"prompt": "two cats", "include": [{**CAT, "count": 2}], "tag": "counting"}, {"prompt": "none", "include": []},
        {"prompt": "a red cup", "include": [{"class": "cup", "count": 1, "color": "red"}]},
        {"prompt": "a bus", "include": [{"class": "bus"}]},
    ]  # fmt: skip
    file = tmp_path / "metadata.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n")
    given = {"detector": str(tmp_path / "detector"), "metadata": str(file)}
    reward = GenEval(**given, clip=str(tmp_path / "clip"))
    reward.meet(Words("two cats", "none", "a red cup"))
    score = reward.score(photographs(40)[:, :, :, :36], torch.tensor([0, 1]))
    assert score.value[1] == 1, "nothing is asked for"
    assert score.parts["objects"].isfinite().all()
    assert reward.wanted["two cats"].counted
    for prompt, said in (
        ("a bus", r"asks for \['bus'\], which the detector does not know"),
        ("a dog", "says nothing of the prompt 'a dog'"),
    ):
        with pytest.raises(ShapeError, match=said):
            reward.meet(Words(prompt))
    with pytest.raises(ShapeError, match=r"asks for a colour: reward\.clip"):
        GenEval(**given).meet(Words("a red cup"))
    with pytest.raises(ValueError, match="metadata is missing"):
        GenEval(detector=given["detector"])
    file.write_text("[1]")
    with pytest.raises(ValueError, match="which is no JSONL file of prompts"):
        GenEval(**given)
