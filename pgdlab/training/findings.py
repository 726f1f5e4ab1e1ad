"""The findings of the checks on the terminal."""

from __future__ import annotations

from pgdlab.training.checks import Check

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


def table(findings: list[Check]) -> None:
    """One line a finding."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False)
    for c in findings:
        console.print(f"[{COLOURS[c.verdict]}]{c.verdict:>8}[/]  {escape(f'{c.name}: {c.message}')}", soft_wrap=True)
