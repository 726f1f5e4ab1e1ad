"""A run's summary in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pgdlab.config.runs import SUMMARY
from pgdlab.evaluation.evaluate import shown


def sentence(summary: dict[str, Any], folder: Path) -> str:
    """What happened, and where to look, in three lines."""
    kl = "" if summary["kl_nats"] is None else f", {summary['kl_nats']:.2f} nats from the base"
    reward, held = (
        f"{shown(summary.get(f'{name}_before'))} -> {shown(summary.get(f'{name}_after'))}"
        for name in ("reward", "heldout")
    )
    held = f"; held out {held}" if "heldout_after" in summary else ""
    return (
        f"reward {reward} (+-{shown(summary['reward_gain_stderr'], times=1.96)}){held}{kl}\n"
        f"{summary['reward_queries']:,} reward queries, {summary['network_evaluations']:,} network evaluations, "
        f"{summary['seconds']:.0f} s\n"
        f"look at {folder / 'before_after.png'} and {folder / 'learning_curve.png'}; figures in {folder / SUMMARY}"
    )
