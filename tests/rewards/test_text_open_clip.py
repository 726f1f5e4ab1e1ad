"""HPS: weights in open_clip's layout, of a network written here, against the cosine that this network gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers")

from pgdlab.rewards.text.hps import HPSv2
from tests.rewards.tiny_judges import (
    HEADS,
    LAYERS,
    LONGEST,
    MEAN,
    PATCH,
    SIDE,
    SPACE,
    STD,
    WIDTH,
    WORDS,
    photographs,
    seeded,
    write_processor,
)  # fmt: skip

PROMPT = "a red cat"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.Sequential()
        for name, layer in (
            ("c_fc", nn.Linear(WIDTH, 4 * WIDTH)),
            ("gelu", nn.GELU()),
            ("c_proj", nn.Linear(4 * WIDTH, WIDTH)),
        ):
            self.mlp.add_module(name, layer)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block() for _ in range(LAYERS))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn((SIDE // PATCH) ** 2 + 1, WIDTH))
        self.ln_pre, self.ln_post, self.transformer = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Tower()
        self.proj = nn.Parameter(torch.randn(WIDTH, SPACE))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class OpenClip(nn.Module):
    """After Ilharco et al. 2021, doi 10.5281/zenodo.5143773: ViT-H-14 is this, larger."""

    def __init__(self) -> None:
        super().__init__()
        self.visual, self.transformer = Visual(), Tower()
        self.token_embedding = nn.Embedding(len(WORDS), WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(LONGEST, WIDTH))
        self.ln_final, self.text_projection = nn.LayerNorm(WIDTH), nn.Parameter(torch.randn(WIDTH, SPACE))
        self.logit_scale = nn.Parameter(torch.tensor(4.6))

    def encode_text(self, tokens: Tensor) -> Tensor:
        n = tokens.shape[1]
        mask = torch.full((n, n), -torch.inf).triu(1)
        x = self.ln_final(self.transformer(self.token_embedding(tokens) + self.positional_embedding[:n], mask))
        return x[torch.arange(len(tokens)), tokens.argmax(-1)] @ self.text_projection


def tokens() -> Tensor:
    """PROMPT in byte pairs of single letters, by hand: the last letter of a word is another token."""
    pieces = ["a</w>", "r", "e", "d</w>", "c", "a", "t</w>"]
    return torch.tensor([[WORDS.index(p) for p in (WORDS[-2], *pieces, WORDS[-1])] + [0] * (LONGEST - 9)])


@pytest.fixture
def network(tmp_path: Path) -> Any:
    network = seeded(OpenClip)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "HPS.pt")
    write_processor(tmp_path)
    return network


def test_hps_is_the_cosine_of_the_network_in_open_clip_s_layout(network: Any, tmp_path: Path) -> None:
    image = photographs()
    pixels = (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        expected = torch.cosine_similarity(network.visual(pixels), network.encode_text(tokens()))
    reward = HPSv2(weights=str(tmp_path / "HPS.pt"), processor=str(tmp_path), heads=HEADS, prompt=PROMPT)
    found = reward.score(image, torch.zeros(2, dtype=torch.long)).value
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (expected[0] - expected[1]).abs() > 0.01
    assert reward.clip.scale == pytest.approx(99.48, abs=0.01)  # e^4.6


def test_another_layout_is_refused(network: Any, tmp_path: Path) -> None:
    state = network.state_dict()
    for change, said in (
        ({"visual.transformer.resblocks.0.mlp.c_fc.weight": None}, "which is no CLIP in the layout of open_clip"),
        ({"ln_final.weight": None}, "1 names do not fit, text_model.final_layer_norm.weight first"),
        ({"more": torch.ones(1)}, "1 names do not fit, more first"),
        ({"ln_final.weight": torch.ones(3)}, "of another shape"),
    ):  # fmt: skip
        changed = {k: v for k, v in {**state, **change}.items() if v is not None}
        torch.save(changed, tmp_path / "other.pt")
        with pytest.raises(ValueError, match=said):
            HPSv2(weights=str(tmp_path / "other.pt"), processor=str(tmp_path), heads=HEADS)
