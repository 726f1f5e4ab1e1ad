"""domain=diffusers from the command line: folders of diffusers, tuned, evaluated on unseen prompts, exported, read again."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from pgdlab import cli
from pgdlab.config.compose import compose, load_run
from pgdlab.diffusion.asking import Caller
from pgdlab.diffusion.mixing import Linear
from pgdlab.diffusion.pipelines import PipelineDenoiser
from pgdlab.evaluation.evaluate import load_weights
from pgdlab.functional.gaussian import log_prob
from pgdlab.rollout.sampler import rollout
from pgdlab.rollout.trajectory import Trajectory, pick, replay
from pgdlab.training.build import build_module, build_world
from pgdlab.training.checkpoint import load
from pgdlab.training.checks import examine
from pgdlab.training.checks_pipeline import pipeline, without_noise
from pgdlab.world import World
from tests.diffusion.test_pipelines import Steered, attach, off
from tests.diffusion.tiny_pipelines import Tiny, made
from tests.training.test_passes import Waits

SIZES = ["policy.steps=3", "plan.samples=4", "plan.group=2", "plan.iterations=1", "plan.eval_samples=4"]
CALL = {"guidance_scale": 5.0, "height": 16, "width": 16}
TEXTS = ["domain.prompts=prompts.txt", "domain.call={guidance_scale: 5, height: 16, width: 16}"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with two prompts; nothing said by diffusers."""
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a red cat\nthe sea\n")
    diffusers.utils.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield tmp_path


def saved(name: str) -> None:
    """A pipeline's folder, base."""
    made(name).pipe.save_pretrained("base")


def experiment(*words: str) -> list[str]:
    """The command line of a tiny run; given keys win."""
    given = {word.partition("=")[0] for word in words}
    usual = ["experiment=diffusers/jpeg", "domain.pipeline=base", *SIZES]
    return [*(word for word in usual if word.partition("=")[0] not in given), *words]


def tuned(run: str, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Initial states, and the samples that a run's averaged weights make of them without noise."""
    world = build_world(load_run(run))
    load_weights(world.policy, load(Path(run) / "checkpoints" / "last.ckpt")["state_dict"], Path(run))
    first, _ = world.domain.playback.own_run([0, 1], 0)  # type: ignore[attr-defined]
    assert next(pipeline(world)).good
    return first, without_noise(
        world.policy.with_kernel(replace(world.policy.kernel, eta=0.0)), first, torch.arange(2) % rows
    )  # type: ignore[type-var]


def test_a_text_to_image_pipeline_from_command_to_export() -> None:
    """Prompts reach the reward, those of the test split are never trained on, and what is exported is what was trained."""
    saved("stable diffusion")
    Path("red.py").write_text(
        "def red(images, prompts):\n"
        "    open('seen.txt', 'a').write('\\n'.join(prompts) + '\\n')\n"
        "    return images[:, 0].mean((1, 2)) * (1 + len(prompts[0]))\n"
    )
    words = [
        "reward=function",
        "reward.function=red.py:red",
        "optimizer.lr=0.003",
        "name=sd",
        "domain.test_prompts=[the moon]",
    ]
    assert cli.main(experiment(*TEXTS, *words)) == 0
    assert set(Path("seen.txt").read_text().splitlines()) == {"a red cat", "the sea", "the moon"}  # at the end
    rows = [line.split(",") for line in Path("runs/sd/prompts.csv").read_text().splitlines()[1:]]
    assert {tuple(row[:4]) for row in rows} == {("1", "0", "a red cat", "2"), ("1", "1", "the sea", "2")}
    Path("seen.txt").unlink()
    assert cli.main(["task=evaluate", "resume=runs/sd", "domain.split=test"]) == 0
    assert set(Path("seen.txt").read_text().splitlines()) == {"the moon"}
    assert Path("runs/sd/before_after.png").stat().st_size > 1000

    assert cli.main(["task=export", "resume=runs/sd"]) == 0
    card = Path("runs/sd/export/README.md").read_text()
    assert "pipe.load_lora_weights" in card
    assert "image = pipe('a red cat', num_inference_steps=3, guidance_scale=5, height=16, width=16).images[0]" in card
    assert json.loads(card.partition("```json")[2].partition("```")[0])["domain"]["prompts"] == "prompts.txt"
    pipe = diffusers.DiffusionPipeline.from_pretrained("base", local_files_only=True)
    attach(pipe, Path("runs/sd/export"))
    theirs = Steered(Tiny(pipe, CALL, prompts=("a red cat", "the sea")), steps=3).playback.own_run([0, 1], 0)[1]
    assert off(tuned("runs/sd", 2)[1], theirs) < 2e-6
    untuned = Steered(replace(made("stable diffusion"), call=CALL, prompts=("a red cat", "the sea")), steps=3)
    assert off(untuned.playback.own_run([0, 1], 0)[1], theirs) > 1e-4


@pytest.mark.parametrize("fused", [False, True])
def test_a_pipeline_without_one_of_its_encoders(fused: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """SD3 is often kept without T5: diffusers must be told so, and the card tells it."""
    pipe = made("SD3").pipe
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipe.save_pretrained("base")
    diffusers.utils.logging.set_verbosity_warning()
    lora = ["policy=lora", "policy.tuning.rank=2", "optimizer.lr=0.01", "name=x", f"domain.fused={str(fused).lower()}"]
    assert cli.main(experiment("domain.prompts=prompts.txt", "domain.call={height: 16, width: 16}", *lora)) == 0
    capsys.readouterr()
    assert cli.main(["task=export", "resume=runs/x"]) == 0
    assert capsys.readouterr().err == ""
    code = Path("runs/x/export/README.md").read_text().partition("```python")[2].partition("```")[0]
    assert "text_encoder_3=None, tokenizer_3=None" in code
    assert "image_encoder" not in code, "that one need not be there"
    there: dict[str, Any] = {}
    os.chdir("runs/x")  # beside export/, as the card says
    exec(code.replace('"base"', '"../../base"'), there)
    assert there["image"].size == (16, 16)
    assert there["pipe"].text_encoder_3 is None


@pytest.mark.parametrize("name", ["stable diffusion", "DDPM"])
def test_adapters_are_exported_inside_the_pipeline(name: str) -> None:
    """Where diffusers reads LoRA and where it does not: a folder that it loads whole, whose samples are the tuned ones, and the
    run's own base is as it was."""
    saved(name)
    before = {file: file.read_bytes() for file in Path("base").rglob("*.safetensors")}
    words = TEXTS if name != "DDPM" else ["reward.scale=4"]
    lora = ["policy=lora", "policy.tuning.rank=2", "policy.tuning.scale=3", "optimizer.lr=0.01"]
    assert cli.main(experiment(*words, *lora, "divergence=off", "name=x")) == 0
    umask = os.umask(0o022)
    try:
        assert cli.main(["task=export", "resume=runs/x", "domain.fused=true"]) == 0
    finally:
        os.umask(umask)
    export = Path("runs/x/export")
    assert {oct(file.stat().st_mode & 0o777) for file in export.rglob("*") if file.is_file()} == {"0o644"}
    assert not list(export.rglob("*lora*"))
    assert 'DiffusionPipeline.from_pretrained("export")' in (export / "README.md").read_text()
    pipe = diffusers.DiffusionPipeline.from_pretrained(export, local_files_only=True)
    given = (CALL, None, ("a red cat", "the sea")) if words is TEXTS else ({}, None, (None, None))
    theirs = Steered(Tiny(pipe, *given), steps=3).playback.own_run([0, 1], 0)[1]
    assert off(tuned("runs/x", 2 if words is TEXTS else 1)[1], theirs) < 5e-6
    base = Steered(Tiny(made(name).pipe, *given), steps=3).playback.own_run([0, 1], 0)[1]
    assert off(base, theirs) > 1e-4
    assert before == {file: file.read_bytes() for file in Path("base").rglob("*.safetensors")}


def test_a_pipeline_of_pixels_is_tuned_as_a_whole() -> None:
    """All weights of a DDPM of colour images; the export is a pipeline, which diffusers reads and runs."""
    saved("DDPM")
    assert (
        cli.main(experiment("policy=full", "optimizer.lr=1e-4", "divergence=off", "reward.scale=4", "name=ddpm")) == 0
    )
    assert cli.main(["task=export", "resume=runs/ddpm"]) == 0
    pipe = diffusers.DiffusionPipeline.from_pretrained("runs/ddpm/export", local_files_only=True)
    assert isinstance(pipe, diffusers.DDPMPipeline)
    theirs = Steered(Tiny(pipe, {}, prompts=(None, None, None)), steps=3).playback.own_run([0, 1], 0)[1]
    assert off(tuned("runs/ddpm", 1)[1], theirs) < 2e-6
    assert any(
        not torch.equal(a, b) for a, b in zip(pipe.unet.parameters(), made("DDPM").pipe.unet.parameters(), strict=True)
    )


def test_classes_are_given_by_name_or_number() -> None:
    saved("DiT")
    index = json.loads(Path("base/model_index.json").read_text())
    names = {"id2label": {"3": "tiger shark, Galeocerdo cuvieri", "7": "cock"}}  # as in that of DiT-XL-2
    Path("base/model_index.json").write_text(json.dumps(index | names))
    words = [
        "domain=diffusers",
        "domain.pipeline=base",
        "domain.prompts=[tiger shark, '7']",
        "domain.call={guidance_scale: 4}",
    ]
    world = build_world(compose([*words, "policy=lora", "reward=jpeg", "heldout=null", *SIZES]))
    assert world.domain.conditioning.texts == ("tiger shark", "7", "")
    rows = world.policy.denoiser.get_submodule("denoiser.conditioning").rows(0, torch.tensor([0, 1]))
    assert rows[("class_labels",)].tolist() == [3, 7]
    assert world.domain.decoder(torch.zeros(3, 4, 8, 8)).shape == (3, 3, 16, 16)


WRONG = {
    "no pipeline": ("DDPM", ["domain.pipeline=null"], "domain.pipeline is null"),
    "prompts of a pipeline without": ("DDPM", ["domain.prompts=[a cat]"], "takes no prompts"),
    "a pipeline without prompts": ("stable diffusion", [], "needs a file of prompts"),
    "an unknown class": ("DiT", ["domain.prompts=[dodo]"], "'dodo' is no class"),
    "guidance twice": ("DiT", ["domain.prompts=['3']", "policy.guidance=3"], "set policy.guidance=1"),
    "an unknown argument": ("DDPM", ["domain.call={guidance: 3}"], "call has guidance"),
    "a test split of nothing": ("DDPM", ["domain.split=test"], "there are no test_prompts"),
    "a solver": ("DDPM", ["domain.scheduler={_class_name: PNDMScheduler}"], "PNDMScheduler makes a step of several"),
}


@pytest.mark.parametrize(("name", "words", "message"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_answered_with_what_to_do(name: str, words: list[str], message: str, capsys: Any) -> None:
    saved(name)
    assert cli.main(experiment(*words)) == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists() or not list(Path("runs").rglob("metrics.csv"))


def test_the_doctor_sees_a_sampler_that_is_not_the_pipeline_s() -> None:
    """Guidance that the pipeline does not have, in our sampler alone."""
    saved("stable diffusion")
    module = build_module(compose(experiment(*TEXTS)))
    found = {check.name: check for check in examine(module)}
    assert found["pipeline"].verdict == "ok"
    assert "off the pipeline's own (allowed: 0.001" in found["pipeline"].message
    denoiser = next(m for m in module.modules() if isinstance(m, PipelineDenoiser))
    denoiser.asked = replace(denoiser.asked, mix=Linear(weights=(-4.0, 5.01)))
    assert {check.name for check in examine(module) if check.verdict == "failed"} == {"pipeline"}


def test_a_resumed_run_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Encoders are asked again, and the run is the uninterrupted one's."""
    saved("stable diffusion")
    assert cli.main(experiment(*TEXTS, "name=whole", "plan.iterations=2")) == 0
    assert cli.main(experiment(*TEXTS, "name=half", "plan.iterations=1")) == 0
    assert cli.main(["resume=runs/half", "plan.iterations=2"]) == 0
    states = [
        load(Path("runs") / name / "checkpoints" / "last.ckpt")["current_model_state"] for name in ("whole", "half")
    ]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0] if k != "seconds")
    # a checkpoint holds what trains, and the base and the prompts are known again
    assert all("lora_" in name for name in states[0] if name.startswith("policy."))
    Path("prompts.txt").write_text("a red cat\nthe moon\n")
    assert cli.main(["resume=runs/half", "plan.iterations=3"]) == 2
    assert "was made on another base" in capsys.readouterr().err
    Path("prompts.txt").write_text("a red cat\nthe sea\n")
    pipe = made("stable diffusion").pipe
    with torch.no_grad():
        pipe.unet.conv_in.weight.mul_(1.01)
    pipe.save_pretrained("base")
    assert cli.main(["resume=runs/half", "plan.iterations=3"]) == 2
    assert "was made on another base" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_part_that_lacks_a_weight_is_refused(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The libraries draw it at random, and warn in a page of text."""
    saved("stable diffusion")
    file = next((Path("base") / part).glob("*.safetensors"))
    weights = load_file(file)
    lost = next(name for name, x in weights.items() if x.ndim > 1)
    save_file({name: x for name, x in weights.items() if name != lost}, file, metadata={"format": "pt"})
    assert cli.main(experiment(*TEXTS, "name=x")) == 2
    said = capsys.readouterr().err
    assert f"cannot load the pipeline base: {part} lacks weights, which would be drawn at random" in said
    assert said.count("\n") < 4


def test_prompts_are_encoded_in_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred prompts are 13 dry calls of 8 and 3 besides; a pass then encodes nothing."""
    calls: list[int] = []
    tape = Caller.tape

    def counted(self: Caller, which: Any, steps: int) -> Any:
        calls.append(len(which))
        return tape(self, which, steps)

    monkeypatch.setattr(Caller, "tape", counted)
    saved("stable diffusion")
    Path("prompts.txt").write_text("".join(f"picture {i}\n" for i in range(100)))
    world = build_world(compose(experiment(*TEXTS)))
    assert sorted(calls) == sorted([2, 3, *[8] * 12, 4, 2])
    assert world.domain.conditioning.size == 100
    cond = torch.tensor([99, 5])
    policy, x = world.policy, torch.zeros(2, 4, 8, 8)
    with torch.no_grad():
        policy.estimate(x, torch.tensor([0, 1]), cond)
    assert len(calls) == 16
    assert world.domain._learned.playback.caller.pipe.text_encoder is None  # type: ignore[attr-defined]


def test_a_frozen_base_in_bf16_under_adapters_in_fp32_leaves_the_ratio_at_1() -> None:
    """Sampled 2 rows at a time. In passes of as many rows, with a gradient, the same operations on the same rows: exactly. In
    others kernels may round otherwise: within the doctor's limit."""
    saved("stable diffusion")
    world = build_world(compose(experiment(*TEXTS, "domain.dtype=bfloat16")))
    assert {p.dtype for p in world.policy.parameters() if p.requires_grad} == {torch.float32}
    assert torch.bfloat16 in {p.dtype for p in world.policy.parameters() if not p.requires_grad}
    cond, trained = torch.tensor([0, 1, 0, 1]), world.policy.stochastic_steps
    trajectory = rollout(world.policy, world.reference, world.noise.of(0, range(4)), cond, batch=2, trained=trained)
    by_step = torch.arange(trajectory.log_prob.numel()).reshape(4, -1)
    same = [rows for step in by_step.T for rows in step.split(2)]
    assert torch.equal(torch.cat([again(world, trajectory, some) for some in same]), first(trajectory, torch.cat(same)))
    for some in by_step.flatten().split(5):
        assert (again(world, trajectory, some) - first(trajectory, some)).abs().max() < 0.02


def again(world: World, trajectory: Trajectory, some: torch.Tensor) -> torch.Tensor:
    """log pi(a|s) of a replay that could be differentiated."""
    pairs = trajectory.pairs(some)
    g, _ = replay(world.policy, trajectory, pairs)
    score = log_prob(g, pick(trajectory.states, pairs.action), world.policy.space, pairs.cond)
    assert score.requires_grad
    return score.detach()


def first(trajectory: Trajectory, some: torch.Tensor) -> torch.Tensor:
    """log pi(a|s) of the rollout."""
    return trajectory.log_prob.flatten()[some]


def test_a_pass_of_a_pipeline_waits_for_nothing() -> None:
    """Guidance, the rows of its prompts and its clock are in it; forward and backward."""
    saved("stable diffusion")
    world = build_world(compose(experiment(*TEXTS, "domain.dtype=bfloat16")))
    x, h, cond = torch.zeros(2, *world.policy.space.shape), torch.tensor([0, 1]), torch.tensor([0, 1])
    with Waits() as waits:
        world.policy(x, h, cond).mean.sum().backward()
    assert not waits.noted, waits.noted[0]


def test_weights_in_bf16_are_not_trained(capsys: Any) -> None:
    """AdamW's steps of 1e-4 are below half of bf16's last place."""
    saved("stable diffusion")
    assert cli.main(experiment(*TEXTS, "domain.dtype=bfloat16", "policy=full")) == 2
    assert "weights of torch.bfloat16 would be trained" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_activations_of_a_pipeline_are_computed_again() -> None:
    """The same run, adapters in it, whatever its passes keep."""
    saved("stable diffusion")
    states = []
    for again in (False, True):
        assert cli.main(experiment(*TEXTS, f"policy.checkpoint_activations={again}", f"name=again-{again}")) == 0
        states.append(load(Path("runs") / f"again-{again}" / "checkpoints" / "last.ckpt")["current_model_state"])
    assert all(torch.equal(x, states[1][name]) for name, x in states[0].items() if "lora" in name)
    assert any("lora_B" in name and bool(x.any()) for name, x in states[0].items())
