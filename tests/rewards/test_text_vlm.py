"""A judge over HTTP, against a real server on this machine: and what becomes of late, wrong and missing answers."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from pgdlab.diffusion.conditioning import NoLabels
from pgdlab.rewards.base import Outcome, ShapeError, prefetching
from pgdlab.rewards.guard import guarded
from pgdlab.rewards.text import server as protocol
from pgdlab.rewards.text.vlm import VLM, agreement
from tests.worlds import fitted

PROMPTS = ("a {red} cat", "a dog", "")
SECRET = "sk-very-secret"


class Words(NoLabels):
    def __init__(self) -> None:
        super().__init__(2, PROMPTS)


def said(text: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def told(*likeliest: tuple[str, float]) -> dict[str, Any]:
    tokens = [{"token": token, "logprob": math.log(p)} for token, p in likeliest]
    return {"choices": [{"message": {"content": "x"}, "logprobs": {"content": [{"top_logprobs": tokens}]}}]}


class Fake:
    """A server that answers each question with answer(body), a JSON value, bytes, or a status; what it was asked is kept."""

    def __init__(self) -> None:
        self.answer: Callable[[dict[str, Any]], Any] = lambda body: said("7")
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.at_once, self.most = 0, 0
        self.lock = threading.Lock()
        self.url = ""

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            self.asked.append(body)
            self.headers.append(dict(handler.headers) | {"path": handler.path})
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        given = self.answer(body)
        with self.lock:
            self.at_once -= 1
        status, more, content = given if isinstance(given, tuple) else (200, {}, given)
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        with contextlib.suppress(ConnectionError):  # it has hung up
            handler.send_response(status)
            for name, value in ({"Content-Length": str(len(raw))} | more).items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(raw)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    fake = Fake()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            fake.handle(self)

        def log_message(self, *given: Any) -> None:
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{served.server_port}/v1"
    threading.Thread(target=served.serve_forever, daemon=True).start()
    for name in (protocol.URL, protocol.KEY, "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(protocol, "PAUSE", 0.01)
    yield fake
    served.shutdown()
    served.server_close()


def judge(fake: Fake, **options: Any) -> VLM:
    reward = VLM(**{"model": "tiny", "url": fake.url, "seconds": 5.0, **options})
    reward.meet(Words())
    return reward


def shades(*levels: float) -> Tensor:
    return torch.tensor(levels)[:, None, None, None].expand(-1, 1, 4, 6).clone()


def shade(body: dict[str, Any]) -> int:
    """The grey level of the image that was sent."""
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    kind, _, data = url.partition(",")
    assert kind == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (image.mode, image.size) == ("RGB", (6, 4))
    return image.getpixel((2, 1))[0]


ZEROS = torch.zeros(2, dtype=torch.long)


def test_each_image_is_asked_about_with_its_own_prompt(fake: Fake) -> None:
    fake.answer = lambda body: said(f"{shade(body) / 51} of 10" if "a {red} cat" in str(body) else "I would say 8.")
    score = judge(fake).score(shades(0.0, 1.0, 0.5), torch.tensor([0, 0, 1]))
    assert score.value.tolist() == [0, 0.5, 0.8]
    assert score.measured.all()
    body = fake.asked[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("tiny", 0, 64)
    assert fake.headers[0]["path"] == "/v1/chat/completions"
    assert "a whole number from 0" in body["messages"][0]["content"][1]["text"]


def test_a_pattern_and_a_scale_of_one_s_own(fake: Fake) -> None:
    fake.answer = lambda body: said("I see 3 cats. Final Score: 4.5")
    reward = judge(
        fake, pattern=r"Final Score: *([\d.]+)", low=1.0, high=5.0, question="Score {prompt}, 1 to 5.", tokens=200
    )
    assert reward.score(shades(0.1), ZEROS[:1]).value.item() == pytest.approx(3.5 / 4)
    assert fake.asked[0]["messages"][0]["content"][1]["text"] == "Score a {red} cat, 1 to 5."
    assert fake.asked[0]["max_tokens"] == 200


def test_yes_is_a_probability(fake: Fake) -> None:
    """.5 + .1 for yes, .2 for no; the rest is for neither."""
    fake.answer = lambda body: told(("Yes", 0.5), (" yes", 0.1), ("No", 0.2), ("Maybe", 0.1))
    score = judge(fake, reads="agreement").score(shades(0.3), ZEROS[:1])
    assert score.value.item() == pytest.approx(0.75)
    body = fake.asked[0]
    assert (body["max_tokens"], body["logprobs"], body["top_logprobs"]) == (1, True, 20)
    assert agreement([{"token": "▁No", "logprob": -0.1}]) == 0
    with pytest.raises(ValueError, match="neither Yes nor No"):
        agreement([{"token": "Nobody", "logprob": -0.1}])


NONSENSE = [
    said("no number"), said("11"), said("-1"), said(None), said("v2 of x3"), {"choices": []}, {"error": "?"}, [1], "text",
    told(("Yes", 1.0)) | {"choices": [{"message": {}}]},
]  # fmt: skip


@pytest.mark.parametrize("nonsense", NONSENSE, ids=str)
def test_nonsense_is_not_measured_and_costs_its_sample_alone(fake: Fake, nonsense: Any) -> None:
    fake.answer = lambda body: said("10") if shade(body) else nonsense
    reward = judge(fake)
    with pytest.warns(RuntimeWarning, match="VLM could not judge an image: ValueError"):
        score = reward.score(shades(0.0, 1.0), ZEROS)
    assert (score.value.tolist(), score.measured.tolist()) == ([0, 1], [False, True])
    assert len(fake.asked) == 2, "it is not asked again at once"


@pytest.mark.parametrize(
    "failure",
    [(503, {}, b"busy"), (429, {"Retry-After": "0"}, b""), b"{half a", (200, {"Content-Length": "99"}, b"{}")],
    ids=str,
)
def test_a_server_that_fails_is_asked_again(fake: Fake, failure: Any) -> None:
    fake.answer = lambda body: failure if len(fake.asked) < 3 else said("5")
    assert judge(fake, seconds=0.5).score(shades(0.2), ZEROS[:1]).value.tolist() == [0.5]
    assert len(fake.asked) == 3


def test_a_server_that_is_down_or_always_fails_is_given_up(fake: Fake) -> None:
    fake.answer = lambda body: (500, {}, b"no memory")
    reward = judge(fake, tries=2)
    with pytest.warns(RuntimeWarning, match=r"failed 2 times: 500 no memory"):
        assert not reward.score(shades(0.2), ZEROS[:1]).measured.any()
    assert len(fake.asked) == 2
    fake.answer = lambda body: said("5")
    assert reward.score(shades(0.2), ZEROS[:1]).measured.all(), "what failed is asked for again"
    nobody = judge(fake, url="http://127.0.0.1:9/v1", tries=1)
    with pytest.warns(RuntimeWarning, match="failed 1 times"):
        paid = guarded(nobody, Outcome(shades(0.2), ZEROS[:1], 1), 1.0)
    assert not paid.measured.any()


def test_a_slow_server_is_not_waited_for(fake: Fake) -> None:
    def slow(body: dict[str, Any]) -> Any:
        if not shade(body):
            time.sleep(1.0)
        return said("5")

    fake.answer = slow
    reward, started = judge(fake, seconds=0.2, tries=1), time.monotonic()
    with pytest.warns(RuntimeWarning, match="timed out"):
        score = reward.score(shades(0.0, 1.0), ZEROS)
    assert score.measured.tolist() == [False, True]
    assert time.monotonic() - started < 0.9


class Dripping:
    """An answer of which a byte comes every now and then, for a second."""

    length, left = 0, 50

    def read1(self, most: int) -> bytes:
        time.sleep(0.02)
        self.left -= 1
        return b" " if self.left else b""


def test_an_answer_that_drips_has_the_same_time() -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="takes too long"):
        protocol.received(Dripping(), started + 0.1)
    assert time.monotonic() - started < 1


def test_several_are_in_flight_and_submitted_ones_are_ahead(fake: Fake) -> None:
    def slow(body: dict[str, Any]) -> Any:
        time.sleep(0.15)
        return said("5")

    fake.answer = slow
    reward = judge(fake, workers=4)
    assert prefetching(reward) == [reward]
    image, cond = shades(*torch.linspace(0, 1, 8).tolist()), torch.zeros(8, dtype=torch.long)
    started = time.monotonic()
    reward.submit(image, cond)
    assert time.monotonic() - started < 0.15, "submit returns at once"
    assert reward.score(image, cond).value.tolist() == [0.5] * 8
    assert fake.most == 4
    assert len(fake.asked) == reward.cache_misses == 8, "what was submitted is not asked again"
    reward.score(image, cond)
    assert len(fake.asked) == 8, "nor what was answered"
    reward.score(image[:1], torch.ones(1, dtype=torch.long))
    assert len(fake.asked) == 9, "another prompt is another question"


def test_the_last_answers_are_remembered(fake: Fake) -> None:
    reward = judge(fake, remembered=2)
    for level in (0.0, 0.2, 0.0, 0.4, 0.0, 0.2):
        reward.score(shades(level), ZEROS[:1])
    assert len(fake.asked) == 4, "0 was used in between, .2 was not"


def test_a_nan_is_not_asked_about_as_if_it_were_black(fake: Fake) -> None:
    score = judge(fake).score(shades(0.0, math.nan), ZEROS)
    assert score.measured.tolist() == [True, False]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_question_can_mend_ends_the_run(fake: Fake, status: int) -> None:
    fake.answer = lambda body: (status, {}, b"no such model")
    outcome = Outcome(shades(*[x / 50 for x in range(40)]), torch.zeros(40, dtype=torch.long), 1)
    with pytest.raises(ShapeError, match=rf"/v1 answers {status} no such model"):
        guarded(judge(fake, workers=1), outcome, 1.0)


def test_the_key_goes_to_the_environment_s_server_alone_and_is_not_shown(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(protocol.KEY, SECRET)
    judge(fake).score(shades(0.1), ZEROS[:1])
    assert "Authorization" not in fake.headers[-1], "a configuration's server is not told it"
    monkeypatch.setenv(protocol.URL, fake.url + "/")
    for reward in (judge(fake), judge(fake, url=None)):
        reward.score(shades(0.1), ZEROS[:1])
        assert fake.headers[-1]["Authorization"] == f"Bearer {SECRET}"
        assert SECRET not in repr(vars(reward)) + repr(reward.server)
    fake.answer = lambda body: (400, {}, f"bad key {SECRET}".encode())
    with pytest.warns(RuntimeWarning, match=r"bad key \*\*\*") as caught:
        judge(fake).score(shades(0.1), ZEROS[:1])
    assert SECRET not in str(caught[0].message)


def test_a_redirect_is_not_followed(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(protocol.KEY, SECRET)
    monkeypatch.setenv(protocol.URL, fake.url)
    fake.answer = lambda body: (302, {"Location": fake.url + "/elsewhere"}, b"")
    with pytest.raises(ShapeError, match="answers 302"):
        judge(fake).score(shades(0.1), ZEROS[:1])
    assert len(fake.asked) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": None}, "url is missing: .* or in OPENAI_BASE_URL"), ({"url": "localhost:8000"}, "must begin with http://"),
        ({"url": "file:///etc/passwd"}, "must begin with http://"),
        ({"url": "http://me:word@x/v1"}, "url holds a name, a password"),
        ({"url": "http://x/v1?key=a"}, "url holds a name, a password or a query"), ({"model": None}, "model is missing"),
        ({"low": 3.0, "high": 3.0}, "high must be above low"), ({"pattern": "("}, "no regular expression"),
        ({"pattern": r"\d"}, "must be in parentheses"), ({"tries": 0}, "tries at least 1"), ({"workers": 0}, "workers is 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(fake: Fake, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        judge(fake, **options)
    assert "word" not in str(caught.value).replace("password", "")


def test_a_run_is_steered_by_it(fake: Fake, tmp_path: Path) -> None:
    small = ["policy.steps=2", "plan.samples=4", "plan.group=2", "plan.iterations=1", "plan.eval_samples=4"]
    words = ["reward=vlm", f"reward.url={fake.url}", "reward.model=tiny", "reward.prompt=a three", "heldout=null"]
    module = fitted(tmp_path, *words, *small)
    assert module.history[-1]["reward"] == pytest.approx(0.7)
    assert module.history[-1]["unique_queries"] >= 4
