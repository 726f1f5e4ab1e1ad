"""The two CLIPs of a text-to-image base: one whose text tower the base is told by, and one that only judges."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pgdlab.images.captioned import Captioned
from pgdlab.images.parts import Part, pixels_of

WORDS = 2048  # tokens of the vocabulary, at most, the bytes included
FEWEST = 3  # times that a pair must be seen to be one token
START, END = "<|startoftext|>", "<|endoftext|>"
SPECIAL = {"bos": START, "eos": END, "pad": END}
TOWER, WEIGHTS, PREPROCESSING = "text_model.", "model.safetensors", "preprocessor_config.json"
SHIFT, ZOOM, NOISE = 4, 0.1, 0.05  # pixels, share, of [-1, 1]


class Size(NamedTuple):
    """Of both towers; layers of the image tower, half of them in the text tower."""

    width: int
    heads: int
    layers: int
    patch: int


SIZES = {"clip": Size(256, 4, 4, 16), "judge": Size(192, 3, 6, 16)}


def vocabulary(captions: tuple[str, ...]) -> Any:
    """A byte-pair vocabulary of the captions, as a CLIPTokenizer whose texts are as long as the longest caption, in eights."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(False, True, False)]
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS, min_frequency=FEWEST, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    merges = [
        pair if isinstance(pair, str) else " ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]
    ]
    words = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *(pair.replace(" ", "") for pair in merges),
        START,
        END,
    ]
    with tempfile.TemporaryDirectory() as folder:
        vocab = {word: number for number, word in enumerate(dict.fromkeys(words))}
        (Path(folder) / "vocab.json").write_text(json.dumps(vocab))
        (Path(folder) / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
        made = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    longest = max(map(len, made(list(captions)).input_ids))
    made.model_max_length = -(-longest // 8) * 8
    return made


def write_words(tokenizer: Any, folder: Path) -> None:
    """Saves a tokenizer, with the two files that transformers 4 reads and transformers 5 does not write."""
    tokenizer.save_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n")


def name_as_transformers_4(weights: Path) -> None:
    """Names a text tower's weights as transformers 4 does, which finds no others and draws them at random; 5 reads both."""
    state = load_file(weights)
    named = {name if name.startswith(TOWER) else f"{TOWER}{name}": x for name, x in state.items()}
    save_file(named, weights, metadata={"format": "pt"})


def tokens(tokenizer: Any, texts: list[str]) -> Int[Tensor, "B L"]:
    """Numbers of tokens, filled up to the longest that the tokenizer allows."""
    found: Tensor = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return found


def fresh(size: Size, tokenizer: Any, side: int) -> Any:
    """Untrained, for pictures of `side` pixels."""
    from transformers import CLIPConfig, CLIPModel

    both = {"hidden_size": size.width, "intermediate_size": 2 * size.width, "num_attention_heads": size.heads}
    ends = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in SPECIAL.items()}
    text = {
        "vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length,
        "num_hidden_layers": size.layers // 2,
    } | ends  # fmt: skip
    vision = {"image_size": side, "patch_size": size.patch, "num_hidden_layers": size.layers}
    return CLIPModel(CLIPConfig(text_config=both | text, vision_config=both | vision, projection_dim=size.width))


class Contrastive(Part):
    """Cross-entropy among the pictures and captions of a batch, both ways (Radford et al. 2021, arXiv:2103.00020); equal captions
    share the right answer. Pictures are shifted, scaled and noisy, so that the network knows what to make of generated ones."""

    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, float]]:
        picture, ids = batch
        logits = self.network(pixel_values=self.augmented(pixels_of(picture)), input_ids=ids).logits_per_image
        same = (ids[:, None] == ids[None]).all(-1).to(logits)
        right = same / same.sum(1, keepdim=True)
        loss = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
        found = same.gather(1, logits.argmax(1, keepdim=True))
        return loss, {"right": float(found.mean())}

    def augmented(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
        """One shift and one scale for the batch, on white."""
        side = x.shape[-1]
        scale = 1 + ZOOM * (2 * torch.rand((), generator=self.generator).item() - 1)
        dx, dy = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=self.generator).tolist()
        zoomed = F.interpolate(x, size=round(side * scale), mode="bilinear", antialias=True)
        margin = side - zoomed.shape[-1]
        before = [margin // 2 + dx, margin - margin // 2 - dx, margin // 2 + dy, margin - margin // 2 - dy]
        moved = F.pad(zoomed, before, value=1.0)  # a negative margin cuts
        return moved + NOISE * torch.randn(x.shape, generator=self.generator).to(x)


def read(folder: Path) -> tuple[Any, Any]:
    """A CLIPModel and its tokenizer, in fp32. Raises ValueError where they are missing or broken."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    try:
        network: Any
        if (state := put_together(folder)) is not None:
            network = CLIPModel(CLIPConfig.from_pretrained(folder, local_files_only=True))
            network.load_state_dict(state)
        else:
            settings: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
            loaded: Any = CLIPModel.from_pretrained(folder, **settings)
            network, info = loaded
            if lacking := sorted(map(str, info["missing_keys"])):  # which the library draws at random
                raise ValueError(f"{len(lacking)} weights are missing, {lacking[0]} first")
        return network.float().eval(), CLIPTokenizer.from_pretrained(words_of(folder), local_files_only=True)
    except Exception as error:  # whatever a damaged or foreign folder makes the library raise
        raise ValueError(f"there is no CLIP in {folder} ({error}): make it with task=clip") from error


def put_together(folder: Path) -> dict[str, Tensor] | None:
    """All weights of a CLIPModel whose folder lacks the text tower, which is the text encoder of the pipeline that it lies in.
    None for one that is whole, and where either file is missing or damaged: whoever loads it then says so."""
    own, tower = folder / WEIGHTS, folder.parent / "text_encoder" / WEIGHTS
    if not (own.is_file() and tower.is_file()):
        return None
    try:
        with safe_open(own, framework="pt") as file:
            whole = any(name.startswith(TOWER) for name in file.keys())  # noqa: SIM118
        return None if whole else load_file(own) | load_file(tower)
    except SafetensorError:
        return None


def words_of(folder: Path) -> Path:
    """The folder of a CLIP's tokenizer: its own, or that of the pipeline that it lies in where it has none."""
    shared = folder.parent / "tokenizer"
    return shared if shared.is_dir() and not (folder / "tokenizer_config.json").is_file() else folder


def save_beside(network: Any, folder: Path, part: str) -> None:
    """Writes a CLIP beside a pipeline, without the tokenizer, which is the pipeline's. clip/ is in half precision and lacks the
    text tower, which is the pipeline's too; matrices of judge/ have eight bits, which moves its cosines by about 0.001."""
    state = network.half().state_dict()
    if part == "judge":
        kept = {name: x.to(torch.float8_e4m3fn) if x.ndim > 1 else x for name, x in state.items()}
    else:
        kept = {name: x for name, x in state.items() if not name.startswith(TOWER)}
    network.config.save_pretrained(folder)
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})


def begun(pictures: Captioned, folder: Path, part: str) -> tuple[Any, Any]:
    """What is in folder/<part>, or an untrained CLIP with the vocabulary of folder/clip, or with a new one."""
    if (folder / part / "config.json").is_file():
        return read(folder / part)
    tokenizer = vocabulary(pictures.captions) if part == "clip" else read(folder / "clip")[1]
    return fresh(SIZES[part], tokenizer, pictures.pixels.shape[-1]), tokenizer


def preprocessing(pictures: Captioned) -> dict[str, Any]:
    """What is done with a picture first, as transformers write it."""
    side = pictures.pixels.shape[-1]
    return {
        "image_processor_type": "CLIPImageProcessor", "size": {"height": side, "width": side}, "resample": 3,
        "do_resize": True, "do_center_crop": False, "do_rescale": True, "do_normalize": True,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip


@torch.no_grad()
def directions(clip: Any, ids: Int[Tensor, "N L"]) -> Float[Tensor, "N F"]:
    """Of texts, as vectors of length 1."""
    return F.normalize(torch.cat([clip.text_projection(clip.text_model(x).pooler_output) for x in ids.split(256)]))


@torch.no_grad()
def ranks(
    clip: Any, image: Float[Tensor, "B 3 S S"], told: Float[Tensor, "N F"], number: Int[Tensor, " B"]
) -> Int[Tensor, " B"]:
    """How many of the texts are nearer to an image in [0, 1] than its own, which has that number."""
    seen = [clip.visual_projection(clip.vision_model(2 * x - 1).pooler_output) for x in image.split(256)]
    near = F.normalize(torch.cat(seen)) @ told.T
    return (near > near.gather(1, number[:, None])).sum(1)


def accuracy(clip: Any, pictures: Captioned, ids: Int[Tensor, "N L"]) -> float:
    """Share of all pictures to which no caption is nearer than their own."""
    own = torch.arange(len(ids))
    told, pieces = directions(clip, ids), zip(pictures.pixels.split(1024), own.split(1024), strict=True)
    found = [ranks(clip, part.float() / 255, told, rows) for part, rows in pieces]
    return float((torch.cat(found) == 0).double().mean())
