"""task=pretrain: trains a domain's base from its data and writes the folder that the domain ships."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from pgdlab.config.configuration import Config
from pgdlab.config.runs import go_on, held, run_folder, save_config, set_aside, short, write_json
from pgdlab.diffusion.files import write_base
from pgdlab.domains.base import Domain, labelled
from pgdlab.evaluation.evaluate import load_weights
from pgdlab.evaluation.pictures import pretraining_curve
from pgdlab.evaluation.samples import draw
from pgdlab.rewards.base import NoReward
from pgdlab.rollout.noise import Noise, Stream
from pgdlab.trainers.base import Algorithm
from pgdlab.trainers.denoising import Pretrain
from pgdlab.training.budget import Budget
from pgdlab.training.build import build_policy_for, device_of, origin, plan_of
from pgdlab.training.fit import LAST, fit, load, over, ready, stopped_by
from pgdlab.training.module import SteeringModule
from pgdlab.training.optimizer import Optimization
from pgdlab.world import World

READS = (
    "experiment", "domain", "policy", "trainer", "optimizer", "plan.iterations", "plan.pass_size", "plan.rollout_batch",
    "plan.eval_samples", "plan.checkpoint_every", "plan.sheet_every", "runtime", "logger", "budget", "seed", "name",
)  # fmt: skip
RESUMES = ("plan", "budget", "runtime", "logger")
INSTEAD = "pretraining learns from data alone"


def main(cfg: Config) -> int:
    """Fits the base, samples it, and exports the averaged weights to <run>/base. Exit code 0, or 128 and the number of a signal
    that stopped it."""
    algorithm = cfg.make(Algorithm, "trainer")
    if not isinstance(algorithm, Pretrain):
        raise ValueError(
            "task=pretrain trains with trainer=pretrain: take experiment=pretrain/digits or another of pretrain/"
        )
    if cfg.stated(Budget, "budget").queries:
        raise ValueError("pretraining asks no reward: its budget is budget.evaluations or budget.seconds")
    device, domain = device_of(cfg.nodes["runtime"]), labelled(cfg.make(Domain, "domain"))
    domain.data("train")  # raises, before a folder is made, where the data are not there
    noise = Noise(cfg.seed)
    policy = build_policy_for(cfg, domain, domain.fresh(noise.generator(0)))
    world = World(domain=domain, policy=policy, reference=policy, reward=NoReward(), plan=plan_of(cfg), noise=noise)
    module = SteeringModule(world.to(device), algorithm, cfg.make(Optimization, "optimizer")).to(device)
    done, folder = ready(module, cfg), run_folder(cfg)
    if getattr(rank_zero_only, "rank", 0) != 0:
        fit(module, cfg, folder, done=done)
        return 0
    with held(folder):
        if 0 < done < module.world.plan.iterations:
            set_aside(folder)
        save_config(cfg, folder)
        trainer = fit(module, cfg, folder, done=done)
        if not over(module, cfg):
            print(f"stopped after iteration {int(module.iterations)}; go on with: {go_on(folder, cfg)}")
            return 128 + stopped_by(trainer)
        report(cfg, module, folder)
    return 0


def report(cfg: Config, module: SteeringModule, folder: Path) -> None:
    """Sample grid, quality figures, and the exported base with its card, all of the averaged weights."""
    world = module.world.to(device_of(cfg.nodes["runtime"]))  # Lightning leaves the policy on the CPU
    load_weights(world.policy, load(folder / LAST)["state_dict"], folder / LAST)
    sample, cond = draw(world, world.plan.eval_samples, Noise(cfg.seed, Stream.EVALUATE))
    figures = world.domain.metrics(sample, cond)
    data = labelled(world.domain).data("test")[0][:64]
    world.domain.show({"samples": sample[:64], "test data": data}, folder / "samples.png")
    facts = {"iterations": int(module.iterations), "seconds": float(module.seconds), "quality": figures}
    write_base(module.policy.denoiser, folder / "base", facts | origin(cfg, module.policy))
    write_json(facts, folder / "summary.json")
    pretraining_curve(folder)
    at = short(folder)
    print(f"base written to {at / 'base'}; look at {at / 'samples.png'} and {at / 'learning_curve.png'}")
