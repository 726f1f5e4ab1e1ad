"""Probabilities of a classifier as rewards."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from pgdlab.images.classifiers import load_classifier
from pgdlab.rewards.base import Reward, Score


class ClassProbability(Reward):
    """p(target | image) under a classifier, 0 to 1; part "log_prob" in nats.

    domain: whose classifiers: digits, fashion, or the path of a folder that task=classifiers wrote. target: a class, by its
    number or the name that it had when they were fitted, or null for the class of each sample's own prompt. classifier:
    "reward" to train on, "heldout" to judge by.
    """

    takes, differentiable = "images", True

    def __init__(
        self,
        *,
        domain: str | None,
        target: int | str | None = None,
        classifier: Literal["reward", "heldout"] = "reward",
    ) -> None:
        super().__init__()
        self.classifier = load_classifier(domain, classifier)
        self.classes, names = self.classifier.head.out_features, self.classifier.names
        self.target = names.index(target) if isinstance(target, str) and target in names else target
        if isinstance(self.target, str) or (self.target is not None and not 0 <= self.target < self.classes):
            called = f" ({', '.join(names)})" if names else ""
            raise ValueError(f"target is {target!r}; it must be a class, 0 to {self.classes - 1}{called}")

    def score(self, sample: Float[Tensor, "B C S S"], cond: Tensor) -> Score:
        log_prob = self.classifier(sample).log_softmax(1)
        if self.target is not None:
            chosen = log_prob[:, self.target]
        elif bool((cond >= self.classes).any()):
            raise ValueError("target is null, which is the class of the prompt, but a prompt here names no class")
        else:
            chosen = log_prob.gather(1, cond[:, None]).squeeze(1)
        return Score.of(chosen.exp(), log_prob=chosen)


class AnyClass(Reward):
    """Being a clear example of any class: confidence minus confusion, the largest probability minus the next, 0 to 1.

    Parts: "confidence" and "confusion". domain, classifier: as in ClassProbability.
    """

    takes, differentiable = "images", True

    def __init__(self, *, domain: str | None, classifier: Literal["reward", "heldout"] = "reward") -> None:
        super().__init__()
        self.classifier = load_classifier(domain, classifier)

    def score(self, sample: Float[Tensor, "B C S S"], cond: Tensor) -> Score:
        first, second = self.classifier(sample).softmax(1).topk(2, 1).values.unbind(1)
        return Score.of(first - second, confidence=first, confusion=second)
