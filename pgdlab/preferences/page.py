"""A page on this machine that shows two samples at a time and keeps which one was preferred."""

from __future__ import annotations

import re
import secrets
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from pgdlab.preferences.annotator import Annotator, Question, Sitting

LONGEST = 1000  # bytes of an answer
HERE = "127.0.0.1"


@dataclass
class State:
    """Of a sitting: what was answered in it, and whether it is over."""

    sitting: Sitting
    done: list[Question] = field(default_factory=list)
    ended: bool = False
    lock: Any = field(default_factory=threading.Lock)

    @property
    def question(self) -> Question | None:
        """The one that is shown; None where all are answered, and at the end."""
        return self.sitting.open[len(self.done)] if len(self.done) < len(self.sitting.open) and not self.ended else None

    def take(self, answer: str, number: int) -> None:
        """left, right, tie, undo or quit. An answer to another question than the one that is shown changes nothing: it was sent
        twice. Raises ValueError for any other word."""
        with self.lock:
            if answer not in ("left", "right", "tie", "undo", "quit"):
                raise ValueError("answer must be left, right, tie, undo or quit")
            if answer == "quit":
                self.ended = True
            elif number != len(self.done):
                return
            elif answer == "undo":
                if self.done:
                    self.sitting.file.append({"undo": True})
                    self.done.pop()
            elif question := self.question:
                self.keep(question, answer)

    def keep(self, question: Question, answer: str) -> None:
        """Writes an answer down."""
        other = "second" if question.left == "first" else "first"
        winner = {"left": question.left, "right": other, "tie": "tie"}[answer]
        self.sitting.file.append(question.record(self.sitting.names, winner) | {"left": question.left})
        self.done.append(question)

    def html(self, nonce: str) -> str:
        """The page. Everything that is put into it is escaped."""
        from jinja2 import Environment, PackageLoader

        environment = Environment(loader=PackageLoader("pgdlab.preferences", "."), autoescape=True)
        question, before = self.question, self.sitting.answered
        sides = (question.first, question.second) if question else (0, 0)
        left, right = sides if not question or question.left == "first" else sides[::-1]
        return environment.get_template("page.html.jinja").render(
            number=len(self.done), done=before + len(self.done), total=before + len(self.sitting.open), question=question,
            left=left, right=right, nonce=nonce, ended=self.ended,
        )  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """Answers requests whose address begins with the token of the server, and no others."""

    server: Server

    def do_GET(self) -> None:
        """The page, and the two pictures that it shows."""
        path, state = self.inside(), self.server.state
        picture = re.fullmatch(r"picture/(\d+)", path or "")
        if path == "":
            nonce = secrets.token_urlsafe(16)
            self.send("text/html; charset=utf-8", state.html(nonce).encode(), nonce)
        elif picture and state.question and int(picture[1]) in (state.question.first, state.question.second):
            self.send("image/png", state.sitting.picture(int(picture[1])))
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        """An answer, and then the page again."""
        length, state = self.headers.get("Content-Length", ""), self.server.state
        if self.inside() != "answer" or not length.isdigit() or int(length) > LONGEST:
            return self.send_error(404)
        form = parse_qs(self.rfile.read(int(length)).decode(errors="replace"))
        number = form.get("number", [""])[0]
        try:
            state.take(form.get("answer", [""])[0], int(number) if number.isdigit() else -1)
        except ValueError as error:
            return self.send_error(400, str(error))
        self.send_response(303)
        self.send_header("Location", f"/{self.server.token}/")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def inside(self) -> str | None:
        """The address behind the token; None without it, and where the page was asked for under another host's name."""
        hosts = (f"{HERE}:{self.server.server_port}", f"localhost:{self.server.server_port}")
        token, _, rest = self.path.removeprefix("/").partition("/")
        right = secrets.compare_digest(token.encode(), self.server.token.encode())
        return rest if right and self.headers.get("Host") in hosts else None

    def send(self, kind: str, content: bytes, nonce: str = "") -> None:
        """A whole answer. Nothing of another address is loaded, and nothing is kept."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        own = f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
        policy = f"default-src 'none'; img-src 'self' data:; {own}; form-action 'self'; frame-ancestors 'none'"
        self.send_header("Content-Security-Policy", policy)
        self.end_headers()
        self.wfile.write(content)
        if self.server.state.ended and kind.startswith("text"):
            threading.Thread(target=self.server.shutdown).start()

    def log_message(self, *given: Any) -> None:
        """Nothing: the terminal has the address alone."""


class Server(ThreadingHTTPServer):
    """On this machine alone. Raises ValueError where the port is taken."""

    daemon_threads = True
    allow_reuse_address = False

    def __init__(self, state: State, port: int) -> None:
        self.state, self.token = state, secrets.token_urlsafe(16)
        try:
            super().__init__((HERE, port), Handler)
        except OSError as error:
            raise ValueError(
                f"cannot listen on port {port}: {error.strerror}; set annotator.port to another, or to 0 for any that is free"
            ) from error

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{HERE}:{self.server_port}/{self.token}/"


@dataclass(frozen=True, kw_only=True)
class Page(Annotator):
    """A person at a page of a browser: arrow keys for left, right and tie, u takes back, q ends. port: 0 for any that is free."""

    port: int = 8765

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.port < 2**16:
            raise ValueError(f"port is {self.port}; it must be from 0 to 65535")

    def answer(self, sitting: Sitting) -> None:
        server = Server(State(sitting), self.port)
        print(f"open {server.url} in a browser on this machine; Ctrl-C or q ends", flush=True)
        try:
            server.serve_forever(poll_interval=0.1)
        except KeyboardInterrupt:
            print("stopped; the answers are kept", flush=True)
        finally:
            server.server_close()
