"""task=table: samples of a run's policy (resume=runs/<name>) or of the domain's base with their rewards, for trainer=offline."""

from __future__ import annotations

from pgdlab.config.configuration import Config
from pgdlab.config.runs import short
from pgdlab.domains.table import Table
from pgdlab.evaluation.samples import evaluation_request
from pgdlab.rollout.noise import Noise, Stream
from pgdlab.tasks.sample import opened
from pgdlab.trainers.interaction import OneShot

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
    world, folder = opened(cfg)
    ode = not world.policy.stochastic_steps
    noise = Noise(cfg.seed, Stream.TABLE)
    request = evaluation_request(world, world.policy, noise, reference=False, tuned_deterministic=ode)
    collected = OneShot().collect(world, request)
    kept, trajectory, reward = collected.rewards.measured, collected.trajectory, collected.rewards.total
    path = folder / "table.safetensors"
    Table(trajectory.sample[kept], reward[kept], trajectory.cond[kept]).write(path)
    mean = reward[kept].mean().item()
    print(f"{int(kept.sum()):,} rows, mean reward {mean:.3f}; trainer=offline trainer.table={short(path)}")
