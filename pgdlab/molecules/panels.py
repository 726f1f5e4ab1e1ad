"""The property panels: data, base and tuned policy at one glance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pgdlab.molecules.batch import REASONS, Molecules
from pgdlab.molecules.known import source_of
from pgdlab.molecules.metrics import smiles_of
from pgdlab.molecules.properties import Properties, properties
from pgdlab.molecules.reference import scattered

COLOURS = ("#9a9a9a", "#3b75af", "#e1812c", "#4c9a57")  # the data, then what is compared
DATA = 1000  # test molecules shown
BINS = 25
TITLES = {"logp": "logP", "tpsa": r"TPSA ($\mathrm{\AA}^2$)", "sa": "SA score (1 easy, 10 hard)", "qed": "QED"}
OUTCOMES = ("novel", "known", "repeated", *REASONS)
SHADES = ("#4c9a57", "#a9cfa9", "#dcdcdc", "#d62728", "#ff7f0e", "#8c564b", "#9467bd")  # of OUTCOMES


def panels(groups: dict[str, Molecules], path: Path) -> Path:
    """Writes a PNG: what became of the samples of each group; elements, ring sizes, heavy atoms, logP, TPSA, SA and QED of
    the valid ones beside those of the data."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    source = source_of(next(iter(groups.values())))
    facts = {"data": [properties(s) for s in scattered(source)[:DATA]]}
    facts |= {name: [properties(s) for s in smiles_of(molecules)] for name, molecules in groups.items()}
    figure = Figure(figsize=(15, 6.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 4)
    outcome_bars(axes[0, 0], groups)
    atoms = {name: [e for p in rows for e in p.elements] for name, rows in facts.items()}
    rings = {name: [str(r) if r < 7 else "7+" for p in rows for r in p.rings] for name, rows in facts.items()}
    sizes = {name: [len(p.elements) for p in rows] for name, rows in facts.items()}
    share_bars(axes[0, 1], atoms, source.symbols, "elements (share of heavy atoms)")
    share_bars(axes[0, 2], rings, ("3", "4", "5", "6", "7+"), "ring sizes (share of rings)")
    share_bars(
        axes[0, 3], sizes, sorted({n for row in sizes.values() for n in row}), "heavy atoms (share of molecules)"
    )
    for axis, (name, title) in zip(axes[1], TITLES.items(), strict=True):
        histogram(axis, facts, name, title)
    for axis in axes.ravel():
        axis.spines[["top", "right"]].set_visible(False)
        axis.title.set_fontsize(11)
    axes[0, 1].legend(frameon=False)
    figure.savefig(path)
    return path


def outcomes(molecules: Molecules) -> Counter[str]:
    """Counts of OUTCOMES: a valid molecule counts as novel or known once, then as repeated."""
    smiles = smiles_of(molecules)
    found = Counter[str](m.reason for m in molecules if m.reason is not None)
    seen = int(source_of(molecules).training().contains(set(smiles)).sum()) if smiles else 0
    return found + Counter(novel=len(set(smiles)) - seen, known=seen, repeated=len(smiles) - len(set(smiles)))


def outcome_bars(axis: Any, groups: dict[str, Molecules]) -> None:
    """A stacked bar of shares for each group."""
    for at, molecules in enumerate(groups.values()):
        found, bottom = outcomes(molecules), 0.0
        for name, shade in zip(OUTCOMES, SHADES, strict=True):
            share = found[name] / max(1, len(molecules))
            axis.bar(at, share, bottom=bottom, color=shade, width=0.6, label=name if at == 0 else None)
            bottom += share
    axis.set(title="what the samples are", ylim=(0, 1), xlim=(-0.5, len(groups) + 0.3))
    axis.set_xticks(range(len(groups)), list(groups))
    handles, labels = axis.get_legend_handles_labels()
    axis.legend(handles[::-1], labels[::-1], frameon=False, loc="center right", fontsize=8)


def share_bars(axis: Any, groups: dict[str, list[Any]], kinds: Sequence[Any], title: str) -> None:
    """Bars side by side: the share of each kind in each group."""
    wide = 0.8 / len(groups)
    for k, (name, found) in enumerate(groups.items()):
        count = Counter(found)
        shares = [count[kind] / max(1, len(found)) for kind in kinds]
        at = np.arange(len(kinds)) + (k - (len(groups) - 1) / 2) * wide
        axis.bar(at, shares, wide, color=COLOURS[k % len(COLOURS)], label=name)
    axis.set_xticks(range(len(kinds)), [str(kind) for kind in kinds])
    axis.set(title=title)


def histogram(axis: Any, groups: dict[str, list[Properties]], name: str, title: str) -> None:
    """Densities on common bins, the data filled."""
    values = {group: np.array([getattr(p, name) for p in rows]) for group, rows in groups.items() if rows}
    every = np.concatenate(list(values.values()))
    edges = np.linspace(every.min(), every.max(), BINS + 1)
    for k, group in enumerate(groups):
        if group in values:
            style = {"histtype": "stepfilled", "alpha": 0.45} if k == 0 else {"histtype": "step", "linewidth": 1.8}
            axis.hist(values[group], edges, density=True, color=COLOURS[k % len(COLOURS)], **style)
    axis.set(title=title)
    axis.set_yticks([])
