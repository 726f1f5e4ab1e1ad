"""Rewards in a CLIP's space against transformers' own pipeline from image and text to logits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

pytest.importorskip("transformers")

from pgdlab.diffusion.conditioning import ClassLabels, NoLabels
from pgdlab.rewards.base import Outcome, ShapeError
from pgdlab.rewards.guard import guarded
from pgdlab.rewards.text.clip import ClipScore, PickScore
from pgdlab.rewards.text.networks import weights_file
from pgdlab.rewards.text.preprocessing import Preprocessing
from tests.rewards.tiny_judges import LONGEST, SIDE, photographs, save_clip, write_processor
from tests.worlds import fitted

PROMPTS = ("a red cat", "the sea at night, with a very long description", "")


class Words(NoLabels):
    def __init__(self, *texts: str) -> None:
        super().__init__(len(texts) - 1, texts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    save_clip(folder)
    return folder


def as_transformers_has_it(folder: Path, image: Tensor, texts: list[str]) -> Tensor:
    """The diagonal of CLIPModel's logits, of PIL images and texts."""
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(folder).eval()
    words = CLIPTokenizer.from_pretrained(folder)(
        texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
    )
    levels = (image * 255).round().to(torch.uint8)
    pixels = CLIPImageProcessor.from_pretrained(folder)(images=list(levels), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return model(pixel_values=pixels, **words).logits_per_image.diag()


def told(reward: Any, *texts: str) -> Any:
    reward.meet(Words(*(texts or PROMPTS)))
    return reward


def test_pick_score_is_the_logit_and_clip_score_the_cosine(folder: Path) -> None:
    """On images of the network's own size, where nothing is resized."""
    image, cond = photographs(), torch.tensor([1, 0])
    expected = as_transformers_has_it(folder, image, [PROMPTS[1], PROMPTS[0]])
    pick = told(PickScore(weights=str(folder))).score(image, cond)
    torch.testing.assert_close(pick.value, expected, rtol=1e-4, atol=1e-4)
    cosine = told(ClipScore(weights=str(folder))).score(image, cond)
    scale = 1 / 0.07  # CLIP's initial temperature
    torch.testing.assert_close(cosine.value * scale, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(cosine.value, cosine.parts["cosine"])
    assert (expected[0] - expected[1]).abs() > 0.1
    assert (cosine.value.abs() <= 1).all()


def test_the_prompt_is_the_sample_s_own(folder: Path) -> None:
    image = photographs()[:1].expand(4, -1, -1, -1)
    value = told(ClipScore(weights=str(folder))).score(image, torch.tensor([0, 1, 1, 0])).value
    assert value[0] == value[3] != value[1] == value[2]
    one = ClipScore(weights=str(folder), prompt=PROMPTS[1]).score(image[:1], torch.tensor([0])).value
    torch.testing.assert_close(one, value[1:2], rtol=1e-5, atol=1e-6)


def test_grey_is_repeated_and_rows_do_not_depend_on_their_company(folder: Path) -> None:
    grey, cond = photographs()[:, :1], torch.tensor([0, 1])
    reward = told(ClipScore(weights=str(folder), batch=1))
    colour = reward.scored(grey.repeat(1, 3, 1, 1), cond).value
    torch.testing.assert_close(reward.scored(grey, cond).value, colour)
    torch.testing.assert_close(
        told(ClipScore(weights=str(folder))).score(grey, cond).value, colour, rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ShapeError, match="1 or 3 channels; these are"):
        reward.score(torch.zeros(2, 4, 8, 8), cond)


def test_every_prompt_is_encoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reward, encoded = told(ClipScore(weights=str(folder))), []
    clip = reward.clip.clip
    own = clip.get_text_features
    monkeypatch.setattr(
        clip, "get_text_features", lambda **given: encoded.append(len(given["input_ids"])) or own(**given)
    )
    image = photographs()[:1].expand(4, -1, -1, -1)
    first = reward.score(image, torch.tensor([0, 1, 0, 1])).value
    assert torch.equal(reward.score(image, torch.tensor([0, 1, 0, 1])).value, first)
    assert encoded == [2]


def test_features_of_older_transformers_are_tensors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before version 5 get_image_features gave the tensor that an output is around now."""
    reward, image, cond = told(ClipScore(weights=str(folder))), photographs(), torch.tensor([0, 1])
    value, clip = reward.score(image, cond).value, reward.clip.clip
    for name in ("get_image_features", "get_text_features"):
        own = getattr(clip, name)

        def older(own: Any = own, **given: Any) -> Tensor:
            output = own(**given)
            return output if isinstance(output, Tensor) else output.pooler_output

        monkeypatch.setattr(clip, name, older)
    reward.clip.known.clear()
    assert torch.equal(reward.score(image, cond).value, value)


def test_without_prompts_there_is_a_sentence(folder: Path) -> None:
    reward = ClipScore(weights=str(folder))
    with pytest.raises(ValueError, match=r"conditions of this domain have no texts: give a prompt for all samples"):
        reward.meet(ClassLabels(3))
    ClipScore(weights=str(folder), prompt="a cat").meet(ClassLabels(3))
    image = photographs()
    with pytest.raises(ShapeError, match="was told no prompts"):
        reward.score(image, torch.tensor([0, 1]))
    with pytest.raises(ShapeError, match="a prompt here is empty"):
        guarded(told(reward), Outcome(image, torch.tensor([0, 2]), 1), 1.0)
    with pytest.raises(ValueError, match="prompt is empty"):
        ClipScore(weights=str(folder), prompt=" ")
    with pytest.raises(ValueError, match="batch is -1"):
        ClipScore(weights=str(folder), prompt="a", batch=-1)


# ---- preprocessing


def processors() -> Iterator[Any]:
    from transformers import CLIPImageProcessor, SiglipImageProcessor

    for side in (56, 224):
        yield CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    yield SiglipImageProcessor(size={"height": 96, "width": 96})


@pytest.mark.parametrize("shape", [(256, 256), (200, 311), (311, 200), (40, 64)])
def test_preprocessing_is_the_processor_s_to_a_third_of_a_grey_level(shape: tuple[int, int]) -> None:
    """PIL rounds to whole grey levels twice; a grey level is 1 / 255 / .27 = .015 standard deviations."""
    image = photographs(320)[:1, :, : shape[0], : shape[1]]
    for processor in processors():
        theirs = processor(images=[(image[0] * 255).round().to(torch.uint8)], return_tensors="pt")["pixel_values"]
        ours = Preprocessing.read(processor.to_dict())(image)
        assert ours.shape == theirs.shape
        difference = (ours - theirs).abs()
        assert difference.mean() < 0.0055, (type(processor).__name__, difference.mean())
        assert difference.max() < 0.12


def test_what_a_processor_states_is_honoured_or_refused(tmp_path: Path) -> None:
    write_processor(tmp_path, 20)
    assert Preprocessing.read(json.loads((tmp_path / "preprocessor_config.json").read_text())).crop == (20, 20)
    for wrong, said in (
        ({"do_resize": False}, "do_resize is false"), ({"do_normalize": False}, "do_normalize is false"),
        ({"resample": 0}, "resample is 0"), ({"size": {"longest_edge": 4}}, "must name the shortest_edge"),
        ({"size": 10, "crop_size": 11, "do_center_crop": True}, "no middle of"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            Preprocessing.read(wrong)
    detector = Preprocessing.read({"size": {"shortest_edge": 800, "longest_edge": 1333}})
    assert detector.resized(512, 512) == (800, 800)
    assert detector.resized(300, 600) == (666, 1333), "1333 to the longer side, half of it to the other"
    assert detector.resized(600, 400) == (1200, 800)
    bilinear = Preprocessing.read(
        {"size": {"height": 4, "width": 6}, "resample": 2, "image_mean": [0, 0, 0], "image_std": [2, 2, 2]}
    )
    assert bilinear(torch.ones(1, 1, 8, 12)).tolist() == torch.full((1, 3, 4, 6), 0.5).tolist()


# ---- where weights are


def test_a_network_stays_on_its_device_and_in_its_precision(folder: Path) -> None:
    staying, following = (ClipScore(weights=str(folder), prompt="a cat", device=d) for d in ("cpu", None))
    for reward, device in ((staying, "cpu"), (following, "meta")):
        assert {p.device.type for p in reward.to("meta").parameters()} == {device}
    assert staying.score(photographs(), torch.zeros(2, dtype=torch.long)).value.isfinite().all()
    image, cond = photographs(), torch.zeros(2, dtype=torch.long)
    exact = PickScore(weights=str(folder), prompt="a cat").score(image, cond).value
    half = PickScore(weights=str(folder), prompt="a cat", dtype="bfloat16")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    rounded = half.score(image, cond).value
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.4  # of 14: cosines to 2^-6
    assert half.clip.scale == pytest.approx(1 / 0.07, rel=1e-4)  # bfloat16 would give 14.25 of 14.286
    with pytest.raises(ValueError, match="device is 'gpu', which torch does not have here"):
        ClipScore(weights=str(folder), device="gpu")


def test_a_checkpoint_that_lacks_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    """transformers only warns, and fills them with random numbers."""
    save_clip(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"is no CLIPModel: of its weights 1 are missing, visual_projection.weight first"
    ):
        ClipScore(weights=str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="which cannot be read"):
        ClipScore(weights=str(tmp_path))


def test_the_hub_is_asked_last_and_only_for_what_is_named_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from pgdlab.rewards.text.networks import found

    asked: list[tuple[str, bool]] = []

    def load(name: str, local_files_only: bool = False) -> str:
        asked.append((name, local_files_only))
        if local_files_only:
            raise OSError("it is not here")
        return "downloaded"

    with pytest.raises(ValueError, match="is no folder, and no owner/name of the hub"):
        found(load, "nowhere/at/all", "weights")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match="HF_HUB_OFFLINE forbids to ask the hub: set HF_HUB_OFFLINE=0, or give a folder"
    ):
        found(load, "some/one", "weights")
    assert all(local for _, local in asked)
    asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert found(load, "some/one", "weights") == "downloaded"
    assert asked == [("some/one", True), ("some/one", False)]
    asked.clear()
    with pytest.raises(ValueError, match="which cannot be read: OSError"):
        found(load, str(folder), "weights")
    assert asked == [(str(folder), True)]


class Runs:
    """As a pickle, it would leave a file where it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_a_file_of_weights_is_read_and_not_executed(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "nested.pt")
    assert weights_file(str(tmp_path / "nested.pt"))["a"].tolist() == [1, 1]
    save_file({"a": torch.ones(2)}, tmp_path / "plain.safetensors")
    assert weights_file(str(tmp_path / "plain.safetensors")).keys() == {"a"}
    torch.save({"a": Runs(tmp_path / "there")}, tmp_path / "bad.pt")
    torch.save([1], tmp_path / "list.pt")
    for file, said in (
        ("bad.pt", "no weights that can be read"), ("list.pt", "no tensors by name"),
        ("none.pt", "must be a file, or owner/name/file"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            weights_file(str(tmp_path / file))
    assert not (tmp_path / "there").exists()


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install .*\[text\]"):
        ClipScore(weights="anything")


def test_a_run_is_steered_by_it(folder: Path, tmp_path: Path) -> None:
    small = ["policy.steps=3", "plan.samples=4", "plan.group=2", "plan.iterations=1", "plan.eval_samples=4"]
    words = [f"reward.weights={folder}", "reward.prompt=a three", "reward.batch=3", "heldout=null"]
    module = fitted(tmp_path, "reward=clip_score", *words, *small)
    assert -1 <= module.history[-1]["reward"] <= 1
    assert module.history[-1]["reward/cosine"] == pytest.approx(module.history[-1]["reward"], abs=1e-6)
    assert SIDE > 8, "its images are enlarged"
