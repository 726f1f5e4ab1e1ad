"""task=compare: run folders (compare.folders='[runs/a,runs/b]', or a pattern) as one HTML page, CSV and markdown."""

from __future__ import annotations

from pgdlab.comparison.report import report
from pgdlab.config.configuration import Config

READS = ("compare", "logger")
INSTEAD = "a comparison reads run folders, which have settings of their own"


def main(cfg: Config) -> None:
    """Writes the report. Raises ValueError where there is nothing to compare."""
    if cfg.resume:
        raise ValueError("task=compare reads run folders and resumes none: name them in compare.folders")
    report(cfg)
