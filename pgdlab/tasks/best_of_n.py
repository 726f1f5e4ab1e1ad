"""task=best_of_n: steers without training: as many samples of the base as the run would train on, the best are kept."""

from __future__ import annotations

from dataclasses import replace

from pgdlab.config.configuration import Config
from pgdlab.config.functions import edited_since
from pgdlab.guidance.best_of_n import BestOfN
from pgdlab.tasks.steer import steer

READS = (
    "experiment", "domain", "policy.kernel", "policy.steps", "policy.guidance", "reward", "heldout", "plan.iterations",
    "plan.samples", "plan.eval_samples", "plan.rollout_batch", "plan.max_failed", "budget", "runtime", "logger", "seed", "name",
)  # fmt: skip
RESUMES = READS
INSTEAD = "best-of-n trains nothing"


def main(cfg: Config) -> int:
    """As task=steer guidance=best_of_n, on the base: of the run that the config describes, or of a run that there is
    (resume=runs/<name>), whose base, reward and plan it takes."""
    return steer(replace(cfg, resume=None), BestOfN(), "best", edited_since(cfg))
