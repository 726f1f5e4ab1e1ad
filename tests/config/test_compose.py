"""The composer, on a configuration of toys: what reaches the classes, and how every mistake is answered."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgdlab import cli
from pgdlab.config.compose import Config, ConfigError, compose, draft, instantiate, load_run, options
from pgdlab.config.runs import save_config
from tests import toys

FILES = {
    "config.yaml": """
        defaults:
          - trainer: clipped
          - reward: plain
          - optional reward@heldout: other
          - model: small
          - part: [half]
          - _self_
          - optional experiment: quick
        task: train
        name: null
        seed: 0
        resume: null
        plan: {_target_: tests.toys.Plan}
        """,
    "trainer/clipped.yaml": "_target_: tests.toys.Clipped\nepochs: 3",
    "trainer/plain.yaml": "_target_: tests.toys.Trainer",
    "reward/plain.yaml": "_target_: tests.toys.reward\nscale: 1.0",
    "reward/other.yaml": "_target_: tests.toys.reward\nscale: ${plan.iterations}",
    "model/small.yaml": "_target_: tests.toys.Model\n_partial_: true",
    "part/half.yaml": "half:\n  _target_: tests.toys.Part",
    "part/stride.yaml": "stride: {_target_: tests.toys.Steps, stride: 2}",
    "part/none.yaml": "# nothing",
    "experiment/quick.yaml": "# @package _global_\n# The short one.\nseed: 7\nplan: {iterations: 5}",
    "experiment/nested/deep.yaml": """
        # @package _global_
        # Nested, with another reward held out.
        defaults:
          - override /trainer: clipped
          - override /reward@heldout: plain
          - override /part: [half, stride]
        part: {half: {share: 0.75}}
        trainer: {clip: 0.1, rate: 9}
        plan: {steps: {_target_: tests.toys.Part, share: 0.25}}
        """,
}


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """A folder of toy configs."""
    for name, text in FILES.items():
        file = tmp_path / "configs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = text.splitlines()
        file.write_text("\n".join(line.removeprefix(" " * 8) for line in lines).strip() + "\n")
    return tmp_path / "configs"


def test_defaults_come_from_the_classes_and_differences_from_the_yaml(configs: Path) -> None:
    cfg = compose([], configs)
    assert cfg.nodes["trainer"] == {
        "_target_": "tests.toys.Clipped", "epochs": 3, "clip": 0.2, "baseline": "mean", "rate": 0.1
    }  # fmt: skip
    assert cfg.nodes["plan"]["steps"] == {"_target_": "tests.toys.Steps", "stride": 1}
    assert (cfg.seed, cfg.nodes["plan"]["iterations"], cfg.nodes["heldout"]["scale"]) == (7, 5, 5)


def test_objects_see_no_omegaconf(configs: Path) -> None:
    cfg = compose(["plan.shape=[3,4]", "plan.parts=[{_target_:tests.toys.Part}]", "trainer.rate=1"], configs)
    plan = cfg.make(toys.Plan, "plan")
    assert plan == toys.Plan(iterations=5, shape=(3, 4), parts=[toys.Part(share=0.5)])
    assert type(plan.shape) is tuple
    assert type(plan.parts) is list
    trainer = cfg.make(toys.Trainer, "trainer")
    assert type(trainer.rate) is float
    assert instantiate(None) is None


def test_program_gives_the_arguments_that_a_partial_node_leaves_out(configs: Path) -> None:
    node = compose(["model.width=8", "model.steps={_target_:tests.toys.Part,share:1}"], configs).nodes["model"]
    space = toys.Plan()
    model = instantiate(node, space=space)
    assert model.space is space  # not a copy, nor turned into a mapping
    assert (model.width, model.folder, model.steps) == (8, Path("data"), toys.Part(share=1.0))
    assert instantiate(node)(space=1).space == 1


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("trainer.clip=0.3", 0.3),  # not in the YAML
        ("trainer.clip=null", None),
        ("trainer.epochs=all", "all"),
        ("+trainer.baseline=none", "none"),
        ("plan.steps.stride=4", 4),  # inside a default that is a node
        ("model.folder=/data/x y", "/data/x y"),
        ("name=[a]", None),
    ],
)
def test_every_keyword_can_be_overridden(configs: Path, override: str, value: object) -> None:
    if override.startswith("name"):
        with pytest.raises(ConfigError, match=r"name is \['a'\]; it must be str"):
            compose([override], configs)
    else:
        at: Any = compose([override], configs).nodes
        for name in override.strip("+").partition("=")[0].split("."):
            at = at[name]
        assert at == value


def test_an_option_replaces_the_whole_node(configs: Path) -> None:
    base = ["experiment=nested/deep"]
    assert compose(base, configs).nodes["trainer"]["clip"] == 0.1
    assert compose([*base, "trainer=plain"], configs).nodes["trainer"] == {
        "_target_": "tests.toys.Trainer", "baseline": "mean", "rate": 0.1
    }  # fmt: skip
    again = compose([*base, "trainer.rate=2", "trainer=clipped"], configs).nodes
    assert (again["trainer"]["clip"], again["trainer"]["rate"]) == (0.2, 2)  # values apply to the chosen node
    assert again["plan"]["steps"] == {"_target_": "tests.toys.Part", "stride": 1, "share": 0.25}


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ([], {"half": toys.Part()}),
        (["part=stride"], {"stride": toys.Steps(stride=2)}),
        (["part=[stride,half]", "part.half.stride=3"], {"stride": toys.Steps(stride=2), "half": toys.Part(stride=3)}),
        (["part=none"], {}),
        (["part=[]"], {}),
        (["part=[none,half]"], {"half": toys.Part()}),
        (["part={other:{_target_:tests.toys.Steps}}"], {"half": toys.Part(), "other": toys.Steps()}),
        (["experiment=nested/deep"], {"half": toys.Part(share=0.75), "stride": toys.Steps(stride=2)}),
        (["experiment=nested/deep", "part=[half]"], {"half": toys.Part()}),  # what the experiment set in it too
    ],
    ids=str,
)
def test_a_slot_of_many_is_a_mapping_of_nodes(configs: Path, overrides: list[str], parts: dict[str, object]) -> None:
    cfg = compose(overrides, configs)
    made = cfg.make_each(toys.Steps, "part")
    assert made == instantiate(cfg.nodes["part"]) == parts
    assert list(made) == list(parts)


def test_a_mapping_states_what_differs_from_one_that_is_the_default(configs: Path) -> None:
    cfg = compose(["plan.rates={critic:0.5}", "plan.nested={b:{share:1}}"], configs)
    assert cfg.nodes["plan"]["rates"] == {"initial": 0.01, "critic": 0.5}
    assert cfg.make(toys.Plan, "plan").nested == {"a": toys.Part(), "b": toys.Part(share=1.0, stride=2)}


def test_the_held_out_slot_takes_the_options_of_its_group(configs: Path) -> None:
    assert compose(["experiment=nested/deep"], configs).nodes["heldout"]["scale"] == 1
    for key in ("heldout", "reward@heldout"):
        assert compose([f"{key}=plain", "heldout.scale=3", "reward.scale=2"], configs).nodes["heldout"]["scale"] == 3
    assert compose(["heldout=null"], configs).nodes["heldout"] is None
    assert compose(["experiment=null"], configs).seed == 0


MISTAKES = {
    "trainer.clp=0.3": ["trainer.clp is 0.3", "Clipped", "Did you mean trainer.clip?", "trainer.epochs"],
    "trainer.clip=abc": ["trainer.clip is 'abc'", "float or null"],
    "trainer.clip=true": ["trainer.clip is True"],
    "trainer.baseline=man": ["trainer.baseline is 'man'", "one of 'none', 'mean'", "Did you mean mean?"],
    "plan.iterations=1.5": ["plan.iterations is 1.5", "int"],
    "plan.shape=[1,a]": ["plan.shape is [1, 'a']", "tuple[int, ...]"],
    "plan.steps=3": ["plan.steps is 3", "Steps"],
    "plan.steps={_target_:tests.toys.Trainer}": ["plan.steps is", "Plan takes Steps"],
    "plan.steps.strid=3": ["plan.steps.strid is 3", "plan.steps.stride"],
    "plan.parts=[{_target_:tests.toys.Part,shar:1}]": ["plan.parts[0].shar", "plan.parts[0].share"],
    "plan._target_=tests.toys.Plam": ["plan._target_", "tests.toys.Plam", "cannot be imported"],
    "plan=3": ["plan is 3", "a node"],
    "reward.scale=${sed}": ["interpolation", "sed"],
    "reward={_target_:tests.toys.reward}": ["reward.scale is missing", "float"],
    "clip=0.1": ["clip is not a key", "Did you mean trainer.clip?"],
    "sed=1": ["sed is not a key", "Did you mean seed?"],
    "seed=a": ["seed is 'a'", "int"],
    "trainer=clippd": ["trainer is 'clippd'", "Did you mean clipped?", "Known: clipped, plain"],
    "trainer=null": ["trainer is 'null'", "Known: clipped, plain"],
    "experiment=nested/dep": ["experiment is 'nested/dep'", "Did you mean nested/deep?", "nested/deep, quick"],
    "trainer.clip": ["'trainer.clip' is not an override", "key=value"],
    "~trainer": ["not an override"],
    "trainer.clip=0.1,0.2": ["sweep", "[1,2]"],
    "trainer=[plain]": ["trainer is ['plain']", "one option of its group, not a list"],
    "part=[half,strid]": ["part is 'strid'", "Did you mean stride?", "Known: half, none, stride"],
    "part=3": ["part is '3', which is not an option"],
    "part.share=0.5": ["part.share is 0.5", "share is not chosen in part=[...]", "Did you mean part.half.share?"],
    "part.stride.stride=3": ["stride is not chosen in part=[...]", "Did you mean part.half.stride?"],
    "part.other.x=3": ["part.other is {'x': 3}", "other is not chosen in part=[...]. Chosen: half."],
    "part.half.shar=1": ["part.half.shar is 1", "Part has no 'shar'", "Did you mean part.half.share?"],
    "plan.rates={critic:a}": ["plan.rates is", "dict[str, float]"],
    "name=a=b": ["cannot read 'name=a=b'", "Quote"],
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_is_named_in_one_paragraph(configs: Path, override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose([override], configs)
    for part in MISTAKES[override]:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_constructor_that_refuses_a_value_names_the_node(configs: Path) -> None:
    cfg = compose(["plan.steps={_target_:tests.toys.Part,share:2}"], configs)
    for node, key in ((cfg.nodes["plan"], "plan"), (cfg.nodes["plan"]["steps"], "plan.steps")):
        with pytest.raises(ConfigError, match=r"plan\.steps \(Part\): share is 2.0; it must be above 0"):
            instantiate(node, key)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("trainer/plain.yaml", "a: [1", "trainer/plain.yaml"),
        ("experiment/quick.yaml", "# @package _global_\ndefaults:\n  - override /trianer: x", "trianer"),
        ("experiment/quick.yaml", "# @package _global_\ntrianer: {clip: 1}", "Did you mean trainer?"),
        ("experiment/quick.yaml", "# @package _global_\nplan: 3", "plan is 3"),
        ("config.yaml", None, "pip install -e"),
    ],
)
def test_broken_files(configs: Path, file: str, text: str | None, message: str) -> None:
    (configs / file).unlink()
    if text is not None:
        (configs / file).write_text(text)
    with pytest.raises(ConfigError) as caught:
        compose(["trainer=plain"], configs)
    assert message in str(caught.value)


def test_a_run_is_its_saved_configuration(configs: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    cfg = compose(["experiment=nested/deep", "seed=3"], configs)
    save_config(cfg, run)
    again = load_run(run, ["plan.iterations=9"], configs)
    assert again.nodes["plan"] == cfg.nodes["plan"] | {"iterations": 9}
    assert again.resume == str(run)
    assert replace(again.with_nodes(plan=cfg.nodes["plan"]), resume=None) == cfg
    with pytest.raises(ConfigError, match=r"trainer.clip cannot change when a run resumes; only task, plan"):
        load_run(run, ["trainer.clip=0.3"], configs)
    assert load_run(run, ["task=sample", "trainer.clip=0.3", "model=small"], configs).nodes["trainer"]["clip"] == 0.3


def test_runs_that_are_not_there(configs: Path, tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "config.yaml").write_text("[1")
    (tmp_path / "empty").mkdir()
    for name, message in {
        "god": r"does not exist.*Did you mean \S+/good\?", "empty": "has no config.yaml", "good": "is not YAML"
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            load_run(tmp_path / name, [], configs)
    (tmp_path / "good" / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match="not the configuration of a run"):
        load_run(tmp_path / "good", [], configs)


def test_a_draft_imports_no_class(configs: Path) -> None:
    (configs / "trainer" / "plain.yaml").write_text("_target_: nowhere.Nothing")
    assert draft(["trainer=plain"], configs).nodes["trainer"] == {"_target_": "nowhere.Nothing"}
    assert list(options("experiment", configs)) == ["nested/deep", "quick"]


def test_what_the_user_can_mend_exits_2_with_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: _Task)
    monkeypatch.setattr(cli, "configuration", lambda overrides: Config(task=overrides[0], nodes={}))
    for error, code in {"ValueError": 2, "OSError": 2, "KeyboardInterrupt": 130, "": 0}.items():
        assert cli.main([error or "none"]) == code
        assert capsys.readouterr().err.count("\n") == (code != 0)
    monkeypatch.setenv("PGDLAB_DEBUG", "1")
    with pytest.raises(ValueError, match="two"):
        cli.main(["ValueError"])
    with pytest.raises(RuntimeError):
        cli.main(["RuntimeError"])  # a bug shows its traceback


class _Task:
    """Stands for a task's module."""

    @staticmethod
    def main(cfg: Config) -> None:
        kinds = {"ValueError": ValueError, "OSError": OSError, "KeyboardInterrupt": KeyboardInterrupt}
        if cfg.task != "none":
            raise kinds.get(cfg.task, RuntimeError)("two\nlines")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--verbose"], "--verbose is not a flag"),
        (["--cfg"], "--cfg takes one word"),
        (["task=trian"], "Did you mean train?"),
        (["experiment=nowhere"], "experiment is 'nowhere'"),
        (["resume=runs/nowhere"], "does not exist"),
    ],
)
def test_mistakes_on_the_command_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error


def test_help_is_quick_and_imports_no_torch(tmp_path: Path) -> None:
    code = "import sys; from pgdlab.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    path = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=path, check=True, capture_output=True, text=True
    )
    for task in cli.tasks():
        assert f"\n  {task} " in shown.stdout
    assert "ddp_cpu" in shown.stdout


def test_thread_settings_of_the_user_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("KMP_BLOCKTIME", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    cli.prepare_environment()
    assert [os.environ[k] for k in ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "HF_HUB_OFFLINE")] == ["ACTIVE", "0", "0"]
    for text, cores in {"150000 100000": 1, "400000 100000": 4, "50000 100000": 1, "max 100000": None}.items():
        (tmp_path / "cpu.max").write_text(text)
        assert cli.container_cores(tmp_path / "cpu.max") == cores
    assert cli.container_cores(tmp_path / "none") is None
