"""Small random judges in the layouts of the public checkpoints, saved to folders."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_sample_image
from torch import Tensor

SIDE, PATCH, WIDTH, HEADS, LAYERS, SPACE, LONGEST = 28, 7, 32, 4, 2, 24, 16
LETTERS = [*string.ascii_lowercase, *string.digits, *",.'\"-!"]
WORDS = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def seeded(make: Any) -> Any:
    """make(), its weights always the same, and large enough that features differ."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make().eval()
        for parameter in network.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return network


def clip_config(act: str = "quick_gelu") -> Any:
    from transformers import CLIPConfig

    own = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
    }
    own |= {"hidden_act": act, "projection_dim": SPACE}
    ends = {"bos_token_id": len(WORDS) - 2, "eos_token_id": len(WORDS) - 1}
    return CLIPConfig(
        text_config={**own, **ends, "vocab_size": len(WORDS), "max_position_embeddings": LONGEST},
        vision_config={**own, "image_size": SIDE, "patch_size": PATCH}, projection_dim=SPACE,
    )  # fmt: skip


def write_processor(folder: Path, side: int = SIDE, **more: Any) -> None:
    """CLIP's byte pairs (of single letters) and preprocessing, as the files on the hub have them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": WORDS[-2], "eos_token": WORDS[-1], "unk_token": WORDS[-1], "pad_token": WORDS[-1]}
    tokens = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LONGEST, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    told = {
        "do_resize": True,
        "size": side,
        "do_center_crop": True,
        "crop_size": side,
        "resample": 3,
        "do_normalize": True,
    }
    told |= {"image_mean": MEAN, "image_std": STD, "image_processor_type": "CLIPImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(told | more))


def save_clip(folder: Path) -> Any:
    """A CLIPModel in a folder, as openai/clip-vit-large-patch14 has it; the model."""
    from transformers import CLIPModel

    model = seeded(lambda: CLIPModel(clip_config()))
    model.save_pretrained(folder)
    write_processor(folder)
    return model


def photographs(side: int = SIDE) -> Tensor:
    """Two of scikit-learn's, (2, 3, side, side) in [0, 1], of whole grey levels."""
    pixels = [
        torch.from_numpy(load_sample_image(n).copy())[100 : 100 + side, 200 : 200 + side]
        for n in ("china.jpg", "flower.jpg")
    ]
    return torch.stack(pixels).permute(0, 3, 1, 2).float() / 255
