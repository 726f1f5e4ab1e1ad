"""ImageReward: weights in its checkpoint's layout, of an image transformer written here and a BERT with cross attention."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers")

from pgdlab.rewards.text.image_reward import ImageReward
from tests.rewards.test_text_aesthetic import laion, normalised
from tests.rewards.tiny_judges import HEADS, MEAN, PATCH, SIDE, STD, WIDTH, photographs, seeded

TEXT, DEPTH = 16, 2  # width of the text's encoder, layers of both
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cat"]
COND = torch.zeros(2, dtype=torch.long)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        weight = (q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS)).softmax(-1)
        return self.proj((weight @ v).transpose(1, 2).reshape(b, n, WIDTH))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = Attention(), nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp.fc2(nn.functional.gelu(self.mlp.fc1(self.norm2(x))))


class Vision(nn.Module):
    """The image transformer of Li et al. 2022, arXiv:2201.12086, with timm's names."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.randn(1, (SIDE // PATCH) ** 2 + 1, WIDTH))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.blocks, self.norm = nn.ModuleList(Block() for _ in range(DEPTH)), nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def attended(layer: Any, x: Tensor, told: Tensor, mask: Tensor | None) -> Tensor:
    """BERT's attention of x to what it is told, its output added to x and normalised."""
    own, out, heads = layer.self, layer.output, 4
    q, k, v = (
        f(y).unflatten(-1, (heads, -1)).transpose(1, 2) for f, y in ((own.query, x), (own.key, told), (own.value, told))
    )
    weight = q @ k.transpose(-1, -2) / math.sqrt(TEXT // heads)
    weight = (weight if mask is None else weight.masked_fill(mask[:, None, None] == 0, -torch.inf)).softmax(-1)
    return out.LayerNorm(out.dense((weight @ v).transpose(1, 2).flatten(2)) + x)


def bert() -> Any:
    """The modules of BLIP's text encoder, with the names of its checkpoint."""
    from transformers import BertConfig, BertModel

    return seeded(
        lambda: BertModel(
            BertConfig(
                vocab_size=len(VOCABULARY), hidden_size=TEXT, num_hidden_layers=DEPTH, num_attention_heads=4,
                intermediate_size=2 * TEXT, max_position_embeddings=40, is_decoder=True, add_cross_attention=True,
            ),
            add_pooling_layer=False,
        )
    )  # fmt: skip


def widened(text: Any) -> Any:
    """Its cross attention reads the image's width."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for layer in text.encoder.layer:
            for name in ("key", "value"):
                setattr(layer.crossattention.self, name, nn.Linear(WIDTH, TEXT))
    return text


def read(text: Any, ids: Tensor, mask: Tensor, image: Tensor) -> Tensor:
    """BLIP's text encoder by hand: every token sees every other one, and the image."""
    e = text.embeddings
    x = e.LayerNorm(e.word_embeddings(ids) + e.position_embeddings.weight[: ids.shape[1]])
    for layer in text.encoder.layer:
        x = attended(layer.attention, x, x, mask)
        x = attended(layer.crossattention, x, image, None)
        x = layer.output.LayerNorm(layer.output.dense(nn.functional.gelu(layer.intermediate.dense(x))) + x)
    return x


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Any, Any, Any]:
    vision, text, head = seeded(Vision), widened(bert()), seeded(lambda: laion(TEXT))
    state = {f"blip.visual_encoder.{k}": v for k, v in vision.state_dict().items()}
    kept = {k: v for k, v in text.state_dict().items() if "token_type" not in k}  # BLIP's has none
    state |= {f"blip.text_encoder.{k}": v for k, v in kept.items()} | {
        f"mlp.{k}": v for k, v in head.state_dict().items()
    }
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
    torch.save(state, tmp_path / "ImageReward.pt")
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    return vision, text, head


def test_image_reward_is_the_three_parts_one_after_the_other(parts: tuple[Any, Any, Any], tmp_path: Path) -> None:
    vision, text, head = parts
    image = photographs()
    words = [2, 5, 6, 7, 3]  # [CLS] a red cat [SEP]
    ids = torch.tensor([words + [0] * 30] * 2)
    with torch.no_grad():
        seen = vision(normalised(image, MEAN, STD))
        expected = (
            head(read(text, ids, (ids > 0).long(), seen)[:, 0])[:, 0] - 0.16717362830052426
        ) / 1.0333394966054072
    reward = ImageReward(
        weights=str(tmp_path / "ImageReward.pt"), processor=str(tmp_path), heads=(HEADS, 4), prompt="A red cat"
    )
    found = reward.score(image, COND).value
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (expected[0] - expected[1]).abs() > 1e-3
    other = ImageReward(
        weights=str(tmp_path / "ImageReward.pt"), processor=str(tmp_path), heads=(HEADS, 4), prompt="a cat"
    )
    assert (other.score(image, COND).value - found).abs().min() > 1e-3, "the prompt is read"


def test_another_layout_is_refused(parts: tuple[Any, Any, Any], tmp_path: Path) -> None:
    state = torch.load(tmp_path / "ImageReward.pt")
    for lost, said in (
        ("blip.visual_encoder.pos_embed", "it has no 'pos_embed'"),
        ("blip.visual_encoder.norm.bias", "names do not fit"),
    ):
        torch.save({k: v for k, v in state.items() if k != lost}, tmp_path / "other.pt")
        with pytest.raises(ValueError, match=said):
            ImageReward(weights=str(tmp_path / "other.pt"), processor=str(tmp_path), heads=(HEADS, 4))
