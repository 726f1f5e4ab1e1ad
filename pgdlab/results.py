"""What the Python API returns: a run and a comparison, read from the folders that they are."""

from __future__ import annotations

import base64
import csv
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from pgdlab.config import renamed, trust
from pgdlab.config.compose import load_run
from pgdlab.config.configuration import Config
from pgdlab.config.functions import disarmed
from pgdlab.config.runs import CONFIG, LAST, SUMMARY, rows
from pgdlab.rewards.function import Images, require_images

MADE = "Made with pgdlab by"  # of an export's README.md
PICTURES = ("before_after.png", "learning_curve.png", "rewards.png")
# what is checked in the place of an object that a program hands over
STAND_INS: dict[str, dict[str, Any]] = {
    "reward": {"_target_": "pgdlab.rewards.base.NoReward"},
    "heldout": {"_target_": "pgdlab.rewards.base.NoReward"},
    "trainer": {"_target_": "pgdlab.trainers.reinforce.Reinforce"},
}


@dataclass(frozen=True)
class Handed:
    """Objects that a program handed over, by slot, and the nodes that a run folder has in their place."""

    objects: Mapping[str, Any] = field(default_factory=dict)
    nodes: Mapping[str, Any] = field(default_factory=dict)

    def on(self, cfg: Config) -> Config:
        """A configuration with them."""
        return replace(cfg.with_nodes(**self.nodes), objects={**cfg.objects, **self.objects})

    def saved(self, folder: Path, overrides: Sequence[str], called: str = "folder") -> Config:
        """The configuration of a run's folder with them. called: what the user knows the folder by. Raises ConfigError where
        there is none."""
        return self.on(load_run(folder, overrides, instead=self._stand_ins(), called=called))

    def before(self, folder: Path) -> dict[str, Any]:
        """What a run's folder says itself in the slots of these objects, None where it says nothing. What their nodes name
        is not looked up. Raises ConfigError where there is no run."""
        load_run(folder, [], instead=self._stand_ins())
        said = renamed.run(yaml.safe_load((folder / CONFIG).read_text()))
        own: dict[str, Any] = disarmed({slot: said.get(slot) for slot in self.objects})
        return own

    def _stand_ins(self) -> dict[str, Any]:
        return {slot: STAND_INS[slot] for slot in self.objects}


@dataclass(frozen=True, repr=False)
class Run:
    """A run's folder. What it holds is read when it is asked for; a notebook shows its figures and pictures.

    Attributes:
        folder: where it is, absolute.
        handed: the objects that stand in it, because the folder has only their names.
    """

    folder: Path
    handed: Handed = field(default_factory=Handed)

    @property
    def finished(self) -> bool:
        """Whether there is a summary: training is over, and what came of it is measured."""
        return (self.folder / SUMMARY).is_file()

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json, {} of a run that is not finished; its keys are in docs/metrics.md."""
        file = self.folder / SUMMARY
        return dict(json.loads(file.read_text())) if file.is_file() else {}

    @property
    def metrics(self) -> dict[str, list[float]]:
        """metrics.csv as columns, a value an iteration, NaN where a cell is empty; the names are in docs/metrics.md."""
        table = rows(self.folder)
        names = dict.fromkeys(name for row in table for name in row)
        return {name: [row.get(name, math.nan) for row in table] for name in names}

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration: that of config.yaml in today's names, with the nodes of what was handed over. A function
        is there in words (`recorded`), also one that the command line named."""
        return self.handed.saved(self.folder, []).plain() | {"resume": None}

    def sample(
        self, n: int = 16, *, seed: int | None = None, prompts: Sequence[int | str] = (), images: Images = "tensor"
    ) -> Any:
        """n samples of the tuned policy (averaged weights), as a reward function is given them: images as a tensor
        (n, C, H, W) of 0..1 or with images="pil" as PIL images, molecules as RDKit's, None for an invalid one, points as a
        tensor (n, D).

        prompts: conditions, by number or text, in turn; the run's own by default. seed: of the noise, the run's by default:
        then the noise is that of its evaluation. Raises ValueError for a run without a checkpoint.
        """
        from pgdlab.tasks.sample import drawn

        if n < 1:
            raise ValueError(f"n is {n}; it must be at least 1 sample")
        require_images(images)
        return drawn(self._configuration("sample"), n, seed, prompts, images)

    def evaluate(self) -> dict[str, Any]:
        """The base, the raw and the averaged weights under both samplers, on fresh noise: evaluation.json, which is written
        (see docs/metrics.md). Raises ValueError where the run's reward is a function that was not given again."""
        from pgdlab.guest import guest
        from pgdlab.tasks.evaluate import main

        with guest():
            main(self._configuration("evaluate"))
        return dict(json.loads((self.folder / "evaluation.json").read_text()))

    def export(self, folder: str | Path | None = None) -> Path:
        """Writes the tuned weights as a folder that plain diffusers (or peft, for adapters) loads, <run>/export by default, and
        returns it; its README.md says how to load it."""
        from pgdlab.tasks.export import export

        out = self.folder / "export" if folder is None else Path(folder).expanduser().resolve()
        if folder is not None and not free(out):
            raise ValueError(f"{out} holds something else than an export: name a new folder")
        export(self._configuration("export"), out)
        return out

    def _configuration(self, task: str) -> Config:
        cfg = self.handed.saved(self.folder, [f"task={task}"])
        trust.require_addresses(cfg.nodes, self.folder / CONFIG)
        return cfg

    def __repr__(self) -> str:
        return f"Run({self.folder.as_posix()!r}): {self.headline}"

    @property
    def headline(self) -> str:
        """How far it is and what came of it, in a line."""
        summary, course = self.summary, rows(self.folder)
        if not summary:
            saved = "" if (self.folder / LAST).is_file() else ", no checkpoint"
            return f"not finished, {int(course[-1]['iteration']) if course else 0} iterations{saved}"
        pairs = [
            (name, summary.get(f"{name}_before"), summary.get(f"{name}_after"))
            for name in ("reward", "heldout")
            if f"{name}_after" in summary
        ]
        figures = [f"{name} {number(before)} -> {number(after)}" for name, before, after in pairs]
        figures += (
            [f"KL {'at most ' if summary.get('kl_is_bound') else ''}{number(summary['kl_nats'])} nats"]
            if "kl_nats" in summary
            else []
        )
        return ", ".join(figures) or "finished"

    def _repr_html_(self) -> str:
        """For notebooks: the headline, and the pictures of the folder."""
        files = [self.folder / name for name in PICTURES if (self.folder / name).is_file()]
        shown = [f'<img style="max-width:100%" alt="{file.stem}" src="{inline(file)}">' for file in files]
        return "<br>".join([f"<b>{html.escape(self.folder.name)}</b>: {html.escape(self.headline)}", *shown])


@dataclass(frozen=True)
class Page:
    """A comparison. path: of the HTML page; methods, runs: the rows of report.csv (a method each) and of runs.csv."""

    path: Path
    methods: list[dict[str, Any]] = field(repr=False)
    runs: list[dict[str, Any]] = field(repr=False)

    @staticmethod
    def of(folder: Path) -> Page:
        """The comparison in a folder."""
        return Page(folder / "report.html", table(folder / "report.csv"), table(folder / "runs.csv"))

    def _repr_markdown_(self) -> str:
        """For notebooks: the verdicts and tables."""
        return (self.path.parent / "report.md").read_text()


def free(folder: Path) -> bool:
    """Whether an export may be written to a folder: it is new, empty, or an earlier export. What fails there is removed."""
    card = folder / "README.md"
    exported = card.is_file() and MADE in card.read_text(errors="replace")
    return exported or not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def inline(picture: Path) -> str:
    """A PNG as the address of itself."""
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def table(file: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file, numbers as floats, empty cells as None."""
    with file.open(newline="") as lines:
        return [{name: cell(text) for name, text in row.items()} for row in csv.DictReader(lines)]


def cell(text: str) -> float | str | None:
    """A number where it is one, None where it is empty."""
    try:
        return float(text) if text else None
    except ValueError:
        return text


def number(value: float | None) -> str:
    """A figure to read, "-" where it is not known."""
    return "-" if value is None else f"{value:.3f}"
