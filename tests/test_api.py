"""The Python API: a run from a program, what it returns, and that the program is afterwards what it was."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import jaxtyping
import matplotlib
import pytest
import torch
from torch import Tensor

import pgdlab
from pgdlab import cli
from pgdlab.api import begun, given, require_same, typed
from pgdlab.config.compose import ConfigError, load_run
from pgdlab.config.runs import COMMAND, CONFIG
from pgdlab.guest import guest
from pgdlab.results import Handed
from pgdlab.rewards.function import Function, as_reward, record
from pgdlab.trainers.ppo import PPO
from pgdlab.trainers.reinforce import Reinforce
from pgdlab.training.callbacks import scoring
from pgdlab.training.fit import LAST
from tests.test_errors import refused
from tests.worlds import Bright, graphs, tiny


def bright(samples: Tensor, prompts: list[Any]) -> list[float]:
    return samples.flatten(1).mean(1).tolist()


def sized(*words: str) -> list[str]:
    """The words of a tiny run, whose experiment is given apart."""
    return [word for word in tiny(*words) if not word.startswith("experiment=")]


def dark(samples: Tensor, prompts: list[Any]) -> list[float]:
    return (-samples.flatten(1).mean(1)).tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> pgdlab.Run:
    """A finished run, made once."""
    monkeypatch.chdir(folder)
    if not (folder / "runs" / "x").exists():
        pgdlab.train("digits/ppo", reward=bright, overrides=[*sized(), "name=x"])
    return pgdlab.load("runs/x", reward=bright)


def test_importing_it_is_quick_and_imports_nothing_heavy() -> None:
    code = "import sys, pgdlab; dir(pgdlab); print([m for m in ('torch', 'lightning', 'omegaconf', 'numpy') if m in sys.modules])"
    times = []
    for _ in range(3):
        started = time.perf_counter()
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        times.append(time.perf_counter() - started)
        assert said.strip() == "[]"
    assert min(times) < 1.0  # 0.1 s on a quiet machine, the interpreter's own start included


def test_every_name_is_there_and_no_other() -> None:
    assert all(getattr(pgdlab, name) is not None for name in pgdlab.__all__)
    assert set(pgdlab.__all__) <= set(dir(pgdlab))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = pgdlab.trian
    assert issubclass(pgdlab.ConfigError, ValueError)


def test_a_run_is_what_its_folder_holds(run: pgdlab.Run, folder: Path) -> None:
    assert run.folder == folder / "runs" / "x"
    assert run.finished
    assert run.summary["iterations"] == 2
    assert "heldout_after" not in run.summary, "the experiment's judges another reward"
    assert run.metrics["iteration"] == [1, 2]
    assert all(0 < value < 60 for value in run.metrics["reward_seconds"])
    assert run.config["reward"]["recorded"] == "bright of tests.test_api"
    assert (run.config["task"], run.config["resume"]) == ("train", None)
    assert re.fullmatch(r"Run\('.*/runs/x'\): reward 0\.\d{3} -> 0\.\d{3}, KL \d\.\d{3} nats", repr(run))
    assert run._repr_html_().count("data:image/png;base64,") == 2
    assert (
        (run.folder / COMMAND).read_text().startswith("pgdlab.train('digits/ppo', reward=<bright of tests.test_api>, ")
    )


def test_a_cell_of_metrics_that_is_empty_is_nan(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("iteration,a,b\n1,2,\n2,,3\n")
    metrics = pgdlab.Run(tmp_path).metrics
    assert metrics["a"][0] == 2
    assert math.isnan(metrics["a"][1])
    assert math.isnan(metrics["b"][0])


def test_samples_are_those_of_the_tuned_policy(run: pgdlab.Run) -> None:
    sample = run.sample(3)
    assert sample.shape == (3, 1, 8, 8)
    assert 0 <= sample.min() <= sample.max() <= 1
    assert torch.equal(run.sample(3), sample)
    assert torch.allclose(run.sample(5)[:3], sample, atol=1e-5)  # another batch is rounded otherwise
    assert not torch.equal(run.sample(3, seed=7), sample)
    assert not torch.equal(run.sample(3, prompts=[4]), sample)
    assert [x.size for x in run.sample(2, images="pil")] == [(8, 8)] * 2
    mean = run.summary["evaluations"]["ema/sde"]["reward"]  # of the four samples of the evaluation, on the same noise
    assert sum(bright(run.sample(4), [])) / 4 == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"n": 0}, "n is 0"),
        ({"prompts": [11]}, "prompt 11 is no"),
        ({"prompts": ["cat"]}, "'cat' is no"),
    ],
)
def test_samples_that_cannot_be_drawn_are_refused(run: pgdlab.Run, how: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        run.sample(**how)


def test_molecules_are_sampled_as_rdkits(here: Path) -> None:
    words = [word for word in graphs() if not word.startswith("heldout")]

    def small(molecules: list[Any], prompts: list[int]) -> list[float]:
        assert set(prompts) <= {1, 4}
        return [0.0 if mol is None else 1 / mol.GetNumAtoms() for mol in molecules]

    run = pgdlab.train("molecules/ppo", reward=small, overrides=[*sized(*words)[1:], "domain.fcd=false"])
    drawn = run.sample(4, prompts=[1])
    assert [mol.GetNumAtoms() for mol in drawn] == [1] * 4


def test_evaluating_and_exporting(run: pgdlab.Run, tmp_path: Path) -> None:
    figures = run.evaluate()
    for name in ("reward_before", "reward_after", "kl_nats"):
        assert figures[name] == pytest.approx(run.summary[name], rel=1e-5)
    out = run.export(tmp_path / "out")
    assert (out / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert (out / "README.md").read_text().startswith("# x\n\nMade with pgdlab by\n\n    pgdlab.train(")
    assert not (run.folder / "export").exists()
    assert run.export(out) == out  # a cell is run again
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="mine holds something else than an export"):
        run.export(tmp_path / "mine")


def test_a_function_is_never_taken_out_of_a_folder(run: pgdlab.Run, capsys: Any) -> None:
    """Samples and exports need none; figures and training do, and say so before anything is written."""
    before = {file: file.read_bytes() for file in run.folder.iterdir() if file.is_file()}
    bare = pgdlab.load(run.folder)
    assert torch.equal(bare.sample(2), run.sample(2))
    with pytest.raises(ValueError, match=r"the function bright of tests\.test_api.*give it again"):
        bare.evaluate()
    with pytest.raises(ValueError, match="give it again"):
        pgdlab.train(resume=run.folder, overrides=["plan.iterations=3"])
    with pytest.raises(ConfigError, match=r"the reward of .* is not dark of tests\.test_api: it cannot change"):
        pgdlab.train(resume=run.folder, reward=dark, overrides=["plan.iterations=3"])
    refused([f"resume={run.folder}", "plan.iterations=3"], "the function bright of tests.test_api", capsys)
    assert {file: file.read_bytes() for file in run.folder.iterdir() if file.is_file()} == before


def edited(samples: Tensor, prompts: list[Any]) -> list[float]:
    return (2 * samples.flatten(1).mean(1)).tolist()


def test_a_run_goes_on_with_what_it_began_with(run: pgdlab.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before anything is written: another trainer, an edited function under the name, and what passes the checks by."""
    before = {file: file.read_bytes() for file in run.folder.iterdir() if file.is_file()}
    monkeypatch.setattr(edited, "__qualname__", "bright")
    more = ["plan.iterations=3"]
    with pytest.raises(ConfigError, match=r"the trainer of runs/x is not this one: .*_target_ .*Reinforce"):
        pgdlab.train(resume="runs/x", reward=bright, trainer=Reinforce(), overrides=more)
    with pytest.raises(ConfigError, match=r"the trainer of .* trainer\.clip would be 0\.35"):
        pgdlab.train(resume="runs/x", reward=bright, trainer=PPO(clip=0.35, minibatches=1), overrides=more)
    with pytest.raises(
        ConfigError, match=r"reward is bright of .*, but the function differs from the one that the run began"
    ):
        pgdlab.train(resume="runs/x", reward=edited, overrides=more)
    with pytest.raises(ConfigError, match=r"images is 'pil', but the reward of runs/x began with images='tensor'"):
        pgdlab.train(resume="runs/x", reward=bright, images="pil", overrides=more)
    for reward in (bright, dark):
        with pytest.raises(ConfigError, match=r"resume is an argument here: pgdlab\.train\(resume=FOLDER"):
            pgdlab.train(reward=reward, overrides=["resume=runs/x", *more])
    assert {file: file.read_bytes() for file in run.folder.iterdir() if file.is_file()} == before


def test_two_lambdas_are_two_rewards(run: pgdlab.Run) -> None:
    """On resume and in a comparison; a folder of before digests goes by the name."""
    one, other = record(as_reward(lambda s, p: [1.0] * len(p))), record(as_reward(lambda s, p: [2.0] * len(p)))
    assert one != other
    assert {**one, "digest": None} == {**other, "digest": None}
    require_same("reward", Handed({}, {"reward": one}), one, run.folder)
    require_same("reward", Handed({}, {"reward": one}), {**other, "digest": None}, run.folder)
    with pytest.raises(ConfigError, match="the function differs"):
        require_same("reward", Handed({}, {"reward": one}), other, run.folder)


def test_a_run_without_a_digest_goes_on_by_the_name(here: Path) -> None:
    run = pgdlab.train("digits/ppo", reward=bright, overrides=[*sized(), "name=x"])
    text = (run.folder / CONFIG).read_text()
    old = re.sub("\n *digest: .*", "", text)
    assert old != text
    (run.folder / CONFIG).write_text(old)
    on = pgdlab.train(resume="runs/x", reward=bright, overrides=["plan.iterations=3"])
    assert on.metrics["iteration"] == [1, 2, 3]
    assert on.config["reward"]["digest"] in text


def test_a_held_out_reward_that_is_handed_over_is_announced(here: Path, capsys: Any) -> None:
    cfg = begun(given(None, dark, None, "tensor"), "digits/ppo", [*sized()[1:], "reward=jpeg"])
    said = capsys.readouterr().err
    assert "held-out reward: dark of tests.test_api, which was handed over" in said
    assert "goes with" not in said
    assert cfg.nodes["heldout"]["recorded"] == "dark of tests.test_api"


MARK = """
from pathlib import Path
with Path("{0}").open("a") as file:
    file.write("x")
def mine(samples, prompts):
    return samples.flatten(1).mean(1)
"""


def test_a_function_on_the_command_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beside the user, found again from another folder; loading the run does not execute it."""
    mark, file = here / "executed", here / "my_file.py"
    file.write_text(MARK.format(mark))
    words = [*tiny("experiment=digits/ppo"), "heldout=null", "name=x", "reward=function"]
    assert cli.main([*words, "reward.function=my_file.py:mine"]) == 0
    assert mark.read_text() == "x"
    assert f"function: {file}:mine" in (here / "runs" / "x" / CONFIG).read_text()
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run = pgdlab.load("../runs/x")
    assert run.sample(2).shape == (2, 1, 8, 8)
    assert mark.read_text() == "x"
    with pytest.raises(ValueError, match=f"the function mine of {file}"):
        run.evaluate()


ABSENT = {
    "there is no file": "nowhere.py:mine",
    "has no other; it has mine": "my_file.py:other",
    "function is missing: reward.function=my_file.py:my_reward": "null",
}


def test_a_run_goes_on_where_its_function_is_named_again(here: Path, capsys: Any) -> None:
    mark, file = here / "executed", here / "my_file.py"
    file.write_text(MARK.format(mark) + "def other(samples, prompts): return [0.0] * len(prompts)")
    words = [*tiny("experiment=digits/ppo"), "heldout=null", "name=x", "reward=function"]
    code = f"import sys; from pgdlab.cli import main; sys.exit(main({[*words, 'reward.function=my_file.py:mine']!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    mark.unlink()
    refused(["resume=runs/x", "plan.iterations=3"], "my_file.py:mine, which is not of pgdlab.*trust=", capsys)
    assert not mark.exists()
    other = "reward.function=my_file.py:other"
    refused(["resume=runs/x", "plan.iterations=3", other], "reward.function cannot change when a run resumes", capsys)
    source = file.read_text()
    file.write_text(source.replace("return samples", "return 2 * samples"))
    same = "reward.function=my_file.py:mine"
    refused(
        ["resume=runs/x", "plan.iterations=3", same], "my_file.py:mine', but the function differs from the one", capsys
    )
    assert not mark.exists(), "it is not executed to tell"
    file.write_text(source + "  # the same")
    assert cli.main(["resume=runs/x", "plan.iterations=3", "reward.function=my_file.py:mine"]) == 0
    assert pgdlab.load("runs/x").metrics["iteration"] == [1, 2, 3]


def test_a_run_that_is_measured_says_where_its_function_was_edited(here: Path, capsys: Any) -> None:
    """It is not refused: a mended reward may be what one wants to see."""
    file = here / "my_file.py"
    file.write_text("def mine(samples, prompts): return samples.flatten(1).mean(1)")
    words = ["heldout=null", "reward=function", "reward.function=my_file.py:mine"]
    assert cli.main([*tiny("experiment=digits/ppo", "plan.iterations=1"), *words, "name=x"]) == 0
    mean = "def mine(samples, prompts): return samples.flatten(1).mean(1)"
    for source, found in ((f"{mean}  # the same", None), (f"{mean} + 1", ["reward.function"])):
        file.write_text(source)
        for task, name in (("evaluate", "x/evaluation.json"), ("best_of_n", "best_of_n-x/summary.json")):
            capsys.readouterr()
            assert cli.main([f"task={task}", "resume=runs/x", "trust=my_file.py"]) == 0
            said = capsys.readouterr().err
            assert json.loads((here / "runs" / name).read_text()).get("edited") == found
            assert (f"reward.function is '{file}:mine', which was edited since the run began" in said) == bool(found)
        shutil.rmtree(here / "runs" / "best_of_n-x")


@pytest.mark.parametrize("said", ABSENT)
def test_a_function_that_is_not_there(said: str, here: Path, capsys: Any) -> None:
    (here / "my_file.py").write_text("def mine(samples, prompts): return [0.0] * len(prompts)")
    refused(["heldout=null", "reward=function", f"reward.function={ABSENT[said]}"], said, capsys)


MISTAKES = {
    "reward is given twice": lambda: pgdlab.train(reward=bright, overrides=["reward=jpeg"]),
    "heldout is given twice": lambda: pgdlab.train(heldout=bright, overrides=["heldout=null"]),
    "its own are": lambda: pgdlab.train(reward=lambda x: x),
    "digits/pppo.*Did you mean digits/ppo": lambda: pgdlab.train("digits/pppo"),
    "plan.iteratoins": lambda: pgdlab.train(overrides=["plan.iteratoins=3"]),
    "must be an Algorithm": lambda: pgdlab.train(trainer="ppo"),
    "which has its experiment": lambda: pgdlab.train("digits/ppo", resume="runs/x"),
    "does not exist; it must be the folder of a run": lambda: pgdlab.load("runs/nowhere"),
    "pgdlab.train does train": lambda: pgdlab.train(overrides=["task=doctor"]),
    "one process": lambda: pgdlab.train(overrides=["runtime=ddp_cpu"]),
    "runs/nowhere": lambda: pgdlab.compare(["runs/nowhere"]),
    "folder is 'runs/nowhere', which does not exist": lambda: pgdlab.load("runs/nowhere"),
    "resume is 'runs/nowhere', which does not exist": lambda: pgdlab.train(resume="runs/nowhere", reward=bright),
    "trainer is set, but task=best_of_n has no use": lambda: pgdlab.train("digits/best_of_n", trainer=PPO()),
    "reward is set, but task=pretrain has no use": lambda: pgdlab.train("pretrain/digits", reward=bright),
    "heldout is set, but task=pretrain has no use": lambda: pgdlab.train("pretrain/digits", heldout=bright),
    "images is 'pil', but no function is given": lambda: pgdlab.train(images="pil"),
    "compare takes by, ceilings.*, not colour": lambda: pgdlab.compare(["runs/*"], colour=1),
}


@pytest.mark.parametrize("said", MISTAKES)
def test_mistakes_are_value_errors(said: str, here: Path) -> None:
    with pytest.raises(ValueError, match=said):
        MISTAKES[said]()
    assert not (here / "runs" / "x").exists()


def test_a_word_for_images_that_says_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would mean tensors. As in a user's program: without the checks of annotations that tests have."""
    monkeypatch.setitem(jaxtyping.config.__dict__, "jaxtyping_disable", True)
    word: Any = "PIL"
    for called in (
        lambda: pgdlab.train(reward=bright, images=word),
        lambda: Function(function=bright, images=word),
        lambda: pgdlab.Run(here).sample(2, images=word),
    ):
        with pytest.raises(ValueError, match="images is 'PIL'; it must be one of tensor, pil"):
            called()


def test_what_ends_the_program_is_an_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgdlab.tasks.train.main", lambda cfg: sys.exit(0))
    with pytest.raises(RuntimeError, match=r"asked to end the program: sys.exit\(0\)"):
        pgdlab.train()


def test_a_trainer_that_is_handed_over(here: Path) -> None:
    run = pgdlab.train(trainer=PPO(clip=0.35, minibatches=2), reward=Bright(), overrides=[*tiny(), "name=x"])
    assert run.config["trainer"]["clip"] == 0.35
    assert run.config["reward"]["recorded"] == "Bright of tests.worlds"
    assert pgdlab.load(run.folder).config["trainer"]["clip"] == 0.35
    assert load_run(run.folder, ["task=sample"], instead={}).nodes["trainer"]["clip"] == 0.35
    assert typed(None, Handed({}, {"trainer": {"_target_": "a.B"}}), []) == "pgdlab.train(trainer=<a.B>)"
    assert isinstance(Reinforce(), object)


def test_rerunning_is_another_folder_with_the_same_figures(run: pgdlab.Run) -> None:
    again = pgdlab.train("digits/ppo", reward=bright, overrides=[*sized(), "name=x"])
    assert again.folder == run.folder.with_name("x-2")
    assert again.metrics["reward"] == run.metrics["reward"]
    assert again.summary["reward_after"] == run.summary["reward_after"]


def process_state() -> dict[str, Any]:
    return {
        "handlers": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "backend": dict.__getitem__(matplotlib.rcParams, "backend"),
        "filters": list(warnings.filters),
        "folder": os.getcwd(),
        "environment": {k: v for k, v in os.environ.items() if k.startswith(("PGDLAB", "OMP", "HF_"))},
        "generator": torch.get_rng_state().tolist(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def test_the_process_is_afterwards_what_it_was(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGDLAB_RUN", "mine")
    monkeypatch.setitem(matplotlib.rcParams, "backend", "svg")
    before = process_state()

    def rude(samples: Tensor, prompts: list[Any]) -> list[float]:
        torch.manual_seed(len(samples))
        os.chdir("/")
        samples.zero_()
        return [0.5] * len(prompts)

    run = pgdlab.train("digits/ppo", reward=rude, overrides=[*sized(), "runtime.deterministic=true"])
    assert run.folder.parent.parent == here
    assert process_state() == before


def test_settings_of_torch_are_put_back_after_an_error() -> None:
    def disturb() -> None:
        with guest():
            torch.set_default_dtype(torch.float64)
            torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise KeyError

    benchmark, handler = torch.backends.cudnn.benchmark, signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyError):
        disturb()
    assert torch.get_default_dtype() == torch.float32
    assert torch.backends.cudnn.benchmark == benchmark
    assert signal.getsignal(signal.SIGINT) is handler


class Interrupting:
    """Sends Ctrl-C `times` times at the second iteration, of 8 samples as one call of the doctor's is."""

    def __init__(self, times: int) -> None:
        self.times, self.calls = times, 0

    def __call__(self, samples: Tensor, prompts: list[Any]) -> list[float]:
        self.calls += len(samples) == 8
        if self.calls == 3:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.1)
        return bright(samples, prompts)


def test_the_first_interrupt_ends_the_run_after_its_iteration(here: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    words = sized("name=x", "plan.iterations=5")
    run = pgdlab.train("digits/ppo", reward=Interrupting(1), overrides=words)
    assert signal.getsignal(signal.SIGINT) is handler
    assert not run.finished
    assert run.metrics["iteration"] == [1, 2]
    assert repr(run).endswith("not finished, 2 iterations")
    on = pgdlab.train(resume=run.folder, reward=Interrupting(0))
    assert on.folder == run.folder
    assert on.finished
    assert on.metrics["iteration"] == [1, 2, 3, 4, 5]


def test_the_second_interrupt_is_one_and_the_process_can_still_be_interrupted(here: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="resume=runs/x"):
        pgdlab.train("digits/ppo", reward=Interrupting(2), overrides=sized("name=x", "plan.iterations=5"))
    assert signal.getsignal(signal.SIGINT) is handler
    assert pgdlab.load("runs/x").metrics["iteration"] == [1]
    assert (here / "runs" / "x" / LAST).is_file()


def test_in_a_thread(here: Path) -> None:
    runs: list[pgdlab.Run] = []
    thread = threading.Thread(
        target=lambda: runs.append(pgdlab.train("digits/ppo", reward=bright, overrides=[*sized(), "name=x"]))
    )
    thread.start()
    thread.join()
    assert runs[0].finished


def test_a_comparison_is_a_page_and_data(run: pgdlab.Run) -> None:
    page = pgdlab.compare([run.folder], name="two", by=("trainer",))
    assert page.path == run.folder.parent / "compare-two" / "report.html"
    assert {row["method"] for row in page.methods} >= {"base, untuned"}
    assert len(page.runs) == 1
    assert page.methods[0]["reward after"] == pytest.approx(run.summary["reward_after"])
    assert page._repr_markdown_().startswith("## digits")
    assert pgdlab.compare(run.folder, name="two").path.parent.name == "compare-two-2"


def test_the_share_of_the_time_that_the_reward_takes() -> None:
    """2 s of an iteration of 8; not known of the first iteration after a resume."""
    rows = [
        {"iteration": 1.0, "seconds": 10.0, "reward_seconds": 4.0},
        {"iteration": 2.0, "seconds": 18.0, "reward_seconds": 2.0},
    ]
    assert scoring(rows) == {"scoring": 0.25}
    assert scoring(rows[:1]) == {"scoring": 0.4}
    assert scoring(rows[1:]) == {}
    assert scoring([{"reward": 1.0}]) == {}
