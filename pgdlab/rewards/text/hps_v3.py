"""Human Preference Score v3 (Ma et al. 2025, arXiv:2508.03789): a Qwen2-VL that reads the image, then what it is to judge."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pgdlab.rewards.base import Score, ShapeError
from pgdlab.rewards.text.base import Prompted, require_images
from pgdlab.rewards.text.image_reward import part_of
from pgdlab.rewards.text.networks import DType, Network, built, filled, found, tokenizer, transformers, weights_file
from pgdlab.rewards.text.preprocessing import Preprocessing

PACKAGE = "hpsv3"  # its authors', which states what the network is asked
PROMPT, REWARD = "{text_prompt}", "<|Reward|>"
TOKENS = 256  # of the image, that the network reads
BEFORE = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
IMAGE, AFTER = "<|image_pad|>", "<|im_end|>\n<|im_start|>assistant\n"  # as Qwen2-VL's chat template puts them
RENAMED = {
    r"^model\.visual\.": "visual.",
    r"^model\.language_model\.": "language_model.",
    r"^model\.": "language_model.",
}


def instruction_of(name: str | None) -> str:
    """What the network is asked: a text with {text_prompt} where the prompt goes and <|Reward|> where the answer is read. name: a
    text file; None: what the package hpsv3 has, whose source is read and not executed. Raises ValueError."""
    if name is not None:
        file = Path(name).expanduser()
        if not file.is_file():
            raise ValueError(
                f"instruction is {name!r}, which is no file; leave it null for that of the package {PACKAGE}"
            )
        text = file.read_text()
    else:
        text = published()
    if text.count(PROMPT) != 1 or text.count(REWARD) != 1 or text.index(PROMPT) > text.index(REWARD):
        raise ValueError(
            f"the instruction must have {PROMPT} once, and {REWARD} once after it: {name or PACKAGE} has not"
        )
    return text


def published() -> str:
    """The instruction in the source of the package hpsv3. Raises ValueError where it is not installed."""
    there = importlib.util.find_spec(PACKAGE)
    file = Path(there.origin).parent / "dataset/data_collator_qwen.py" if there and there.origin else None
    if file is None or not file.is_file():
        raise ValueError(
            f"instruction is null, and the package {PACKAGE}, which has the text that the network was tuned with, is not "
            f"installed: pip install --no-deps {PACKAGE} (it is read, not executed), or give a text file"
        )
    stated = {
        node.targets[0].id: node.value.value
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    return "".join(str(stated.get(key, "")) for key in ("INSTRUCTION", "prompt_with_special_token"))


def resized(height: int, width: int, unit: int) -> tuple[int, int]:
    """Height and width in whole units, the area that of TOKENS units or, where the proportions forbid it, near it."""
    high, wide = (max(1, round(side / unit)) for side in (height, width))
    factor = (height * width / (TOKENS * unit**2)) ** 0.5
    if high * wide > TOKENS:
        high, wide = (max(1, int(side / factor / unit)) for side in (height, width))
    elif high * wide < TOKENS:
        high, wide = (-int(-side / factor // unit) for side in (height, width))
    return high * unit, wide * unit


def patches(image: Float[Tensor, "B 3 h w"], size: int, merged: int, times: int) -> Float[Tensor, "B N D"]:
    """An image as Qwen2-VL's first layer takes it: patches of size x size pixels, those that are merged later beside each other,
    the one image `times` times."""
    b, c, h, w = image.shape
    cut = image.reshape(b, c, 1, h // size // merged, merged, size, w // size // merged, merged, size)
    rows = cut.expand(-1, -1, times, -1, -1, -1, -1, -1, -1).permute(0, 3, 6, 4, 7, 1, 2, 5, 8)
    return rows.reshape(b, h * w // size**2, c * times * size**2)


def body(state: Mapping[str, Tensor], config: Any, name: str, dtype: DType) -> Any:
    """The Qwen2-VL of a checkpoint, without its layer of words, in the names of transformers before 4.52 or since."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        new = next((re.sub(old, to, key) for old, to in RENAMED.items() if re.match(old, key)), key)
        renamed |= {} if key.startswith(("lm_head.", "rm_head.")) else {new: value}
    words = renamed.get("language_model.embed_tokens.weight")
    if words is None:
        raise ValueError(f"weights is {name!r}, which is of another layout: it has no embed_tokens")
    config.text_config.vocab_size = len(words)
    return built("Qwen2VLModel", config, renamed, name, dtype)


def head_of(state: Mapping[str, Tensor], name: str) -> nn.Sequential:
    """The head: three layers with ReLUs between them (and dropout after the first), named by their places."""
    layers: list[nn.Module] = []
    for place in (0, None, None, 3, None, 5):
        weight = state.get(f"{place}.weight")
        if place is not None and weight is None:
            raise ValueError(f"weights is {name!r}, which is of another layout: it has no rm_head.{place}.weight")
        layers.append(nn.Linear(weight.shape[1], weight.shape[0]) if weight is not None else nn.Identity())
    layers[1] = layers[4] = nn.ReLU()
    return filled(nn.Sequential(*layers), state, name)


class Judge(nn.Module):
    """The network and its head, which stays in float32."""

    def __init__(self, weights: str, base: str, instruction: str | None, *, device: str | None, dtype: DType) -> None:
        super().__init__()
        self.instruction = instruction_of(instruction)
        self.words = tokenizer("AutoTokenizer", base, "base")
        self.words.add_tokens([REWARD], special_tokens=True)
        config = found(transformers().Qwen2VLConfig.from_pretrained, base, "base")
        state = weights_file(weights)
        self.body = Network(body(state, config, weights, dtype), device=device, dtype=dtype)
        self.head = Network(head_of(part_of(state, "rm_head."), weights), device=device, dtype="float32")
        self.vision, rows = config.vision_config, config.text_config.vocab_size
        if rows != len(self.words):
            raise ValueError(
                f"weights is {weights!r}, of {rows:,} words, but with {REWARD} base {base!r} has {len(self.words):,}"
            )

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "B C height width"], prompts: list[str]) -> Float[Tensor, " B"]:
        """The head's first number, the mean of a Gaussian, at the token <|Reward|>."""
        size, merged = self.vision.patch_size, self.vision.spatial_merge_size
        sides = resized(image.shape[-2], image.shape[-1], size * merged)
        seen = patches(
            Preprocessing(size=sides, crop=None)(image.float()), size, merged, self.vision.temporal_patch_size
        )
        ids, mask = self.read(prompts, seen.shape[1] // merged**2)
        places = torch.arange(ids.shape[1]).expand(len(ids), -1)
        grid = torch.tensor([[1, *(side // size for side in sides)]] * len(image))
        given = {
            "input_ids": ids, "attention_mask": mask, "position_ids": places, "pixel_values": seen.flatten(0, 1),
            "image_grid_thw": grid,
        }  # fmt: skip
        told = self.body.networks[0](**{key: self.body.lent(x) for key, x in given.items()}, use_cache=False)
        at = (ids == self.words.convert_tokens_to_ids(REWARD)).int().argmax(1)
        last = told.last_hidden_state[torch.arange(len(ids)), at.to(told.last_hidden_state.device)]
        number: Tensor = self.head.networks[0](self.head.lent(last))
        return number[:, 0].to(image.device)

    def read(self, prompts: list[str], count: int) -> tuple[Tensor, Tensor]:
        """The tokens of an image (count) and of what is asked, filled up to the right, and which of them count. Raises ShapeError
        for a prompt that has one of the network's own tokens in it."""
        asked = [
            BEFORE + IMAGE * count + "<|vision_end|>" + self.instruction.replace(PROMPT, p) + AFTER for p in prompts
        ]
        tokens = self.words(asked, padding=True, padding_side="right", return_tensors="pt")
        ids = tokens["input_ids"]
        for token, number in ((IMAGE, count), (REWARD, 1)):
            wrong = ((ids == self.words.convert_tokens_to_ids(token)).sum(1) != number).nonzero()
            if len(wrong):
                raise ShapeError(
                    f"a prompt must not have {token} in it, which HPSv3 reads as its own: {prompts[int(wrong[0])]!r}"
                )
        return ids, tokens["attention_mask"]


class HPSv3(Prompted):
    """The mean of people's preference, as the network sees it: about 0 to 15, higher is better.

    weights: the file HPSv3.safetensors, a path or owner/name/file on the hub. base: folder or hub id of the Qwen2-VL that was
    tuned; its configuration and tokenizer are read. instruction: see instruction_of. prompt, batch: see Prompted. device, dtype:
    its own; it was tuned in bfloat16.
    """

    def __init__(
        self, *, weights: str, base: str, instruction: str | None = None, prompt: str | None = None, batch: int = 8,
        device: str | None = None, dtype: DType = "bfloat16",
    ) -> None:  # fmt: skip
        super().__init__(prompt=prompt, batch=batch)
        self.judge = Judge(weights, base, instruction, device=device, dtype=dtype)

    def score(self, sample: Float[Tensor, "B C height width"], cond: Tensor) -> Score:
        require_images(sample.shape, self)
        return Score.of(self.judge(sample, self.prompts(cond)))
