"""A small stand-in of the W&B server's HTTP interface: enough for `wandb sweep`, `wandb agent` and online runs of wandb 0.31."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROJECT = {"id": "p", "name": "lab", "entity": {"id": "e", "name": "me"}}


class Server(ThreadingHTTPServer):
    """Hands out `trials` (mappings of parameters) one after another, under the run ids run0, run1, ... It remembers the sweep's
    config, what runs said of themselves, and their files' lines."""

    daemon_threads = True

    def __init__(self, trials: list[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.trials, self.given = trials, 0
        self.sweep = ""
        self.runs: dict[str, list[dict[str, Any]]] = {}
        self.lines: dict[tuple[str, str], list[Any]] = {}
        self.exits: dict[str, int] = {}
        self.broken: Callable[[Handler], None] | None = None  # what answers the API's requests instead

    def heartbeat(self, running: dict[str, bool]) -> list[dict[str, Any]]:
        """What the agent is to do next: one run at a time."""
        if running:
            return []
        if self.given == len(self.trials):
            return [{"type": "exit"}]
        args = {name: {"value": value} for name, value in self.trials[self.given].items()}
        self.given += 1
        return [{"type": "run", "run_id": f"run{self.given - 1}", "program": "run.py", "args": args}]

    def bucket(self, v: dict[str, Any]) -> dict[str, Any]:
        """A run, made or changed."""
        self.runs.setdefault(v["name"], []).append(v)
        own = {"id": v["name"], "name": v["name"], "displayName": v.get("displayName") or "", "description": None}
        return own | {"config": "{}", "sweepName": v.get("sweep"), "project": PROJECT, "historyLineCount": 0}

    def graphql(self, name: str, v: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to an operation, None for one that is not known."""
        if name == "UpsertSweep":
            self.sweep = v["config"]
            return {"upsertSweep": {"sweep": {"name": "s1", "project": PROJECT}, "configValidationWarnings": []}}
        if name == "UpsertBucket":
            return {"upsertBucket": {"bucket": self.bucket(v), "inserted": True}}
        if name == "Heartbeat":
            commands = json.dumps(self.heartbeat(json.loads(v["runState"])))
            return {"agentHeartbeat": {"agent": {"id": "a1"}, "commands": commands}}
        sweep = {
            "id": "s1",
            "name": "s1",
            "method": "grid",
            "state": "RUNNING",
            "description": None,
            "config": self.sweep,
        }
        known: dict[str, dict[str, Any]] = {
            "Viewer": {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}},
            "SweepWithRuns": {"project": {"sweep": sweep | {"runs": {"edges": []}}}},
            "CreateAgent": {"createAgent": {"agent": {"id": "a1"}}},
            "RunResumeStatus": {"model": PROJECT | {"bucket": None}},
        }
        return known.get(name)

    def stream(self, run: str, content: dict[str, Any]) -> None:
        """Lines of a run's files, from their offsets on."""
        for name, piece in (content.get("files") or {}).items():
            lines = self.lines.setdefault((run, name), [])
            lines[piece["offset"] :] = piece["content"]
        if content.get("complete"):
            self.exits[run] = content["exitcode"]


class Handler(BaseHTTPRequestHandler):
    """HTTP around it. What is not known gets an error as GraphQL's, or an empty answer."""

    server: Server

    def log_message(self, *args: Any) -> None:
        """Says nothing."""

    def content(self) -> bytes:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(raw) if self.headers.get("Content-Encoding") == "gzip" else raw

    def answer(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def page(self, code: int) -> None:
        """An HTML page, as of a proxy or a login."""
        self.send_response(code)
        self.end_headers()
        self.wfile.write(b"<html>log in</html>")

    def do_GET(self) -> None:
        self.answer({})

    def do_PUT(self) -> None:
        self.content()
        self.answer({})

    def do_POST(self) -> None:
        raw = self.content()
        if self.server.broken is not None:
            return self.server.broken(self)
        run = re.search(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
        if run:
            self.server.stream(run[1], json.loads(raw))
        if not self.path.endswith("graphql"):
            return self.answer({})
        asked = json.loads(raw)
        name = re.search(r"(?:mutation|query)\s+(\w+)", asked["query"])
        assert name
        data = self.server.graphql(name[1], asked.get("variables") or {})
        return self.answer({"errors": [{"message": f"no {name[1]} here"}]} if data is None else {"data": data})


@contextmanager
def serving(trials: list[dict[str, Any]]) -> Iterator[Server]:
    """A server that runs meanwhile."""
    with Server(trials) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
