"""Drawn words are read: the score by hand, and PP-OCR itself on text that PIL draws."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pgdlab.diffusion.conditioning import NoLabels
from pgdlab.rewards.text.ocr import DrawnText, asked_for, edits, legibility
from pgdlab.training.build import scoring
from tests.worlds import fitted


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ('a sign that says "Grand Opening"', "Grand Opening"),
        ("a sign that says 'hello', at the artist's house", "hello"),
        ("the dog's bowl isn't red", ""),
        ("“one” and «two» and ‘don’t’", "one two don’t"),  # noqa: RUF001
        ("„auf Deutsch“", "auf Deutsch"),
        ("the dogs' and the cats' bowls", ""),
        ("'don't' on a wall", "don't"),
        ('"" and nothing', ""),
    ],
)
def test_what_is_asked_for_stands_between_quotes(prompt: str, words: str) -> None:
    assert asked_for(prompt) == words


def test_legibility_by_hand() -> None:
    """Of kitten and sitting three letters differ: s, i, and a g more."""
    assert edits("kitten", "sitting") == 3
    assert edits("", "abc") == edits("abc", "") == 3
    assert legibility("sitting", "kitten") == 0.5
    assert legibility("GRAND  OPEN ING", "Grand Opening") == 1
    assert legibility("the sign: grand opening!", "Grand Opening") == 1, "it is contained"
    assert legibility("", "abc") == legibility("a page of other words", "abc") == 0
    assert legibility("abd", "abc") == pytest.approx(2 / 3)


class Signs(NoLabels):
    def __init__(self, *texts: str) -> None:
        super().__init__(len(texts), (*texts, ""))


def test_prompts_that_ask_for_no_words_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgdlab.rewards.text.ocr.reader", lambda: None)
    DrawnText().meet(Signs('"a"', "'b'"))
    with pytest.raises(ValueError, match="the prompt 'a cat' asks for no words: put them between quotes"):
        DrawnText().meet(Signs('"a"', "a cat"))
    with pytest.raises(ValueError, match="asks for no words"):
        DrawnText(prompt="a cat")


def test_without_the_reader_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)
    with pytest.raises(ValueError, match=r"pip install .*\[ocr\]"):
        DrawnText()
    assert "ocr" in scoring("images")


def sign(text: str, side: int = 256) -> Tensor:
    """Black letters on white, (3, side, side)."""
    import matplotlib

    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans-Bold.ttf", side // 10)
    image = Image.new("RGB", (side, side), "white")
    ImageDraw.Draw(image).text((side // 20, side // 3), text, font=font, fill="black")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def test_words_that_are_drawn_are_read() -> None:
    pytest.importorskip("rapidocr_onnxruntime")
    reward = DrawnText(workers=1)
    reward.meet(Signs('a shop with "GRAND OPENING"', "a note, 'Hello World'"))
    image = torch.stack([sign("GRAND OPENING"), sign("GRAND OPENING"), sign(""), sign("Hello World")])
    cond = torch.tensor([0, 1, 0, 1])
    reward.submit(image, cond)
    score = reward.score(image, cond)
    assert score.value[[0, 2, 3]].tolist() == [1, 0, 1]
    assert score.value[1] < 0.5
    assert score.measured.all()
    assert reward.cache_misses == 4
    grey = reward.score(image[:1, :1], cond[:1])  # black on white: the same pixels
    assert (grey.value.tolist(), reward.cache_misses) == ([1], 4)


def test_a_run_is_steered_by_it(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr_onnxruntime")
    small = ["policy.steps=2", "plan.samples=4", "plan.group=2", "plan.iterations=1", "plan.eval_samples=4"]
    module = fitted(tmp_path, "reward=ocr", "reward.prompt='a \"3\"'", "heldout=null", *small)
    assert 0 <= module.history[-1]["reward"] <= 1
    assert module.history[-1]["failed"] == 0
