"""Judges that take long for one image: several are looked at at once, in threads, while the next batch is sampled."""

from __future__ import annotations

import hashlib
import itertools
import math
import queue
import threading
import warnings
import weakref
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pgdlab.rewards.base import Prefetch, Score, ShapeError
from pgdlab.rewards.guard import quoted
from pgdlab.rewards.text.base import Prompted, colour, require_images

REMEMBERED = 10_000
T = TypeVar("T")


class Threads:
    """Calls in `workers` threads, in order. They end with the program, whatever waits: those of concurrent.futures finish their
    queue first, and an interrupted run would wait for a slow server."""

    def __init__(self, workers: int) -> None:
        self.waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(workers):
            threading.Thread(target=work, args=[self.waiting], daemon=True).start()
        self.end = weakref.finalize(self, self.release, self.waiting, workers)

    @staticmethod
    def release(waiting: queue.SimpleQueue[Any], workers: int) -> None:
        """Ends threads that have nothing to do."""
        for _ in range(workers):
            waiting.put(None)

    def submit(self, call: Callable[..., T], *given: Any) -> Future[T]:
        """A call, begun as soon as a thread is free."""
        future: Future[T] = Future()
        self.waiting.put((future, call, given))
        return future


def work(waiting: queue.SimpleQueue[Any]) -> None:
    """A thread's life."""
    while (task := waiting.get()) is not None:
        future, call, given = task
        try:
            future.set_result(call(*given))
        except BaseException as error:  # it is raised where the result is asked for
            future.set_exception(error)
        del task, future, call, given  # a thread that waits keeps nothing alive


class Ahead(Prompted, Prefetch):
    """A judge of one image at a time, `workers` at once. What submit() is given is begun and collected by score().

    Answers are kept by pixels and prompt, the last `remembered` of them; what failed is asked for again next time. An image that
    cannot be judged is not measured, and the first failure is shown as a warning.
    """

    def __init__(self, *, prompt: str | None = None, workers: int, remembered: int = REMEMBERED) -> None:
        super().__init__(prompt=prompt)
        if workers < 1 or remembered < 1:
            raise ValueError(f"workers is {workers}, remembered {remembered}; both must be at least 1")
        self.workers, self.remembered = workers, remembered
        self.cache_misses: int = 0
        self.answers: dict[bytes, Future[float]] = {}  # what was used last is last
        self.threads: Threads | None = None
        self.warned = False

    @abstractmethod
    def judged(self, pixels: UInt8[Any, "height width 3"], prompt: str) -> float:
        """In a thread: the value of an RGB image, NaN or an exception where it cannot be judged."""

    def submit(self, sample: Float[Tensor, "B C height width"], cond: Tensor) -> None:
        self.begun(sample, cond)

    def begun(self, sample: Float[Tensor, "B C height width"], cond: Tensor) -> list[Future[float]]:
        """The calls for samples; those that are not remembered are begun."""
        require_images(sample.shape, self)
        levels = (
            (colour(sample.detach()) * 255).round().nan_to_num().to(torch.uint8).permute(0, 2, 3, 1).cpu().contiguous()
        )
        self.threads = self.threads or Threads(self.workers)
        found = []
        for pixels, prompt in zip(levels.numpy(), self.prompts(cond), strict=True):
            key = hashlib.blake2b(repr((pixels.shape, prompt)).encode() + pixels.tobytes()).digest()
            future = self.answers.pop(key, None)
            if future is None:
                self.cache_misses += 1
                future = self.threads.submit(self.judged, pixels, prompt)
            self.answers[key] = future
            found.append(future)
        return found

    def score(self, sample: Float[Tensor, "B C height width"], cond: Tensor) -> Score:
        begun = self.begun(sample, cond)
        value = torch.tensor([self.result(future) for future in begun], dtype=torch.float64, device=cond.device)
        self.forget({future for future, x in zip(begun, value.tolist(), strict=True) if not math.isfinite(x)})
        measured = value.isfinite() & sample.flatten(1).isfinite().all(1).to(cond.device)
        return Score(torch.where(measured, value, 0.0), measured)

    def result(self, future: Future[float]) -> float:
        """What a call found, NaN where it failed. Raises ShapeError where no sample is at fault."""
        try:
            return float(future.result())
        except ShapeError:
            self.answers.clear()
            raise
        except Exception as error:  # whatever a reader or a server does
            if not self.warned:
                text = f"{self.called} could not judge an image: {quoted(error)}. Further failures are only counted"
                warnings.warn(text, RuntimeWarning, stacklevel=2)
            self.warned = True
            return math.nan

    def forget(self, failed: set[Future[float]]) -> None:
        """Drops what failed, and the oldest beyond `remembered`."""
        self.answers = {key: future for key, future in self.answers.items() if future not in failed}
        for oldest in list(itertools.islice(self.answers, max(0, len(self.answers) - self.remembered))):
            del self.answers[oldest]
