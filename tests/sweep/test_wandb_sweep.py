"""The same sweep file under W&B's own commands, `wandb sweep` and `wandb agent`, against a stand-in of its server."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgdlab import cli
from pgdlab.config.runs import METRICS, SUMMARY
from pgdlab.sweep.file import read
from pgdlab.sweep.records import record
from tests.sweep.test_sweep import POINTS, ROOT, write
from tests.wandb_server import Server, serving


def wandb(server: Server, home: Path, *words: str) -> str:
    """A command of W&B's, in the sweep's directory. Returns what it said."""
    own = {
        "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", "WANDB_API_KEY": "0" * 40, "HOME": str(home),
        "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "NO_PROXY": "*",
    }  # fmt: skip
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    command = [sys.executable, "-m", "wandb", *words]
    done = subprocess.run(command, cwd=home, env=kept | own, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def history(server: Server, run: str) -> list[dict[str, Any]]:
    return [row for line in server.lines[run, "wandb-history.jsonl"] if "reward" in (row := json.loads(line))]


def test_wandb_runs_the_file_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = {"trainer": {"values": ["ppo", "grpo"]}, "optimizer.lr": {"value": 0.01}, "seed": {"values": [3]}}
    words = [*POINTS, "plan.iterations=2", "name=byagent", "logger=wandb"]
    write(tmp_path / "x.yaml", words, parameters=space, metric={"name": "reward_after", "goal": "maximize"})
    (tmp_path / "run.py").symlink_to(ROOT / "run.py")
    sweep = read(tmp_path / "x.yaml")
    trials = [{**sweep.constants, **chosen} for chosen in sweep.grid()]
    with serving([{name: trial[name] for name in sweep.order} for trial in trials]) as server:
        assert "me/lab/s1" in wandb(server, tmp_path, "sweep", "-p", "lab", "x.yaml")
        wandb(server, tmp_path, "agent", "me/lab/s1")
    assert yaml.safe_load(server.sweep) == yaml.safe_load((tmp_path / "x.yaml").read_text())
    assert server.exits == {"run0": 0, "run1": 0}

    monkeypatch.chdir(tmp_path)
    for number, chosen in enumerate(sweep.grid()):
        run, folder = f"run{number}", tmp_path / "runs" / ("byagent" if number == 0 else f"byagent-{number + 1}")
        assert (folder / "wandb_id").read_text() == run  # the server's run, not one of its own
        assert all(bucket["sweep"] == "s1" for bucket in server.runs[run] if bucket["sweep"])
        assert server.runs[run][0]["sweep"] == "s1"
        given = {k: v["value"] for k, v in json.loads(server.runs[run][0]["config"]).items() if k in sweep.order}
        assert given == {**sweep.constants, **chosen}
        with (folder / METRICS).open(newline="") as file:
            table = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
        for sent, row in zip(history(server, run), table, strict=True):
            assert {k: sent[k] for k in row if k != "step"} == pytest.approx(
                {k: v for k, v in row.items() if k != "step"}
            )
        summary = json.loads(server.lines[run, "wandb-summary.json"][-1])
        own = json.loads((folder / SUMMARY).read_text())
        assert {k: summary[k] for k in ("reward_after", "reward_queries")} == {
            k: own[k] for k in ("reward_after", "reward_queries")
        }
        # task=sweep would have run the same, but for the logger
        trial = record(sweep, chosen)
        words = [word for word in trial.overrides if not word.startswith("name=")]
        assert cli.main([*words, f"name=byus{number}"]) == 0
        with (tmp_path / "runs" / f"byus{number}" / METRICS).open(newline="") as file:
            for ours, theirs in zip(csv.DictReader(file), table, strict=True):
                assert {k: float(v) for k, v in ours.items() if "seconds" not in k} == {
                    k: v for k, v in theirs.items() if "seconds" not in k
                }
