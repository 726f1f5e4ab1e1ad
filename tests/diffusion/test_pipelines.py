"""Pipelines of diffusers, asked and not described: each class against its own call, tuned, exported and read again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from pgdlab.diffusion.asked import Asked, ask, require_constant
from pgdlab.diffusion.asking import ENCODERS, Caller, network_of, same
from pgdlab.diffusion.initial import Standard
from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.mapped import aside
from pgdlab.diffusion.pipeline_files import Origin, load_pipeline, with_scheduler
from pgdlab.diffusion.pipelines import PipelineDenoiser
from pgdlab.diffusion.playback import Playback
from pgdlab.diffusion.policy import ODE, Policy
from pgdlab.diffusion.prompts import encode, read_prompts
from pgdlab.diffusion.space import Dense
from pgdlab.diffusion.tuning import Adapted, LoRA
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.sampler import rollout
from pgdlab.rollout.trajectory import replay
from pgdlab.training.checks_pipeline import without_noise
from tests.diffusion.tiny_pipelines import KINDS, SD, Tiny, made, stable_diffusion

STEPS, SEED = 4, 7


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    diffusers.utils.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Steered:
    """A tiny pipeline as a policy; source: its folder."""

    def __init__(self, tiny: Tiny, source: str = "nowhere", steps: int = STEPS) -> None:
        caller = Caller(pipe=tiny.pipe, prompts=tiny.asked_for(), call=tiny.call, steps=steps)
        self.asked: Asked = ask(caller)
        self.prompts = encode(caller, self.asked, None, [])
        self.playback = Playback.of(caller, self.asked, [0, 1])
        part, network = network_of(tiny.pipe)
        for encoder in ENCODERS:
            if tiny.pipe.components.get(encoder) is not None:
                setattr(tiny.pipe, encoder, None)
        origin = Origin(source=source, part=part)
        self.denoiser = PipelineDenoiser(network, self.asked, self.prompts, origin).eval()
        self.steps = steps

    def policy(self, denoiser: Any = None, eta: float = 0.0) -> Policy:
        space, std = Dense(self.asked.shape), self.asked.schedule.initial_std
        initial = Standard(space=space, num_conditions=3, std=std)
        return Policy(denoiser or self.denoiser, space, initial, DDIM(eta=eta) if eta else ODE, self.steps)


def off(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def tune(policy: Policy) -> float:
    """One step up the log-density of what it sampled, some of it; the largest log-ratio of replay before it, in nats."""
    cond = torch.tensor([0, 1, 2])
    sampled = rollout(policy, policy, Noise(0).of(0, range(3)), cond, batch=3, trained=policy.stochastic_steps)
    pairs = sampled.pairs(torch.arange(sampled.log_prob.numel()))
    score = replay(policy, sampled, pairs)[1]
    ratio = float((score.detach() - sampled.log_prob.flatten()).abs().max())
    (score * torch.linspace(-1, 1, len(score))).mean().backward()
    trained = [p for p in policy.parameters() if p.requires_grad]
    torch.optim.Adam(trained, lr=0.05).step()
    return ratio


@pytest.mark.parametrize("name", KINDS)
def test_a_pipeline_is_steered(name: str, tmp_path: Path) -> None:
    """Ours without noise is the pipeline's own call, from its states to its images; replay of the untouched policy has ratio 0;
    the adapters off are the base; diffusers reads the adapters and makes the same samples."""
    tiny = made(name)
    tiny.pipe.save_pretrained(tmp_path / "base")
    steered = Steered(tiny, str(tmp_path / "base"))
    first, theirs = steered.playback.own_run([0, 1], SEED)
    cond = torch.tensor([0, 1])
    ours = without_noise(steered.policy(), first, cond)
    assert off(ours, theirs) < 2e-6
    if steered.asked.schedule.clip is None:  # DDIM's call keeps the noise of an estimate that was not clipped
        images = steered.playback.called([0, 1], STEPS, "pt", SEED)
        torch.testing.assert_close(steered.playback.decoded(ours), images.float(), atol=2e-5, rtol=0)

    adapted = Adapted(steered.denoiser, LoRA(rank=2, scale=3)).eval()
    base = without_noise(steered.policy(adapted), first, cond)
    assert tune(steered.policy(adapted, eta=1.0)) < 2e-3
    tuned = without_noise(steered.policy(adapted), first, cond)
    assert off(tuned, base) > 1e-5
    assert torch.equal(without_noise(steered.policy(adapted.frozen()), first, cond), base)

    adapted.save(tmp_path / "export")
    # the same weights again; diffusers reads no folder without the text encoder that encodings are handed in for
    pipe = made(name).pipe if tiny.encodings else load_pipeline(str(tmp_path / "base"), "float32", None, {})
    attach(pipe, tmp_path / "export")
    again = Steered(Tiny(pipe, tiny.call, tiny.encodings, tiny.prompts))
    assert off(again.playback.own_run([0, 1], SEED)[1], tuned) < 2e-6


def attach(pipe: Any, export: Path) -> None:
    """The adapters, as the export's README says."""
    if (export / "pytorch_lora_weights.safetensors").exists():
        pipe.load_lora_weights(export)
        return
    from peft import PeftModel

    part, network = network_of(pipe)
    setattr(pipe, part, PeftModel.from_pretrained(network, str(export / "lora")).merge_and_unload())


def asking(tiny: Tiny, steps: int = STEPS, **call: Any) -> Asked:
    return ask(Caller(pipe=tiny.pipe, prompts=tiny.asked_for(), call={**tiny.call, **call}, steps=steps))


def of_scheduler(scheduler: Any) -> Tiny:
    torch.manual_seed(0)
    return stable_diffusion(scheduler)


LINEAR = {k: v for k, v in SD.items() if k not in ("clip_sample", "set_alpha_to_one")}
STOCHASTIC = diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
REFUSED: dict[str, tuple[str, Callable[[], Any]]] = {
    "rescaled guidance": (
        r"neither a weighted sum.*guidance_rescale=0",
        lambda: asking(made("stable diffusion, v"), guidance_rescale=0.7),
    ),
    "skipped layers": (
        r"not the same number at every step.*skips layers",
        lambda: asking(made("SD3"), 20, skip_guidance_layers=[1]),
    ),
    "guidance that stops": (
        r"not the same number at every step.*cut off",
        lambda: asking(made("Lumina 2"), 5, cfg_trunc_ratio=0.5),
    ),
    "many steps back": (
        r"PNDMScheduler makes a step of several.*_class_name: DDIMScheduler",
        lambda: asking(of_scheduler(diffusers.PNDMScheduler(**LINEAR))),
    ),
    "a step back": (
        r"solver_order 2.*\{solver_order: 1\}",
        lambda: asking(of_scheduler(diffusers.DPMSolverMultistepScheduler(**LINEAR))),
    ),
    "another process": (
        r"scheduler is LCMScheduler.*_class_name: DDIMScheduler",
        lambda: asking(of_scheduler(diffusers.LCMScheduler(**SD))),
    ),
    "a flow's other solver": (
        r"FlowMatchHeunDiscreteScheduler makes a step of several.*_class_name: FlowMatchEuler.*, shift: 3",
        lambda: asking(of_flow(diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0)), 2),
    ),
    "noise in the step": (r"stochastic_sampling: false", lambda: asking(of_flow(STOCHASTIC))),
    "an argument of nobody": (
        r"call has guidance, which is no argument.*takes eta",
        lambda: asking(made("DDIM"), guidance=3),
    ),
    "an argument of ours": (r"call has latents, which is set for you", lambda: asking(made("SD3"), latents=None)),
    "two numbers of steps": (
        r"num_inference_steps is 9 and policy.steps 4",
        lambda: asking(made("SD3"), num_inference_steps=9),
    ),
    "a mask to paint in": (r"the network is given something else than the state", lambda: asking(inpainting())),
    "ragged": (r"prompts' encoder_hidden_states are of different sizes .*without a mask", lambda: ragged()),
}


def of_flow(scheduler: Any) -> Tiny:
    tiny = made("SD3")
    tiny.pipe.scheduler = scheduler
    return tiny


def inpainting() -> Tiny:
    tiny = made("stable diffusion")
    network = tiny.pipe.unet
    wide = type(network).from_config(network.config, in_channels=9)
    pipe = diffusers.StableDiffusionInpaintPipeline(
        **{**tiny.pipe.components, "unet": wide}, requires_safety_checker=False
    )
    blank = {"image": torch.zeros(1, 3, 16, 16), "mask_image": torch.ones(1, 1, 16, 16)}
    return Tiny(pipe, {**tiny.call, **blank})


def ragged() -> None:
    tiny = made("FLUX.2")
    short, long = ({"prompt_embeds": torch.randn(length, 16)} for length in (6, 9))
    caller = Caller(
        pipe=tiny.pipe, prompts=[short] * 8 + [long], call=tiny.call, steps=STEPS
    )  # 8 are encoded at a time
    encode(caller, ask(caller), None, [])


@pytest.mark.parametrize(("message", "call"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_chain_is_refused_and_what_to_change_is_said(message: str, call: Any) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_refused_solver_of_order_1_is_the_pipeline_s_own() -> None:
    """What the message advises is right: the same scheduler with solver_order 1."""
    tiny = of_scheduler(diffusers.DPMSolverMultistepScheduler(**LINEAR))
    with_scheduler(tiny.pipe, {"solver_order": 1})
    steered = Steered(tiny)
    first, theirs = steered.playback.own_run([0, 1], SEED)
    assert off(without_noise(steered.policy(), first, torch.tensor([0, 1])), theirs) < 2e-6
    for changes, message in (
        ({"solver": 1}, "scheduler has solver, which"),
        ({"_class_name": "os"}, "a scheduler of diffusers"),
    ):
        with pytest.raises(ValueError, match=message):
            with_scheduler(tiny.pipe, changes)


def test_a_mask_that_was_left_out_is_put_back() -> None:
    """Qwen-Image gives no mask where all entries count: prompts of 3 and of 5 entries, each alone without one, are told as the
    pipeline tells them together, with theirs."""
    tiny = made("Qwen-Image")
    g = torch.Generator().manual_seed(3)

    def of(length: int) -> dict[str, Tensor]:
        negative = {"negative_prompt_embeds": torch.ones(4, 16), "negative_prompt_embeds_mask": torch.ones(4).long()}
        own = {"prompt_embeds": torch.randn(length, 16, generator=g), "prompt_embeds_mask": torch.ones(length).long()}
        return own | negative

    short, long = of(3), of(5)
    caller = Caller(pipe=tiny.pipe, prompts=[short] * 8 + [long], call=tiny.call, steps=STEPS)
    prompts = encode(caller, ask(caller), None, [])
    rows = prompts.rows(0, torch.tensor([0, 8]))
    assert rows[("encoder_hidden_states_mask",)].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert torch.equal(rows[("encoder_hidden_states",)][0, :3], short["prompt_embeds"])
    assert not rows[("encoder_hidden_states",)][0, 3:].any()
    assert ("encoder_hidden_states_mask",) not in prompts.rows(
        1, torch.tensor([0])
    )  # the null prompt's are of one length


def test_what_is_the_same_for_all_prompts_is_kept_once() -> None:
    """The negative prompt of three prompts takes the memory of one; copies of the model share the table."""
    steered = Steered(made("stable diffusion"))
    (path,) = steered.prompts.branches[0]
    negative, positive = (branch[path] for branch in steered.prompts.branches)
    assert negative.untyped_storage().nbytes() * 3 == positive.untyped_storage().nbytes()
    frozen = steered.denoiser.frozen()
    assert frozen.conditioning is steered.prompts
    assert all(a is not b for a, b in zip(frozen.parameters(), steered.denoiser.parameters(), strict=True))
    assert not any("conditioning" in name for name in steered.denoiser.state_dict())


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each file that encodings are put aside in."""
    sizes: list[int] = []

    def watched(tensors: Any) -> Any:
        sizes.append(sum(x.nbytes for x in tensors))
        return aside(tensors)

    monkeypatch.setattr("pgdlab.diffusion.prompts.aside", watched)
    return sizes


@pytest.mark.parametrize("name", ["stable diffusion", "SD3", "Qwen-Image", "Z-Image", "PixArt"])
def test_encodings_in_a_file_are_those_in_memory(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, in tables and in lists of different lengths, with what is alike kept once; a prompt and no more than the
    limit is ever in memory, and no file has a name."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("pgdlab.diffusion.prompts.CHUNK", 1)
    tiny = made(name)
    caller = Caller(pipe=tiny.pipe, prompts=tiny.asked_for() * 5, call=tiny.call, steps=STEPS)
    asked, sizes = ask(caller), counted(monkeypatch)
    plain = encode(caller, asked, None, [])
    assert sizes == []
    monkeypatch.setattr("pgdlab.diffusion.prompts.IN_MEMORY", 0)
    assert encode(caller, asked, None, []).bytes == plain.bytes
    limit, most = 2 * max(sizes), max(sizes)
    sizes.clear()
    monkeypatch.setattr("pgdlab.diffusion.prompts.IN_MEMORY", limit)
    large = encode(caller, asked, None, [])
    assert len(sizes) > 1
    assert limit < max(sizes) <= limit + most
    assert torch.equal(large.fingerprint, plain.fingerprint)
    cond = torch.tensor([4, 14, 0, 4])
    for b, branch in enumerate(plain.branches):
        ours, theirs = large.rows(b, cond), plain.rows(b, cond)
        assert ours.keys() == theirs.keys()
        for path in branch:
            assert len(large.branches[b][path]) == 15
            assert same(ours[path], theirs[path])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "told"), {"DDPM": lambda t: t, "Lumina 2": lambda t: 1 - t, "SD3": lambda t: 1000 * t}.items()
)
def test_the_time_is_told_off_the_grid_too(name: str, told: Any) -> None:
    """Times that a regression draws: what the pipeline tells is a straight line in t, between and beyond its steps too."""
    steered = Steered(made(name))
    t = steered.asked.schedule.spread(torch.linspace(0, 0.999, 50))
    torch.testing.assert_close(steered.denoiser.clock(t).double(), told(t.double()), atol=1e-3, rtol=1e-6)


def test_rows_of_other_steps_and_prompts_are_those_of_each_alone() -> None:
    """Replay mixes them in one pass."""
    steered = Steered(made("FLUX"))
    policy, g = steered.policy(), torch.Generator().manual_seed(0)
    x, h, cond = (
        torch.randn(4, *steered.asked.shape, generator=g),
        torch.tensor([0, 3, 1, 1]),
        torch.tensor([2, 0, 1, 2]),
    )
    with torch.no_grad():
        together = policy.estimate(x, h, cond)
        alone = torch.cat([policy.estimate(x[i : i + 1], h[i : i + 1], cond[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, atol=5e-6, rtol=1e-5)


def test_code_in_a_folder_is_not_executed(tmp_path: Path) -> None:
    made("DDPM").pipe.save_pretrained(tmp_path)
    assert load_pipeline(str(tmp_path), "float32", None, {}).unet.config.in_channels == 3
    (tmp_path / "unet" / "mine.py").write_text("raise SystemExit")
    with pytest.raises(ValueError, match=r"has code of its own \(unet/mine.py\), which is not executed"):
        load_pipeline(str(tmp_path), "float32", None, {})
    (tmp_path / "unet" / "mine.py").unlink()
    index = (tmp_path / "model_index.json").read_text()
    (tmp_path / "model_index.json").write_text(index.replace('"diffusers",', '"subprocess",', 1))
    with pytest.raises(ValueError, match=r"has code of its own"):
        load_pipeline(str(tmp_path), "float32", None, {})
    with pytest.raises(ValueError, match=r"there is no such folder; an id of the hub is owner/name"):
        load_pipeline("./no-such", "float32", None, {})
    with pytest.raises(ValueError, match=r"not in the hub's cache.*HF_HUB_OFFLINE"):
        load_pipeline("nobody/nothing", "float32", None, {})


def test_prompts_are_read_from_files_and_lists(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat\n\n  the sea \n")
    (tmp_path / "a.jsonl").write_text('{"prompt": "two dogs", "include": [{"class": "dog", "count": 2}]}\n')
    (tmp_path / "a.yaml").write_text("- a cat\n- the sea\n")
    assert read_prompts(str(tmp_path / "a.txt")) == (["a cat", "the sea"], [{}, {}])
    assert read_prompts(str(tmp_path / "a.yaml")) == read_prompts(["a cat", "the sea"])
    assert read_prompts(str(tmp_path / "a.jsonl")) == (["two dogs"], [{"include": [{"class": "dog", "count": 2}]}])
    (tmp_path / "b.jsonl").write_text('{"prompt": "a"}\n{"text": "b"}\n')
    (tmp_path / "c.jsonl").write_text('{"prompt": "a"}\nb\n')
    (tmp_path / "d.txt").write_text("\n")
    for name, message in (
        ("b.jsonl", "must be texts"),
        ("c.jsonl", "line 2 is not JSON"),
        ("d.txt", "has none"),
        ("e", "cannot be read"),
    ):
        with pytest.raises(ValueError, match=message):
            read_prompts(str(tmp_path / name))


def test_guidance_that_changes_on_the_way_is_refused() -> None:
    """The same calls at every step, but another scale from the third on: only the outputs tell."""
    tiny = made("FLUX")
    caller = Caller(pipe=tiny.pipe, prompts=tiny.asked_for(), call=tiny.call, steps=STEPS)
    tape = caller.tape([0, 0], STEPS)
    asked = ask(caller)
    require_constant(tape, asked, 2)
    out, t, x = tape.steps[2]
    tape.steps[2] = (out + 0.1 * tape.answers[4], t, x)
    with pytest.raises(ValueError, match=r"guidance at step 2 is not that of the first step"):
        require_constant(tape, asked, 2)
