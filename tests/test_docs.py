"""The documentation against the code: names, defaults, commands, links, and the examples, which are run."""

from __future__ import annotations

import ast
import csv
import importlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from pgdlab.cli import read_flags
from pgdlab.config.compose import compose, instantiate, options
from pgdlab.config.runs import SUMMARY
from pgdlab.config.schema import complete, is_node, schema
from pgdlab.domains.base import Domain
from pgdlab.tasks import train
from pgdlab.trainers.policy_gradient import PolicyGradient
from pgdlab.training.build import build_module
from pgdlab.training.fit import fit
from pgdlab.training.module import SteeringModule
from pgdlab.training.optimizer import AdamW
from tests.tiny import tiny_policy, tiny_world
from tests.worlds import base

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("README.md")])
ALL = "\n".join(page.read_text() for page in sorted(DOCS.rglob("*.md")))
GROUPS = ["domain", "policy", "initial", "reward", "trainer", "penalty", "runtime", "logger"]
HEADINGS = [
    "What it is", "Objective", "Options", "When to use", "Logged metrics", "Bias and caveats", "Run it",
]  # fmt: skip


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


# ---- the examples of docs/extending.md


def examples() -> dict[str, tuple[str, Any]]:
    """Module name -> (source, the config that follows it)."""
    text = (DOCS / "extending.md").read_text()
    found = re.findall(r"<!-- example: (\S+) -->\n```python\n(.*?)```.*?```yaml\n(.*?)```", text, re.DOTALL)
    return {name: (source, yaml.safe_load(config)) for name, source, config in found}


@pytest.fixture
def installed() -> Iterator[dict[str, Any]]:
    """The examples as modules under the names that the page gives them; module name -> config."""
    for name, (source, _) in examples().items():
        assert name not in sys.modules
        parent, _, own = name.rpartition(".")
        module = ModuleType(name)
        sys.modules[name] = module
        exec(compile(source, name, "exec", dont_inherit=True), module.__dict__)
        setattr(importlib.import_module(parent), own, module)
    yield {name: config for name, (_, config) in examples().items()}
    for name in examples():
        parent, _, own = name.rpartition(".")
        delattr(sys.modules[parent], own)
        del sys.modules[name]
    schema.cache_clear()


def test_every_python_block_of_the_page_is_an_example() -> None:
    text = (DOCS / "extending.md").read_text()
    assert len(examples()) == text.count("```python") == 2


def test_the_example_trainer_trains(installed: dict[str, Any], tmp_path: Path) -> None:
    """One iteration of 2 epochs of 4 minibatches on the Gaussian toy: weights move, and the clip is the config's."""
    node = installed["pgdlab.trainers.clip_higher"]
    trainer = instantiate(complete(node, "trainer"))
    assert isinstance(trainer, PolicyGradient)
    assert (trainer.low, trainer.high) == (0.2, 0.4)  # type: ignore[attr-defined]
    # w = e^1 is cut to e^.4 where the advantage is positive and kept where it is negative; e^-1 the other way round
    ratio, advantage = torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    expected = torch.tensor([0.4, 1.0, -1.0, -0.2]).exp() * advantage
    torch.testing.assert_close(trainer.surrogate(ratio, advantage), expected)

    policy = tiny_policy()
    module = SteeringModule(tiny_world(policy, samples=16, group=4, iterations=1), trainer, AdamW(lr=0.05))
    fit(module, compose(["trainer={" + ", ".join(f"{k}: {v}" for k, v in node.items()) + "}"]), tmp_path)
    assert int(module.iterations) == 1
    assert policy.denoiser.shift.abs().sum() > 0
    assert 0 <= module.history[0]["train/clip_fraction_high"] < 1
    with pytest.raises(ValueError, match=r"trainer.*high -1"):
        instantiate(compose(["trainer={_target_: " + node["_target_"] + ", high: -1}"]).nodes["trainer"], "trainer")


def test_the_example_reward_scores(installed: dict[str, Any]) -> None:
    reward = instantiate(complete(installed["pgdlab.rewards.image.ink"], "reward"))
    grey = torch.tensor([0.0, 0.2, 1.0])
    score = reward.score(grey[:, None, None, None].expand(3, 1, 8, 8), torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(score.value, torch.tensor([-0.2, 0.0, -0.8]))
    torch.testing.assert_close(score.parts["ink"], grey)
    assert score.measured.all()


def test_the_domain_members_are_all_listed() -> None:
    table = (DOCS / "extending.md").read_text().partition("## A domain")[2]
    for name in [*Domain.__abstractmethods__, *Domain.__annotations__]:
        assert re.search(rf"`{name}[`(]", table), name


# ---- metrics


def tiny_run(monkeypatch: pytest.MonkeyPatch, folder: Path, *overrides: str) -> tuple[set[str], dict[str, Any]]:
    """Columns of metrics.csv and summary.json of a real run on digits with a small random base."""
    monkeypatch.chdir(folder)
    for name in ("LOCAL_RANK", "PGDLAB_RUN"):
        monkeypatch.delenv(name, raising=False)
    sizes = ["policy.steps=3", "plan.samples=4", "plan.group=2", "plan.iterations=1", "plan.eval_samples=4"]
    train.main(compose([f"domain.weights={base()}", *sizes, "name=docs", *overrides]))
    monkeypatch.delenv("PGDLAB_RUN", raising=False)
    with (folder / "runs" / "docs" / "metrics.csv").open(newline="") as file:
        columns = set(next(csv.reader(file)))
    return columns, json.loads((folder / "runs" / "docs" / SUMMARY).read_text())


def undocumented(names: set[str]) -> set[str]:
    """The names that docs/metrics.md lacks; parts of rewards are named in docs/rewards.md."""
    metrics, rewards = (DOCS / "metrics.md").read_text(), (DOCS / "rewards.md").read_text()
    parts = {name for name in names if name.startswith("reward/")}
    assert not parts or "`reward/<part>`" in metrics
    missing = {n for n in names - parts if f"`{n}`" not in metrics}
    return missing | {n for n in parts if f"`{n.rpartition('/')[2]}`" not in rewards}


def summary_names(summary: dict[str, Any]) -> set[str]:
    return set(summary) | set(summary["evaluations"]) | {k for row in summary["evaluations"].values() for k in row}


RUNS = {
    "joint, any class": (
        "initial=diagonal", "reward=any_class", "domain.train_conditions=[0,1]", "penalty=target_kl",
    ),
    "rwr, gated": ("trainer=rwr", "penalty=none", "reward=gated_jpeg", "heldout=quality", "trainer.updates=2"),
}  # fmt: skip


@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_every_metric_is_documented(
    overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    columns, summary = tiny_run(monkeypatch, tmp_path, *overrides)
    assert not undocumented(columns | summary_names(summary))
    assert {"reward", "iteration", "train/loss", "train/gradient_norm"} < columns
    if "trainer=rwr" not in overrides:
        assert {"kl_nats", "penalty/coefficient", "initial_kl_nats", "train/clip_fraction_high"} < columns
        assert {"class_match", "copies", "kid"} < summary_names(summary)


def test_an_undocumented_metric_is_seen() -> None:
    assert undocumented({"reward", "no_such_figure", "reward/target/no_such_part"}) == {
        "no_such_figure", "reward/target/no_such_part",
    }  # fmt: skip


def test_every_reward_part_and_check_is_documented() -> None:
    """Read from the source: the parts in `Score.of(value, part=...)`, and the names of the doctor's checks."""
    rewards, metrics = (DOCS / "rewards.md").read_text(), (DOCS / "metrics.md").read_text()
    for file in sorted((ROOT / "pgdlab" / "rewards").rglob("*.py")):
        calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        for call in calls:
            for part in call.keywords if ast.unparse(call.func) == "Score.of" else []:
                assert f"`{part.arg}`" in rewards, (file.name, part.arg)
    doctor = (ROOT / "pgdlab" / "training" / "checks.py").read_text()
    for name in re.findall(r'(?:Check|_check)\("([^"]+)"', doctor):
        assert f"| {name} |" in metrics, name


# ---- options


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_and_argument_is_named(group: str) -> None:
    for name, file in options(group).items():
        assert f"`{name}`" in ALL or f"{group}={name}" in ALL, f"{group}={name}"
        if group != "runtime":  # Lightning's own arguments
            for node in nodes(yaml.safe_load(file.read_text())):
                for key in schema(node["_target_"]).keys:
                    assert f"`{key}`" in ALL or f".{key}`" in ALL or key in FROM_THE_PROGRAM, (name, key)


FROM_THE_PROGRAM = {"denoiser", "space", "initial", "unconditional", "conditions", "std", "folder", "settings", "done"}


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every node in a YAML tree."""
    if is_node(value):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from nodes(child)


def test_every_experiment_and_task_is_named() -> None:
    for name in options("experiment"):
        assert re.search(rf"experiment={name}\b|`{name}`", ALL), name
    for file in (ROOT / "pgdlab" / "tasks").glob("[a-z]*.py"):
        assert f"task={file.stem}" in ALL or f"`{file.stem}`" in ALL, file.stem


def option_tables() -> list[Any]:
    found = []
    for page in sorted(DOCS.rglob("*.md")):
        for target, rows in re.findall(r"<!-- options: (\S+) -->\n\|.*\n\|[-|]+\n((?:\|.*\n)+)", page.read_text()):
            found.append(pytest.param(target, rows, id=f"{page.stem}-{target.rpartition('.')[2]}"))
    return found


@pytest.mark.parametrize(("target", "rows"), option_tables())
def test_option_tables_are_complete_and_their_defaults_right(target: str, rows: str) -> None:
    known = schema(target).defaults
    cells = [[cell.strip() for cell in row.split("|")[1:3]] for row in rows.splitlines()]
    stated = {name.strip("`"): default.strip("`") for name, default in cells}
    assert stated.keys() == known.keys()
    for name, default in stated.items():
        value = known[name]
        if is_node(value):
            assert default == value["_target_"].rpartition(".")[2]
        elif value and isinstance(value, (list, tuple)):
            ends = f"{value[0]} to {value[-1]}"
            assert default in (str(value), ends) or all(f"`{v}`" in rows for v in value if "to_" not in str(v))
        else:
            assert default == ("null" if value is None else str(value)), name


def test_trainer_pages_have_the_fixed_headings() -> None:
    for page in sorted((DOCS / "trainers").glob("*.md")):
        assert re.findall(r"^## (.*)$", page.read_text(), re.MULTILINE) == HEADINGS, page.name
    assert {p.stem for p in (DOCS / "trainers").glob("*.md")} == {*options("trainer"), "initial"}
    points = {"gaussian", "mixture", "finite_set"}
    assert {p.stem for p in (DOCS / "domains").glob("*.md")} == {*options("domain")} - points | {"points"}


@pytest.mark.parametrize("domain", ["digits", "fashion"])
def test_accuracies_are_those_of_the_shipped_classifiers(domain: str) -> None:
    cards = json.loads((ROOT / "pgdlab" / "domains" / "assets" / domain / "classifiers.json").read_text())
    text = (DOCS / "domains" / f"{domain}.md").read_text()
    for kind, card in cards.items():
        stated = [f"`{card['architecture']}`", f"{card['training_images']:,}", f"{100 * card['test_accuracy']:.1f} %"]
        assert " | ".join([f"| `{kind}`", *stated]) + " |" in text, (kind, card)


# ---- links, commands, and what must not be there


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"[a-z]+:", link):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def commands(page: Path) -> list[list[str]]:
    """The words after `python run.py` in code blocks and inline, comments and placeholders left out."""
    text = page.read_text()
    lines = [line for block in re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    lines += re.findall(r"`(python run\.py[^`]*)`", text)
    words = [shlex.split(line, comments=True) for line in lines]
    found = [w[w.index("run.py") + 1 :] for w in words if "run.py" in w]
    own = {f"{group}={name}" for group, name in re.findall(r"configs/(\w+)/(\w+)\.yaml", text)}  # a page's own example
    own -= {f"{group}={name}" for group in GROUPS for name in options(group)}
    return [w for w in found if not own & {*w} and not any(re.search(r"[<>]|[A-Z]{4,}|\.\.\.", x) for x in w)]


def test_commands_are_found() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 40


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_compose(page: Path) -> None:
    for words in commands(page):
        _, overrides = read_flags(words)
        if not any(word.startswith("resume=") for word in overrides):
            compose(overrides)


def test_combinations_on_the_configuration_page_build() -> None:
    page = DOCS / "configuration.md"
    block = page.read_text().partition("What is trained and how combine freely")[2]
    lines = re.search(r"```bash\n(.*?)```", block, re.DOTALL)
    assert lines is not None
    for line in lines[1].splitlines():
        module = build_module(compose([f"domain.weights={base()}", *shlex.split(line)[2:]]))
        assert any(p.requires_grad for p in module.policy.parameters())


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_no_placeholder_is_left(page: Path) -> None:
    assert "@@" not in page.read_text()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_no_path_of_a_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(work|tmp|root|home|Users)\b", page.read_text())
