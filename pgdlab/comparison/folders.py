"""Run folders as the comparison reads them: config.yaml, summary.json, metrics.csv, or a certificate's cells."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

import yaml

from pgdlab.certificates.certificate import Cell, Law
from pgdlab.certificates.certificate import Run as Trained
from pgdlab.comparison.validity import require_config, require_number, require_summary, usable
from pgdlab.config import renamed, trust
from pgdlab.config.runs import CONFIG, FAILURE, METRICS, SUMMARY, finite, require_no_links, rows
from pgdlab.config.schema import ConfigError, complete

STEERING = ("train", "best_of_n", "steer")  # tasks whose folders are compared


@dataclass(frozen=True)
class Run:
    """A finished run. curve: the rows of metrics.csv; score: where the folder itself has it, the share of the way from the base
    (0) to the optimum (1)."""

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    curve: list[dict[str, float]] = field(default_factory=list)
    score: float | None = None

    @property
    def evaluation(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The figures of the base and of the steered policy that the headline is made of."""
        table = self.summary["evaluations"]
        kind = "sde" if "base/sde" in table else "ode"
        after = next(name for name in ("steered", "best", "ema") if name == "ema" or f"{name}/{kind}" in table)
        return table[f"base/{kind}"], table[f"{after}/{kind}"]


@dataclass(frozen=True)
class Failure:
    """A run without a result, and the reason as far as its folder tells."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class Found:
    """The contents of the folders. others: folders of other tasks, which are not compared."""

    runs: list[Run]
    failures: list[Failure]
    others: list[Path]


def expand(entries: Sequence[str]) -> list[Path]:
    """Run folders: each entry is one, or a pattern such as runs/*, or a folder of run folders. Sorted, each once.

    Raises ValueError for an entry that names none.
    """
    found: dict[Path, Path] = {}
    for entry in entries:
        there = [Path(name) for name in sorted(glob(str(Path(entry).expanduser()))) if Path(name).is_dir()]
        folders = [f for path in there for f in ([path] if (path / CONFIG).is_file() else within(path))]
        if not folders:
            raise ValueError(
                f"compare.folders names {entry}, where no run folder is; it must name run folders, a folder of them or a "
                "pattern: compare.folders='[runs/a,runs/b]' or compare.folders='[runs/*]'"
            )
        found |= {folder.resolve(): folder for folder in folders}
    return list(found.values())


def within(path: Path) -> list[Path]:
    """The run folders in a folder."""
    return [child for child in sorted(path.iterdir()) if (child / CONFIG).is_file()]


def read(entries: Sequence[str]) -> Found:
    """Reads all that the entries name. Nothing is written."""
    found = Found([], [], [])
    for folder in expand(entries):
        try:
            require_no_links(folder)
            config = configuration(folder)
        except (ValueError, OSError) as error:
            found.failures.append(Failure(folder, str(error)))
            continue
        if config.get("task") == "certify":
            done = list(certificate(folder))
        elif config.get("task") in STEERING:
            done = [finished(folder, config)]
        else:
            done = []
            found.others.append(folder)
        found.runs.extend(one for one in done if isinstance(one, Run))
        found.failures.extend(one for one in done if isinstance(one, Failure))
    return found


def configuration(folder: Path) -> dict[str, Any]:
    """config.yaml, with the defaults of settings that are newer than the run. Raises ValueError where it cannot be read."""
    with usable(CONFIG):
        try:
            config = yaml.safe_load((folder / CONFIG).read_text())
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from error
    if not isinstance(config, dict) or "task" not in config:
        raise ValueError(f"{CONFIG} is not that of a run: it was stopped before it began")
    with usable(CONFIG):
        return completed(folder, config)


def completed(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The config in today's names, with today's defaults; as it is where that is not to be had."""
    try:
        today = renamed.run(config)
        trust.check(today, folder / CONFIG)
        return dict(complete(today))
    except (
        ConfigError,
        ImportError,
    ):  # of another version, with a part that is not installed here, or not to be imported
        return config


def finished(folder: Path, config: dict[str, Any]) -> Run | Failure:
    """The run, or why there is none."""
    try:
        with usable(CONFIG):
            require_config(config)
        with usable(METRICS):
            curve = [row for row in known(rows(folder)) if "iteration" in row]
        if not (folder / SUMMARY).exists():
            return Failure(folder, unfinished(folder, config, curve))
        with usable(SUMMARY):
            return summarized(folder, config, curve)
    except (ValueError, OSError) as error:
        return Failure(folder, str(error))


def known(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    """Rows without the figures that are not finite."""
    return [{name: value for name, value in row.items() if math.isfinite(value)} for row in curve]


def summarized(folder: Path, config: dict[str, Any], curve: list[dict[str, float]]) -> Run | Failure:
    """The run with its summary, or a failure where that has no reward. Raises where it is none of a run."""
    plain = json.loads((folder / SUMMARY).read_text())
    if lost := unmeasured(plain):
        return Failure(folder, lost)
    summary = finite(plain)
    require_summary(summary)
    run = Run(folder, config, summary, curve)
    _ = run.evaluation  # raises KeyError where the base or the steered policy has no table
    return run


def unmeasured(summary: Any) -> str:
    """Why a summary has no reward; empty where it has one, or is none."""
    if not isinstance(summary, dict):
        return ""
    for name, whose in (("reward_after", "its evaluation"), ("reward_before", "its base")):
        value = summary.get(name, 0.0)
        if value is None and name not in summary.get("not_finite", []):
            return f"the reward of {whose} could not be measured"
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return f"the reward of {whose} is not finite"
    return ""


def unfinished(folder: Path, config: dict[str, Any], curve: list[dict[str, float]]) -> str:
    """How far a run without a summary came."""
    if (folder / FAILURE).is_file():
        return " ".join((folder / FAILURE).read_text(errors="replace").split())
    if not curve:
        return "stopped before its first iteration was over"
    done, of = int(curve[-1]["iteration"]), (config.get("plan") or {}).get("iterations")
    if done == of:
        return f"all {of} iterations done, but not evaluated; go on with resume={folder}"
    return f"stopped after iteration {done} of {of}; go on with resume={folder}"


def certificate(folder: Path) -> Iterator[Run | Failure]:
    """Every replica of every cell of a certificate as a run of its own: its objective is exact, and so is the optimum."""
    for file in sorted(folder.glob("*/*/certificate.json")):
        try:
            with usable(file.name):
                done = list(replicas(file))
        except ValueError as error:
            done = [Failure(file.parent, str(error))]
        yield from done


def replicas(file: Path) -> Iterator[Run | Failure]:
    """The replicas of a cell; one whose figures are not finite is a failure of its own."""
    cell = Cell.read(json.loads(file.read_text()))
    if cell.refused:
        yield Failure(file.parent, str(cell.refused))
    every = [(run, replica) for run in cell.runs for replica in range(len(run.final.reward))]
    for number, (run, replica) in enumerate(every):
        try:
            with usable(f"replica {number} of {file.name}"):
                found = replica_of(run, replica, number, file.parent, cell.law)
                require_summary(found.summary)
                require_number("score", found.score)
                yield found
        except ValueError as error:
            yield Failure(file.parent, str(error))


def replica_of(run: Trained, replica: int, number: int, folder: Path, law: Law) -> Run:
    """One replica of a certificate's run; its number stands for a seed. Score and KL are by the law it is held against."""
    curve = [
        {"queries": float(queries), "reward": figures.reward[replica], "score": 1 - run.gaps(figures, law)[replica]}
        for queries, figures in run.curve
    ]
    base, after = {"reward": run.base.reward[0], "kl_nats": 0.0}, {"reward": run.final.reward[replica]}
    after["kl_nats"] = run.reached(run.final, law)[1][replica]
    summary = {
        "reward_before": base["reward"], "reward_after": after["reward"], "kl_nats": after["kl_nats"], "seed": number,
        "reward_queries": int(curve[-1]["queries"]), "evaluations": {"base/sde": base, "ema/sde": after},
    }  # fmt: skip
    own = {"task": "certify", "problem": folder.parent.name, "algorithm": folder.name}
    return Run(folder, own, summary, known(curve), 1 - run.gaps(run.final, law)[replica])
