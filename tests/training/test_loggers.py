"""Metrics reach metrics.csv always and W&B where asked for, at the run's own step, and survive resuming and no network."""

from __future__ import annotations

import csv
import importlib.util
import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgdlab import cli
from pgdlab.config import renamed
from pgdlab.config.runs import METRICS, SUMMARY
from pgdlab.training.loggers import figures, resume_rows
from pgdlab.training.weights_and_biases import key_of, unanswered
from tests.wandb_server import Handler, serving
from tests.worlds import BRIGHT, tiny

HEADER, BLOCK = 7, 32768


def records(file: Path) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format, blocks of 32 KiB, (crc, length, type) before every fragment."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = file.read_bytes(), HEADER, b""
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # too little for a fragment: padding
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + HEADER])
        if at + HEADER + length > len(data):  # W&B's process is in the middle of writing it
            return
        whole += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # full, or last
            yield Record.FromString(whole)
            whole = b""


def history(file: Path) -> list[dict[str, Any]]:
    rows = [r.history for r in records(file) if r.WhichOneof("record_type") == "history"]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item} for row in rows]


def offline(folder: Path) -> list[Path]:
    """The files of the offline runs. W&B's own process writes on for a moment after finish() has returned."""
    files, late = sorted(folder.glob("wandb/offline-run-*/*.wandb")), time.monotonic() + 30
    while any(all(r.WhichOneof("record_type") != "exit" for r in records(f)) for f in files):
        assert time.monotonic() < late
        time.sleep(0.05)
    return files


def test_wandb_offline_and_resumed(offline_run: Path) -> None:
    assert cli.main(tiny(BRIGHT, "heldout={_target_: tests.worlds.Bright}", "logger=wandb", "name=x")) == 0
    first = offline(offline_run)
    assert len(first) == 1
    rows = [row for row in history(first[0]) if "reward" in row]
    with (offline_run / METRICS).open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["iteration"] for row in rows] == [1, 2]
    assert [row["_step"] for row in rows] == [1, 2]
    for row, line in zip(rows, table, strict=True):
        assert all(row[name] == pytest.approx(float(value), nan_ok=True) for name, value in line.items() if name in row)
        assert row.keys() >= {"reward", "heldout", "kl_nats", "queries", "train/clip_fraction_high", "reward/darkest"}
    pictures = {key for row in history(first[0]) for key in row if "before_after" in key or "learning_curve" in key}
    assert len(pictures) >= 2
    assert list(offline_run.rglob("media/images/*.png"))

    assert cli.main(["resume=runs/x", "plan.iterations=3"]) == 0
    second = offline(offline_run)
    assert len(second) == 2
    ids = {r.run.run_id for file in second for r in records(file) if r.WhichOneof("record_type") == "run"}
    assert ids == {(offline_run / "wandb_id").read_text()}
    assert [row["iteration"] for row in history(second[1]) if "reward" in row] == [3]
    with (offline_run / METRICS).open(newline="") as file:
        assert [float(row["iteration"]) for row in csv.DictReader(file)] == [1, 2, 3]


def test_a_server_out_of_reach_stops_nothing(offline_run: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        server = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("WANDB_BASE_URL", server)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("WANDB_SILENT")  # which the user need not set
    assert cli.main([*tiny(BRIGHT, "logger=wandb", "plan.iterations=1"), "name=x"]) == 0
    said = [line for line in capfd.readouterr().err.splitlines() if "wandb" in line.lower() or "W&B" in line]
    assert said == [f"W&B: cannot be reached at {server}; offline, upload later with: wandb sync runs/x/wandb/*"]
    assert [row["iteration"] for row in history(offline(offline_run)[0]) if "reward" in row] == [1]
    assert (offline_run / SUMMARY).exists()


def test_a_disabled_run_keeps_its_table(offline_run: Path, capfd: Any) -> None:
    assert cli.main([*tiny(BRIGHT, "logger=wandb", "logger.wandb.mode=disabled", "plan.iterations=1"), "name=x"]) == 0
    assert "W&B" not in capfd.readouterr().err
    assert not (offline_run / "wandb").exists()
    assert (offline_run / METRICS).exists()


def test_where_a_key_is_looked_for(offline_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert key_of("https://api.wandb.ai") is None
    (tmp_path / ".netrc").write_text("machine example.org login a password b\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert key_of("https://api.wandb.ai") is None
    assert key_of("https://example.org/wandb") == "b"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert key_of("https://api.wandb.ai") == "0" * 40


def silent(handler: Handler) -> None:
    time.sleep(3)


BROKEN = {  # what answers in the place of W&B's API -> what is said
    "answers 403 Forbidden: is the key right?": lambda h: h.page(403),
    "answers 502 Bad Gateway": lambda h: h.page(502),
    "does not answer as W&B does": lambda h: h.page(200),
    "does not know the key": lambda h: h.answer({"data": {"viewer": None}}),
    "does not answer within": silent,
}


def test_a_server_without_an_api_makes_an_offline_run(
    offline_run: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """A login page, a proxy, silence: found by one question, before W&B's own retries (136 s for a server that keeps silent)."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr("pgdlab.training.weights_and_biases.PATIENCE", 0.5)
    with serving([]) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("WANDB_BASE_URL", address)
        assert unanswered(address) == ""
        for said, server.broken in BROKEN.items():
            assert said in unanswered(address)
            assert address in unanswered(address)
        server.broken = BROKEN["answers 403 Forbidden: is the key right?"]
        online = [*tiny(BRIGHT, "logger=wandb", "logger.wandb.mode=online"), "name=x"]
        assert cli.main(online) == 2
        assert "403 Forbidden: is the key right?. logger.wandb.mode=offline does without" in capfd.readouterr().err
        assert not offline_run.exists()
        assert cli.main([*tiny(BRIGHT, "logger=wandb", "plan.iterations=1"), "name=x"]) == 0
        assert "is the key right?; offline, upload later with: wandb sync runs/x/wandb/*" in capfd.readouterr().err
    assert [row["iteration"] for row in history(offline(offline_run)[0]) if "reward" in row] == [1]
    assert "cannot be reached" in unanswered("nowhere")


def test_a_mode_that_is_none_is_refused_before_a_folder_is_made(
    offline_run: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("WANDB_MODE", "ofline")
    assert cli.main([*tiny(BRIGHT, "logger=wandb"), "name=x"]) == 2
    assert "WANDB_MODE is 'ofline' in the environment. Did you mean offline?" in capfd.readouterr().err
    assert not offline_run.exists()


def test_the_figures_of_a_summary() -> None:
    """Those inside too, for the table of runs; what no table takes is left out."""
    summary = {"a": 1, "evaluations": {"ema/sde": {"reward": 0.5, "kl_nats": None}}, "versions": {"torch": "2"}}
    assert figures(summary | {"b": float("nan")}) == {"a": 1, "evaluations/ema/sde/reward": 0.5}


def test_a_run_of_a_sweep_in_wandb(offline_run: Path) -> None:
    """Its group is the sweep and its job type the task; evaluations are in its table, and its exported model is an artifact."""
    assert cli.main([*tiny(BRIGHT, "logger=wandb", "plan.iterations=1"), "name=study/x"]) == 0
    folder = offline_run.parent / "study" / "x"
    (first,) = offline(folder)
    (run,) = [r.run for r in records(first) if r.WhichOneof("record_type") == "run"]
    assert (run.run_group, run.job_type) == ("study", "train")
    summary = {i.key or "/".join(i.nested_key): i.value_json for r in records(first) for i in r.summary.update}
    own = json.loads((folder / SUMMARY).read_text())
    reward = own["evaluations"]["ema/sde"]["reward"]
    assert json.loads(summary["evaluations/ema/sde/reward"]) == pytest.approx(reward)
    assert not [r for r in records(first) if r.WhichOneof("record_type") == "alert"]
    table = (folder / METRICS).read_bytes()

    before = offline(folder)
    assert cli.main(["task=evaluate", "resume=runs/study/x"]) == 0
    assert offline(folder) == before, "a run folder starts no logger"
    assert cli.main(["task=evaluate", "resume=runs/study/x", "logger=wandb"]) == 0
    assert cli.main(["task=export", "resume=runs/study/x", "logger=wandb"]) == 0
    assert (folder / METRICS).read_bytes() == table
    later = [r for file in offline(folder)[1:] for r in records(file)]
    assert {r.run.run_id for r in later if r.WhichOneof("record_type") == "run"} == {run.run_id}
    keys = {i.key or "/".join(i.nested_key) for r in later for i in r.summary.update}
    assert "evaluation/base/sde/reward" in keys
    artifacts = [
        r.request.log_artifact.artifact for r in later if r.request.WhichOneof("request_type") == "log_artifact"
    ]
    artifacts += [r.artifact for r in later if r.WhichOneof("record_type") == "artifact"]
    assert {(a.name, a.type) for a in artifacts} == {("x-model", "model")}


def test_tensorboard_beside_another_logger(offline_run: Path) -> None:
    """Rows at the run's own step, also after resuming, a picture and the figures of the summary."""
    pytest.importorskip("tensorboard", reason="the extra [loggers]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert cli.main([*tiny(BRIGHT, "logger=[csv,tensorboard]", "plan.iterations=2"), "name=x"]) == 0
    assert cli.main(["resume=runs/x", "plan.iterations=3"]) == 0
    board = EventAccumulator(str(offline_run / "tensorboard"))
    board.Reload()
    with (offline_run / METRICS).open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [e.step for e in board.Scalars("reward")] == [1, 2, 3]
    assert [e.value for e in board.Scalars("reward")] == pytest.approx([float(row["reward"]) for row in table])
    assert {"before_after", "learning_curve"} <= {*board.Tags()["images"]}
    own = json.loads((offline_run / SUMMARY).read_text())
    (*_, last) = board.Scalars("evaluations/ema/sde/reward")
    assert last.value == pytest.approx(own["evaluations"]["ema/sde"]["reward"])


def test_mlflow_in_a_file(offline_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run over a resume, its rows, settings, pictures, later evaluation and exported model; no server."""
    for module in ("mlflow", "cryptography"):
        pytest.importorskip(module, reason="the extra [loggers]")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert cli.main([*tiny(BRIGHT, "logger=mlflow", "plan.iterations=2"), "name=study/x"]) == 0
    for words in (["plan.iterations=3"], ["task=evaluate", "logger=mlflow"], ["task=export", "logger=mlflow"]):
        assert cli.main(["resume=runs/study/x", *words]) == 0
    folder = offline_run.parent / "study" / "x"
    client = MlflowClient(f"sqlite:///{offline_run.parent}/mlflow.db")
    experiment = client.get_experiment_by_name("study")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_id == (folder / "mlflow_id").read_text()
    with (folder / METRICS).open(newline="") as file:
        table = list(csv.DictReader(file))
    rows = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "reward")]
    assert rows == [(i, pytest.approx(float(row["reward"]))) for i, row in enumerate(table, 1)]
    assert run.data.params["seed"] == "0"
    assert {"evaluations/ema/sde/reward", "evaluation/base/sde/reward"} <= run.data.metrics.keys()
    assert {"before_after.png", "model"} <= {a.path for a in client.list_artifacts(run.info.run_id)}


def test_a_missing_package_is_named_before_a_folder_is_made(
    offline_run: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n in ("tensorboard", "mlflow") else find(n, *a)
    )
    for logger in ("tensorboard", "mlflow"):
        assert cli.main([*tiny(BRIGHT, f"logger={logger}"), "name=x"]) == 2
        said = capfd.readouterr().err
        assert (
            f"logger={logger} needs the package {logger}, which is not installed: pip install 'pgdlab[loggers]'" in said
        )
        assert not offline_run.exists()


def test_old_choices_of_a_logger_are_read() -> None:
    """config.yaml of runs from when there was one logger."""
    for path, name, now in [
        ("pgdlab.loggers.csv", "csv", "pgdlab.training.loggers.Csv"),
        ("pgdlab.training.loggers.csv", "csv", "pgdlab.training.loggers.Csv"),
        ("pgdlab.training.loggers.wandb", "wandb", "pgdlab.training.weights_and_biases.Wandb"),
    ]:
        own = {"mode": "offline"} if name == "wandb" else {}
        old = {"logger": {"_target_": path, "_partial_": True, **own}}
        assert renamed.run(old) == {"logger": {name: {"_target_": now, **own}}}
        assert renamed.run(renamed.run(old)) == renamed.run(old)


def test_rows_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    assert resume_rows(tmp_path, 5) == []
    (tmp_path / METRICS).write_text("iteration,reward\n1.0,0.1\n2.0,0.2\n3.0,0.3\n")
    assert [float(row["reward"]) for row in resume_rows(tmp_path, 2)] == [0.1, 0.2]
    broken = "iteration,reward\n1.0,0.1\n2.0,nan\n\0\0\n3.0,x\n4.0,0.1,7\n,0.4\n4.0,\n5.0,0."  # the last: killed while writing
    (tmp_path / METRICS).write_text(broken)
    assert resume_rows(tmp_path, 5) == [
        {"iteration": "1.0", "reward": "0.1"}, {"iteration": "2.0", "reward": "nan"}, {"iteration": "4.0", "reward": ""},
    ]  # fmt: skip
    for text in ("", "\n", "1.0,0.1\n2.0,0.2\n", "reward,itera"):
        (tmp_path / METRICS).write_text(text)
        assert resume_rows(tmp_path, 5) == []
