"""Mutated command lines, each run to its end in a process of its own: `python -m benchmarks.fuzz --count 1000`.

None may end with a bare traceback, none may take long to be refused, and none may be accepted in silence: where a setting differs
from the base's and the task ends well, something that it writes or prints must differ, or the key is one that changes
how a run is done and not what comes out (QUIET, with the reasons). Processes are forked from one that has the tasks imported.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

LIMIT = 60  # seconds for a command
POINTS = [
    "experiment=null", "domain=gaussian", "reward=quadratic", "heldout=null", "policy=affine", "policy.steps=3",
    "plan.samples=8", "plan.group=4", "plan.iterations=2", "plan.eval_samples=4", "trainer.minibatches=2", "optimizer.lr=0.02",
]  # fmt: skip
DIGITS = [
    "experiment=digits/ppo", "policy.steps=2", "plan.samples=4", "plan.group=2", "plan.iterations=1", "plan.eval_samples=4",
]  # fmt: skip
SUITE = (
    "certificate={_target_: pgdlab.certificates.certificate.Suite, name: tiny, seeds: 1, measurements: 1, algorithms: {ppo: []}, "
    "problems: {linear: ['experiment=oracle/linear', 'plan.iterations=1', 'plan.samples=16', 'plan.group=2']}}"
)
BASES: dict[str, tuple[list[str], int]] = {  # command, how often it is drawn
    "train points": (POINTS, 8),
    "train digits": (DIGITS, 4),
    "train actor-critic": ([*POINTS, "trainer=actor_critic", "penalty=[path_kl,trust_region]"], 3),
    "train rwr": ([*(w for w in POINTS if w != "trainer.minibatches=2"), "trainer=rwr", "penalty=none"], 2),
    "doctor": (["task=doctor", *POINTS], 2),
    "sample": (["task=sample", "experiment=digits/ppo", "policy.steps=2", "plan.eval_samples=4"], 2),
    "best_of_n": (
        ["task=best_of_n", *(w for w in POINTS if not w.startswith(("trainer", "optim", "policy=", "plan.g")))],
        2,
    ),
    "compare": (["task=compare", "compare.folders=[runs/digits]"], 2),
    "certify": (["task=certify", SUITE], 1),
    "resume": (["resume=runs/points", "plan.iterations=3"], 2),
    "evaluate": (["task=evaluate", "resume=runs/digits"], 2),
    "sample a run": (["task=sample", "resume=runs/digits"], 1),
    "export": (["task=export", "resume=runs/digits"], 1),
}
VALUES = (
    "null", "[]", "[1,2]", "{}", "{a: 1}", "true", "false", "nan", "inf", "-inf", "-1", "0", "1", "2", "0.5", "1.5", "-0.5",
    "1e30", "1e-30", "1e-320", "1000000000000", "'3'", "word", "''", "${seed}", "${nothing}", "${oc.env:HOME}", "7", "3", "0.99",
    "{_target_: os.getcwd}", "{_target_: os.system, command: 'touch PWNED'}", "{_target_: builtins.dict}",
    "{_target_: nowhere.X}", "{_target_: pgdlab.rollout.plan.Plan}", "{_target_: pgdlab.rewards.base.NoReward}",
)  # fmt: skip
WHOLE = (
    "trainer=[ppo]", "trainer=PPO", "trainer=", "trainer=null", "reward=none", "penalty=[path_kl,path_kl]", "penalty={}",
    "plan={}", "policy=configs/policy/full.yaml", "~trainer", "++trainer=ppo", "seed", "=3", "-m", "--multirun",
    "name=../x", "name=/x",
    "name='a b'", "name=3", "seed=-1", "seed=1.5", "task=trian", "task=null", "resume=nowhere", "resume=", "engine.foo=1",
    "certificate={foo: 1}", "compare.foo=1", "sweep=x.yaml", "budget.queries=0", "domain=nothing", "initial=diagonal",
    "optimizer.warmup=1000000000000", "reward.target=3", "policy.guidance=3", "divergence.kl_nats=1e-9", "heldout=heldout_target",
    "reward=jpeg", "logger=wandb logger.mode=nonsense", "runtime.accelerator=tpu", "runtime.max_epochs=3", "runtime=ddp",
)  # fmt: skip
# keys that say how a run is done, how it is judged or where it is put: no figure of a small run needs to move
QUIET = re.compile(
    r"(name|runtime(\..*)?|logger(\..*)?|plan\.(rollout_batch|pass_size|checkpoint_every|max_failed)|policy\.checkpoint_activations|budget(\..*)?|"
    r"divergence(\..*)?|compare\.(name|by|ceilings.*)|reward\.batch|domain\.(folder|replicas)|optimizer\.(rates\..*|clip_norm|beta2))$"
)
# the doctor builds a trainer and an optimizer and trains nothing. In runs of so few updates: a half-life is one at least, which
# of four is a quarter; a warm-up of one is none; of eight pairs none may lie between two clips, and of three steps none under a
# smallest noise
QUIET_IN = {
    "doctor": re.compile(r"(optimizer|trainer)\..*|plan\.sheet_every$"),
    **dict.fromkeys(
        ("train points", "train digits", "train actor-critic", "train rwr"),
        re.compile(r"(optimizer\.(ema_halflife|warmup)|trainer\.clip|policy\.kernel\.quiet)$"),
    ),
}
APART = ("runtime.devices", "runtime.num_nodes")  # more processes start this program, and not the one that they are of
TIMED = re.compile(r"(seconds|versions|command|samples/s|/s, |\d+:\d\d:\d\d left)")


class Case(NamedTuple):
    """A command line. key: what was changed in the base's, "" for none."""

    base: str
    argv: list[str]
    key: str = ""


class End(NamedTuple):
    """How a case ended. config: as it was composed; outcome: what it wrote and printed, without times."""

    code: int
    said: str
    seconds: float
    config: Any
    outcome: Any


def cases(count: int, seed: int, keys: dict[str, dict[str, Any]]) -> Iterator[Case]:
    """Mutations of the bases. keys: of the base's configuration, with their values."""
    draw = random.Random(seed)
    names, weights = list(BASES), [weight for _, weight in BASES.values()]
    for _ in range(count):
        name = draw.choices(names, weights)[0]
        kind, key = draw.random(), draw.choice([*keys[name]])
        if kind < 0.15:
            words = draw.choice(WHOLE).split(" ")
            yield Case(name, [*without(name, words), *words], words[-1].lstrip("~+").partition("=")[0])
        elif kind < 0.3:
            wrong = misspelt(key, draw)
            yield Case(name, [*BASES[name][0], f"{wrong}={draw.choice(VALUES)}"], wrong)
        elif kind < 0.6:
            key = draw.choice([key for key, value in keys[name].items() if isinstance(value, (bool, int, float))])
            yield Case(name, [*without(name, [key]), f"{key}={near(keys[name][key], draw)}"], key)
        else:
            yield Case(name, [*without(name, [key]), f"{key}={draw.choice(VALUES)}"], key)


def near(value: float, draw: random.Random) -> str:
    """Another value of the same kind, which may well be allowed."""
    if isinstance(value, bool):
        return str(not value).lower()
    more = (
        [value + 1, value - 1, 2 * value + 2, value // 2]
        if isinstance(value, int)
        else [value / 2, 2 * value, 1 - value, value + 0.1]
    )
    return str(draw.choice([one for one in more if one != value]))


def without(name: str, words: Sequence[str]) -> list[str]:
    """A base's command line without what other words set: a key that is given twice is refused as such."""
    keys = [word.lstrip("~+").partition("=")[0] for word in words]
    return [word for word in BASES[name][0] if word.partition("=")[0] not in keys]


def misspelt(key: str, draw: random.Random) -> str:
    """The key with a letter lost, doubled or put where its neighbour was, or with a part too many."""
    i = draw.randrange(len(key))
    more = [
        key[:i] + key[i + 1 :],
        key[: i + 1] + key[i:],
        f"{key}.x",
        key.upper(),
        key[:i] + key[i : i + 2][::-1] + key[i + 2 :],
    ]
    return draw.choice(more)


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every (key, value), of nodes and of what is in them."""
    if key:
        yield key, value
    for name, child in value.items() if isinstance(value, dict) else ():
        yield from flat(child, f"{key}.{name}" if key else name)


def run(argv: Sequence[str], home: Path, folder: Path) -> End:
    """In a forked process, in a copy of home."""
    shutil.copytree(home, folder)
    started, child = time.monotonic(), os.fork()
    if child == 0:
        os._exit(inside(list(argv), folder))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    said = (folder / "stderr").read_text(errors="replace")
    config = folder / "config.json"
    return End(
        code,
        said,
        time.monotonic() - started,
        json.loads(config.read_text()) if config.is_file() else None,
        outcome(folder),
    )


def inside(argv: list[str], folder: Path) -> int:
    """The command in this process; its exit code, 1 for a traceback."""
    import traceback

    from pgdlab import cli

    os.chdir(folder)
    signal.alarm(LIMIT)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["run.py", *argv]
    os.environ.pop("PGDLAB_RUN", None)
    try:
        with contextlib.suppress(Exception), contextlib.redirect_stderr(None):
            Path("config.json").write_text(
                json.dumps(cli.configuration([w for w in argv if not w.startswith("-")]).plain())
            )
        code = cli.main(argv)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def outcome(folder: Path) -> Any:
    """What was printed, and every file that a run wrote, by name; lines with times are left out."""
    import torch

    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        name = re.sub(r"runs/[^/]*/", "", str(file.relative_to(folder)))
        if (
            file.suffix in (".ckpt", ".part")
            or name in ("config.json", "config.yaml", "command.txt")
            or not file.is_file()
        ):
            continue
        if file.suffix == ".pt":
            found[name] = str(torch.load(file, weights_only=True))
        elif file.suffix in (".png", ".safetensors"):
            found[name] = hash(file.read_bytes())
        elif file.suffix == ".csv":
            head, *rows = [line.split(",") for line in file.read_text(errors="replace").splitlines()] or [[]]
            found[name] = [
                [cell for title, cell in zip(head, row, strict=False) if "seconds" not in title] for row in rows
            ]
        else:
            lines = file.read_text(errors="replace").splitlines()
            found[name] = [re.sub(r"runs/\S*|[\d.]+ s\b", "", line) for line in lines if not TIMED.search(line)]
    return found


def verdict(case: Case, end: End, base: End) -> str:
    """refused, honoured, the same setting, quiet; or a fault: traceback, silent, slow."""
    if end.code == -signal.SIGALRM:
        return "SLOW"
    errors = [line for line in end.said.splitlines() if line.startswith("error: ")]
    if end.code == 2 and len(errors) == 1 and "Traceback" not in end.said:
        return "refused" if end.seconds < 20 else "SLOW"
    if end.code not in (0, 3) or "Traceback" in end.said:
        return "TRACEBACK"
    if end.config == base.config:
        return "the same setting"
    if end.outcome != base.outcome:
        return "honoured"
    quiet = [QUIET, *(QUIET_IN[name] for name in QUIET_IN if name == case.base)]
    return "quiet" if any(one.match(case.key) for one in quiet) else "SILENT"


def main() -> int:
    """Prints the counts, and each fault with its command. Returns 1 where there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "MPLBACKEND": "Agg"}
    from pgdlab import cli

    cli.prepare_environment()
    for name in cli.tasks():
        importlib.import_module(f"pgdlab.tasks.{name}")
    with tempfile.TemporaryDirectory(prefix="pgdlab-fuzz-") as place:
        return fuzz(options.count, options.seed, options.seconds, Path(place))


def fuzz(count: int, seed: int, seconds: float, place: Path) -> int:
    """All cases in a folder. Returns an exit code."""
    home, counts, begun = place / "home", Counter[str](), time.monotonic()
    home.mkdir()
    for name, words in (("points", POINTS), ("digits", DIGITS)):
        made = run([*words, f"name={name}"], home, place / name)
        assert made.code == 0, made.said
        shutil.copytree(place / name / "runs" / name, home / "runs" / name)
    bases = {name: run(words, home, place / name) for name, (words, _) in BASES.items()}
    for name, end in bases.items():
        assert end.code in (0, 3), (name, end.said)
    keys = {name: {k: v for k, v in flat(end.config) if k not in APART} for name, end in bases.items()}
    for number, case in enumerate(cases(count, seed, keys)):
        if time.monotonic() - begun > seconds:
            break
        end = run(case.argv, home, place / str(number))
        found = verdict(case, end, bases[case.base])
        counts[found] += 1
        if found.isupper():
            last = (end.said.strip().splitlines() or [""])[-1]
            given = " ".join(word for word in case.argv if word not in BASES[case.base][0])
            print(f"{found} ({case.base}, code {end.code}): {given}\n    {last[:200]}", flush=True)
        pwned = (place / str(number) / "PWNED").exists()
        counts["EXECUTED"] += pwned
        shutil.rmtree(place / str(number))
    print(
        f"{sum(counts.values()) - counts['EXECUTED']} command lines in {time.monotonic() - begun:.0f} s: {dict(counts)}"
    )
    return 1 if any(counts[name] for name in ("TRACEBACK", "SILENT", "SLOW", "EXECUTED")) else 0


if __name__ == "__main__":
    sys.exit(main())
