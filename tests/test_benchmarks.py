"""The counts and units that the tables of the benchmarks rest on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import card
from benchmarks.efficiency import cell, reached
from benchmarks.passes import Call, networks
from benchmarks.scaling import flops, words
from pgdlab.comparison.folders import Run
from pgdlab.config.compose import compose
from pgdlab.rollout.sampler import rollout
from pgdlab.training.build import build_module, build_world
from pgdlab.training.fit import fit


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


def test_the_sizes_of_a_scaling_run() -> None:
    plan = build_world(compose(list(words(samples=16, steps=5, fraction=0.5)))).plan
    assert (plan.samples, plan.group) == (16, 4)
    assert len(plan.trained_steps.select(list(range(10)), torch.Generator())) == 5


def test_a_device_s_rate_is_of_the_rows_that_were_passed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """4 samples x 3 steps, the last without noise: the policy takes 8 steps and the reference 8 + 4; two epochs train 8 pairs."""
    words = [
        *card.SIZES["latent"],
        "plan.samples=4",
        "plan.group=4",
        "policy.steps=3",
        "domain.width=8",
        "plan.iterations=4",
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
    assert "of the matrix rate, training" in capsys.readouterr().out


def test_the_large_network_has_stable_diffusion_s_size() -> None:
    with torch.device("meta"):
        network = card.stable_diffusion()
    assert sum(p.numel() for p in network.parameters()) == 859_520_964  # as published for 1.x


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
