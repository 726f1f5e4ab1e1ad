"""task=doctor: the checks that precede every training, on any config."""

from __future__ import annotations

from pgdlab.config.configuration import Config
from pgdlab.training.build import build_module
from pgdlab.training.checks import examine, require
from pgdlab.training.findings import table

READS = (
    "experiment", "domain", "policy", "initial", "reward", "heldout", "trainer", "penalty", "plan", "optimizer", "runtime",
    "logger", "budget", "divergence", "seed", "name",
)  # fmt: skip
RESUMES = READS


def main(cfg: Config) -> None:
    """Prints the findings; raises DoctorError where a check failed."""
    findings = examine(build_module(cfg), cfg.nodes["runtime"]["precision"])
    table(findings)
    require(findings)
