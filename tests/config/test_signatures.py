"""What the sources tell about a configuration is what the imported classes say: same refusals, same words, without torch."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from pgdlab.config.compose import CONFIGS
from pgdlab.config.program import PACKAGE
from pgdlab.config.schema import ConfigError, check, complete
from pgdlab.config.signatures import bindings, signature
from pgdlab.config.targets import Signature, is_node, schema
from tests.worlds import QUICK

FILES = sorted(CONFIGS.rglob("*.yaml"))
SECONDS = 60.0  # generous: the time itself is a benchmark's


@functools.cache
def everything() -> list[str]:
    """The path of every class and function at the top of a module of the package."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        if file.name != "__main__.py" and not module.startswith("pgdlab.sweep"):  # Ray is an extra
            definitions = (ast.ClassDef, ast.FunctionDef)
            found += [f"{module}.{name}" for name, node in bindings(module).items() if isinstance(node, definitions)]
    return found


def said(value: Any) -> Any:
    """Without the functions that a default holds: YAML has no words for them."""
    return {k: said(v) for k, v in value.items() if not callable(v)} if isinstance(value, dict) else value


def differences(told: Signature, full: Signature) -> set[str]:
    """What the source tells otherwise than the class."""
    wrong = {*told.keys} ^ {*full.keys}
    wrong |= {key for key, hint in told.hints.items() if key not in full.hints or full.hints[key] != hint}
    wrong |= {
        key for key, value in told.defaults.items() if said(complete(value)) != said(complete(full.defaults[key]))
    }
    return wrong | ({*told.needed} - {*full.needed}) | (set() if told.open == full.open else {"**"})


def test_a_source_tells_what_its_class_says() -> None:
    told = {path: signature(path) for path in everything()}
    readable = {path: found for path, found in told.items() if not (found.open and not found.keys)}
    assert len(readable) > 600  # most of it
    protocols = {"Volume", "Labelled", "Counted"}  # these are made by nobody
    wrong = {path: differences(found, schema(path)) for path, found in readable.items() if found.name not in protocols}
    assert {path: names for path, names in wrong.items() if names} == {}


@functools.cache
def nodes() -> dict[str, dict[str, Any]]:
    """Every node of every config whose class is pgdlab's own: where it is -> the node."""

    def inside(value: Any, at: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if is_node(value) and value["_target_"].startswith("pgdlab."):
            yield at, value
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, child in items:
            yield from inside(child, f"{at}.{key}")

    trees = {file.relative_to(CONFIGS).with_suffix("").as_posix(): yaml.safe_load(file.read_text()) for file in FILES}
    return {at: node for name, tree in trees.items() for at, node in inside(tree, name.replace("/", "."))}


def answer(node: Any, read: Any) -> str | None:
    """Why a node is refused; None where it is not."""
    try:
        check(complete(node, "node", read), "node", read)
    except ConfigError as error:
        return str(error)
    return None


def mutations(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A node with a mistake: a key that does not exist, one misspelt, and every key of its class with values of other types."""
    keys = signature(node["_target_"]).keys
    yield node | {"nonsense": 1}
    yield node | {"_target_": node["_target_"] + "s"}
    for key in keys:
        yield node | {key[:-1] + "_": 1}
        yield from (node | {key: value} for value in ("odd", True, 1.5, [1], {"a": 1}, None))


@pytest.mark.parametrize("where", sorted(nodes()))
def test_what_is_refused_early_is_refused_in_the_same_words(where: str) -> None:
    """And nothing is refused early that would have been taken."""
    node, early = nodes()[where], 0
    assert answer(node, signature) is None or answer(node, signature) == answer(node, schema)
    for mutated in mutations(node):
        if (told := answer(mutated, signature)) is not None:
            early += 1
            assert told == answer(mutated, schema)
    assert early >= 2
    unknown = answer(node | {"nonsense": 1}, signature)
    assert unknown == answer(node | {"nonsense": 1}, schema)
    if not signature(node["_target_"]).open:
        assert unknown is not None
        assert "has no 'nonsense'. Known: " in unknown or "has no 'nonsense'. Did you mean" in unknown


def without_torch(words: list[list[str]]) -> str:
    """The answers to command lines of one process. It fails where the answer took an import of torch."""
    code = (
        "import sys; from pgdlab.cli import main\n"
        f"for words in {words!r}:\n"
        "    assert main(words) == 2, words\n"
        "    heavy = {'torch', 'lightning', 'numpy', 'diffusers', 'matplotlib'} & set(sys.modules)\n"
        "    assert not heavy, (words, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stderr


MISTAKES = {
    "trainer.clp=0.3": "trainer.clp is 0.3, but PPO has no 'clp'. Did you mean trainer.clip?",
    "trainer=pposs": "trainer is 'pposs', which is not an option. Did you mean ppo?",
    "trianer=ppo": "trianer is not a key (given 'ppo'). Did you mean trainer?",
    "experiment=digits/pp": "Did you mean digits/ppo?",
    "trainer.clip=abc": "trainer.clip is 'abc'; PPO takes float",
    "trainer.epochs=1.5": "trainer.epochs is 1.5; PPO takes int",
    "trainer.bounds=nat": "trainer.bounds is 'nat'; PPO takes one of 'nats', 'schulman'. Did you mean nats?",
    "trainer.baseline=means": "trainer.baseline is 'means'; PPO takes one of ",
    "plan.trained_steps.x=1": "plan.trained_steps.x is 1, but AllSteps has no 'x'",
    "clip=0.1": "clip is not a key (given 0.1). Did you mean ",
    "penalty.path_kl.coeficient=1": "Did you mean penalty.path_kl.coefficient?",
    "penalty.coefficient=1": "Did you mean penalty.path_kl.coefficient?",
    "trainer._target_=pgdlab.trainers.ppo.POP": "pgdlab.trainers.ppo has no class or function POP",
    "trainer._target_=pgdlab.trainer.ppo.PPO": "No module named 'pgdlab.trainer'",
    "seed=x": "seed is 'x'; it must be int",
    "task=trian": "Did you mean train?",
}


def test_a_mistake_is_answered_without_importing_torch() -> None:
    said = without_torch([[QUICK, word] if "=digits/pp" not in word else [word] for word in MISTAKES]).splitlines()
    for (word, expected), line in zip(MISTAKES.items(), said, strict=True):
        assert expected in line, word
