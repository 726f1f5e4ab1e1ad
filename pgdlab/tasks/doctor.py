"""task=doctor: the checks that precede every training, on any config."""

from __future__ import annotations

from typing import Any

from pgdlab.training.build import build_module
from pgdlab.training.checks import Check, examine, require

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


def main(cfg: Any) -> None:
    """Prints the findings; raises DoctorError where a check failed."""
    findings = examine(build_module(cfg), cfg.runtime.precision)
    table(findings)
    require(findings)


def table(findings: list[Check]) -> None:
    """One line a finding."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False)
    for c in findings:
        console.print(f"[{COLOURS[c.verdict]}]{c.verdict:>8}[/]  {escape(f'{c.name}: {c.message}')}", soft_wrap=True)
