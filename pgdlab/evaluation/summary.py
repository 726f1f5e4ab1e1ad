"""A run's summary in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgdlab.config.runs import SUMMARY, short
from pgdlab.evaluation.evaluate import shown

WORDS = {"diverged": "diverged", "untrained": "learnt nothing"}


def sentence(summary: dict[str, Any], folder: Path) -> str:
    """What happened, and where to look, in three lines; one more where samples were not measured or the run came to nothing."""
    far, bound = summary["kl_nats"], summary.get("kl_is_bound", False)
    nats = "" if far is None else f"{far:.2f} nats"
    kl = nats and (f", at most {nats} from the base (the path's)" if bound else f", {nats} from the base")
    lost = round(max(row.get("failed", 0.0) for row in summary["evaluations"].values()) * summary["evaluation_samples"])
    lost_of = f"\n{lost} of {summary['evaluation_samples']} evaluation samples could not be measured" if lost else ""
    status = summary.get("status", "finished")
    verdict = "" if status == "finished" else f"\nthis run {WORDS[status]}: {summary['reason']}"
    new = f"\non prompts that training never saw: {moved(summary['unseen'])}" if "unseen" in summary else ""
    shown_at = short(folder)
    curve = "rewards.png" if (folder / "rewards.png").exists() else "learning_curve.png"
    return (
        f"{moved(summary)}{kl}{new}\n"
        f"{summary['reward_queries']:,} reward queries, {summary['network_evaluations']:,} network evaluations, "
        f"{summary['seconds']:.0f} s\n"
        f"look at {shown_at / 'before_after.png'} and {shown_at / curve}; figures in {shown_at / SUMMARY}"
        f"{lost_of}{verdict}"
    )


def moved(found: Mapping[str, Any]) -> str:
    """The reward of a headline before and after, within which error, and the held-out one where there is one."""
    reward, held = (
        f"{shown(found.get(f'{name}_before'))} -> {shown(found.get(f'{name}_after'))}" for name in ("reward", "heldout")
    )
    error = found["reward_gain_stderr"]
    within = "" if error is None else f" (+-{shown(error, times=1.96)})"
    return f"reward {reward}{within}" + (f"; held out {held}" if "heldout_after" in found else "")
