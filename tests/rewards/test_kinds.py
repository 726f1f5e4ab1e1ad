"""A reward of one kind of samples on a domain of another is answered in a sentence, before anything is sampled."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re

import pytest

import pgdlab.rewards
from pgdlab.config.compose import ConfigError, compose, options
from pgdlab.rewards.base import Reward
from pgdlab.training.build import build_world, scoring
from tests.worlds import BRIGHT, POINTS, QUICK, graphs, tiny

ANY = {  # what wraps other rewards, or looks at nothing
    "Reward", "Prefetch", "NoReward", "Named", "Sum", "Product", "Gate", "EveryStep", "Shaped", "Function", "Preference",
    "Overlapped",
}  # fmt: skip


def shipped() -> list[type[Reward]]:
    """Every reward class of the package."""
    names = [m.name for m in pkgutil.walk_packages(pgdlab.rewards.__path__, "pgdlab.rewards.")]
    found = [c for name in names for _, c in inspect.getmembers(importlib.import_module(name), inspect.isclass)]
    return sorted({c for c in found if issubclass(c, Reward)}, key=lambda c: c.__name__)


def test_every_reward_says_what_it_takes() -> None:
    silent = {c.__name__ for c in shipped() if c.takes is None}
    assert silent == ANY
    kinds = {(c.__module__.split(".")[2], c.takes) for c in shipped() if c.takes}
    fields = {("field", "Darcy flow"), ("field", "pendulum paths")}
    assert kinds == fields | {
        ("image", "images"), ("text", "images"), ("molecule", "molecules"), ("analytic", "points"), ("plan", "plans"),
        ("environment", "actions"),
    }  # fmt: skip


KINDS = ("images", "molecules", "points", "plans", "Darcy flow", "pendulum paths", "actions")


def test_every_option_is_of_one_kind() -> None:
    """Those that ship, each once; a sum of images alone is one of images."""
    found = [name for kind in KINDS for name in scoring(kind)]
    assert sorted(found) == sorted(options("reward").keys() - {"function", "overlapped", "preference"})
    assert {"target", "target_and_quality", "gated_jpeg"} <= set(scoring("images"))
    assert {"qed", "distinct", "xtb"} <= set(scoring("molecules"))
    assert scoring("points") == ["above", "quadratic"]


IMAGES = ("heldout=null",)
IN_WORKERS = (
    "{_target_: pgdlab.rewards.molecule.workers.Workers, reward: {_target_: pgdlab.rewards.molecule.properties.QED}}"
)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((*IMAGES, "reward=qed"), r"reward \(QED\) scores molecules, but domain=digits gives images: .* jpeg, "),
        ((*IMAGES, "reward=distinct"), r"reward \(Distinct\) scores molecules, but domain=digits gives images"),
        ((*IMAGES, f"reward={IN_WORKERS}"), r"reward \(Workers\) scores molecules, but domain=digits gives images"),
        ((*IMAGES, "heldout=sensible"), r"heldout \(\w+\) scores molecules, but domain=digits gives images"),
        ((*IMAGES, "reward=quadratic"), r"reward \(Quadratic\) scores points, but domain=digits gives images"),
        ((*POINTS, "reward=jpeg"), "scores images, but domain=gaussian gives points: .* above, quadratic do$"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(given: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        build_world(compose(tiny(*given)))
    assert "\n" not in str(caught.value)


def test_an_image_reward_on_molecules_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"reward \(Quality\) scores images, but domain=qm9 gives molecules: .* qed, "
    ):
        build_world(compose(tiny(*graphs(), "reward=quality")))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ("domain=qm9", "heldout=null", "reward=target"),
            "reward.domain is read from domain.classifiers, which domain (QM9) does not have: this reward (ClassProbability) "
            "goes with domain=digits or fashion or folder; reward=NAME chooses another, experiment=NAME one that goes with its "
            "domain",
        ),
        (
            ("domain=qm9", "reward=valid", "heldout=heldout_target"),
            "heldout.domain is read from domain.classifiers, which domain (QM9) does not have: this heldout (ClassProbability) "
            "goes with domain=digits or fashion",
        ),
    ],
)
def test_a_reward_that_reads_what_the_domain_has_not_is_refused(given: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        compose(given)


def test_other_interpolations_keep_their_message() -> None:
    with pytest.raises(ConfigError, match=r"an interpolation cannot be resolved: .*nowhere"):
        compose([QUICK, "reward.target=${nowhere.at_all}"])


def test_what_states_nothing_is_not_asked() -> None:
    """A reward of one's own, and one in a wrapper that fits."""
    build_world(compose(tiny(BRIGHT, "heldout=null")))
    build_world(compose(tiny(*graphs(), "reward=distinct")))
