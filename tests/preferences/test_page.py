"""The page: what a person presses, what is kept, and who is let in."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pgdlab.preferences.annotator import Question, Sitting
from pgdlab.preferences.page import HERE, Page, Server, State
from pgdlab.preferences.pairs import PairFile

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c6360000000020001485fdcd20000000049454e44ae426082"
)
ASKED = [
    Question(0, 1, "a <script>alert(1)</script> & 'cat'", "first"), Question(2, 3, "", "second"), Question(4, 5, "", "first"),
]  # fmt: skip
NAMES = [f"s.pt:{row}" for row in range(6)]


def sitting(path: Path, asked: list[Question] = ASKED) -> Sitting:
    return Sitting(asked, 0, PairFile(path), NAMES, lambda row: PNG, lambda: torch.zeros(6), 0)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[[], Server]]:
    """Begins a server on a free port; all are closed afterwards."""
    running: list[tuple[Server, threading.Thread]] = []

    def start() -> Server:
        server = Server(State(sitting(tmp_path / "p.jsonl")), 0)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join(10)
        server.server_close()


def get(url: str, host: str | None = None) -> tuple[int, str, Any]:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode("latin-1"), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def post(server: Server, answer: str, number: int, **more: str) -> int:
    form = urllib.parse.urlencode({"answer": answer, "number": number} | more).encode()
    try:
        with urllib.request.urlopen(f"{server.url}answer", form, timeout=10) as got:
            return int(got.status)
    except urllib.error.HTTPError as error:
        return error.code


def kept(path: Path) -> list[tuple[str, str, str]]:
    return [(r["first"], r["winner"], r["left"]) for r in PairFile(path).records()]


def test_answers_are_of_the_sides_that_were_shown(serving: Any, tmp_path: Path) -> None:
    """Question 2 has its second sample on the left."""
    server = serving()
    shown = [re.findall(r'src="(.*?)"', get(server.url)[1])]
    assert post(server, "left", 0) == 200
    shown += [re.findall(r'src="(.*?)"', get(server.url)[1])]
    assert post(server, "left", 1) == 200
    assert post(server, "tie", 2) == 200
    assert shown == [["picture/0", "picture/1"], ["picture/3", "picture/2"]]
    assert kept(tmp_path / "p.jsonl") == [
        ("s.pt:0", "first", "first"), ("s.pt:2", "second", "second"), ("s.pt:4", "tie", "first"),
    ]  # fmt: skip
    assert json.loads((tmp_path / "p.jsonl").read_text().splitlines()[0])["prompt"] == ASKED[0].prompt
    assert "All pairs are answered" in get(server.url)[1]


def test_undo_and_answers_that_are_sent_twice(serving: Any, tmp_path: Path) -> None:
    server = serving()
    post(server, "undo", 0)
    post(server, "right", 0)
    post(server, "right", 0)
    assert len(kept(tmp_path / "p.jsonl")) == 1, "the second one was to a question that is no longer shown"
    post(server, "undo", 1)
    assert kept(tmp_path / "p.jsonl") == []
    post(server, "left", 0)
    assert kept(tmp_path / "p.jsonl") == [("s.pt:0", "first", "first")]
    assert post(server, "both", 1) == 400
    assert len(kept(tmp_path / "p.jsonl")) == 1


def test_names_are_escaped_and_nothing_else_is_loaded(serving: Any) -> None:
    status, page, headers = get(serving().url)
    assert status == 200
    assert "a &lt;script&gt;alert(1)&lt;/script&gt; &amp; &#39;cat&#39;" in page
    assert "alert(1)</script>" not in page
    policy = headers["Content-Security-Policy"]
    nonce = re.search(r"script-src 'nonce-(.*?)'", policy)
    assert nonce is not None
    assert f'<script nonce="{nonce[1]}">' in page
    assert policy.startswith("default-src 'none'")


def test_only_this_machine_with_the_token_is_let_in(serving: Any, tmp_path: Path) -> None:
    """The page is bound to the loopback alone; a guess of the token, no token, and another host's name get nothing."""
    server = serving()
    assert server.server_address[0] == HERE == "127.0.0.1"
    root = f"http://{HERE}:{server.server_port}"
    other = serving()
    assert len(server.token) >= 20
    assert server.token != other.token
    for url in (root, f"{root}/", f"{root}/{other.token}/", f"{root}/{server.token[:-1]}/", f"{root}/é/"):
        assert get(urllib.parse.quote(url, safe=":/"))[0] == 404, url
    assert get(server.url, host="evil.example")[0] == 404
    assert get(f"{server.url}../../etc/passwd")[0] == 404
    assert get(f"{server.url}picture/5")[0] == 404, "a sample that is not asked about now"
    assert get(f"{server.url}picture/1")[0] == 200
    assert post(server, "left", 0, padding="x" * 2000) == 404
    assert kept(tmp_path / "p.jsonl") == []


def test_quit_ends_the_sitting(tmp_path: Path, capsys: Any) -> None:
    """Through the annotator itself, which returns once the last page was sent."""
    sit = sitting(tmp_path / "p.jsonl")
    thread = threading.Thread(target=Page(port=0).answer, args=(sit,))
    thread.start()
    while not (found := re.search(r"http://\S+", capsys.readouterr().out)):
        assert thread.is_alive()
    form = urllib.parse.urlencode({"answer": "quit", "number": 0}).encode()
    with urllib.request.urlopen(f"{found[0]}answer", form, timeout=10) as got:
        assert "The answers are kept" in got.read().decode()
    thread.join(10)
    assert not thread.is_alive()


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HERE, 0))
        taken.listen()
        with pytest.raises(ValueError, match=r"cannot listen on port \d+: Address already in use; set annotator.port"):
            Page(port=taken.getsockname()[1]).answer(sitting(tmp_path / "p.jsonl"))
    with pytest.raises(ValueError, match="port is 70000; it must be from 0 to 65535"):
        Page(port=70000)


def test_a_browser_is_driven_by_keys(serving: Any, tmp_path: Path) -> None:
    """Chromium: both pictures are drawn, no script of the prompt runs, and the keys answer, take back and end."""
    playwright = pytest.importorskip("playwright.sync_api")
    browser = os.environ.get("PGDLAB_BROWSER", "/usr/bin/chromium")
    if not Path(browser).is_file():
        pytest.skip("needs chromium")
    server = serving()
    with playwright.sync_playwright() as p:
        page = p.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page()
        said: list[str] = []
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("console", lambda message: said.append(message.text))
        page.goto(server.url)
        assert page.evaluate("[...document.images].map((i) => i.complete && i.naturalWidth)") == [1, 1]
        assert page.inner_text("h1") == ASKED[0].prompt
        for key, done in (("ArrowRight", 1), ("ArrowLeft", 2), ("u", 1), ("ArrowDown", 2), ("ArrowLeft", 3)):
            page.keyboard.press(key)
            page.wait_for_function(f"document.title.startsWith('{done} of')")
        page.keyboard.press("q")
        page.wait_for_function("document.body.innerText.includes('can be closed')")
        assert not said
    assert [winner for _, winner, _ in kept(tmp_path / "p.jsonl")] == ["second", "tie", "first"]
