"""The findings of the checks on the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


@dataclass(frozen=True)
class Check:
    """One finding. failed stops a run, warning does not."""

    name: str
    verdict: Literal["ok", "warning", "failed"]
    message: str


def table(findings: list[Check]) -> None:
    """One line a finding."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False)
    for c in findings:
        console.print(f"[{COLOURS[c.verdict]}]{c.verdict:>8}[/]  {escape(f'{c.name}: {c.message}')}", soft_wrap=True)
