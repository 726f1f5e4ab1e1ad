"""task=table: samples of a run's policy (resume=runs/<name>) or of the domain's base with their rewards, for trainer=offline."""

from __future__ import annotations

from pgdlab.config.configuration import Config
from pgdlab.config.runs import run_folder, save_config, short
from pgdlab.domains.table import Table
from pgdlab.evaluation.evaluate import load_weights
from pgdlab.evaluation.samples import evaluation_request
from pgdlab.rollout.noise import Noise, Stream
from pgdlab.trainers.base import refuse_idle_guidance
from pgdlab.trainers.interaction import OneShot
from pgdlab.training.build import build_world
from pgdlab.training.checkpoint import load, require_own
from pgdlab.training.fit import LAST

READS = (
    "experiment", "domain", "reward", "policy.kernel", "policy.steps", "policy.guidance", "plan.eval_samples",
    "plan.rollout_batch", "plan.max_failed", "runtime", "seed", "name",
)  # fmt: skip
RESUMES = (
    "reward", "policy.kernel", "policy.steps", "policy.guidance", "plan.eval_samples", "plan.rollout_batch", "plan.max_failed",
    "runtime", "seed",
)  # fmt: skip


def main(cfg: Config) -> None:
    """Writes table.safetensors: the measured ones of plan.eval_samples rows, on noise that no evaluation sees."""
    world = build_world(cfg)
    refuse_idle_guidance(world)
    folder = run_folder(cfg)
    if not cfg.resume:
        save_config(cfg, folder)
    else:
        state = load(folder / LAST)
        require_own(state, folder)
        load_weights(world.policy, state["state_dict"], folder / LAST)
    ode = not world.policy.stochastic_steps
    noise = Noise(cfg.seed, Stream.TABLE)
    request = evaluation_request(world, world.policy, noise, reference=False, tuned_deterministic=ode)
    collected = OneShot().collect(world, request)
    kept, trajectory, reward = collected.rewards.measured, collected.trajectory, collected.rewards.total
    path = folder / "table.safetensors"
    Table(trajectory.sample[kept], reward[kept], trajectory.cond[kept]).write(path)
    mean = reward[kept].mean().item()
    print(f"{int(kept.sum()):,} rows, mean reward {mean:.3f}; trainer=offline trainer.table={short(path)}")
