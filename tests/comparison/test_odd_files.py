"""Files that no run has written: the folder is a failure with its reason, and the others are compared as without it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgdlab.comparison.charts import at_equal_kl, curve, efficiency
from pgdlab.comparison.comparison import Comparison
from pgdlab.comparison.equal_kl import frontier
from pgdlab.comparison.folders import read
from pgdlab.comparison.page import Report, page
from pgdlab.comparison.report import compare, markdown
from pgdlab.comparison.styles import styles
from pgdlab.results import Page
from tests.comparison.folders import found, metrics, run

GONE = object()
Spoil = Callable[[Path], object]


def put(tree: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The tree with another value at a path of keys, or without it."""
    *parents, last = path.split(".")
    inner = tree
    for key in parents:
        inner = inner[key]
    inner.pop(last)
    if value is not GONE:
        inner[last] = value
    return tree


def summary(path: str, value: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        file = folder / "summary.json"
        file.write_text(json.dumps(put(json.loads(file.read_text()), path, value)))

    return spoil


def text(name: str, content: str | bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def config(path: str, value: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        file = folder / "config.yaml"
        file.write_text(yaml.safe_dump(put(yaml.safe_load(file.read_text()), path, value)))

    return spoil


ODD: dict[str, tuple[Spoil, str]] = {  # what is done to a folder, and what its reason must name
    "evaluations gone": (summary("evaluations", GONE), "evaluations"),
    "evaluations list": (summary("evaluations", []), "evaluations"),
    "base table": (summary("evaluations.base/sde", 5), "evaluations"),
    "tuned table gone": (summary("evaluations.ema/sde", GONE), "ema/sde"),
    "tuned figure": (summary("evaluations.ema/sde.diversity", "x"), "diversity"),
    "base figure": (summary("evaluations.base/sde.heldout_stderr", {}), "heldout_stderr"),
    "seed gone": (summary("seed", GONE), "seed"),
    "seed list": (summary("seed", [1]), "seed"),
    "seed half": (summary("seed", 0.5), "seed"),
    "before null": (summary("reward_before", None), "base"),
    "before gone": (summary("reward_before", GONE), "reward_before"),
    "before text": (summary("reward_before", "x"), "reward_before"),
    "after text": (summary("reward_after", "x"), "reward_after"),
    "after bool": (summary("reward_after", True), "reward_after"),
    "after infinite": (summary("reward_after", float("inf")), "not finite"),
    "after huge": (summary("reward_after", 1e308), "reward_after"),
    "after huger": (summary("reward_after", 10**400), "reward_after"),
    "kl text": (summary("kl_nats", "a"), "kl_nats"),
    "queries": (summary("reward_queries", "x"), "reward_queries"),
    "iterations": (summary("iterations", None), "iterations"),
    "seconds": (summary("training_seconds", "x"), "training_seconds"),
    "network": (summary("network_evaluations", {}), "network_evaluations"),
    "list": (text("summary.json", "[1]"), "summary.json"),
    "null": (text("summary.json", "null"), "summary.json"),
    "binary": (text("summary.json", b"\xff\xfe"), "summary.json"),
    "deep": (text("summary.json", "[" * 100_000), "summary.json cannot be used: it is nested too deep"),
    "long cell": (text("metrics.csv", f"iteration,reward\n1,{'1' * 200_000}\n"), "metrics.csv"),
    "config deep": (text("config.yaml", "[" * 2_000), "config.yaml"),
    "config binary": (text("config.yaml", b"\xff\xfe\x00"), "config.yaml"),
    **{
        f"{slot} {value!r}": (config(slot, value), slot)
        for slot in ("domain", "reward", "policy", "trainer")
        for value in (None, 5, {}, [1], "x")
    },
    **{f"penalty {value!r}": (config("penalty", value), "penalty") for value in (5, [1], "x")},
    "plan": (config("plan", 5), "plan"),
}


def seen(folder: Path) -> Report:
    """The report of a folder of runs, after its page and tables were made."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = compare(read([str(folder)]), Comparison())
        page(report)
        markdown(report)
    return report


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    run(folder / "a", "trainer=ppo")
    return folder


def test_an_odd_file_costs_its_run_alone(good: Path, tmp_path: Path) -> None:
    """All at once: what is left is the one sound run, and each reason names what is odd."""
    (tmp_path / "a").symlink_to(good / "a")
    for name, (spoil, _) in ODD.items():
        spoil(run(tmp_path / f"odd {name}", "trainer=grpo", seed=1))
    report = seen(tmp_path)
    reasons = {f.folder.name.removeprefix("odd "): f.reason for f in report.failures}
    assert reasons.keys() == ODD.keys()
    assert {name: said for name, said in reasons.items() if ODD[name][1] not in said} == {}
    assert [[m.label for m in p.methods] for p in report.problems] == [["ppo"]]


def test_what_is_not_known_is_no_fault(tmp_path: Path) -> None:
    """Figures that were not finite are null, and older runs lack some."""
    for seed, (name, value) in enumerate((("kl_nats", None), ("kl_nats", float("nan")), ("reward_gain_stderr", None),
                                          ("reward_gain", None), ("reward_gain", GONE), ("reward_queries", 64),
                                          ("training_seconds", GONE), ("network_evaluations", None))):  # fmt: skip
        summary(name, value)(run(tmp_path / f"{seed}", seed=seed))
    config("penalty", None)(run(tmp_path / "free", seed=9))
    report = seen(tmp_path)
    assert report.failures == []
    assert sum(len(m.runs) for p in report.problems for m in p.methods) == 9


def test_on_points_an_odd_setting_leaves_the_scale_to_the_others(tmp_path: Path) -> None:
    points = ("domain=gaussian", "reward=quadratic")
    run(tmp_path / "a", *points)
    for name, spoil in {
        "steps": config("policy.steps", "x"), "coefficient": config("penalty.path_kl.coefficient", [1]),
        "penalty": config("penalty.path_kl", "x"), "initial": config("initial", None), "plan": config("plan", None),
    }.items():  # fmt: skip
        spoil(run(tmp_path / name, *points, seed=1))
    report = seen(tmp_path)
    assert "ppo (coefficient 0.01)" in [m.label for p in report.problems for m in p.methods]
    assert {failure.folder.name for failure in report.failures} == {
        "plan",
        "steps",
    }  # what a sample costs is asked of them


@pytest.mark.parametrize(
    "content", ["{", "{}", "[]", '{"runs": [{"curve": []}], "seconds": 1, "refused": ""}', "[" * 100_000]
)
def test_an_odd_certificate_costs_itself_alone(content: str, good: Path, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(good / "a")
    folder = run(tmp_path / "proof")
    config("task", "certify")(folder)
    (folder / "table" / "ppo").mkdir(parents=True)
    (folder / "table" / "ppo" / "certificate.json").write_text(content)
    (failure,) = seen(tmp_path).failures
    assert failure.folder == folder / "table" / "ppo"
    assert failure.reason.startswith("certificate.json cannot be used: ")


def test_a_replica_that_is_not_finite_costs_itself_alone(tmp_path: Path) -> None:
    figures = {"objective": [1.0] * 3, "reward": [1.0] * 3, "path_kl": [0.0] * 3, "initial_kl": [0.0] * 3}
    best = figures | {"objective": [2.0] * 3}
    proof = {"best": best, "ceiling": 2.0, "base": figures, "curve": [[8, best]]}
    proof["final"] = best | {"path_kl": [0.5, float("inf"), 0.5], "objective": [1.5, 1.5, float("nan")]}
    folder = run(tmp_path / "proof")
    config("task", "certify")(folder)
    (folder / "table" / "ppo").mkdir(parents=True)
    cell = {"runs": [proof], "seconds": 1.0, "refused": ""}
    (folder / "table" / "ppo" / "certificate.json").write_text(json.dumps(cell))
    report = seen(tmp_path)
    assert [f.reason.partition(" of ")[0] for f in report.failures] == ["replica 1", "replica 2"]
    (problem,) = report.problems
    assert problem.methods[0].scores == {0: 0.5}  # half way from 1 to 2


def test_nothing_sound_is_refused_with_folders_and_reasons(tmp_path: Path) -> None:
    summary("seed", GONE)(run(tmp_path / "sent"))
    with pytest.raises(ValueError, match=r"no finished run(.|\n)*sent: summary.json cannot be used: it has no seed"):
        seen(tmp_path)


def test_markdown_holds_text_and_no_tags_of_a_run(good: Path, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(good / "a")
    lost = run(tmp_path / "lost<b>|")
    (lost / "summary.json").unlink()
    (lost / "failure.txt").write_text("<img src=x onerror=alert(1)> & ![x](http://a.b/c) | d")
    config("trainer._target_", "its.<script>|")(run(tmp_path / "odd"))
    quoted = markdown(compare(read([str(tmp_path)]), Comparison()))
    assert "<" not in quoted
    assert "](" not in quoted
    assert r"&lt;img src=x onerror=alert(1)> &amp; ![x]\(http://a.b/c) &#124; d" in quoted
    assert "lost&lt;b>&#124;" in quoted
    (line,) = [line for line in quoted.splitlines() if line.startswith("| &lt;script>&#124;")]
    head = next(line for line in quoted.splitlines() if line.startswith("| method"))
    assert line.count("|") == head.count("|")  # no cell more
    (tmp_path / "report.md").write_text(quoted)
    assert "<" not in Page(tmp_path / "report.html", [], [])._repr_markdown_()


def test_no_rewards_at_equal_kl_where_one_never_leaves_the_base(tmp_path: Path) -> None:
    """The rollouts of a first iteration are the base's: their KL is 0, and so is what all methods reach."""
    for name, nats in (("ppo", [0.0]), ("grpo", [0.0, 1.0])):
        metrics(run(tmp_path / name, f"trainer={name}"), [(16, 0.3), (32, 0.5)][: len(nats)], nats)
    (problem,) = found(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert at_equal_kl(problem, styles(["ppo", "grpo"])) is None
    assert frontier(problem) is None
    seen(tmp_path)


def test_no_learning_curve_of_seeds_that_share_no_query(tmp_path: Path) -> None:
    for seed, queries in enumerate((16, 32)):
        metrics(run(tmp_path / f"{seed}", seed=seed), [(queries, 0.3)])
    (problem,) = found(tmp_path)
    assert curve(problem.methods[0]) is None
    assert efficiency(problem, styles(["ppo"])) is None
