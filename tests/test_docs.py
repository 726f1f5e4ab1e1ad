"""The documentation against the code: names, defaults, commands, links, and the examples, which are run."""

from __future__ import annotations

import ast
import csv
import importlib
import json
import pkgutil
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from pgdlab.cli import read_flags
from pgdlab.config import signatures
from pgdlab.config.commands import COMMANDS
from pgdlab.config.compose import compose, instantiate, options, slots
from pgdlab.config.runs import SUMMARY
from pgdlab.config.schema import complete, is_node, schema
from pgdlab.domains.base import Domain
from pgdlab.tasks import train
from pgdlab.trainers.policy_gradient import PolicyGradient
from pgdlab.training.build import build_module
from pgdlab.training.fit import fit
from pgdlab.training.module import SteeringModule
from pgdlab.training.optimizer import Optimization
from tests.tiny import tiny_policy, tiny_world
from tests.worlds import QUICK, base

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / "results").glob("*.md"), ROOT / "README.md"])
GROUPS = list(slots())
HEADINGS = [
    "What it is", "Objective", "Options", "When to use", "Logged metrics", "Bias and caveats", "Run it",
]  # fmt: skip


def none(offences: Iterable[str]) -> None:
    """Fails with all of them in the message."""
    found = list(offences)
    assert not found, "\n" + "\n".join(found)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# ---- the examples of docs/extending.md


def examples() -> dict[str, tuple[str, Any]]:
    """Module name -> (source, the config that follows it)."""
    text = (DOCS / "extending.md").read_text()
    found = re.findall(r"<!-- example: (\S+) -->\n```python\n(.*?)```.*?```yaml\n(.*?)```", text, re.DOTALL)
    return {name: (source, yaml.safe_load(config)) for name, source, config in found}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The examples as modules under the names that the page gives them; module name -> config."""
    for name, (source, _) in examples().items():
        assert name not in sys.modules
        parent, _, own = name.rpartition(".")
        module = ModuleType(name)
        sys.modules[name] = module
        exec(compile(source, name, "exec", dont_inherit=True), module.__dict__)
        setattr(importlib.import_module(parent), own, module)
    read, sources = signatures.source, {name: source for name, (source, _) in examples().items()}
    monkeypatch.setattr(signatures, "source", lambda module: sources.get(module) or read(module))
    yield {name: config for name, (_, config) in examples().items()}
    for name in examples():
        parent, _, own = name.rpartition(".")
        delattr(sys.modules[parent], own)
        del sys.modules[name]
    for found in (schema, signatures.signature, signatures.bindings):
        found.cache_clear()


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
    module = SteeringModule(tiny_world(policy, samples=16, group=4, iterations=1), trainer, Optimization(lr=0.05))
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
    train.main(compose([QUICK, f"domain.weights={base()}", *sizes, "name=docs", *overrides]))
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
        "initial=diagonal", "reward=any_class", "domain.train_conditions=[0,1]", "penalty=constraint",
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


def unlisted_parts(source: str, page: str) -> list[str]:
    """The parts of rewards, `Score.of(value, part=...)` in the source, that the page does not name."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    parts = [part.arg for call in calls if ast.unparse(call.func) == "Score.of" for part in call.keywords]
    return [f"part {part}" for part in parts if f"`{part}`" not in page]


def test_every_reward_part_is_documented() -> None:
    page = (DOCS / "rewards.md").read_text()
    files = sorted((ROOT / "pgdlab" / "rewards").rglob("*.py"))
    none(f"{name_of(file)}: {line}" for file in files for line in unlisted_parts(file.read_text(), page))
    assert unlisted_parts("Score.of(x, confidence=y, no_such=z)\nother(no_such=1)", page) == ["part no_such"]


def test_the_doctor_s_table_has_exactly_its_checks() -> None:
    sources = "".join(file.read_text() for file in (ROOT / "pgdlab" / "training").glob("*checks*.py"))
    made = re.findall(r'(?:Check|_check|Finding)\(\s*"([^"]+)"', sources)
    table = (DOCS / "metrics.md").read_text().partition("## The doctor")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| (.*?) \|", table, re.MULTILINE)) - {"check"} == set(made)


# ---- traps


def unguarded(text: str) -> list[str]:
    """The traps that state no size, and the tests that they name and that are not there."""
    wrong = []
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        title, _, body = re.split(r"^## ", section, flags=re.MULTILINE)[0].partition("\n")
        story, _, guards = body.partition("Guard: ")
        wrong += [] if re.search(r"\d", story) else [f"{title}: no size"]
        named = re.findall(r"`(tests/\S+\.py)::(\w+)`", guards)
        wrong += [] if named else [f"{title}: no guard"]
        for file, test in named:
            there = (ROOT / file).is_file() and f"\ndef {test}(" in (ROOT / file).read_text()
            wrong += [] if there else [f"{title}: there is no {file}::{test}"]
    return wrong


def test_every_trap_has_a_size_and_a_guard() -> None:
    page = DOCS / "traps.md"
    none(unguarded(page.read_text()))
    made_up = "## A 1\n### B\nIt is 2.\n\nGuard: `tests/test_docs.py::test_no`\n### C\nIt is.\n## D 3\n"
    assert unguarded(made_up) == ["B: there is no tests/test_docs.py::test_no", "C: no size", "C: no guard"]


# ---- options


FROM_THE_PROGRAM = {
    "denoiser",
    "space",
    "initial",
    "unconditional",
    "num_conditions",
    "std",
    "folder",
    "settings",
    "done",
}
REWARD_GROUPS = ("reward", "heldout")  # one set of options: docs/rewards.md lists them


def unlisted(group: str, names: Iterable[str], row: str) -> list[str]:
    """The options of a group that the table's row lacks."""
    listed = re.findall(r"`(\w+)`", row)
    return [f"{group}={name} is not in its table" for name in names if name not in listed]


def test_every_option_is_in_the_table_of_its_group() -> None:
    groups = (DOCS / "configuration.md").read_text().partition("## Groups")[2].partition("\n#")[0]
    rows = re.findall(r"^\| (`.*?) \|(.*)$", groups, re.MULTILINE)
    of = {group.strip("`"): row for cell, row in rows for group in cell.split(", ")}
    rewards = re.findall(r"^\| (`.*?) \|", (DOCS / "rewards.md").read_text(), re.MULTILINE)
    of |= dict.fromkeys(REWARD_GROUPS, " ".join(rewards))
    assert of.keys() == {*GROUPS}
    experiments = {"experiment": [name for name in options("experiment") if name == "quickstart"]}  # others: below
    none(
        line
        for group in GROUPS
        for line in unlisted(group, experiments.get(group, options(slots()[group].group)), of[group])
    )
    assert unlisted("penalty", ["path_kl", "kl"], "| `path_kl`, `trust_region` | for kl see `kl_nats` |") == [
        "penalty=kl is not in its table",
    ]  # fmt: skip


def described(target: str, pages: Iterable[str]) -> str:
    """The pages' text on a class: its table of options, or the paragraph that opens with its name in bold and code.

    With a table the whole page counts, for arguments without a default; with a paragraph the opening of its section.
    """
    name = target.rpartition(".")[2]
    for text in pages:
        if f"<!-- options: {target} -->" in text:
            return text
        before, found, after = text.partition(f"**`{name}`**")
        if found:
            section = before.rpartition("\n## ")[2].partition("\n**`")[0]
            return section + after.partition("\n\n")[0]
    return ""


def unexplained(target: str, pages: Iterable[str]) -> list[str]:
    """The arguments of a class that a user may set and its description does not name."""
    text = described(target, pages)
    keys = [key for key in schema(target).keys if key not in FROM_THE_PROGRAM]
    return [f"{target}: {key} is not described" for key in keys if not re.search(rf"`(?:[\w.]+\.)?{key}`", text)]


def test_every_argument_is_described_where_its_class_is() -> None:
    """Every class that an option of a group makes, arguments that are classes included; runtime's are Lightning's."""
    pages = [page.read_text() for page in sorted(DOCS.rglob("*.md"))]
    groups = [slots()[name].group for name in GROUPS if name not in ("runtime", "experiment")]
    trees = [complete(yaml.safe_load(file.read_text())) for group in groups for file in options(group).values()]
    made = {node["_target_"] for tree in trees for node in nodes(tree)}
    none(line for target in sorted(made) for line in unexplained(target, pages))


def test_an_argument_that_is_described_elsewhere_is_seen() -> None:
    target = "pgdlab.rewards.analytic.Above"
    elsewhere = "## A\n\n`threshold`\n\n## B\n\n**`Above`**: the indicator of a half-space.\n\n**`C`**: `threshold`"
    assert unexplained(target, [elsewhere]) == [f"{target}: threshold is not described"]
    assert unexplained(target, ["`threshold`"]) == [f"{target}: threshold is not described"]
    assert unexplained(target, [elsewhere.replace("half-space", "half-space, `threshold`")]) == []


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every node in a YAML tree."""
    if is_node(value):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from nodes(child)


def unnamed(experiments: Iterable[str], tasks: Iterable[str], text: str) -> list[str]:
    """Experiments and tasks that the text names neither as a command would nor in backticks."""
    lost = [name for name in experiments if not re.search(rf"experiment={name}(?![\w/])|`{name}`", text)]
    return lost + [name for name in tasks if not re.search(rf"task={name}\b|`{name}`", text)]


def test_every_experiment_and_task_is_named() -> None:
    text = "\n".join(page.read_text() for page in sorted(DOCS.rglob("*.md")))
    none(unnamed(options("experiment"), [file.stem for file in (ROOT / "pgdlab" / "tasks").glob("[a-z]*.py")], text))
    assert unnamed(["digits", "points"], ["fly"], "experiment=digits/ppo, the points, `point`, fly") == [
        "digits", "points", "fly",
    ]  # fmt: skip


def option_tables() -> list[tuple[str, str, str]]:
    """(page, class, rows) of every table of options."""
    table = r"<!-- options: (\S+) -->\n\|.*\n\|[-|]+\n((?:\|.*\n)+)"
    return [
        (name_of(page), *found) for page in sorted(DOCS.rglob("*.md")) for found in re.findall(table, page.read_text())
    ]


def stated_wrongly(target: str, rows: str) -> list[str]:
    """Options that a table lacks or makes up, and defaults that are not those of the class."""
    try:
        known = schema(target).defaults
    except ImportError as error:
        return [str(error)]
    cells = [[cell.strip() for cell in row.split("|")[1:3]] for row in rows.splitlines()]
    stated = {name.strip("`"): default.strip("`") for name, default in cells}
    wrong = [f"{name} is missing" for name in known.keys() - stated.keys()]
    wrong += [f"{name} is no option" for name in stated.keys() - known.keys()]
    for name in stated.keys() & known.keys():
        value, default = known[name], stated[name]
        if is_node(value):
            right = default == value["_target_"].rpartition(".")[2]
        elif value and isinstance(value, (list, tuple)):
            ends = f"{value[0]} to {value[-1]}"
            right = default in (str(value), ends) or all(f"`{v}`" in rows for v in value if "to_" not in str(v))
        else:
            right = default == ("null" if value is None else str(value))
        wrong += [] if right else [f"{name} is {value}, not {default}"]
    return wrong


def test_option_tables_are_complete_and_their_defaults_right() -> None:
    none(
        f"{page}: {target}: {wrong}" for page, target, rows in option_tables() for wrong in stated_wrongly(target, rows)
    )
    marks = sum(page.read_text().count("<!-- options: ") for page in DOCS.rglob("*.md"))
    assert len(option_tables()) == marks, "a mark has no table below it"
    rows = "| `fraction` | 0.5 | |\n| `zeta` | 1 | |\n"
    assert stated_wrongly("pgdlab.rollout.plan.RandomSteps", rows) == ["zeta is no option", "fraction is 0.3, not 0.5"]
    assert stated_wrongly("pgdlab.rollout.plan.RandomSteps", "") == ["fraction is missing"]
    assert stated_wrongly("pgdlab.diffusion.kernels.No", "") == ["pgdlab.diffusion.kernels has no class or function No"]


def test_trainer_pages_have_the_fixed_headings() -> None:
    for page in sorted((DOCS / "trainers").glob("*.md")):
        assert re.findall(r"^## (.*)$", page.read_text(), re.MULTILINE) == HEADINGS, page.name
    assert {p.stem for p in (DOCS / "trainers").glob("*.md")} == {*options("trainer"), "initial"}
    points = {"gaussian", "mixture", "finite_set"}
    assert {p.stem for p in (DOCS / "domains").glob("*.md")} == {*options("domain")} - points | {"points"}


def test_accuracies_are_those_of_the_shipped_classifiers() -> None:
    missing = []
    for domain in ("digits", "fashion"):
        cards = json.loads((ROOT / "pgdlab" / "domains" / "assets" / domain / "classifiers.json").read_text())
        text = (DOCS / "domains" / f"{domain}.md").read_text()
        for kind, card in cards.items():
            figures = f"{card['training_images']:,} | {100 * card['test_accuracy']:.1f} %"
            row = f"| `{kind}` | `{card['architecture']}` | {figures} |"
            missing += [] if row in text else [f"{domain}: {row}"]
    none(missing)


# ---- links, commands, and what must not be there


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken(page: Path, text: str) -> list[str]:
    """Links to files and headings that are not there."""
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not re.match(r"[a-z]+:", link) and not (target.exists() and (not anchor or anchor in anchors(target))):
            found.append(f"{name_of(page)}: {link}")
    return found


def test_links_resolve() -> None:
    none(line for page in PAGES for line in broken(page, page.read_text()))
    made_up = "[a](penalties.md) [b](no.md) [c](penalties.md#no) [d](#groups) [e](#no) [f](https://no.no)"
    wrong = ["no.md", "penalties.md#no", "#no"]
    assert broken(DOCS / "configuration.md", made_up) == [f"docs/configuration.md: {link}" for link in wrong]


def commands(text: str) -> list[list[str]]:
    """The words after `python run.py` or `pgdlab` in code blocks and inline, comments and placeholders left out."""
    lines = [line for block in re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    lines += re.findall(r"`((?:python run\.py|pgdlab)(?: [^`]*)?)`", text)
    words = [shlex.split(line, comments=True) for line in lines]
    found = [w[w.index("run.py") + 1 :] for w in words if "run.py" in w] + [w[1:] for w in words if w[:1] == ["pgdlab"]]
    own = {f"{group}={name}" for group, name in re.findall(r"configs/(\w+)/(\w+)\.yaml", text)}  # a page's own example
    own -= {f"{group}={name}" for group in GROUPS for name in options(slots()[group].group)}
    return [w for w in found if not own & {*w} and not any(re.search(r"[<>]|[A-Z]{4,}|\.\.\.", x) for x in w)]


def complaint(words: tuple[str, ...]) -> str:
    """Why a command does not compose; commands such as ls do not. What resumes depends on a folder that is not there, and is only
    read."""
    if words and words[0] in COMMANDS:
        return ""
    try:
        _, overrides = read_flags(words)
        if not any(word.startswith("resume=") for word in overrides):
            compose(overrides)
    except ValueError as error:
        return f"{' '.join(words)}: {error}"
    return ""


def refused(text: str) -> list[str]:
    """The commands that do not compose, and why."""
    return [why for words in commands(text) if (why := complaint(tuple(words)))]


def files(text: str) -> dict[str, str]:
    """The files that a page has its reader write: code blocks with a title."""
    return dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', text, re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_compose(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the files that the page shows."""
    monkeypatch.chdir(tmp_path)
    for name, text in files(page.read_text()).items():
        (tmp_path / name).write_text(text)
    none(refused(page.read_text()))


def test_a_command_that_does_not_compose_is_seen() -> None:
    block = "python -m venv x && x/bin/python run.py trainer=pposs\nls\npython run.py trainer=NAME  # any\n"
    text = (
        f"```bash\n{block}```\nor `python run.py trainer.clp=1`, not `python other.py`\n```\npython run.py seed=x\n```"
    )
    assert commands(text) == [["trainer=pposs"], ["trainer.clp=1"]]
    assert [line.partition(":")[0] for line in refused(text)] == ["trainer=pposs", "trainer.clp=1"]


def test_combinations_on_the_configuration_page_build() -> None:
    page = DOCS / "configuration.md"
    block = page.read_text().partition("combine freely, except")[2]
    lines = re.search(r"```bash\n(.*?)```", block, re.DOTALL)
    assert lines is not None
    for line in lines[1].splitlines():
        module = build_module(compose([f"domain.weights={base()}", *shlex.split(line)[2:]]))
        assert any(p.requires_grad for p in module.policy.parameters())


def unknown_names(text: str) -> list[str]:
    """Names and files of the package that are not there; those that the text itself gives as examples are left out."""
    rooms = "|".join(sorted(path.stem for path in (ROOT / "pgdlab").glob("[a-z]*")))
    names = re.findall(r"\bpgdlab(?!\.yaml\b)(?:\.\w+)+", text)
    names += [f"pgdlab.{name}" for name in re.findall(rf"`((?:{rooms})\.\w+\.\w+)`", text)]
    files = re.findall(rf"\b(?:pgdlab/|tests/|benchmarks/|(?=(?:{rooms})/))[\w/]+\.py\b", text)
    own = re.findall(r"<!-- example: (\S+) -->", text)
    wrong = [file for file in files if not any((ROOT / base / file).is_file() for base in ("", "pgdlab"))]
    for name in names:
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            wrong.append(name)
    return [x for x in dict.fromkeys(wrong) if not any(x.replace("/", ".").startswith(name) for name in own)]


def test_names_of_the_package_exist() -> None:
    pages = [*PAGES, ROOT / "benchmarks" / "README.md"]
    none(f"{name_of(page)}: {name}" for page in pages for name in unknown_names(page.read_text()))
    made_up = (
        "pgdlab.trainers.ppo.PPO, `pgdlab.world.Planet`, `credit.no.X`, `trainers/ppo.py`, `pgdlab/no.py`, tests/no.py"
    )
    assert unknown_names(made_up) == ["pgdlab/no.py", "tests/no.py", "pgdlab.world.Planet", "pgdlab.credit.no.X"]


def blemishes(text: str) -> list[str]:
    """Notes of what is still to be written, and paths of a machine."""
    return re.findall(r"@@\w*|\b(?:TODO|FIXME|TBD|XXX)\b|(?<![\w.])/(?:work|tmp|root|home|Users)\b", text)


def test_nothing_is_left_to_write_and_no_path_of_a_machine() -> None:
    none(f"{name_of(page)}: {found}" for page in PAGES for found in blemishes(page.read_text()))
    assert blemishes("a @@figure, TODO, TODOS; see /tmp/x, at/home or ./tmp") == ["@@figure", "TODO", "/tmp"]
