"""The counts and units that the tables of the benchmarks rest on."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FluxPipeline

from benchmarks import card, fits, items, large, loops, peers_steer, pipelines, prompts
from benchmarks.efficiency import cell, reached
from benchmarks.passes import Call, networks
from benchmarks.scaling import flops, words
from pgdlab.comparison.folders import Run
from pgdlab.config.compose import compose
from pgdlab.diffusion.conditioning import NoLabels
from pgdlab.domains.base import Domain, Identity
from pgdlab.functional.gaussian import log_prob
from pgdlab.rollout.sampler import rollout
from pgdlab.training.build import build_module, build_world
from pgdlab.training.fit import fit
from tests.diffusion.tiny_pipelines import stable_diffusion
from tests.rewards.tiny_judges import photographs, save_clip


def run(*rewards: float) -> Run:
    curve = [{"queries": 10.0 * (i + 1), "reward": r} for i, r in enumerate(rewards)]
    return Run(Path("x"), {}, {}, curve)


def test_queries_to_a_level_by_hand() -> None:
    """The first row that reaches it counts, whatever follows; a run that never does is no number, but is counted."""
    runs = [run(0.1, 0.6, 0.4), run(0.1, 0.2, 0.5), run(0.0, 0.0, 0.0)]
    assert [reached(r, "reward", 0.5) for r in runs] == [20, 30, math.inf]
    assert cell(runs, "reward", 0.5) == "30 (2 of 3)"
    assert cell(runs[1:], "reward", 0.5) == "- (1 of 2)"  # of an even number the later one
    assert cell(runs, "reward", 0.7) == "- (0 of 3)"
    assert reached(run(0.9), "score", 0.5) == math.inf


def test_what_drawing_prompts_by_their_spread_saves_by_hand() -> None:
    """Spreads 1 and 3: even draws have a variance of (1 + 9) / 2 = 5, in proportion (1 + 3)^2 / 4 = 4; drawn 3 : 1 it is
    (1 / (3/4) + 9 / (1/4)) / 4 = 28 / 3. Rows: 2 and 3 degrees of freedom."""
    assert prompts.share({"a": 1.0, "b": 3.0}, {"a": 1.0, "b": 3.0}) == pytest.approx(4 / 5)
    assert prompts.share({"a": 1.0, "b": 3.0}, {"a": 3.0, "b": 1.0}) == pytest.approx(28 / 3 / 5)
    assert prompts.share({"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 2.0}) == pytest.approx(1)
    rows = [
        {"number": "7", "samples": "3", "reward_std": "1.0"},
        {"number": "7", "samples": "4", "reward_std": "2.0"},
        {"number": "8", "samples": "1", "reward_std": ""},
    ]
    assert prompts.spreads(rows) == pytest.approx({"7": math.sqrt((2 * 1 + 3 * 4) / 5)})


def test_the_sizes_of_a_scaling_run() -> None:
    plan = build_world(compose(list(words(samples=16, steps=5, fraction=0.5)))).plan
    assert (plan.samples, plan.group) == (16, 4)
    assert len(plan.trained_steps.select(list(range(10)), torch.Generator())) == 5


def test_a_device_s_rate_is_of_the_rows_that_were_passed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 samples x 3 steps, the last without noise: the policy takes 8 steps and the reference 8 + 4; two epochs train 8 pairs. A
    reward of 60 ms and a decoder of 30 ms are in their own parts of the time, and in no other."""
    slow(monkeypatch, items.Mean, 0.06)
    slow(monkeypatch, Identity, 0.03)
    words = [
        *card.SIZES["latent"],
        "plan.samples=4",
        "plan.group=4",
        "policy.steps=3",
        "domain.width=8",
        "plan.iterations=4",
        "runtime.profiler={_target_: benchmarks.card.Parts}",
    ]
    cfg = compose(words)
    module, seen = build_module(cfg), card.Card("none", 1)
    fit(module, cfg, tmp_path, [seen])
    assert card.rows(module) == (20, 16)
    inputs = torch.zeros(1, 4, 8, 8), torch.zeros(1)
    call = Call(networks(module.world)[0], inputs, {"class_labels": torch.zeros(1).long()}, gradient=True, off=False)
    assert seen.both == flops(call) > 2 * seen.forward > 0
    assert len(seen.begun) == 4
    card.show(module, seen)
    said = capsys.readouterr().out
    assert "| of the matrix rate, training |" in said
    assert "| largest log-ratio, nats |" in said
    assert 0 <= seen.ratio < 1e-4  # rounding of fp32 in passes of other sizes; of a step with another's 1 and more
    took = np.diff(seen.begun[card.WARM :])
    parts = {name: float(values[0]) for name, values in card.shares(seen, took).items()}
    assert parts.keys() == {"sampling", "decode", "reward", "replay", "optimiser"}
    assert all(seconds > 0 for seconds in parts.values())
    assert parts["reward"] > 0.06
    assert parts["decode"] > 0.03
    assert parts["sampling"] + parts["replay"] + parts["optimiser"] <= took[0] - 0.09


def slow(monkeypatch: pytest.MonkeyPatch, kind: type[torch.nn.Module], seconds: float) -> None:
    """Every call of a kind of modules takes so long."""
    whole: Any = kind.forward

    def waits(self: Any, *given: Any) -> Any:
        time.sleep(seconds)
        return whole(self, *given)

    monkeypatch.setattr(kind, "forward", waits)


SMALL = [
    "plan.samples=4",
    "plan.group=4",
    "policy.steps=3",
    "domain.width=8",
    "trainer.minibatches=2",
    "trainer.epochs=1",
]


@pytest.mark.parametrize("peer", loops.loops(half=False, rows=2, epochs=1, minibatches=2), ids=["ddpo-pytorch", "trl"])
def test_the_peers_loops_have_our_densities(peer: loops.Loop) -> None:
    """The means over dimensions of our own log-probabilities of the actions that they draw, at the steps that have noise; then
    weights move. Their coefficients are fp32."""
    world = build_module(compose([*card.SIZES["latent"], *SMALL])).world
    scheduler = DDIMScheduler.from_config(next(world.policy.modules()).denoiser.schedule.scheduler.config)
    scheduler.set_timesteps(3)
    cond = torch.arange(4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        states, found = peer.sample(world, scheduler, cond)
        for h in world.policy.stochastic_steps:
            g = world.policy(states[:, h], torch.full((4,), h), cond)
            own = log_prob(g, states[:, h + 1], world.policy.space, cond) / states[0, 0].numel()
            torch.testing.assert_close(found[:, h].double(), own.double(), rtol=1e-3, atol=1e-3)
        before = {name: p.detach().clone() for name, p in world.policy.named_parameters()}
        optimizer = torch.optim.AdamW(world.policy.parameters(), lr=1e-4)
        peer.iteration(world, scheduler, optimizer)
    assert {state["step"].item() for state in optimizer.state.values()} == {2}
    assert any(not torch.equal(p, before[name]) for name, p in world.policy.named_parameters())


def test_the_table_beside_the_peers(capsys: pytest.CaptureFixture[str]) -> None:
    card.table("latent", 0.0, SMALL)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| loop", "| pgdlab", "| ddpo-pytorch's loop", "| trl's loop"]
    assert all(int(row[3]) >= 2 for row in rows[1:])


@pytest.mark.parametrize(("size", "weights"), [("sd", 859_520_964), ("sdxl", 2_567_463_684)])
def test_the_large_networks_have_the_published_sizes(size: large.Size, weights: int) -> None:
    with torch.device("meta"):
        network = large.MODELS[size].make()
    assert sum(p.numel() for p in network.parameters()) == weights


def test_the_large_samples_are_decoded() -> None:
    """By a network of the published size; FLUX.1's states are unpacked as diffusers does it."""
    with torch.device("meta"):
        network = large.autoencoder(4)
    assert sum(p.numel() for p in network.parameters()) == 83_653_863
    packed = torch.randn(2, 16, 64)
    torch.testing.assert_close(
        large.unpacked(packed), FluxPipeline._unpack_latents(packed, 64, 64, vae_scale_factor=8), rtol=0, atol=0
    )
    image = large.Pictures(16)(packed[:1])
    assert image.shape == (1, 3, 64, 64)
    assert 0 <= image.min() < image.max() <= 1
    domain = compose(card.SIZES["flux"]).make(Domain, "domain")
    assert domain.decoder.gives == "images"


def test_weights_that_are_filled_are_random_and_the_same_again() -> None:
    """Of every layer: the variance that its inputs ask for; no two rows are alike."""
    before = torch.nn.Linear.reset_parameters
    made = []
    for _ in range(2):
        with large.not_drawn():
            network = torch.nn.Sequential(torch.nn.Linear(512, 4100), torch.nn.Conv2d(8, 16, 3), torch.nn.LayerNorm(4))
        with torch.random.fork_rng():
            torch.manual_seed(1)
            large.fill(network)
        made.append(network)
    assert torch.nn.Linear.reset_parameters is before
    assert all(torch.equal(a, b) for a, b in zip(*(n.parameters() for n in made), strict=True))
    wide, convolution, norm = made[0]
    assert wide.weight.numel() > large.BLOCK
    assert float(wide.weight.var()) * 512 == pytest.approx(1, rel=0.01)
    assert float(convolution.weight.var()) * 72 == pytest.approx(1, rel=0.15)  # 1,152 numbers: within 4 standard errors
    assert len(wide.weight.unique(dim=0)) == 4100
    assert not wide.bias.any()
    assert torch.equal(norm.weight, torch.ones(4))


def small() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
    )  # fmt: skip


def test_memory_counted_without_memory_is_what_real_tensors_take() -> None:
    shape = large.Shape((4, 8, 8), small, {"encoder_hidden_states": (3, 8)})
    fit = fits.count(shape, rank=2)
    told = fits.adapted(shape, 2)
    assert fit.weights + fit.adapters == sum(p.numel() for p in told.parameters())
    assert fit.adapters == sum(p.numel() for p in told.parameters() if p.requires_grad)
    assert fit.row == fits.kept(told, shape, 1)
    told.enable_gradient_checkpointing()  # type: ignore[operator]
    assert fit.row_again == fits.kept(told, shape, 1) < fit.row
    assert fit.rest == 2 * fit.weights + 20 * fit.adapters + 16 * 21 * 256 * 4


def test_the_pipeline_s_chain_is_that_of_its_scheduler() -> None:
    """Every step has noise, and mean and spread of a step are those of diffusers' own DDIM step with eta 1."""
    from benchmarks.peers import words as peer_words
    from benchmarks.pipeline import PROMPTS, pipeline

    world = build_world(compose(list(peer_words(4, 1.0))))
    policy, scheduler = world.policy, pipeline(0).scheduler
    scheduler.set_timesteps(policy.steps)
    assert policy.stochastic_steps == list(range(20))
    assert policy.times[:-1].tolist() == scheduler.timesteps.tolist()
    cond = torch.arange(3) % len(PROMPTS)
    out: Any = rollout(policy, world.reference, world.noise.of(0, range(3)), cond, trained=list(range(20)), batch=3)
    for h, t in enumerate(scheduler.timesteps):
        x, noise = out.states[:, h], torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(h))
        with torch.no_grad():
            network: Any = policy.denoiser
            epsilon = network.output(x, t.expand(3), cond)
            g = policy(x, torch.full((3,), h), cond)
        theirs = scheduler.step(epsilon, int(t), x, eta=1.0, variance_noise=noise).prev_sample
        if h + 1 < policy.steps:  # trl ends at time 0, where diffusers' own step has no variance left
            torch.testing.assert_close(g.sample(noise), theirs, rtol=1e-4, atol=1e-4)  # fp32 sums of 1e3 terms


@pytest.fixture
def steering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> peers_steer.Options:
    """The options of the smallest run: a pipeline, a CLIP, two prompts."""
    stable_diffusion().pipe.save_pretrained(tmp_path / "pipeline")
    save_clip(tmp_path / "clip")
    (tmp_path / "prompts.txt").write_text("a red cat\n\nthe sea\n")
    files = {"pipeline": "pipeline", "prompts": "prompts.txt", "clip": "clip", "judge": "clip"}
    folders = {name: tmp_path / file for name, file in files.items()}
    sizes = {"iterations": 1, "samples": 4, "batch": 2, "group": 2, "steps": 3, "evaluate": 4, "rate": 0.1, "seed": 0}
    monkeypatch.setattr("sys.argv", ["", *(f"--{name}={value}" for name, value in (sizes | folders).items())])
    return peers_steer.parsed()


def test_a_gradient_goes_through_the_reward_that_is_ours(steering: peers_steer.Options) -> None:
    scorer, images = peers_steer.ClipScore(weights=steering.clip), photographs().requires_grad_()
    scorer.meet(NoLabels(1, ("a red cat", "the sea")))
    value = peers_steer.cosines(scorer, images, ["the sea", "a red cat"])
    torch.testing.assert_close(value.detach(), scorer.score(images.detach(), torch.tensor([1, 0])).value)
    value.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_our_run_beside_trl_s_is_as_long_and_reaches_diffusers(steering: peers_steer.Options, tmp_path: Path) -> None:
    """Two updates of two samples each, as trl makes them of these sizes; the export changes what the pipeline draws."""
    cfg = compose(peers_steer.like_trl(steering))
    assert (cfg.nodes["trainer"]["epochs"], cfg.nodes["trainer"]["minibatches"]) == (1, 2)
    before = peers_steer.judged(steering, tmp_path / "none")
    row = peers_steer.METHODS["pgdlab, DDPOTrainer's settings"](steering, tmp_path / "out")
    after = peers_steer.judged(steering, tmp_path / "out")
    assert row["queries"] == 4
    assert row["peak"] > row["own"] >= 0
    assert row["processor"] > 0
    assert before["reward"] == before["judge"] != after["reward"]
    assert before == peers_steer.judged(steering, tmp_path / "none")


def test_a_row_of_the_table_beside_trl() -> None:
    row = {"reward": 0.5, "judge": 0.25, "processor": 10.0, "peak": 1000.0, "own": 200.0, "queries": 64.0}
    more = row | {"reward": 0.75, "processor": 20.0}
    assert peers_steer.line("a", 1e-3, [row, more]) == (
        "| a | 0.001 | 0.625 (0.500 to 0.750) | 0.250 (0.250 to 0.250) | 15 | 1,000 (200) | 64 |"
    )
    assert peers_steer.line("a", 1e-3, [row, "Error: no"]) == "| a | 0.001 | failed: Error: no | | | | |"


def test_a_row_of_the_table_of_pipelines() -> None:
    """Rounding of fp32, in states and in pixels, and no more."""
    _, name, kind, states, pixel, _ = (cell.strip() for cell in pipelines.line("SD3").split("|"))
    assert (name, kind) == ("SD3", "`StableDiffusion3Pipeline`, `FlowMatchEulerDiscreteScheduler`")
    assert 0 < float(states) < 2e-6
    assert float(pixel) < 2e-5
