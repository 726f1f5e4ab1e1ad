"""A server of OpenAI's protocol: one question at a time, with a time limit, asked again where it fails."""

from __future__ import annotations

import http.client
import json
import os
import random
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pgdlab.rewards.base import ShapeError

URL, KEY = "OPENAI_BASE_URL", "OPENAI_API_KEY"  # as OpenAI's own clients have them
BUSY = (408, 409, 425, 429)  # and 500 and above: asked again
WRONG = (401, 403, 404, 405)  # whatever is asked
LARGEST = 4_000_000  # bytes of an answer
PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds


class BusyError(ConnectionError):
    """A failure that may be over soon. pause: seconds that the server asks for."""

    def __init__(self, text: str, pause: float = 0.0) -> None:
        super().__init__(text)
        self.pause = pause


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A server that sends one elsewhere is refused: the key would go along."""

    def redirect_request(self, *given: Any, **named: Any) -> None:
        return None


OPENER = urllib.request.build_opener(NoRedirect)


@dataclass(frozen=True, kw_only=True)
class Server:
    """address: up to /v1. seconds: for one try. tries: at least 1."""

    address: str
    seconds: float
    tries: int

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.tries < 1:
            raise ValueError(
                f"seconds is {self.seconds}, tries {self.tries}; seconds must be above 0, tries at least 1"
            )

    @classmethod
    def at(cls, url: str | None, *, seconds: float, tries: int) -> Server:
        """Of a URL, or of the environment's. Raises ValueError for what is none, or holds a secret."""
        address = (url or os.environ.get(URL, "")).rstrip("/")
        if not address:
            raise ValueError(f"url is missing: the server's, such as http://localhost:8000/v1, here or in {URL}")
        parts = urlsplit(address)
        if "@" in parts.netloc or parts.query:
            raise ValueError(
                f"url holds a name, a password or a query, which a run folder would keep: put a key into {KEY}"
            )
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"url is {address!r}; it must begin with http:// or https://")
        return cls(address=address, seconds=seconds, tries=tries)

    @property
    def key(self) -> str | None:
        """The key, if it is this server's: a configuration, which may be someone else's, does not choose who is told it."""
        own = os.environ.get(URL, "").rstrip("/") == self.address
        return os.environ.get(KEY) if own else None

    def ask(self, body: dict[str, Any]) -> Any:
        """The answer to a question. Raises ConnectionError where every try failed, ValueError where this question is refused,
        ShapeError where every one would be."""
        for number in range(1, self.tries + 1):
            try:
                return self.tried(body)
            except BusyError as busy:
                if number == self.tries:
                    raise ConnectionError(f"{self.address} failed {number} times: {busy}") from None
                time.sleep(min(max(busy.pause, PAUSE * 2**number * random.uniform(0.5, 1)), LONGEST_PAUSE))
        raise AssertionError("there is at least one try")

    def tried(self, body: dict[str, Any]) -> Any:
        """One try."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(f"{self.address}/chat/completions", json.dumps(body).encode(), headers)
        deadline = time.monotonic() + self.seconds
        try:
            with OPENER.open(request, timeout=self.seconds) as response:
                return json.loads(received(response, deadline))
        except urllib.error.HTTPError as error:
            raise self.refusal(error) from None  # the request, with its key, is in the error
        except (OSError, http.client.HTTPException, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise BusyError(repr(error)) from None

    def refusal(self, error: urllib.error.HTTPError) -> Exception:
        """What an HTTP status means, without the key."""
        try:
            said = error.read(2000).decode(errors="replace")
        except (OSError, http.client.HTTPException):
            said = ""
        text = f"{error.code} {said}".strip()
        text = (text.replace(self.key, "***") if self.key else text)[:300]
        if error.code in BUSY or error.code >= 500:
            asked = error.headers.get("Retry-After", "")
            return BusyError(text, float(asked) if asked.isdigit() else 0.0)
        if error.code in WRONG or error.code < 400:
            told = f"; the key in {KEY} is sent to {URL} alone" if error.code in (401, 403) and not self.key else ""
            return ShapeError(f"{self.address} answers {text}{told}")
        return ValueError(f"{self.address} refuses this question: {text}")


def received(response: Any, deadline: float) -> bytes:
    """The body of an answer. Raises TimeoutError past the deadline (a socket's time limit is that of one read), OSError where it
    is cut short or too large."""
    parts, size = [], 0
    while part := response.read1(65536):
        parts.append(part)
        size += len(part)
        if size > LARGEST:
            raise OSError(f"the answer is larger than {LARGEST:,} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError("the answer takes too long")
    if response.length:  # that were to come
        raise OSError(f"the answer is {response.length} bytes short")
    return b"".join(parts)
