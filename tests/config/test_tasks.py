"""Every task says which settings it reads, and refuses the others; the held-out reward follows the reward."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pgdlab import cli
from pgdlab.config.compose import compose
from pgdlab.config.groups import slots
from pgdlab.config.tasks import changed, constants, reads, require_read
from tests.worlds import POINTS, QUICK, tiny

SETTINGS = {*slots(), "plan", "optimizer", "seed", "name", "sweep"}


@pytest.mark.parametrize("task", cli.tasks())
def test_what_a_task_reads_is_there(task: str) -> None:
    """Each is a node or a key of one, and none of them is what every task takes."""
    known = reads(task)
    assert known is not None
    for key in {*known.new, *(known.resumed or ())}:
        assert key.split(".")[0] in SETTINGS


def test_a_module_that_does_not_say_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "silent.py").write_text('"""A task."""\n')
    monkeypatch.setattr("pgdlab.config.tasks.TASKS", tmp_path)
    with pytest.raises(ValueError, match="does not say what it reads"):
        reads("silent")
    assert constants("A = ('x',)\nB = A\nc = 3\nD = f()") == {"A": ("x",), "B": ("x",)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task=compare", "trainer.clip=0.3"], "trainer.clip is set, but task=compare has no use for it"),
        (["task=compare", "experiment=digits/ppo"], "experiment is set, but task=compare"),
        (["task=compare", "policy.kernel.eta=1.5"], "policy.kernel.eta is set"),
        (["task=certify", "trainer=grpo", "seed=5"], "trainer is set.*the certificate's suite says what is trained"),
        (["task=sample", "optimizer.beta2=-0.5"], "optimizer.beta2 is set, but task=sample.*it reads experiment, domain"),
        (["task=sample", "reward=jpeg"], "reward is set"),
        (["task=sample", "plan={samples: 8, eval_samples: 4}"], "plan.samples is set"),
        (["task=best_of_n", "initial=diagonal"], "initial is set.*best-of-n trains nothing"),
        (["task=best_of_n", "penalty=none"], "penalty is set"),
        (["task=best_of_n", "optimizer.ema_halflife=-1"], "optimizer.ema_halflife is set"),
        (["task=pretrain", "plan.samples=8"], "plan.samples is set.*learns from data"),
        (["task=classifiers", "trainer=ppo"], "trainer is set"),
        (["task=molecules", "seed=1"], "it takes no setting"),
        (["task=eta_table", "domain=digits"], "domain is set"),
        (["task=doctor", "compare.foo=1"], "compare.foo is set, but task=doctor"),
        (["engine.foo=1"], "engine.foo is set, but task=train"),
        (["certificate={foo: 1}"], "certificate.foo is set"),
        (["task=compare", "resume=runs/x"], "task=compare resumes no run"),
        (["task=export", "domain=emoji"], "task=export needs a run: .*task=export resume="),
        (["task=evaluate", "domain=smiles"], "task=evaluate needs a run: .*task=evaluate resume="),
    ],
)  # fmt: skip
def test_a_setting_without_effect_is_refused(words: list[str], said: str, capsys: Any) -> None:
    assert cli.main(words) == 2
    printed = capsys.readouterr().err
    assert re.search(said, printed)
    assert printed.count("\n") == 1


@pytest.mark.parametrize("key", ["trainer.clip", "penalty.path_kl.coefficient", "runtime.devices", "policy.kernel.eta"])
def test_what_a_resumed_task_takes_is_less(key: str) -> None:
    allowed = {"evaluate": {"runtime.devices", "policy.kernel.eta"}, "export": {"runtime.devices"}, "certify": set()}
    for task, some in allowed.items():
        if key in some:
            require_read(task, [(key, 1)], resumed=True)
        else:
            with pytest.raises(ValueError, match=f"{key} is set"):
                require_read(task, [(key, 1)], resumed=True)


@pytest.mark.parametrize("domain", ["emoji", "diffusers", "folder", "smiles", "qm9_3d", "gaussian", "digits"])
def test_sampling_asks_no_reward(domain: str) -> None:
    """That of the experiment which is there by default judges digits; whatever is sampled, none is built."""
    cfg = compose(["task=sample", f"domain={domain}"])
    assert (cfg.nodes["reward"], cfg.nodes["heldout"]) == (None, None)


def test_what_differs_between_two_configurations() -> None:
    before = {"a": {"_target_": "x", "b": 1, "c": [1]}, "d": 2, "gone": 3}
    now = {"a": {"_target_": "x", "b": 2, "c": [1]}, "d": {"_target_": "y"}, "new": 4}
    assert changed(now, before) == {"a.b": 2, "d": {"_target_": "y"}, "gone": None, "new": 4}
    assert changed(before, before) == {}


def of_digits(*words: str) -> list[str]:
    """The words, of digits where they name no experiment."""
    return [*([] if any(word.startswith("experiment=") for word in words) else [QUICK]), *words]


def judge(*words: str) -> Any:
    node = cli.configuration(of_digits(*words)).nodes["heldout"]
    return node and (node["_target_"].rpartition(".")[2], node.get("target"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ("ClassProbability", 3)),
        (["reward=jpeg"], ("Quality", None)),
        (["reward=imagenet"], None),
        (["reward=any_class"], ("AnyClass", None)),
        (["reward.target=7"], ("ClassProbability", 7)),
        (["reward=prompt_class"], ("ClassProbability", None)),
        (["reward=any_class", "heldout=heldout_target"], ("ClassProbability", 3)),  # asked for
        (["experiment=fashion/ppo"], ("ClassProbability", 9)),
        (["experiment=fashion/ppo", "reward.target=5"], ("ClassProbability", 5)),
        (["experiment=molecules", "reward=synthesizable"], None),  # its judge looks at synthesis itself
        (["reward={_target_: pgdlab.rewards.image.jpeg.JpegSize, scale: 4}"], None),
    ],
)
def test_the_judge_is_that_of_the_reward(words: list[str], expected: Any, capsys: Any) -> None:
    assert judge(*words) == expected
    whole = any(w.startswith("reward=") for w in words) and not any(w.startswith("heldout") for w in words)
    assert ("held-out reward" in capsys.readouterr().err) == whole


@pytest.mark.parametrize(
    "words",
    [
        ["reward.target=7", "heldout.target=3"],
        ["reward=shaped", "reward.reward.target=7"],  # the potential's target is no aim
        ["reward=target_and_quality", "reward.rewards.target.target=7"],
    ],
)
def test_a_judge_of_another_target_is_refused(words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"is 7, but heldout\.target is 3.*set heldout\.target=7"):
        cli.configuration(of_digits(*words))
    assert judge(*(word for word in words if word != "heldout.target=3"), "heldout.target=7") == ("ClassProbability", 7)


def test_an_evaluation_keeps_what_it_was_made_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a run's own configuration and folder stay as they were: task=sample without a run is no run that did not finish."""
    import json

    monkeypatch.chdir(tmp_path)
    assert cli.main([*tiny(*POINTS), "name=x"]) == 0
    assert cli.main(["task=evaluate", "resume=runs/x", "policy.kernel.eta=0.5", "plan.eval_samples=6"]) == 0
    kept = json.loads(Path("runs/x/evaluation.json").read_text())["overrides"]
    assert kept == {"policy.kernel.eta": 0.5, "plan.eval_samples": 6}
    assert cli.main(["task=evaluate", "resume=runs/x"]) == 0
    assert json.loads(Path("runs/x/evaluation.json").read_text())["overrides"] == {}
    assert cli.main(["task=sample", "experiment=oracle/linear", "plan.eval_samples=4", "name=s"]) == 0
    assert "task: sample" in Path("runs/sample-s/config.yaml").read_text()


@pytest.mark.parametrize("task", ["export", "evaluate"])
def test_what_comes_after_a_run_may_go_to_another_logger(task: str) -> None:
    require_read(task, [("logger", ["csv"])], resumed=True)
