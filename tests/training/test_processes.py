"""Two gloo processes give what one gives on the same global batch: gradients, weights, figures, and one run folder."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pgdlab import cli
from pgdlab.config.runs import METRICS, SUMMARY
from pgdlab.processes import Processes
from pgdlab.training.fit import LAST, load
from tests.two_processes import SCENARIOS
from tests.worlds import BRIGHT, distance, fitted, recorder, tiny

ROOT = Path(__file__).resolve().parents[2]


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """What the first process said last, and then the others: either may have failed first."""
    lines = done.stderr.splitlines()
    first, others = ([line for line in lines if line.startswith("[rank1]") == other] for other in (False, True))
    return "\n".join([*first[-40:], *others[-15:]])


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenarios' results in two processes."""
    folder = tmp_path_factory.mktemp("both")
    done = python("-m", "tests.two_processes", str(folder), "ddp_cpu", cwd=ROOT)
    assert done.returncode == 0, last_words(done)
    return folder


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_processes_give_what_one_gives(name: str, both: Path, tmp_path: Path) -> None:
    """See same_as_one."""
    same_as_one(SCENARIOS[name], both / f"{name}.pt", tmp_path)


def same_as_one(scenario: tuple[bool, tuple[str, ...]], found: Path, folder: Path) -> None:
    """The gradient of the first update that has one; the weights after the last iteration of AdamW, which amplifies tiny
    gradients: in fp64 only."""
    double, overrides = scenario
    two = torch.load(found, weights_only=False)
    one = fitted(folder, *overrides, double=double)
    first = next(k for k, gradient in enumerate(one.gradients) if any(g.any() for g in gradient.values()))
    assert distance(two["gradients"][first], one.gradients[first]) < (1e-9 if double else 1e-5)
    assert not double or distance(two["weights"], one.weights[-1]) < 1e-8
    for a, b in zip(two["history"], one.history, strict=True):
        assert a.keys() == b.keys()
        assert a == pytest.approx(
            b | {k: v for k, v in a.items() if "seconds" in k},
            rel=1e-6 if double else 1e-3,
            abs=1e-9 if double else 1e-6,
        )


@pytest.mark.parametrize(
    "name", [n for n, (_, some) in SCENARIOS.items() if any("Patchy" in s for s in some) and "dpo" not in n]
)
def test_the_ranks_measure_unequal_numbers(name: str, tmp_path: Path) -> None:
    """What the scenarios above rest on: else a mean of the ranks' means would pass too."""
    double, overrides = SCENARIOS[name]
    module, _ = recorder(*overrides, double=double)
    experience = module.algorithm.collect(module.world, 0)
    measured = experience.measured if hasattr(experience, "measured") else experience.weight > 0
    first, second = measured.chunk(2)
    assert 0 < int(first.sum()) != int(second.sum()) > 0


def test_the_shares_of_the_processes() -> None:
    shares = [Processes(rank, 3).share(12) for rank in range(3)]
    assert [i for share in shares for i in share] == list(range(12))
    with pytest.raises(ValueError, match="10 samples do not divide among 3 processes"):
        Processes(0, 3).share(10)


def test_the_shipped_runtime_makes_one_run(tmp_path: Path) -> None:
    words = (BRIGHT, "domain.train_conditions=[0,1]")
    done = python(str(ROOT / "run.py"), *tiny(*words, "runtime=ddp_cpu", "name=two"), cwd=tmp_path)
    assert done.returncode == 0, last_words(done)
    assert [f.name for f in (tmp_path / "runs").iterdir()] == ["two"]
    with (tmp_path / "runs" / "two" / METRICS).open(newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    assert [float(row["iteration"]) for row in rows] == [1, 2]
    assert [float(row["queries"]) for row in rows] == [8, 16]
    assert json.loads((tmp_path / "runs" / "two" / SUMMARY).read_text())["reward_queries"] == 16
    fitted(tmp_path / "one", *words)
    two, one = ((tmp_path / name / "prompts.csv").read_text().splitlines() for name in ("runs/two", "one"))
    assert [line.split(",")[:4] for line in two] == [line.split(",")[:4] for line in one]
    assert [line.split(",")[3] for line in one[1:]] == ["4"] * 4
    means = [[float(x) for line in some[1:3] for x in line.split(",")[4:]] for some in (two, one)]
    assert means[0] == pytest.approx(means[1], rel=1e-5)
    assert done.stderr.count("parameters:") == 1  # one doctor
    assert "Initializing" not in done.stderr
    assert "Warning" not in done.stderr
    assert "deprecated" not in done.stderr
    assert done.stderr.count("iteration 2/2") == 1
    assert done.stdout.count("reward queries") == 1


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def by_torchrun(node: int, port: str) -> tuple[list[str], dict[str, str]]:
    """An agent of torchrun: its words, its variables."""
    rendezvous = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=x"]
    return ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *rendezvous], {}


def by_srun(node: int, port: str) -> tuple[list[str], dict[str, str]]:
    """A task of srun on a node of its own."""
    size = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2"}
    own = {"SLURM_PROCID": f"{node}", "SLURM_NODEID": f"{node}", "SLURM_LOCALID": "0", "SLURM_JOB_NAME": "x"}
    return [], size | own | {"SLURM_JOB_ID": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def on_two_machines(
    start: Callable[[int, str], tuple[list[str], dict[str, str]]], words: list[str], folder: Path
) -> list[subprocess.Popen[bytes]]:
    """The process that starts each of two ranks; what they say is in <folder>/0.txt and 1.txt."""
    port, running = free_port(), []
    for node in range(2):
        (folder / str(node)).mkdir()
        before, variables = start(node, port)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""} | variables
        command = [sys.executable, *before, str(ROOT / "run.py"), *words]
        out = (folder / f"{node}.txt").open("w")
        running.append(subprocess.Popen(command, cwd=folder / str(node), env=environment, stdout=out, stderr=out))
    return running


@pytest.mark.parametrize("start", [by_torchrun, by_srun])
def test_two_machines_make_one_run(
    start: Callable[[int, str], tuple[list[str], dict[str, str]]], tmp_path: Path
) -> None:
    """Each with a file system of its own, as far as a folder is one: the first machine's has the run."""
    words = tiny(BRIGHT, "runtime=ddp_cpu", "runtime.devices=1", "runtime.num_nodes=2", "name=two")
    running = on_two_machines(start, words, tmp_path)
    try:
        codes = [process.wait(timeout=240) for process in running]
    finally:
        for process in running:
            process.kill()
    said = [(tmp_path / f"{node}.txt").read_text() for node in range(2)]
    assert codes == [0, 0], said
    assert not (tmp_path / "1" / "runs").exists()
    with (tmp_path / "0" / "runs" / "two" / METRICS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    one = fitted(tmp_path / "one", BRIGHT).history
    assert [float(row["reward"]) for row in rows] == pytest.approx([row["reward"] for row in one], rel=1e-5)
    assert "parameters:" in said[0]
    assert "parameters:" not in said[1]  # one doctor


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(("rank", "hangs"), [(1, False), (0, True)], ids=["in an exchange", "in a reward"])
def test_where_one_process_is_lost_the_others_end(
    rank: int, hangs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a minute, with one sentence; the checkpoint is whole, and the run goes on. In a reward no exchange would fail."""
    reward = "reward={_target_: tests.worlds.Hanging}"
    words = tiny(reward, "heldout=null", "runtime=ddp_cpu", "name=two", "plan.iterations=100000")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    said, checkpoint = tmp_path / "said", tmp_path / "runs" / "two" / LAST
    with said.open("w") as out:
        command = [sys.executable, str(ROOT / "run.py"), *words]
        first = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=out, stderr=out)
    every = [first.pid]
    try:
        until(checkpoint.exists, 200)
        every += children(first.pid)
        if hangs:
            made_to_wait(every[1], tmp_path)
        os.kill(every[rank], signal.SIGKILL)
        first.wait(60)
        until(lambda: not any(alive(pid) for pid in every), 60)
    finally:
        for pid in (pid for pid in every if alive(pid)):
            os.kill(pid, signal.SIGKILL)
    lost = (
        "the first process of the run ended; " if rank == 0 else r"the process of rank 1 ended \(killed by SIGKILL\); "
    )
    assert len(re.findall(lost + r"go on from iteration (\d+) with: ", said.read_text())) == 1, said.read_text()
    assert "Traceback" not in said.read_text()
    (tmp_path / "hang").unlink(missing_ok=True)
    done = int(load(checkpoint)["current_model_state"]["iterations"])
    monkeypatch.chdir(tmp_path)
    assert cli.main(["resume=runs/two", "trust=tests.worlds", "runtime=cpu", f"plan.iterations={done + 1}"]) == 0


def test_a_process_of_torchrun_that_is_lost_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two agents' processes works in a reward, so that no exchange fails, and no agent knows of the other's. The
    command names the first process's folder."""
    reward = "reward={_target_: tests.worlds.Hanging}"
    words = tiny(reward, "heldout=null", "runtime=ddp_cpu", "name=two", "plan.iterations=100000")
    agents = on_two_machines(by_torchrun, [*words, "runtime.devices=1", "runtime.num_nodes=2"], tmp_path)
    checkpoint, every = tmp_path / "0" / "runs" / "two" / LAST, [agent.pid for agent in agents]
    try:
        until(checkpoint.exists, 240)
        workers = {rank_of(pid): pid for agent in agents for pid in children(agent.pid)}
        made_to_wait(workers[0], tmp_path / "0")
        every += [workers[0], workers[1]]
        os.kill(workers[1], signal.SIGKILL)
        until(lambda: all(agent.poll() is not None for agent in agents), 60)
        until(lambda: not any(alive(pid) for pid in every), 10)
    finally:
        for pid in (pid for pid in every if alive(pid)):
            os.kill(pid, signal.SIGKILL)
    said = "".join((tmp_path / f"{node}.txt").read_text() for node in range(2))
    sentence = r"error: the process of rank 1 ended; go on from iteration \d+ with: .* resume=runs/two"
    assert len(re.findall(sentence, said)) == said.count("error: ") == 1, said
    (tmp_path / "0" / "hang").unlink()
    done = int(load(checkpoint)["current_model_state"]["iterations"])
    monkeypatch.chdir(tmp_path / "0")
    assert cli.main(["resume=runs/two", "trust=tests.worlds", "runtime=cpu", f"plan.iterations={done + 1}"]) == 0


def rank_of(pid: int) -> int:
    """That torchrun gave a process; -1 of one that it gave none."""
    said = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return int(dict(one.split("=", 1) for one in said if "=" in one).get("RANK", -1))


def alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def made_to_wait(pid: int, folder: Path) -> None:
    """A process of tests.worlds.Hanging is in its reward. Where another one hears of it first, this one waits for that: again."""
    for _ in range(10):
        (folder / "hang").touch()
        with contextlib.suppress(AssertionError):
            until((folder / f"waits-{pid}").exists, 10)
            return
        (folder / "hang").unlink()
        time.sleep(0.5)
    raise AssertionError(f"{pid} does not wait")


def until(true: Callable[[], bool], seconds: float) -> None:
    """Waits. Fails after so many seconds."""
    late = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < late, f"not so after {seconds} s"
        time.sleep(0.05)


def test_what_does_not_divide_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(tiny(BRIGHT, "runtime=ddp_cpu", "plan.samples=9", "plan.group=3")) == 2
    assert "9 samples do not divide among 2 processes" in capsys.readouterr().err
    assert not torch.distributed.is_initialized()
