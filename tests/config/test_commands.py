"""What the program answers by itself (ls, cp, env, --help on a node), and the user's own options, defaults and modules."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgdlab import cli
from pgdlab.config import commands
from pgdlab.config.compose import CONFIGS, compose, draft
from pgdlab.config.defaults import words
from pgdlab.config.groups import OWN, options, parse_one
from pgdlab.config.program import program
from pgdlab.config.schema import ConfigError
from pgdlab.sweep.templates import found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(OWN, "")  # what is set in a test is taken back
    monkeypatch.delenv(OWN)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def said(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    """What the program prints: on stdout, or where it refuses, its error."""
    capsys.readouterr()
    assert cli.main(words) == code
    shown = capsys.readouterr()
    return shown.out if code == 0 else shown.err


def raw(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The configuration as the files state it."""
    return dict(yaml.safe_load(said([*words, "--cfg", "job", "--raw"], capsys)))


def test_ls_names_experiments_and_options_with_a_line_each(here: Path, capsys: Any) -> None:
    experiments = said(["ls"], capsys)
    assert all(f"\n  {name} " in experiments for name in options("experiment"))
    assert re.search(r"\n  quickstart +the gradient of their redness", experiments)
    assert all(f"\n  {name} " in said(["ls", "heldout"], capsys) for name in options("reward"))
    assert "\n  study/digits " in said(["ls", "sweep"], capsys)
    assert "Did you mean reward?" in said(["ls", "rewrad"], capsys, 2)


def test_cp_writes_an_experiment_that_runs(here: Path, capsys: Any) -> None:
    assert f"run it with: {program()} experiment=mine.yaml" in said(["cp", "digits/grpo", "mine.yaml"], capsys)
    text = Path("mine.yaml").read_text()
    assert text == (CONFIGS / "experiment" / "digits" / "grpo.yaml").read_text()
    assert raw(["experiment=./mine.yaml"], capsys) == draft(["experiment=digits/grpo"]).plain()
    Path("mine.yaml").write_text(text.replace("override /trainer: grpo", "override /trainer: rwr") + "seed: 41\n")
    changed = raw(["experiment=mine.yaml", "plan.samples=16"], capsys)
    assert (changed["seed"], changed["plan"]["samples"]) == (41, 16)
    assert changed["trainer"]["_target_"].endswith("RewardWeightedRegression")
    assert "mine.yaml is there already" in said(["cp", "digits/ppo", "mine.yaml"], capsys, 2)
    assert "Did you mean digits/ppo?" in said(["cp", "digits/pp", "x.yaml"], capsys, 2)
    assert "cp takes an experiment and a new file" in said(["cp", "digits/ppo"], capsys, 2)
    assert "'no.yaml', and there is no such file" in said(["experiment=no.yaml"], capsys, 2)


def test_a_file_may_stand_for_an_option_of_any_group(here: Path, capsys: Any) -> None:
    Path("r.yaml").write_text("_target_: pgdlab.rewards.image.jpeg.JpegSize\nscale: 4\n")
    Path("bad.yaml").write_text("a: [1")
    stated = raw(["reward=r.yaml", "heldout=./r.yaml", "heldout.scale=5"], capsys)
    assert (stated["reward"]["scale"], stated["heldout"]["scale"]) == (4, 5)
    assert "bad.yaml do not compose" in said(["reward=bad.yaml"], capsys, 2)


def test_env_says_what_there_is_and_what_is_missing(here: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = importlib.metadata.version
    monkeypatch.setattr(commands.importlib.metadata, "requires", lambda _: ["torch>=2", 'nowhere-x; extra == "docs"'])
    shown = said(["env"], capsys)
    for part in (versions("torch"), "threads", "cpu", "python", "Extra docs"):
        assert part in shown
    assert "nowhere-x  missing" in shown
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is broken or missing
    assert "torch  cannot be used: ModuleNotFoundError" in " ".join(said(["env"], capsys).split(" ")).replace(
        "   ", "  "
    )


def test_help_begins_with_the_node_that_was_asked_for(here: Path, capsys: Any) -> None:
    shown = said(["--help", "trainer=grpo", "penalty.path_kl.coefficient=2"], capsys)
    trainer, penalty, whole = shown.split("\n\n", 2)
    assert trainer.startswith("trainer: pgdlab.trainers.ppo.PPO\n  min(w A, clip(w, e^-c, e^c) A)")
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in trainer.splitlines() if line.startswith("    tr")}
    assert lines["trainer.clip=0.2"] == "float"
    assert lines["trainer.bounds=nats"] == "one of 'nats', 'schulman'"
    assert "trainer.credit=RewardToGo" in lines
    assert penalty.startswith("penalty.path_kl: pgdlab.penalties.path_kl.PathKL")
    assert "penalty.path_kl.coefficient=2 " in penalty
    assert yaml.safe_load(whole)["trainer"]["scale"] == "group_std"


REFUSED = {
    ("seed=1", "seed=2"): "seed is given twice, by 'seed=1' and 'seed=2'",
    ("trainer=ppo", "+trainer=grpo"): "trainer is given twice",
    ("heldout=null", "reward@heldout=target"): "heldout is given twice",
    ("experiment=digits/ppo", "experiment=digits/grpo"): "experiment is given twice",
    ("plan={}",): "plan={} changes nothing",
    ("optimizer.rates={}",): "optimizer.rates={} changes nothing",
    ("task=sweep", "sweep=quick", "engine.foo=1"): "engine.foo is 1, but Engine has no 'foo'. Did you mean engine.",
    ("task=sweep", "sweep=quick", "engine={cpus: x}"): "engine.cpus is 'x'; Engine takes int",
    ("budget.querys=1",): "Did you mean budget.queries?",
    (
        "certificate={foo: 1}",
    ): "certificate.foo is set, but no certificate is chosen: certificate=OPTION picks one of affine",
    ("heldout=null", "heldout.scale=3"): "heldout.scale is set, but no heldout is chosen",
    ("-m", "seed=1,2"): "-m is Hydra's: many runs are a sweep here",
    ("--multirun",): "task=sweep sweep=quick",
    ("--config-dir",): "--config-dir is '', which is no folder",
    ("--config-dir=nowhere",): "--config-dir is 'nowhere', which is no folder",
    ("--config-dir", "."): "which has none of the groups annotator, budget, ",
}


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_what_would_have_no_effect_is_refused(words: tuple[str, ...], here: Path, capsys: Any) -> None:
    """Asked for the configuration alone, so that nothing runs where it is not refused."""
    assert REFUSED[words] in said(["--cfg", "job", *words], capsys, 2)


def test_an_optional_node_with_keys_of_its_one_kind_is_that(here: Path) -> None:
    assert (
        compose(["budget.queries=960"]).nodes["budget"]
        == compose(["budget=queries", "budget.queries=960"]).nodes["budget"]
    )


@pytest.fixture
def own(here: Path) -> Path:
    """A folder of groups, with a reward of a module in the working directory."""
    for group in ("reward", "experiment"):
        (here / "own" / group).mkdir(parents=True)
    (here / "own" / "reward" / "dark.yaml").write_text("# dark\n_target_: dark_module.Dark\n")
    lines = ["# @package _global_", "# darkness", "defaults:", "  - override /reward: dark", "name: night"]
    (here / "own" / "experiment" / "night.yaml").write_text("\n".join(lines))
    code = "from tests.worlds import Bright\n\nclass Dark(Bright):\n    '''Minus the grey level.'''\n"
    (here / "dark_module.py").write_text(code)
    return here / "own"


def test_a_folder_of_the_users_adds_options(own: Path, capsys: Any) -> None:
    assert raw(["--config-dir", "own", "experiment=night"], capsys)["reward"] == {"_target_": "dark_module.Dark"}
    assert "dark_module.Dark" in said(["--config-dir=own", "heldout=dark", "--cfg", "job"], capsys)
    assert "dark " in said(["ls", "reward"], capsys)  # the processes that a run starts know the folder too
    assert "night" in said(["--config-dir", "own", "--help"], capsys)
    (own / "reward" / "target.yaml").write_text("_target_: x.Y")
    assert "reward/target.yaml has the name of an option that comes with pgdlab" in said(
        ["reward=target", "--cfg", "job"], capsys, 2
    )
    (own / "reward" / "target.yaml").unlink()
    (own / "experiment" / "night.yaml").write_text("# night\nseed: 3")
    assert "must begin with the line # @package _global_" in said(["experiment=night", "--cfg", "job"], capsys, 2)
    (own / "config.yaml").write_text("seed: 3")
    assert "config.yaml would not be read" in said(["--config-dir=own", "--cfg", "job"], capsys, 2)


def test_a_class_without_an_initialiser_takes_no_key(own: Path, capsys: Any) -> None:
    """nn.Module's own takes *args, **kwargs, and fails on them."""
    del own
    assert "reward.target is 3, but Dark has no 'target'" in said(
        ["reward={_target_: dark_module.Dark}", "reward.target=3", "--cfg", "job"], capsys, 2
    )


def test_modules_of_the_working_directory_shadow_nothing(own: Path, capsys: Any) -> None:
    (own.parent / "json.py").write_text("raise SystemExit('shadowed')")
    assert cli.main(["--help"]) == 0
    assert str(own.parent) not in sys.path[1:]  # nothing of the user's is named
    (own.parent / "dark_module.py").touch()
    cli.main(["--help", "reward={_target_: dark_module.Dark}"])
    assert sys.path[-1] == str(own.parent)


DEFAULTS = """\
experiment: digits/grpo
seed: 3
plan: {iterations: 2, trained_steps: {_target_: pgdlab.rollout.plan.Window, stop: 5}}
trainer.minibatches: 2
name: a 'b'
policy: {steps: 7}
"""


def test_defaults_of_a_folder_come_before_the_command_line(here: Path, capsys: Any) -> None:
    Path("pgdlab.yaml").write_text(DEFAULTS)
    stated = raw([], capsys)
    assert (stated["seed"], stated["name"], stated["policy"]["steps"]) == (3, "a 'b'", 7)
    assert stated["plan"]["iterations"] == 2
    assert stated["plan"]["trained_steps"] == {"_target_": "pgdlab.rollout.plan.Window", "stop": 5}
    assert (stated["trainer"]["scale"], stated["trainer"]["minibatches"]) == ("group_std", 2)
    other = raw(["trainer=reinforce", "seed=4", "plan.iterations=5"], capsys)
    assert (other["seed"], other["plan"]["iterations"], other["name"]) == (4, 5, "a 'b'")
    assert "minibatches" not in other["trainer"]  # of the trainer that was replaced
    assert raw(["--no-defaults"], capsys) == draft([]).plain()
    assert raw(["task=compare"], capsys)["seed"] == 0
    assert "trainer.clp is 1, but PPO" in said(["trainer.clp=1"], capsys, 2)


def test_what_pgdlab_yaml_adds_is_in_the_command(here: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """command.txt is written from the arguments of the process, and the processes of a run are started with them."""
    Path("pgdlab.yaml").write_text("seed: 3\nname: a 'b'\n")
    monkeypatch.setattr(sys, "argv", ["pgdlab", "plan.iterations=2", "--cfg", "job", "--raw"])
    stated = yaml.safe_load(said(sys.argv[1:], capsys))
    assert sys.argv == [
        "pgdlab",
        "--no-defaults",
        "seed=3",
        "name='a \\'b\\''",
        "plan.iterations=2",
        "--cfg",
        "job",
        "--raw",
    ]
    Path("pgdlab.yaml").unlink()
    assert yaml.safe_load(said(sys.argv[1:], capsys)) == stated
    assert stated["name"] == "a 'b'"


VALUES = [None, True, 3, -1.5, 2e-5, "a", "a b", "it's", "5", "null", "1e-3", "a,b", "runs/x_1", "", [1, "x y", None],
          {"_target_": "a.B", "k": [1, {"l": "m n"}]}, "ünï", "${plan.samples}", "a=b", "a: b", "\\"]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_of_pgdlab_yaml_is_the_same_on_the_command_line(value: Any, tmp_path: Path) -> None:
    file = tmp_path / "pgdlab.yaml"
    file.write_text(yaml.safe_dump({"a": {"b": value}}))
    ((key, word),) = words(file)
    assert key == "a.b"
    assert parse_one(word) == ("a.b", value)


@pytest.mark.parametrize(("text", "message"), [("[1]", "must be a mapping"), ("a: [1", "is not YAML")])
def test_a_damaged_pgdlab_yaml(text: str, message: str, here: Path, capsys: Any) -> None:
    Path("pgdlab.yaml").write_text(text)
    assert f"pgdlab.yaml {message}" in said(["seed=1"], capsys, 2)


def test_the_program_is_called_what_the_user_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"/usr/bin/pgdlab": "pgdlab", "x/pgdlab/__main__.py": "python -m pgdlab", "x/run.py": "python run.py"}
    for called, name in names.items():
        monkeypatch.setattr(sys, "argv", [called])
        assert program() == name


def test_a_sweep_file_is_found_by_its_templates_name(here: Path) -> None:
    template = CONFIGS.parent / "sweeps" / "quick.yaml"
    assert Path(found("quick")) == Path(found("sweeps/quick.yaml")) == template
    (here / "sweeps").mkdir()
    (here / "sweeps" / "quick.yaml").write_text("")
    assert found("sweeps/quick.yaml") == "sweeps/quick.yaml"  # the user's own first
    with pytest.raises(ConfigError, match=r"sweep is 'quik'.*Did you mean quick\?"):
        found("quik")
