"""Runs a sweep with Ray Tune and accounts for every trial."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune

from pgdlab.config.compose import draft, finish
from pgdlab.config.groups import OWN, once, parse_one, slots
from pgdlab.config.runs import require_no_links
from pgdlab.config.tasks import require_read
from pgdlab.sweep.engine import Engine, scheduler, searcher, space
from pgdlab.sweep.file import Parameters, Sweep
from pgdlab.sweep.records import EARLY, RECORDS, Record, mapping, record
from pgdlab.sweep.trial import Trial

LOCK = "sweep.lock"  # in a sweep's folder
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_CHDIR_TO_TRIAL_DIR": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}  # fmt: skip


@dataclass
class Account(tune.Callback):
    """A line for each trial that ends, and the reason in its folder where it did not finish."""

    sweep: Sweep
    total: int
    ended: int = 0
    records: dict[str, Record] = field(default_factory=dict)

    def setup(self, *_: Any, **__: Any) -> None:
        """Nothing to prepare."""

    def of(self, trial: Any) -> Record:
        """A trial's record."""
        found = record(self.sweep, self.sweep.values(trial.config))
        self.records[trial.trial_id] = found
        return found

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.of(trial)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        done, result = self.of(trial), trial.last_result
        if done.state == "not finished":
            figure = f", {self.sweep.metric} {result.get(self.sweep.metric, float('nan')):.4g}"
            done.give_up(f"{EARLY} by the sweep after iteration {result['iteration']:.0f}{figure}")
        self.say(done)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        failed = self.of(trial)
        words = str(trial.get_error() or "the process that watched it died").strip().splitlines()
        ends = [a["end"] or words[-1] for a in failed.attempts] or [words[-1]]
        if failed.summary is None:
            failed.give_up(f"failed in {len(ends)} attempts, the last: {ends[-1]}")
        self.say(failed)

    def say(self, ended: Record) -> None:
        """Progress."""
        self.ended += 1
        print(f"{self.ended}/{self.total}  {ended.name}  {ended.state}  {figures(ended, self.sweep)}", file=sys.stderr)


def figures(ended: Record, sweep: Sweep) -> str:
    """The metric and the seconds, or why there are none."""
    summary = ended.summary
    if summary is None:
        return ended.failure
    value = (ended.rows() or [{}])[-1] | summary
    said = f"{sweep.metric} {value[sweep.metric]:.4g}, " if isinstance(value.get(sweep.metric), (int, float)) else ""
    return f"{said}{ended.seconds:.1f} s"


def require_trial(words: Sequence[str]) -> None:
    """Raises ConfigError for a trial's command line where the trial itself would."""
    once(words, slots())
    cfg = draft(words)
    require_read(cfg.task, [parse_one(word) for word in words], resumed=False)
    finish(cfg)


def run(sweep: Sweep, engine: Engine) -> list[Record]:
    """Runs the trials of a sweep that are left. Returns the record of every trial; those that did not finish say why.

    Raises ValueError where another process runs the sweep, and KeyboardInterrupt, which says how to go on, after Ctrl-C.
    """
    for some in sweep.probes():
        require_trial(record(sweep, some).named)  # a mistake in any value is found before anything starts
    home = Path("runs") / sweep.name
    (home / RECORDS).mkdir(parents=True, exist_ok=True)
    require_plain(home)
    grid = sweep.grid() if sweep.method == "grid" else []
    account = Account(sweep, len(grid) or sweep.cap or 0)
    with alone(home):
        connect(engine)
        try:
            tuner(sweep, engine, home, grid, account).fit()
        except KeyboardInterrupt:
            over = sum(r.over for r in account.records.values())
            raise KeyboardInterrupt(f"{over} of {account.total} trials are over; the same command goes on") from None
        finally:
            ray.shutdown()
            shutil.rmtree(home / ".ray", ignore_errors=True)
    unique = {r.name: r for r in [*(record(sweep, some) for some in grid), *account.records.values()]}
    return list(unique.values())


def require_plain(home: Path) -> None:
    """Raises ValueError where something in a sweep's folder is a link, or has one: what trials write would go elsewhere.
    Those of W&B's in a run folder are its own."""
    for child in sorted(home.iterdir()):
        if child.is_symlink():
            raise ValueError(
                f"{child} is a link to {os.readlink(child)}: nothing is read or written through links in a sweep's folder. "
                "Remove it, or put there what it leads to"
            )
        if child.is_dir() and child.name != ".ray":  # Ray's own, of a driver that was killed
            require_no_links(child)


@contextlib.contextmanager
def alone(home: Path) -> Iterator[None]:
    """Keeps other drivers from a sweep's folder meanwhile. The system lets go of the lock when this process ends, however."""
    with (home / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ValueError(
                f"another process runs this sweep in {home} ({lock.read().strip() or 'just started'}): wait for its end, or "
                "give the file another name"
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()}")
        lock.flush()
        yield
        lock.truncate(0)


def connect(engine: Engine) -> None:
    """To the cluster, or to one that is made of this machine and ends with this process."""
    os.environ.update(QUIET)
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # tracebacks of attempts: their ends are in the records
    local = {"include_dashboard": False, "object_store_memory": 10**8} if engine.address is None else {}
    address = engine.address or "local"  # never a cluster that happens to be there
    ray.init(address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **local)


def tuner(sweep: Sweep, engine: Engine, home: Path, grid: list[Parameters], account: Account) -> tune.Tuner:
    """Tune's view of the sweep. Its own files are of no use afterwards: run folders are the state."""
    settings = {"sweep": sweep, "engine": engine, "root": Path.cwd(), "rows": sweep.early is not None}
    settings["own"] = os.environ.get(OWN, "")  # an actor on another machine does not inherit it
    trial = tune.with_resources(
        tune.with_parameters(Trial, settings=settings), {"cpu": engine.cpus, "gpu": engine.gpus}
    )  # fmt: skip
    return tune.Tuner(
        trial,
        param_space={"grid": tune.grid_search(grid)} if grid else space(sweep),
        tune_config=tune.TuneConfig(
            metric=sweep.metric or "finished", mode=sweep.goal, search_alg=searcher(sweep, engine, known(sweep, home)),
            scheduler=scheduler(sweep), num_samples=1 if grid else sweep.cap, reuse_actors=True,
            max_concurrent_trials=engine.trials if sweep.method == "bayes" else None,
        ),
        run_config=tune.RunConfig(
            name=".ray", storage_path=str(home.resolve()), verbose=0, callbacks=[account],
            failure_config=tune.FailureConfig(max_failures=engine.retries),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )  # fmt: skip


def known(sweep: Sweep, home: Path) -> list[Parameters]:
    """The trials of an earlier run of this sweep: bayes goes on from there, the others draw the same again. A record that is
    broken, or of another file, is passed over."""
    if sweep.method != "bayes":
        return []
    found = [mapping(file) or {} for file in sorted((home / RECORDS).glob("*.json"))]
    own = [one for one in found if offered(sweep, one.get("chosen"))]
    return [one["chosen"] for one in own if one.get("overrides") == sweep.overrides(one["chosen"])][: sweep.cap]


def offered(sweep: Sweep, chosen: Any) -> bool:
    """Whether the sweep file could have chosen these values: what else a record says is not run."""
    if not isinstance(chosen, dict) or chosen.keys() != sweep.space.keys():
        return False
    return all(p.offers(chosen[name]) for name, p in sweep.space.items())
