"""What a vision-language model says of an image and its prompt: any server with OpenAI's /v1/chat/completions."""

from __future__ import annotations

import base64
import io
import math
import re
from typing import Any, Literal

from jaxtyping import UInt8

from pgdlab.rewards.text.ahead import REMEMBERED, Ahead
from pgdlab.rewards.text.server import Server

QUESTIONS = {
    "number": "How well does this image show what the prompt below asks for, and how good does it look? Answer with a whole "
    "number from 0 (not at all) to 10 (perfectly), and nothing else.\n\nPrompt: {prompt}",
    "agreement": "Does this image show what the prompt below asks for? Answer Yes or No, and nothing else.\n\nPrompt: {prompt}",
}
NUMBER = r"(?<![\w.])(-?\d+(?:\.\d+)?)(?![\w])"  # the first number that is a word


class VLM(Ahead):
    """An answer as a number. reads `number`: the first match of `pattern` in it, as a share of the way from `low` to `high`; an
    answer without one, or outside, is not measured. reads `agreement`: P(Yes) / (P(Yes) + P(No)) of the first token, from the 20
    likeliest that the server tells.

    model: the server's name of it. url: the server's, up to /v1; null for the environment's OPENAI_BASE_URL. The key in
    OPENAI_API_KEY is sent to OPENAI_BASE_URL alone, and never saved. question: in which {prompt} is replaced; null for one of our
    own. pattern: a regular expression whose first group is the number; null for the first number that stands alone. workers:
    questions in flight. seconds: for an answer. tries: of a question, where the server fails or is busy. tokens: of an answer.
    prompt: see Prompted. remembered: see Ahead.
    """

    def __init__(
        self, *, model: str | None = None, url: str | None = None, question: str | None = None,
        reads: Literal["number", "agreement"] = "number", pattern: str | None = None, low: float = 0.0, high: float = 10.0,
        workers: int = 8, seconds: float = 60.0, tries: int = 3, tokens: int = 64, prompt: str | None = None,
        remembered: int = REMEMBERED,
    ) -> None:  # fmt: skip
        super().__init__(prompt=prompt, workers=workers, remembered=remembered)
        if not model:
            raise ValueError("model is missing: the name that the server has for it")
        if high <= low or tokens < 1:
            raise ValueError(f"low is {low}, high {high}, tokens {tokens}; high must be above low, tokens at least 1")
        self.server = Server.at(url, seconds=seconds, tries=tries)
        self.model, self.reads, self.tokens, self.low, self.high = model, reads, tokens, low, high
        self.question, self.pattern = question or QUESTIONS[reads], compiled(NUMBER if pattern is None else pattern)

    def judged(self, pixels: UInt8[Any, "height width 3"], prompt: str) -> float:
        answer = self.server.ask(self.request(pixels, prompt))
        try:
            choice = answer["choices"][0]
            if self.reads == "agreement":
                return agreement(choice["logprobs"]["content"][0]["top_logprobs"])
            return self.number(choice["message"]["content"])
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(
                f"the server's answer is not as OpenAI's are, {error!r} is not there: {str(answer)[:200]}"
            ) from error

    def request(self, pixels: UInt8[Any, "height width 3"], prompt: str) -> dict[str, Any]:
        """The body of a question."""
        text = self.question.replace("{prompt}", prompt)
        content = [{"type": "image_url", "image_url": {"url": data_url(pixels)}}, {"type": "text", "text": text}]
        likeliest = {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}
        wanted = likeliest if self.reads == "agreement" else {"max_tokens": self.tokens}
        return {"model": self.model, "messages": [{"role": "user", "content": content}], "temperature": 0, **wanted}

    def number(self, answer: str) -> float:
        """The number in an answer, as a share. Raises ValueError where there is none, or it is out of bounds."""
        match = self.pattern.search(answer)
        if match is None:
            raise ValueError(f"no number in the answer {answer[:200]!r}")
        number = float(match[1])
        if not self.low <= number <= self.high:
            raise ValueError(f"the answer {answer[:200]!r} is not between {self.low} and {self.high}")
        return (number - self.low) / (self.high - self.low)


def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern with a group. Raises ValueError for others."""
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern is {pattern!r}, which is no regular expression: {error}") from error
    if found.groups < 1:
        raise ValueError(f"pattern is {pattern!r}; the number must be in parentheses")
    return found


def data_url(pixels: UInt8[Any, "height width 3"]) -> str:
    """An image as PNG, in a URL of its own."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def agreement(likeliest: list[dict[str, Any]]) -> float:
    """P(Yes) / (P(Yes) + P(No)) of tokens and their log-probabilities, whatever their case and the spaces around them. Raises
    ValueError where neither is among them."""
    chance = {"yes": 0.0, "no": 0.0}
    for token in likeliest:
        word = re.sub(r"[^a-z]", "", token["token"].lower())
        if word in chance:
            chance[word] += math.exp(token["logprob"])
    if not sum(chance.values()):
        raise ValueError(f"neither Yes nor No is among the tokens {[t['token'] for t in likeliest][:20]}")
    return chance["yes"] / sum(chance.values())
