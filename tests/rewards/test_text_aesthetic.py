"""Aesthetic predictors: the heads of LAION's v2 and of v2.5, in their layouts, on small encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

from pgdlab.rewards.text.aesthetic import Aesthetic, linear_chain
from tests.rewards.tiny_judges import (
    HEADS,
    MEAN,
    PATCH,
    SIDE,
    SPACE,
    STD,
    WIDTH,
    photographs,
    save_clip,
    seeded,
    write_processor,
)  # fmt: skip

COND = torch.zeros(2, dtype=torch.long)


def laion(size: int) -> nn.Module:
    """The head of sac+logos+ava1-l14-linearMSE.pth: its layers are named layers.0, 2, 4, 6 and 7."""
    head = nn.Module()
    head.layers = nn.Sequential(
        nn.Linear(size, 32), nn.Dropout(0.2), nn.Linear(32, 12), nn.Dropout(0.2), nn.Linear(12, 8), nn.Dropout(0.1),
        nn.Linear(8, 4), nn.Linear(4, 1),
    )  # fmt: skip
    head.forward = head.layers.forward  # type: ignore[method-assign]
    return head


def v2_5(size: int) -> nn.Module:
    """The head of aesthetic_predictor_v2_5.pth: scoring_head.0, 2, 4, 6 and 8."""
    head = nn.Module()
    head.scoring_head = nn.Sequential(
        nn.Linear(size, 32), nn.Dropout(0.5), nn.Linear(32, 12), nn.Dropout(0.5), nn.Linear(12, 8), nn.Dropout(0.5),
        nn.Linear(8, 4), nn.Dropout(0.2), nn.Linear(4, 1),
    )  # fmt: skip
    head.forward = head.scoring_head.forward  # type: ignore[method-assign]
    return head


def normalised(image: Any, mean: list[float], std: list[float]) -> Any:
    return (image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def test_laion_s_head_on_a_clip_s_image_embedding(tmp_path: Path) -> None:
    clip, head = save_clip(tmp_path), seeded(lambda: laion(SPACE))
    torch.save(head.state_dict(), tmp_path / "head.pth")
    image = photographs()
    with torch.no_grad():
        embedding = clip.visual_projection(clip.vision_model(pixel_values=normalised(image, MEAN, STD)).pooler_output)
        expected = head(embedding / embedding.norm(dim=-1, keepdim=True))[:, 0]
    reward = Aesthetic(encoder=str(tmp_path), head=str(tmp_path / "head.pth"), batch=1)
    score = reward.scored(image, COND)
    torch.testing.assert_close(score.value, expected, rtol=1e-4, atol=1e-5)
    assert (expected[0] - expected[1]).abs() > 1e-3
    grey = reward.score(image[:, :1], COND).value
    torch.testing.assert_close(grey, reward.score(image[:, :1].repeat(1, 3, 1, 1), COND).value)


def save_siglip(folder: Path) -> Any:
    """A SigLIP with both towers, as google/siglip-so400m-patch14-384 has it."""
    from transformers import SiglipConfig, SiglipModel

    own = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 1, "num_attention_heads": HEADS}
    config = SiglipConfig(
        text_config={**own, "vocab_size": 20, "max_position_embeddings": 8},
        vision_config={**own, "image_size": SIDE, "patch_size": PATCH},
    )  # fmt: skip
    model = seeded(lambda: SiglipModel(config))
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    write_processor(folder, size=size, do_center_crop=None, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return model


def test_v2_5_s_head_on_what_a_siglip_pools(tmp_path: Path) -> None:
    siglip, head = save_siglip(tmp_path), seeded(lambda: v2_5(WIDTH))
    torch.save(head.to(torch.bfloat16).state_dict(), tmp_path / "head.pth")  # as the public one
    image = photographs()
    with torch.no_grad():
        pooled = siglip.vision_model(pixel_values=2 * image - 1).pooler_output
        expected = head.float()(pooled / pooled.norm(dim=-1, keepdim=True))[:, 0]
    score = Aesthetic(encoder=str(tmp_path), head=str(tmp_path / "head.pth")).score(image, COND)
    torch.testing.assert_close(score.value, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(score.value, score.parts["aesthetic"])


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    save_clip(tmp_path)
    torch.save(laion(SPACE + 1).state_dict(), tmp_path / "head.pth")
    with pytest.raises(ValueError, match=f"for {SPACE + 1} features, but the encoder gives {SPACE}"):
        Aesthetic(encoder=str(tmp_path), head=str(tmp_path / "head.pth"))
    with pytest.raises(ValueError, match="head is missing"):
        Aesthetic(encoder=str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="a bert; it must be a clip or a siglip"):
        Aesthetic(encoder=str(tmp_path), head=str(tmp_path / "head.pth"))
    for shapes in ([(3, 2), (1, 4)], [(3, 2), (2, 3)], []):
        with pytest.raises(ValueError, match="no chain that ends in one number"):
            linear_chain({f"layers.{i}.weight": torch.ones(shape) for i, shape in enumerate(shapes)}, "x")


def test_layers_are_in_the_order_of_their_numbers() -> None:
    """10 comes after 2, and a chain without biases is one too: 3 * 5 = 15."""
    state = {
        "layers.10.weight": torch.tensor([[5.0]]),
        "layers.2.weight": torch.tensor([[3.0]]),
        "layers.10.bias": torch.tensor([1.0]),
    }
    assert linear_chain(state, "x")(torch.tensor([[1.0]])).item() == 16
