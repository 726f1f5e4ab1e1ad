"""HPSv3: a small Qwen2-VL with random weights in the public checkpoint's layout, and its forward pass written here."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("transformers")

from pgdlab.diffusion.conditioning import ClassLabels
from pgdlab.rewards.base import ShapeError
from pgdlab.rewards.text.hps_v3 import HPSv3, patches, resized
from pgdlab.rewards.text.preprocessing import Preprocessing
from tests.rewards.tiny_judges import MEAN, STD, photographs

EYE, EYE_HEADS, WIDTH, HEADS, SHARED, DEPTH, INNER = 16, 2, 32, 4, 2, 2, 48
OWN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
ASKED = "Rate this.\nPrompt - {text_prompt}\n\nOverall: <|Reward|>\n\nEND\n"
PROMPTS = ["a red cat", "the sea"]
COND = torch.tensor([0, 1])


def letters() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def write_base(folder: Path) -> None:
    """Configuration and tokenizer (of single bytes), as Qwen/Qwen2-VL-7B-Instruct has them."""
    from transformers import Qwen2Tokenizer, Qwen2VLConfig

    words = Qwen2Tokenizer(vocab={c: i for i, c in enumerate(letters())}, merges=[], pad_token=OWN[0])
    words.add_tokens(OWN, special_tokens=True)
    words.save_pretrained(folder)
    ids = {f"{name}_token_id": words.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    text = {
        "vocab_size": 999, "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS, "num_key_value_heads": SHARED, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
    }  # fmt: skip
    vision = {"depth": DEPTH, "embed_dim": EYE, "hidden_size": WIDTH, "num_heads": EYE_HEADS, "mlp_ratio": 2}
    Qwen2VLConfig(
        text_config=text, vision_config=vision, image_token_id=words.convert_tokens_to_ids("<|image_pad|>"), **ids
    ).save_pretrained(folder)


def shapes() -> dict[str, tuple[int, ...]]:
    """Names of the public checkpoint, and the sizes of a small one."""
    out: dict[str, tuple[int, ...]] = {"visual.patch_embed.proj.weight": (EYE, 3, 2, 14, 14)}
    linear = {"visual.merger.mlp.0": (4 * EYE, 4 * EYE), "visual.merger.mlp.2": (WIDTH, 4 * EYE)}
    linear |= {"rm_head.0": (1024, WIDTH), "rm_head.3": (16, 1024), "rm_head.5": (2, 16)}
    norms = {"visual.merger.ln_q": EYE}
    shared = WIDTH // HEADS * SHARED
    for i in range(DEPTH):
        eye, layer = f"visual.blocks.{i}", f"model.layers.{i}"
        linear |= {f"{eye}.attn.qkv": (3 * EYE, EYE), f"{eye}.attn.proj": (EYE, EYE)}
        linear |= {f"{eye}.mlp.fc1": (2 * EYE, EYE), f"{eye}.mlp.fc2": (EYE, 2 * EYE)}
        norms |= {f"{eye}.norm1": EYE, f"{eye}.norm2": EYE}
        linear |= {f"{layer}.self_attn.q_proj": (WIDTH, WIDTH)}
        linear |= {f"{layer}.self_attn.{x}_proj": (shared, WIDTH) for x in "kv"}
        out |= {f"{layer}.self_attn.o_proj.weight": (WIDTH, WIDTH), f"{layer}.mlp.down_proj.weight": (WIDTH, INNER)}
        out |= {f"{layer}.mlp.{x}_proj.weight": (INNER, WIDTH) for x in ("gate", "up")}
        out |= {f"{layer}.{x}_layernorm.weight": (WIDTH,) for x in ("input", "post_attention")}
    rows = len(letters()) + len(OWN) + 1
    out |= {"model.norm.weight": (WIDTH,), "model.embed_tokens.weight": (rows, WIDTH), "lm_head.weight": (rows, WIDTH)}
    for name, size in linear.items():
        out |= {f"{name}.weight": size, f"{name}.bias": size[:1]}
    for name, width in norms.items():
        out |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return out


def random_state() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    return {name: torch.randn(size, generator=g) * 0.3 for name, size in sorted(shapes().items())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    there = tmp_path_factory.mktemp("hps_v3")
    write_base(there)
    save_file(random_state(), there / "HPSv3.safetensors")
    (there / "asked.txt").write_text(ASKED)
    return there


def reward(folder: Path, **more: object) -> HPSv3:
    given = {"instruction": str(folder / "asked.txt"), "dtype": "float32", **more}
    judge = HPSv3(weights=str(folder / "HPSv3.safetensors"), base=str(folder), **given)  # type: ignore[arg-type]
    judge.meet(ClassLabels(2, (*PROMPTS, "")))
    return judge


# ---- the forward pass, of one image, written from Wang et al. 2024, arXiv:2409.12191


def turned(x: Tensor, angle: Tensor) -> Tensor:
    """Rotary embedding of (heads, N, D): the two halves of D are the parts of complex numbers, turned by (N, D / 2)."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def attended(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    weight = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if causal:
        weight = weight.masked_fill(torch.ones(weight.shape[-2:]).triu(1) > 0, -torch.inf)
    return (weight.softmax(-1) @ v).transpose(0, 1).flatten(1)


def seen(s: dict[str, Tensor], image: Tensor) -> Tensor:
    """What the eye makes of an image (3, 448, 448): 256 rows, each of 2 x 2 neighbouring patches."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, s[f"{name}.weight"], s[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"], 1e-6)

    pixels = (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    both = torch.stack([pixels, pixels], 1)[None]  # an image is a film of two equal frames
    cells = F.conv3d(both, s["visual.patch_embed.proj.weight"], stride=(2, 14, 14))[0, :, 0]
    order = [(2 * i + a, 2 * j + b) for i in range(16) for j in range(16) for a in range(2) for b in range(2)]
    x = torch.stack([cells[:, i, j] for i, j in order])
    speed = 10000 ** -(torch.arange(0, EYE // EYE_HEADS // 2, 2) / (EYE // EYE_HEADS // 2))
    at = torch.tensor(order, dtype=torch.float)
    angle = torch.cat([at[:, :1] * speed, at[:, 1:] * speed], 1)
    for i in range(DEPTH):
        name = f"visual.blocks.{i}"
        q, k, v = (
            part.unflatten(1, (EYE_HEADS, -1)).transpose(0, 1)
            for part in linear(f"{name}.attn.qkv", norm(f"{name}.norm1", x)).chunk(3, 1)
        )
        x = x + linear(f"{name}.attn.proj", attended(turned(q, angle), turned(k, angle), v, False))
        hidden = linear(f"{name}.mlp.fc1", norm(f"{name}.norm2", x))
        x = x + linear(f"{name}.mlp.fc2", hidden * torch.sigmoid(1.702 * hidden))
    merged = norm("visual.merger.ln_q", x).reshape(256, 4 * EYE)
    return linear("visual.merger.mlp.2", F.gelu(linear("visual.merger.mlp.0", merged)))


def judged(s: dict[str, Tensor], image: Tensor, prompt: str) -> Tensor:
    """The head's two numbers at the token <|Reward|>: what comes after it cannot matter."""

    def norm(name: str, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * s[f"{name}.weight"]

    number = {word: i for i, word in enumerate([*letters(), *OWN, "<|Reward|>"])}
    byte = dict(zip(" \n", "ĠĊ", strict=True))  # how byte pairs write a space and the end of a line

    def spelt(text: str) -> list[int]:
        return [number[byte.get(c, c)] for c in text]

    ids = [number["<|im_start|>"], *spelt("system\nYou are a helpful assistant."), number["<|im_end|>"], *spelt("\n")]
    ids += [number["<|im_start|>"], *spelt("user\n"), number["<|vision_start|>"]]
    start = len(ids)
    ids += [number["<|image_pad|>"]] * 256 + [number["<|vision_end|>"]]
    ids += [*spelt(f"Rate this.\nPrompt - {prompt}\n\nOverall: "), number["<|Reward|>"]]
    x = s["model.embed_tokens.weight"][ids].clone()
    x[start : start + 256] = seen(s, image)
    size = WIDTH // HEADS
    angle = torch.arange(len(ids))[:, None] * 1e6 ** -(torch.arange(0, size, 2) / size)
    for i in range(DEPTH):
        name, y = f"model.layers.{i}", norm(f"model.layers.{i}.input_layernorm", x)
        q, k, v = (
            F.linear(y, s[f"{name}.self_attn.{p}_proj.weight"], s[f"{name}.self_attn.{p}_proj.bias"])
            .unflatten(1, (-1, size))
            .transpose(0, 1)
            for p in "qkv"
        )
        k, v = (part.repeat_interleave(HEADS // SHARED, 0) for part in (turned(k, angle), v))
        x = x + attended(turned(q, angle), k, v, True) @ s[f"{name}.self_attn.o_proj.weight"].T
        y = norm(f"{name}.post_attention_layernorm", x)
        gate, up, down = (s[f"{name}.mlp.{p}_proj.weight"].T for p in ("gate", "up", "down"))
        x = x + (F.silu(y @ gate) * (y @ up)) @ down
    last = norm("model.norm", x)[-1]
    for place in (0, 3, 5):
        last = F.linear(last.relu() if place else last, s[f"rm_head.{place}.weight"], s[f"rm_head.{place}.bias"])
    return last


def images() -> Tensor:
    """Two photographs of 448 x 448 pixels, which are not resized."""
    small = photographs(64)
    return small.repeat_interleave(7, 2).repeat_interleave(7, 3)


# ---- tests


def test_the_score_is_the_heads_first_number_at_the_reward_token(folder: Path) -> None:
    """Of images and prompts of different lengths at once, as of each alone; fp32 through some 300 sums: 1e-4."""
    state, image = random_state(), images()
    expected = torch.stack([judged(state, x, p)[0] for x, p in zip(image, PROMPTS, strict=True)])
    judge = reward(folder)
    found = judge.score(image, COND).value
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(judge.score(image[1:], COND[1:]).value, expected[1:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(judge.score(image[:1], COND[1:]).value, judged(state, image[0], PROMPTS[1])[:1])
    assert (found[0] - found[1]).abs() > 1e-2
    same = reward(folder, prompt=PROMPTS[0]).score(image, COND).value
    torch.testing.assert_close(same[0], expected[0], rtol=1e-4, atol=1e-4)
    assert (same[1] - expected[1]).abs() > 1e-3, "the prompt is read"


def test_the_layout_of_later_versions_is_the_same_network(folder: Path, tmp_path: Path) -> None:
    """transformers calls the parts model.visual and model.language_model since 4.52."""
    state = random_state()
    later = {
        k if k.startswith(("lm_head", "rm_head")) else f"model.{k.replace('model.', 'language_model.', 1)}": v
        for k, v in state.items()
    }
    save_file(later, tmp_path / "later.safetensors")
    given = {"base": str(folder), "instruction": str(folder / "asked.txt"), "prompt": "a", "dtype": "float32"}
    image = images()
    first, second = (
        HPSv3(weights=str(file), **given).score(image, COND).value  # type: ignore[arg-type]
        for file in (folder / "HPSv3.safetensors", tmp_path / "later.safetensors")
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (512, 512), (448, 448), (768, 512), (300, 1000), (31, 45)])
def test_images_are_cut_as_qwens_processor_cuts_them(height: int, width: int) -> None:
    """Sides, and patches of whole grey levels; PIL rounds to grey levels after each direction: .12 standard deviations."""
    from PIL import Image
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    small = photographs(31)[1].repeat(1, -(-height // 31), -(-width // 31))[:, :height, :width]
    picture = Image.fromarray((small.permute(1, 2, 0) * 255).round().byte().numpy())
    area = 256 * 28**2
    theirs = Qwen2VLImageProcessorPil(size={"shortest_edge": area, "longest_edge": area})(picture, return_tensors="pt")
    sides = resized(height, width, 28)
    assert theirs["image_grid_thw"].tolist() == [[1, sides[0] // 14, sides[1] // 14]]
    ours = patches(Preprocessing(size=sides, crop=None)(small[None]), 14, 2, 2)[0]
    assert ours.shape == theirs["pixel_values"].shape
    assert np.abs(ours.numpy() - np.asarray(theirs["pixel_values"])).max() < 0.12


def test_an_extreme_image_has_at_least_one_unit_a_side() -> None:
    """1 x 300 units are more than 256: 300 / sqrt(300 / 256) = 277.1 wide, and not 0.92 high."""
    assert resized(28, 28 * 300, 28) == (28, 28 * 277)


def test_it_has_a_precision_of_its_own_and_the_head_stays_exact(folder: Path) -> None:
    judge = reward(folder, dtype="bfloat16", device="cpu").to(torch.float64)
    kinds = {name: {p.dtype for p in part.parameters()} for name, part in judge.judge.named_children()}
    assert kinds == {"body": {torch.bfloat16}, "head": {torch.float32}}
    found = judge.score(images(), COND).value
    assert found.dtype == torch.float32
    expected = torch.stack([judged(random_state(), x, p)[0] for x, p in zip(images(), PROMPTS, strict=True)])
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()  # 8 bits through two towers


def test_what_it_is_asked_is_read_from_the_package_and_not_executed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ValueError, match=r"instruction is null, .*pip install --no-deps hpsv3"):
        reward(folder, instruction=None)
    (tmp_path / "hpsv3/dataset").mkdir(parents=True)
    (tmp_path / "hpsv3/__init__.py").write_text("raise RuntimeError\n")
    first, last = ASKED.split("Overall")
    (tmp_path / "hpsv3/dataset/data_collator_qwen.py").write_text(
        f"import nothing\nINSTRUCTION = {first!r}\nprompt_with_special_token = {'Overall' + last!r}\n"
    )
    assert reward(folder, instruction=None).judge.instruction == ASKED


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("visual.merger.ln_q.bias", "names do not fit, visual.merger.ln_q.bias first"),
        ("model.layers.1.mlp.up_proj.weight", "names do not fit, language_model.layers.1.mlp.up_proj.weight first"),
        ("rm_head.3.weight", "it has no rm_head.3.weight"),
        ("rm_head.5.bias", "names do not fit, 5.bias first"),
        ("model.embed_tokens.weight", "it has no embed_tokens"),
    ],
)
def test_another_layout_is_refused(folder: Path, tmp_path: Path, lost: str, said: str) -> None:
    state = load_file(folder / "HPSv3.safetensors")
    save_file({k: v for k, v in state.items() if k != lost}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=said):
        HPSv3(weights=str(tmp_path / "other.safetensors"), base=str(folder), instruction=str(folder / "asked.txt"))


def test_bad_input_gets_a_sentence(folder: Path, tmp_path: Path) -> None:
    state = load_file(folder / "HPSv3.safetensors")
    state["model.embed_tokens.weight"] = state["model.embed_tokens.weight"][1:].clone()
    save_file(state, tmp_path / "fewer.safetensors")
    with pytest.raises(ValueError, match=r"of 262 words, but with <\|Reward\|> base .* has 263"):
        HPSv3(weights=str(tmp_path / "fewer.safetensors"), base=str(folder), instruction=str(folder / "asked.txt"))
    (tmp_path / "bad.txt").write_text("Rate {text_prompt}")
    with pytest.raises(ValueError, match=r"the instruction must have .* <\|Reward\|> once after it"):
        reward(folder, instruction=str(tmp_path / "bad.txt"))
    with pytest.raises(ValueError, match="which is no file; leave it null"):
        reward(folder, instruction=str(tmp_path / "none.txt"))
    for token in ("<|image_pad|>", "<|Reward|>"):
        with pytest.raises(ShapeError, match="a prompt must not have"):
            reward(folder, prompt=f"a {token} cat").score(images(), COND)
