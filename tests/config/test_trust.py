"""Nothing that a run folder names is imported or called, unless it is the package's own or the user named it."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgdlab import cli
from pgdlab.comparison.folders import read
from pgdlab.comparison.methods import stated
from pgdlab.config import trust
from pgdlab.config.compose import ConfigError, compose, load_run
from pgdlab.config.groups import CONFIGS, parse_one
from pgdlab.config.runs import save_config
from pgdlab.config.schema import make
from pgdlab.rewards.base import Reward
from pgdlab.sweep.file import Sweep
from pgdlab.sweep.records import record
from pgdlab.training.fit import LAST
from tests.worlds import QUICK

PAYLOAD = """
from os import system
from pathlib import Path

from pgdlab.rewards.base import Reward, Score

Path("IMPORTED").touch()


class Ink(Reward):
    def score(self, sample, cond):
        return Score.of(sample.flatten(1).sum(1))


def ink() -> Reward:
    return Ink()
"""
SHELL = {"_target_": "os.system", "command": "touch CALLED"}
WRITES = {"_target_": "pgdlab.config.runs.write", "text": "", "path": "CALLED"}
SMALL = ("plan.iterations=1", "plan.samples=16", "plan.group=2", "plan.eval_samples=8")  # what is not refused soon ends
TASKS = ("train", "evaluate", "sample", "export", "best_of_n", "doctor")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run on points, sent by a stranger; a module `payload` in it, and beside it `sent`. Nothing is named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # as the directory of run.py is
    for name in ("runs", "runs.sent", "runs.sent.payload", "sent"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    folder = tmp_path / "runs" / "sent"
    folder.mkdir(parents=True)
    save_config(compose(["experiment=oracle/linear", "name=sent", *SMALL]), folder)
    (folder / "payload.py").write_text(PAYLOAD)
    (folder / "pay:load.py").write_text(PAYLOAD)
    (folder / "evil.yaml").write_text("_target_: runs.sent.payload.Ink\n")
    (tmp_path / "sent.py").write_text(PAYLOAD)
    monkeypatch.setattr(trust, "_named", set())
    return folder


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the saved configuration."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    change(config)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def untouched(folder: Path) -> bool:
    """Whether no payload has been imported or called."""
    return not any((folder.parents[1] / name).exists() for name in ("IMPORTED", "CALLED"))


def suite(*overrides: str) -> dict[str, Any]:
    """A saved certificate of one problem."""
    target = "pgdlab.certificates.certificate.Suite"
    return {"_target_": target, "name": "x", "algorithms": {"a": []}, "problems": {"p": [*overrides]}}


def called(function: str) -> dict[str, Any]:
    return {"_target_": "pgdlab.rewards.function.Function", "function": function}


ATTACKS: dict[str, Callable[[dict[str, Any]], object]] = {
    "reward": lambda c: c.update(reward=SHELL),
    "domain": lambda c: c.update(domain=SHELL),
    "a number": lambda c: c["policy"].update(steps=SHELL),
    "a kernel": lambda c: c["policy"].update(kernel=SHELL),
    "logger": lambda c: c.update(logger=SHELL | {"_partial_": True}),
    "penalty": lambda c: c.update(penalty={"own": SHELL}),
    "a module in the folder": lambda c: c.update(reward={"_target_": "runs.sent.payload.Ink"}),
    "a module beside": lambda c: c.update(reward={"_target_": "sent.Ink"}),
    "builtins": lambda c: c["plan"].update(iterations={"_target_": "eval", "source": "1"}),
    "a task of the package": lambda c: c["policy"].update(steps={"_target_": "pgdlab.cli.main", "argv": ["task=x"]}),
    "a function of the package": lambda c: c.update(reward=WRITES),
    "what the package imports": lambda c: c.update(reward={"_target_": "pgdlab.config.runs.Path", "_partial_": True}),
    "the environment": lambda c: c.update(name="${oc.env:HOME}"),
    "overrides of a suite": lambda c: c.update(certificate=suite("reward={_target_: os.system, command: touch CALLED}")),
    "a function in a suite": lambda c: c.update(
        certificate=suite("reward=function", "reward.function=runs.sent.payload:ink")
    ),
    "a file picked by a suite": lambda c: c.update(certificate=suite("reward=runs/sent/evil.yaml")),
    "a suite that trusts": lambda c: c.update(certificate=suite("trust=[runs.sent.payload]")),
}  # fmt: skip
FUNCTIONS = (
    "runs/sent/payload.py:ink", "runs/sent/payload.py:Ink.score", "runs/sent/pay:load.py:ink", "runs/sent/payload.py:-",
    "runs.sent.payload:Ink.score", "runs.sent.payload",
)  # fmt: skip
for _name in FUNCTIONS:
    ATTACKS[f"the function {_name}"] = lambda c, name=_name: c.update(reward=called(name))  # type: ignore[misc]


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_folder_executes_nothing(run: Path, attack: Callable[[dict[str, Any]], object]) -> None:
    edit(run, attack)
    for words in (*([f"task={task}"] for task in TASKS), ["task=certify"], ["--cfg", "job"], ["--help", "seed=1"]):
        assert cli.main([*words, "resume=runs/sent"]) == 2, words
    read(["runs/sent"])
    assert untouched(run)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_is_code_whatever_its_name_looks_like(run: Path, function: str) -> None:
    with pytest.raises(trust.UntrustedError, match=r"reward\.function"):
        trust.check({"reward": called(function)}, "config.yaml")


def test_nothing_is_looked_up_for_a_saved_value() -> None:
    with pytest.raises(
        trust.UntrustedError, match=r"config.yaml: name is '\$\{oc.env:HOME\}'.* no \$\{...\} to be looked up"
    ):
        trust.check({"name": "${oc.env:HOME}"}, "config.yaml")


def test_nothing_in_the_folder_stands_for_a_library(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries try imports of what is not installed. Failed first: the working directory was on the path of every command."""
    monkeypatch.setattr(trust, "_elsewhere", set())
    monkeypatch.chdir(run)
    for words in (["task=sample"], ["task=evaluate", "heldout={_target_: sent.Ink}"]):
        cli.main([*words, "resume=."])
        assert str(run) not in sys.path
    monkeypatch.chdir(run.parents[1])
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(run.parents[1])])
    cli.main(["task=sample", "domain=nothing"])
    assert str(run.parents[1]) not in sys.path
    trust.allow("sent")
    assert sys.path[-1] == str(run.parents[1])


def test_a_comparison_imports_nothing(run: Path) -> None:
    edit(run, ATTACKS["a module in the folder"])
    assert read(["runs/sent"]).failures[0].folder == Path("runs/sent")  # it has not been run
    assert stated({"_target_": "runs.sent.payload.Ink", "level": 2}) == {"level": 2}
    assert untouched(run)


def test_the_refusal_says_how_to_allow_it(run: Path) -> None:
    edit(run, ATTACKS["a module beside"])
    with pytest.raises(ConfigError, match=r"reward\._target_ is 'sent\.Ink', .* trust=sent$"):
        load_run("runs/sent", ["task=evaluate"])


@pytest.mark.parametrize(
    "words", [["trust=sent"], ["trust=[sent]"], ["task=evaluate", "heldout={_target_: sent.Ink}"]], ids=str
)
def test_what_the_user_names_is_allowed(run: Path, words: list[str]) -> None:
    edit(run, ATTACKS["a module beside"])
    cfg = load_run("runs/sent", words)
    assert cfg.nodes["reward"] == {"_target_": "sent.Ink"}
    assert "trust" not in cfg.plain()


@pytest.mark.parametrize("task", ["export", "sample"])
def test_exports_and_samples_need_no_reward(run: Path, task: str) -> None:
    """So that nobody is asked to trust one. Failed first: refused, because of the reward that neither calls."""
    edit(run, ATTACKS["a module beside"])
    edit(run, lambda c: c.update(heldout={"_target_": "sent.Ink"}))
    cfg = load_run("runs/sent", [f"task={task}"])
    assert (cfg.nodes["reward"], cfg.nodes["heldout"]) == (None, None)
    assert untouched(run)


def test_another_module_than_the_named_one_is_not(run: Path) -> None:
    edit(run, ATTACKS["a module in the folder"])
    with pytest.raises(ConfigError, match=r"trust=runs\.sent\.payload"):
        load_run("runs/sent", ["trust=sent"])


def test_what_a_trusted_module_imports_is_not_meant(run: Path) -> None:
    edit(run, lambda c: c.update(reward={"_target_": "sent.system", "command": "touch CALLED"}))
    with pytest.raises(ConfigError, match=r"sent\.system"):
        load_run("runs/sent", ["trust=sent"])
    assert not (run.parents[1] / "CALLED").exists()


def test_files_of_functions_are_named_by_the_user(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"reward\.function names sent\.py:ink, .* trust=sent\.py$"):
        trust.require("sent.py:ink", "reward.function")
    edit(run, lambda c: c["reward"].update(function="sent.py:ink"))
    with pytest.raises(ConfigError, match=r"trust=sent\.py"):
        load_run("runs/sent")
    trust.taken([parse_one("reward.function=sent.py:ink")])
    trust.require("sent.py:ink", "reward.function")
    trust.require(str(run.parents[1] / "sent.py"), "reward.function")
    with pytest.raises(ConfigError, match=r"runs/sent/payload\.py"):
        trust.require("runs/sent/payload.py:ink", "reward.function")


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Listens. Whoever is in the queue has contacted it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


def contacted(server: socket.socket) -> bool:
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def address(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}/v1"


def judge(url: str) -> dict[str, Any]:
    return {"_target_": "pgdlab.rewards.text.vlm.VLM", "model": "m", "url": url, "tries": 1, "seconds": 1.0}


PLACES: dict[str, Callable[[dict[str, Any], str], object]] = {
    "reward": lambda c, url: c.update(reward=judge(url)),
    "heldout": lambda c, url: c.update(heldout=judge(url)),
    "inside": lambda c, url: c.update(reward={"_target_": "pgdlab.rewards.combine.Sum", "rewards": {"a": judge(url)}}),
    "a suite": lambda c, url: c.update(certificate=suite(f"reward={{_target_: pgdlab.rewards.text.vlm.VLM, url: '{url}'}}")),
    "a store": lambda c, url: c.update(logger={"mlflow": {"_target_": "pgdlab.training.loggers.MLflow", "uri": url}}),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_no_address_of_a_folder_is_contacted(run: Path, server: socket.socket, place: str, capsys: Any) -> None:
    """What is not refused would send the samples."""
    edit(run, lambda c: PLACES[place](c, address(server)))
    tasks = ("train",) if place == "a store" else ("train", "evaluate", "best_of_n", "doctor")
    for task in tasks:
        assert cli.main([f"task={task}", "resume=runs/sent"]) == 2
        said = capsys.readouterr().err
        assert f"is '{address(server)}': an address of a run folder is not contacted unless you say so" in said
        assert f"add trust='{address(server)}'" in said
    assert not contacted(server)


@pytest.mark.parametrize("place", PLACES)
def test_an_address_that_the_user_names_is_taken(
    run: Path, server: socket.socket, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the command line, in an override, or in the environment; another one is not."""
    url = address(server)
    edit(run, lambda c: PLACES[place](c, url))
    variable = "MLFLOW_TRACKING_URI" if place == "a store" else "OPENAI_BASE_URL"
    with monkeypatch.context() as environment:
        environment.setenv(variable, f"{url}/")
        assert cli.configuration(["resume=runs/sent"]).resume
    for other in ("http://127.0.0.1:1/v1", "sent"):
        with pytest.raises(ConfigError, match="not contacted"):
            cli.configuration(["resume=runs/sent", f"trust='{other}'"])
    saved = cli.configuration(["resume=runs/sent", f"trust='{url}'"])
    assert str(url) in str(saved.nodes)
    words = trust.words([(place, node) for node in saved.nodes.values() if url in str(node)])
    assert words == ([] if place == "a suite" else [f"trust='{url}'"])  # a command to go on says it again


def test_an_override_names_an_address_in_the_place_of_the_saved_one(run: Path) -> None:
    edit(run, lambda c: c.update(reward=judge("http://elsewhere.example/v1")))
    cfg = cli.configuration(["task=evaluate", "resume=runs/sent", "reward.url=http://localhost:8000/v1"])
    assert cfg.nodes["reward"]["url"] == "http://localhost:8000/v1"


@pytest.mark.parametrize("task", ["evaluate", "export", "best_of_n", "doctor", "sample"])
def test_a_folder_starts_no_logger(run: Path, task: str, capsys: Any) -> None:
    """But where training goes on. Else evaluate would write to the store that the folder names."""
    board = {"_target_": "pgdlab.training.loggers.TensorBoard"}
    edit(run, lambda c: c.update(logger={"tensorboard": board}))
    assert cli.configuration([f"task={task}", "resume=runs/sent"]).nodes["logger"] == {}
    told = task != "sample"  # which takes no logger
    assert ("Name it: logger=[tensorboard]" in capsys.readouterr().err) == told
    if told:
        named = cli.configuration([f"task={task}", "resume=runs/sent", "logger=tensorboard"])
        assert named.nodes["logger"] == {"tensorboard": board}
    assert cli.configuration(["resume=runs/sent"]).nodes["logger"] == {"tensorboard": board}


def test_functions_say_what_they_make_before_they_are_called(run: Path) -> None:
    assert isinstance(make(Reward, {"_target_": "sent.ink"}, "reward"), Reward)
    with pytest.raises(ConfigError, match=r"must be a Reward; a function must say so: -> Reward"):
        make(Reward, dict(SHELL), "reward")
    with pytest.raises(ConfigError, match=r"policy\.steps"):
        compose([QUICK, "policy.steps={_target_: os.system, command: touch CALLED}"])
    assert not (run.parents[1] / "CALLED").exists()


def test_a_trial_goes_on_with_the_modules_that_the_sweep_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Sweep("s", "grid", ("reward={_target_: sent.Ink}",), {}, {"seed": 1}, ("seed",))
    trial = record(sweep, {})
    (trial.folder / LAST).parent.mkdir(parents=True)
    (trial.folder / LAST).touch()
    assert trial.argv == [f"resume={trial.folder}", "trust=sent"]


def test_every_target_of_the_package_s_own_configs_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "_named", set())
    files = {
        str(file): {"file": yaml.safe_load(re.sub(r"\$\{[^}]*\}", "x", file.read_text()))}
        for file in CONFIGS.rglob("*.yaml")
    }
    targets = 0
    for name, config in files.items():
        trust.check(config, name)
        targets += str(config).count("_target_")
    assert targets > 100


def test_a_saved_run_of_the_package_s_own_is_allowed(run: Path) -> None:
    assert load_run("runs/sent").task == "train"
