"""Metrics reach metrics.csv always and W&B where asked for, at the run's own step, and survive resuming and no network."""

from __future__ import annotations

import csv
import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgdlab import cli
from pgdlab.config.runs import METRICS, SUMMARY
from pgdlab.training.loggers import has_key, reachable, resume_rows
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
    assert cli.main([*tiny(BRIGHT, "logger=wandb"), "name=x"]) == 0
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
    assert said == [f"W&B: cannot reach {server}; offline, upload later with: wandb sync runs/x/wandb/*"]
    assert [row["iteration"] for row in history(offline(offline_run)[0]) if "reward" in row] == [1]
    assert (offline_run / SUMMARY).exists()


def test_a_disabled_run_keeps_its_table(offline_run: Path, capfd: Any) -> None:
    assert cli.main([*tiny(BRIGHT, "logger=wandb", "logger.mode=disabled", "plan.iterations=1"), "name=x"]) == 0
    assert "W&B" not in capfd.readouterr().err
    assert not (offline_run / "wandb").exists()
    assert (offline_run / METRICS).exists()


def test_where_a_key_is_looked_for(offline_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not has_key("https://api.wandb.ai")
    (tmp_path / ".netrc").write_text("machine example.org login a password b\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert not has_key("https://api.wandb.ai")
    assert has_key("https://example.org/wandb")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert has_key("https://api.wandb.ai")


def test_an_answer_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    import http.server
    import threading

    monkeypatch.setenv("NO_PROXY", "*")
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:  # answers 501
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert reachable(f"http://127.0.0.1:{server.server_port}")
        thread.join()
    assert not reachable(f"http://127.0.0.1:{server.server_port}")
    assert not reachable("nowhere")


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
