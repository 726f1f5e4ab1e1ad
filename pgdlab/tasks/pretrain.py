"""task=pretrain: trains a domain's base from its data and writes the folder that the domain ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pgdlab.build import build_policy_for, device_of
from pgdlab.compose import instantiate
from pgdlab.domains.base import Domain
from pgdlab.evaluation.evaluate import load_weights
from pgdlab.evaluation.samples import draw
from pgdlab.export import write_base
from pgdlab.fit import LAST, fit, load
from pgdlab.module import SteeringModule
from pgdlab.noise import Noise, Stream
from pgdlab.penalties.base import NoPenalty
from pgdlab.rewards.base import NoReward
from pgdlab.runs import run_folder, save_config, write_json
from pgdlab.trainers.base import World
from pgdlab.trainers.denoising import Pretrain


def main(cfg: Any) -> None:
    """Fits the base, samples it, and exports the averaged weights to <run>/base."""
    algorithm = instantiate(cfg.trainer)
    if not isinstance(algorithm, Pretrain):
        raise ValueError(
            "task=pretrain trains with trainer=pretrain: take experiment=pretrain/digits or pretrain/fashion"
        )
    domain: Domain = instantiate(cfg.domain)
    noise = Noise(cfg.seed)
    policy = build_policy_for(cfg, domain, domain.fresh(noise.generator(0)))
    world = World(domain, policy, policy, NoReward(), None, NoPenalty(), instantiate(cfg.plan), noise).to(
        device_of(cfg.runtime)
    )
    folder = run_folder(cfg)
    save_config(cfg, folder)
    algorithm.refuse(world)
    module = SteeringModule(world, algorithm, instantiate(cfg.optimizer)).to(world.device)
    trainer = fit(module, cfg, folder)
    if not trainer.is_global_zero:
        return
    if int(module.iterations) < world.plan.iterations:
        print(f"stopped after iteration {int(module.iterations)}; go on with: python run.py resume={folder}")
        return
    report(cfg, module, folder)


def report(cfg: Any, module: SteeringModule, folder: Path) -> None:
    """Sample grid, quality figures, and the exported base with its card, all of the averaged weights."""
    world = module.world.to(device_of(cfg.runtime))  # Lightning leaves the policy on the CPU
    load_weights(world.policy, load(folder / LAST)["state_dict"], folder / LAST)
    sample, cond = draw(world, world.plan.eval_samples, Noise(cfg.seed, Stream.EVALUATE))
    figures = world.domain.metrics(sample, cond)
    data = world.domain.data("test")[0][:64]
    world.domain.show({"samples": sample[:64], "test data": data}, folder / "samples.png")
    facts = {"iterations": int(module.iterations), "seconds": float(module.seconds), "quality": figures}
    write_json(facts, folder / "summary.json")
    write_base(module.policy.denoiser, folder / "base", facts)
    print(f"base written to {folder / 'base'}; samples in {folder / 'samples.png'}")
