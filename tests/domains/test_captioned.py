"""A text-to-image base made part by part, from the command line, of a few pictures with captions."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file
from transformers.utils import logging as of_transformers

from pgdlab import cli
from pgdlab.domains.captioned import CaptionedPictures
from pgdlab.images import contrastive
from pgdlab.rewards.text.clip import ClipScore
from tests.images.test_captioned import COLOURS, pictures

TINY = ["trainer.updates=2", "trainer.batch=4", "plan.iterations=1", "domain.size=32", "domain.pictures=all"]
WIDTHS = (16, 32)


def parts(task: str, weights: str = "base") -> int:
    return cli.main([f"experiment=pretrain/captioned{task}", *TINY, f"domain.weights={weights}"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pictures, the parts in base/, and a run of pretraining with the pipeline."""
    folder = tmp_path_factory.mktemp("captioned")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(folder)
        patch.setattr("pgdlab.domains.captioned.WIDTHS", WIDTHS)
        patch.setattr(
            "pgdlab.images.contrastive.SIZES", dict.fromkeys(("clip", "judge"), contrastive.Size(16, 2, 2, 16))
        )
        diffusers.utils.logging.set_verbosity_error()
        of_transformers.set_verbosity_error()
        pictures(folder / "all")
        assert parts("_clip") == 0
        assert parts("_autoencoder") == 0
        assert cli.main(["experiment=pretrain/captioned", *TINY, "domain.weights=base", "plan.eval_samples=4"]) == 0
    return folder


def tensors(folder: Path) -> dict[str, str]:
    """A hash of every file of weights."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*.safetensors"))
    }


def test_what_is_made_is_a_pipeline(made: Path) -> None:
    """The folder of the run is a StableDiffusionPipeline in half precision, with both CLIPs beside it; its card has the judge's
    figures."""
    base = made / "runs/pretrain-captioned/base"
    pipe = diffusers.DiffusionPipeline.from_pretrained(base)
    assert type(pipe).__name__ == "StableDiffusionPipeline"
    assert {p.dtype for part in (pipe.unet, pipe.text_encoder) for p in part.parameters()} == {torch.float32}
    assert pipe("red square", num_inference_steps=2, output_type="np").images.shape == (1, 32, 32, 3)
    half = base / "unet" / "diffusion_pytorch_model.safetensors"
    assert half.stat().st_size < 2.2 * sum(p.numel() for p in pipe.unet.parameters())
    assert {"clip", "judge"} < {path.name for path in base.iterdir()}
    facts = json.loads((made / "runs/pretrain-captioned/summary.json").read_text())
    assert 0 <= facts["quality"]["caption_first"] <= facts["quality"]["caption_top10"] == 1.0  # of four captions
    assert (made / "runs/pretrain-captioned/samples.png").is_file()


def test_an_older_transformers_reads_the_words(made: Path) -> None:
    """Version 4 reads vocab.json and merges.txt, and finds a text tower's weights under text_model alone."""
    base = made / "runs/pretrain-captioned/base"
    folder = base / "tokenizer"
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    assert json.loads((folder / "vocab.json").read_text()) == model["vocab"]
    head, *merges = (folder / "merges.txt").read_text().splitlines()
    assert head == "#version: 0.2"
    pairs = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    assert [pair.split(" ") for pair in merges] == pairs
    tower, clip = (load_file(part / "model.safetensors") for part in (base / "text_encoder", made / "base" / "clip"))
    assert tower
    for name, x in tower.items():
        torch.testing.assert_close(x.float(), clip[name].float(), rtol=1e-3, atol=1e-6)  # half precision


def test_the_clips_are_put_together(made: Path, tmp_path: Path) -> None:
    """The base's clip/ is read with the pipeline's text tower and words, both clips as they were up to rounding; where the tower
    is damaged, or the folder lies elsewhere, the weights that are missing are named."""
    base = made / "runs/pretrain-captioned/base"
    images, texts = (
        torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
        ["red square", "blue square"] * 2,
    )
    for part, rounding in (("clip", 2e-3), ("judge", 5e-2)):  # of half precision, and of e4m3 with three bits
        before, after = (
            ClipScore(weights=str(place / part)).clip.cosines(images, texts) for place in (made / "base", base)
        )
        torch.testing.assert_close(after, before, rtol=0, atol=rounding)
        network, words = contrastive.read(base / part)
        assert {weight.dtype for weight in network.parameters()} == {torch.float32}
        assert words("red square").input_ids == contrastive.read(made / "base" / part)[1]("red square").input_ids
    matrices = load_file(base / "judge/model.safetensors").items()
    assert {x.dtype for _, x in matrices if x.ndim > 1} == {torch.float8_e4m3fn}
    alone = tmp_path / "clip"
    shutil.copytree(base / "clip", alone)
    with pytest.raises(ValueError, match="are missing, text_model"):
        ClipScore(weights=str(alone))
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder/model.safetensors").write_text("no weights")
    with pytest.raises(ValueError, match="are missing, text_model"):
        ClipScore(weights=str(alone))
    with pytest.raises(ValueError, match="make it with task=clip"):
        contrastive.read(alone)


def test_it_is_steered_as_it_is(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """domain=diffusers finds its own samples in the pipeline's call, its CLIP is a reward and the other one judges."""
    monkeypatch.chdir(made)
    base = "runs/pretrain-captioned/base"
    words = ["task=doctor", "domain=diffusers", f"domain.pipeline={base}", "domain.prompts=[red square, blue square]"]
    rewards = [f"reward=clip_score reward.weights={base}/clip", f"heldout=clip_score heldout.weights={base}/judge"]
    more = ["policy=lora", "policy.steps=2", "plan.samples=4", "plan.group=2", "plan.eval_samples=4"]
    assert cli.main([*words, *" ".join(rewards).split(), *more]) == 0


def test_latents_have_the_deviation_of_noise(made: Path) -> None:
    domain = CaptionedPictures(pictures=str(made / "all"), weights=str(made / "base"), size=32)
    latents, rows = domain.data("test")
    assert latents.shape == (4, *domain.space.shape)
    assert latents.std().item() == pytest.approx(1, rel=1e-5)
    assert rows.tolist() == [0, 1, 2, 3]
    assert domain.data("train")[1].bincount().tolist() == [6] * 4
    assert domain.conditioning.texts == (*(f"{colour} square" for colour in COLOURS), "")
    assert domain.conditioning.unconditional == 4
    image = domain.decoder(latents)
    assert image.shape == (4, 3, 32, 32)
    with torch.no_grad():
        again = domain.decoder.vae.decode(latents / domain.decoder.vae.config.scaling_factor).sample
    torch.testing.assert_close(image, (again / 2 + 0.5).clamp(0, 1))


def test_the_network_is_told_the_text_towers_states(made: Path) -> None:
    """As the pipeline is: the same states of a caption and of the empty text."""
    domain = CaptionedPictures(pictures=str(made / "all"), weights=str(made / "base"), size=32)
    pipe = diffusers.DiffusionPipeline.from_pretrained(made / "runs/pretrain-captioned/base")
    for number, text in ((2, "blue square"), (4, "")):
        ids = pipe.tokenizer(text, padding="max_length", return_tensors="pt").input_ids
        with torch.no_grad():
            states = pipe.text_encoder(ids)[0]
        told = domain.conditioning(torch.tensor([number]))["encoder_hidden_states"]
        torch.testing.assert_close(told, states, rtol=0, atol=5e-3)  # the pipeline's are of half precision


def test_parts_that_the_network_knows_stay(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With unet/ beside them the words and the latents stay what they are: the judge and the decoder alone go on."""
    monkeypatch.chdir(made)
    weights = tmp_path / "parts"
    shutil.copytree(made / "runs/pretrain-captioned/base", weights)
    before, scale = tensors(weights), json.loads((weights / "vae/config.json").read_text())["scaling_factor"]
    encoder = {k: v for k, v in vae(weights).items() if k.startswith(("encoder", "quant"))}
    assert parts("_clip", str(weights)) == 0
    assert parts("_autoencoder", str(weights)) == 0
    after = tensors(weights)
    assert {name for name in after if after[name] != before[name]} == {
        "judge/model.safetensors", "vae/diffusion_pytorch_model.safetensors",
    }  # fmt: skip
    now = vae(weights)
    for name, weight in encoder.items():
        torch.testing.assert_close(now[name], weight, rtol=0, atol=0)
    assert json.loads((weights / "vae/config.json").read_text())["scaling_factor"] == scale


def vae(folder: Path) -> dict[str, torch.Tensor]:
    return diffusers.AutoencoderKL.from_pretrained(folder / "vae").float().state_dict()


def test_pretraining_goes_on_from_the_network_that_is_there(made: Path) -> None:
    base = made / "runs/pretrain-captioned/base"
    domain = CaptionedPictures(pictures=str(made / "all"), weights=str(base), size=32)
    network = domain.fresh(torch.Generator().manual_seed(3)).network
    kept = diffusers.UNet2DConditionModel.from_pretrained(base / "unet").state_dict()
    for name, weight in network.state_dict().items():
        torch.testing.assert_close(weight, kept[name].float(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["experiment=pretrain/captioned_clip", "domain=digits"], "no pictures with captions"),
        (["experiment=pretrain/captioned_clip", "trainer=ppo"], "trainer"),
        (["experiment=pretrain/captioned_clip", "domain.pictures=all"], "domain.weights is null"),
        (["experiment=pretrain/captioned_clip", "domain.weights=base"], "domain.pictures is null"),
        (["experiment=pretrain/captioned", *TINY, "domain.weights=nothing"], "make it with task=autoencoder"),
        (["experiment=pretrain/captioned_autoencoder", *TINY, "domain.weights=nothing"], "make it with task=clip"),
        (["experiment=pretrain/captioned_clip", "domain.pictures=all", "domain.weights=x", "domain.size=40"], "multiple of 16"),
        (["experiment=pretrain/captioned_clip", "reward=jpeg"], "asks no reward"),
    ],
)  # fmt: skip
def test_what_is_refused(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    monkeypatch.chdir(made)
    assert cli.main(words) != 0
    assert said in capsys.readouterr().err
