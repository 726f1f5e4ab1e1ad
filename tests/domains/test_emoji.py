"""The text-to-image base that ships, and what is steered with it."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file

from pgdlab import cli
from pgdlab.config.compose import compose
from pgdlab.config.program import ASSETS, located
from pgdlab.diffusion.prompts import read_prompts
from pgdlab.rewards.text.clip import ClipScore
from pgdlab.training.build import build_world

TINY = ["policy.steps=2", "plan.samples=4", "plan.group=2", "plan.iterations=1", "plan.eval_samples=4"]


def test_what_ships_is_named_by_a_prefix() -> None:
    assert located("pgdlab:emoji/clip") == ASSETS / "emoji/clip"
    assert located("emoji/clip") == Path("emoji/clip")
    assert located("~/x") == Path.home() / "x"


def test_unseen_compositions_are_new_but_for_their_words() -> None:
    names, trained, unseen = (
        read_prompts(f"pgdlab:emoji/{file}.txt")[0] for file in ("prompts", "compositions", "unseen_compositions")
    )
    assert len(unseen) == len({*unseen}) == 200
    assert not {*unseen} & {*trained}
    assert not {*unseen, *trained} & {*names}
    assert {word for text in unseen for word in text.split()} <= {word for text in trained for word in text.split()}


@pytest.mark.parametrize(
    "name",
    [
        "emoji/clip",
        "emoji/jpeg",
        "emoji/red",
        "emoji/compose",
        "emoji/adjoint_red",
        *(f"emoji/{name}_red" for name in ("draft", "smc", "gradient", "best_of_n")),
        "quickstart",
    ],
)
def test_experiments_have_their_reward_and_the_judge(name: str) -> None:
    cfg = compose([f"experiment={name}"])
    assert cfg.nodes["heldout"]["weights"] == "pgdlab:emoji/judge"
    assert (cfg.nodes["reward"].get("weights") == "pgdlab:emoji/clip") == (name in ("emoji/clip", "emoji/compose"))
    assert (cfg.nodes["domain"]["test_prompts"] is not None) == (name == "emoji/compose")


def test_the_words_that_ship_are_read_by_older_libraries() -> None:
    """Transformers 4 reads vocab.json and merges.txt, and a text tower under the names that a CLIPModel has for it."""
    folder = ASSETS / "emoji/tokenizer"
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    assert json.loads((folder / "vocab.json").read_text()) == model["vocab"]
    assert len((folder / "merges.txt").read_text().splitlines()) == 1 + len(model["merges"])
    assert all(name.startswith("text_model.") for name in load_file(ASSETS / "emoji/text_encoder/model.safetensors"))


def test_nothing_ships_twice() -> None:
    """clip/ has the text tower and the words of the pipeline that it lies in, judge/ the words; a prompt's direction is that of
    the pipeline's own text encoder and clip/'s projection."""
    emoji = ASSETS / "emoji"
    assert not any(name.startswith("text_model.") for name in load_file(emoji / "clip/model.safetensors"))
    assert not [*emoji.glob("clip/*token*"), *emoji.glob("judge/*token*")]
    pipe = diffusers.DiffusionPipeline.from_pretrained(emoji)
    ids = pipe.tokenizer(["red apple"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        seen = (
            pipe.text_encoder(ids).pooler_output
            @ load_file(emoji / "clip/model.safetensors")["text_projection.weight"].float().T
        )
    for name, same in (("clip", True), ("judge", False)):
        clip = ClipScore(weights=f"pgdlab:emoji/{name}").clip
        assert {weight.dtype for weight in clip.parameters()} == {torch.float32}
        told = clip.texts(["red apple"])
        assert told.norm().item() == pytest.approx(1, abs=1e-6)
        if same:
            torch.testing.assert_close(told, torch.nn.functional.normalize(seen), rtol=0, atol=1e-5)


def test_the_main_job_makes_them_redder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of its prompts, fewer samples: the reward of the same noise rises by more than one of 256 grey levels."""
    monkeypatch.chdir(tmp_path)
    sizes = [
        "domain.prompts=[octopus]",
        "plan.samples=4",
        "plan.iterations=3",
        "plan.eval_samples=4",
        "optimizer.lr=6e-3",
    ]
    assert cli.main(sizes) == 0
    summary = json.loads(Path("runs/quickstart/summary.json").read_text())
    assert summary["reward_after"] > summary["reward_before"] + 1 / 256
    assert (tmp_path / "runs/quickstart/before_after.png").is_file()


def test_from_the_command_to_an_export_that_diffusers_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained on compositions, measured on others as task=evaluate measures them, and exported as adapters for the folder that
    ships."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["experiment=emoji/compose", *TINY, "name=run"]) == 0
    summary = json.loads(Path("runs/run/summary.json").read_text())
    assert -1 <= summary["heldout_after"] <= 1
    assert (tmp_path / "runs/run/before_after_unseen.png").is_file()
    assert cli.main(["task=evaluate", "resume=runs/run", "domain.split=test"]) == 0
    again = json.loads(Path("runs/run/evaluation.json").read_text())
    assert again["reward_before"] != pytest.approx(summary["reward_before"], abs=1e-3)
    for name in ("reward_before", "reward_after", "reward_gain", "heldout_before", "heldout_after", "kl_nats"):
        assert summary["unseen"][name] == pytest.approx(again[name], rel=1e-4, abs=1e-6)
    assert "on prompts that training never saw: reward " in capsys.readouterr().out
    assert cli.main(["task=export", "resume=runs/run"]) == 0
    card = Path("runs/run/export/README.md").read_text()
    assert f'from_pretrained("{ASSETS / "emoji"}")' in card
    pipe = diffusers.DiffusionPipeline.from_pretrained(ASSETS / "emoji")
    pipe.load_lora_weights("runs/run/export")
    assert pipe("blue cat face", num_inference_steps=2).images[0].size == (64, 64)


def test_what_ships_is_sampled_without_an_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["task=sample", "domain=emoji", "policy.steps=2", "plan.eval_samples=3", "name=base"]) == 0
    assert torch.load("runs/sample-base/samples.pt")["sample"].shape == (3, 4, 8, 8)


def test_the_base_is_small_and_whole() -> None:
    files = [file for file in (ASSETS / "emoji").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 40e6
    world = build_world(compose(["experiment=emoji/red"]))
    assert world.domain.space.shape == (4, 8, 8)
    assert world.domain.conditioning.texts is not None
    assert world.domain.conditioning.texts[0] == "grinning face"
