"""From a resolved config to the objects of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.loggers import Logger

from pgdlab.config.configuration import Config
from pgdlab.config.groups import options
from pgdlab.config.launch import local_rank
from pgdlab.config.schema import ConfigError, children, schema
from pgdlab.credit.environment import Environment
from pgdlab.diffusion.denoisers import Denoiser
from pgdlab.diffusion.initial import InitialDistribution
from pgdlab.diffusion.policy import Policy
from pgdlab.diffusion.residual import AffineCorrection
from pgdlab.domains.base import Domain
from pgdlab.penalties.base import Penalties, Penalty
from pgdlab.rewards.base import NoReward, Reward
from pgdlab.rewards.function import Function
from pgdlab.rewards.overlapped import Overlapped
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.offload import refuse_offloading
from pgdlab.rollout.plan import Plan
from pgdlab.trainers.base import Algorithm
from pgdlab.trainers.denoising import Pretrain
from pgdlab.trainers.likelihood_ratio import LikelihoodRatio
from pgdlab.training.budget import Budget
from pgdlab.training.loggers import Csv, Keeper, LoggerChoice, figures
from pgdlab.training.module import SteeringModule
from pgdlab.training.optimizer import Optimization
from pgdlab.world import World


def plan_of(cfg: Config) -> Plan:
    """The plan, within the budget."""
    return cfg.stated(Budget, "budget").within(cfg.make(Plan, "plan"))


def device_of(runtime: Mapping[str, Any]) -> torch.device:
    """The device of this process under the node of the runtime. Raises ValueError for one that is not there or not supported."""
    wanted, there = runtime.get("accelerator"), torch.cuda.is_available()
    if wanted not in ("auto", "cpu", "cuda", "gpu"):
        raise ValueError(f"runtime.accelerator is {wanted!r}; it must be one of auto, cpu, cuda, gpu")
    if wanted in ("gpu", "cuda") and not there:
        raise ValueError(f"runtime.accelerator is {wanted}, but torch sees no GPU; runtime=cpu does without")
    if wanted == "cpu" or not there:
        return torch.device("cpu")
    devices, rank = runtime.get("devices"), local_rank()
    if isinstance(devices, str) and devices != "auto":
        raise ValueError(
            f"runtime.devices is {devices!r}; it must be a number, -1 or auto for all, or a list, as in [0,1]"
        )
    return torch.device("cuda", devices[rank] if isinstance(devices, list) else rank)


def build_policy_for(cfg: Config, domain: Domain, denoiser: Denoiser) -> Policy:
    """The policy of a config around a given denoiser."""
    # seeded here, because initial distributions with a network draw their first weights
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        initial = cfg.make(
            InitialDistribution,
            "initial",
            space=domain.space,
            num_conditions=domain.conditioning.size,
            std=denoiser.schedule.initial_std,
        )
        told = domain.conditioning
        initial.meet(told)
        return cfg.make(
            Policy, "policy", denoiser=denoiser, space=domain.space, initial=initial, unconditional=told.unconditional
        )


def loggers_of(cfg: Config, folder: Path, done: list[dict[str, str]]) -> list[Logger]:
    """The loggers of a run in its folder, metrics.csv first, which is there whatever is chosen. done: the rows of metrics.csv
    that it starts with."""
    choices: dict[str, LoggerChoice] = {"csv": Csv(), **cfg.make_each(LoggerChoice, "logger")}
    return [choice.open(folder, cfg.plain(), done) for choice in choices.values()]


def require_loggers(cfg: Config) -> None:
    """Raises ValueError, before a folder is made, for a logger that lacks something."""
    for choice in cfg.make_each(LoggerChoice, "logger").values():
        choice.require()


def tell_loggers(cfg: Config, folder: Path, summary: Mapping[str, Any], model: Path | None = None) -> None:
    """Figures of a run that was over before, or its exported model, to the run's loggers; metrics.csv stays as it is."""
    for name, choice in cfg.make_each(LoggerChoice, "logger").items():
        if name != "csv":
            choice.require()
            logger = choice.open(folder, cfg.plain(), [])
            if isinstance(logger, Keeper):
                logger.keep_afterwards(figures(summary), model)


def reward_for(cfg: Config, slot: str, domain: Domain) -> Reward | None:
    """The reward of a slot, told what the domain's conditions stand for; None where it is empty. Raises ConfigError where
    it, or one in it, scores other things than the domain gives."""
    if not cfg.nodes[slot]:
        return None
    reward, gives = cfg.make(Reward, slot), domain.decoder.gives
    for part in reward.modules():
        takes = part.takes if isinstance(part, Reward) else None
        if takes and gives and takes != gives:
            raise ConfigError(
                f"{slot} ({type(part).__name__}) scores {takes}, but domain={domain.name} gives {gives}: "
                f"of those that ship {', '.join(scoring(gives))} do"
            )
        if isinstance(part, Reward):
            part.meet(domain.conditioning)
    return reward


def scoring(kind: str) -> list[str]:
    """The options of the group reward that score a kind of samples."""
    found = []
    for name, file in options("reward").items():
        takes = {getattr(schema(target).target, "takes", None) for target in targets(yaml.safe_load(file.read_text()))}
        found += [name] if takes - {None} == {kind} else []
    return found


def targets(node: Any) -> list[str]:
    """Every `_target_` in a node."""
    own = [node["_target_"]] if isinstance(node, dict) and "_target_" in node else []
    return own + [target for _, child, _ in children(node, "") for target in targets(child)]


def build_world(cfg: Config, denoiser: Denoiser | None = None) -> World:
    """Everything that an algorithm works with; denoiser: instead of the domain's pretrained one."""
    device, plan = device_of(cfg.nodes["runtime"]), plan_of(cfg)
    domain = cfg.make(Domain, "domain")
    reward = reward_for(cfg, "reward", domain) or NoReward()  # a pretraining asked none
    heldout = reward_for(cfg, "heldout", domain)
    if plan.offload:
        refuse_offloading(device, any(isinstance(m, Overlapped) for r in (reward, heldout) if r for m in r.modules()))
    policy = build_policy_for(cfg, domain, denoiser or domain.base())
    require_rows(policy, domain)
    return World(
        domain=domain,
        policy=policy,
        reference=policy.reference(),
        reward=reward,
        heldout=heldout,
        penalties=Penalties(cfg.make_each(Penalty, "penalty") if cfg.nodes["penalty"] else {}),
        plan=plan,
        noise=Noise(cfg.seed),
    ).to(device)


def require_rows(policy: Policy, domain: Domain) -> None:
    """Raises ConfigError where a condition of training has no affine map: there is none for "no condition"."""
    for part in policy.modules():
        if isinstance(part, AffineCorrection) and max(domain.train_conditions) >= len(part.weight):
            raise ConfigError(
                f"domain.train_conditions has {max(domain.train_conditions)}, no condition, and policy=affine has a map for each "
                f"of the others alone: train under some of 0 to {len(part.weight) - 1}, or set policy=network, which has one for "
                "all, or policy=lora"
            )


def steering(cfg: Config) -> Algorithm:
    """The algorithm of a run that steers. Raises ValueError for pretraining."""
    algorithm = cfg.make(Algorithm, "trainer")
    if isinstance(algorithm, Pretrain):
        raise ValueError(
            f"trainer=pretrain goes with task=pretrain (experiment=pretrain/digits or pretrain/fashion), not with "
            f"task={cfg.task}: it steers nothing. Its run's summary.json says how good the base is"
        )
    return algorithm


def build_module(cfg: Config) -> SteeringModule:
    """The LightningModule of a run. Raises ValueError where its parts do not go together."""
    algorithm, world = steering(cfg), build_world(cfg)
    algorithm.refuse(world)
    require_closed_loop(algorithm, world)
    for part in (part for reward in (world.reward, world.heldout) if reward for part in reward.modules()):
        if isinstance(part, Function):
            part.require()
    module = SteeringModule(world, algorithm, cfg.make(Optimization, "optimizer"))
    return module.to(world.device)


def require_closed_loop(algorithm: Algorithm[Any, Any], world: World) -> None:
    """Raises ValueError where an environment is to be acted in by a trainer that gives no credit for what comes later."""
    credited = isinstance(algorithm, LikelihoodRatio) and isinstance(algorithm.credit, Environment)
    if world.environment is not None and not credited:
        raise ValueError(
            f"domain={world.domain.name} is an environment, whose actions have consequences: set trainer=dppo, or trainer=ppo or "
            "reinforce with credit=environment"
        )


def origin(cfg: Config, policy: Policy) -> dict[str, Any]:
    """The sampler that a run trained and measured under, and what was tuned: a network under another sampler, or with
    another initial distribution, is another policy."""
    nodes = cfg.nodes
    tuned = {
        "tuning": nodes["policy"].get("tuning"),
        "initial": nodes["initial"],
        "trained_steps": nodes["plan"]["trained_steps"],
    }
    return {
        "sampler": {key: nodes["policy"].get(key) for key in ("kernel", "steps", "guidance")},
        "tuned": tuned | {"stochastic_steps": len(policy.stochastic_steps)},
    }
