"""docs/from_trl.md: every field of trl's DDPOConfig, its default, and options that there are here and mean it."""

from __future__ import annotations

import ast
import dataclasses
import re
from typing import Any

import pytest

from pgdlab.config.compose import compose
from tests.test_docs import DOCS

FIELDS: dict[str, Any] = {  # of trl 0.23.1, but for exp_name, which is the script's
    "run_name": "", "seed": 0, "log_with": None, "tracker_kwargs": {}, "accelerator_kwargs": {}, "project_kwargs": {},
    "tracker_project_name": "trl", "logdir": "logs", "num_epochs": 100, "save_freq": 1, "num_checkpoint_limit": 5,
    "mixed_precision": "fp16", "allow_tf32": True, "resume_from": "", "sample_num_steps": 50, "sample_eta": 1.0,
    "sample_guidance_scale": 5.0, "sample_batch_size": 1, "sample_num_batches_per_epoch": 2, "train_batch_size": 1,
    "train_use_8bit_adam": False, "train_learning_rate": 3e-4, "train_adam_beta1": 0.9, "train_adam_beta2": 0.999,
    "train_adam_weight_decay": 1e-4, "train_adam_epsilon": 1e-8, "train_gradient_accumulation_steps": 1,
    "train_max_grad_norm": 1.0, "train_num_inner_epochs": 1, "train_cfg": True, "train_adv_clip_max": 5.0,
    "train_clip_range": 1e-4, "train_timestep_fraction": 1.0, "per_prompt_stat_tracking": False,
    "per_prompt_stat_tracking_buffer_size": 16, "per_prompt_stat_tracking_min_count": 16,
    "async_reward_computation": False, "max_workers": 2, "negative_prompts": "", "push_to_hub": False,
}  # fmt: skip
GIVEN = ("experiment=diffusers/jpeg", "domain.pipeline=base", "domain.prompts=prompts.txt")


def rows(text: str) -> dict[str, tuple[str, str]]:
    """Field -> (default, here) of the page's table."""
    table = text.partition("## The fields of DDPOConfig")[2].partition("\n\nWhat a script")[0]
    found = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| .*\|$", table, re.MULTILINE)
    assert len(found) == len({name for name, *_ in found}), "a field has two rows"
    return {name: (default, here) for name, default, here in found}


def wrong(text: str) -> list[str]:
    """Fields that the table lacks, makes up, or has with another default."""
    stated = {name: default for name, (default, _) in rows(text).items() if name != "exp_name"}
    found = [f"{name} is missing" for name in FIELDS.keys() - stated.keys()]
    found += [f"{name} is no field" for name in stated.keys() - FIELDS.keys()]
    return found + [n for n in stated.keys() & FIELDS.keys() if ast.literal_eval(stated[n].strip("`")) != FIELDS[n]]


def test_the_table_has_every_field_with_its_default() -> None:
    page = (DOCS / "from_trl.md").read_text()
    assert wrong(page) == []
    assert "exp_name" in rows(page)
    faults = page.replace("| `seed` | `0`", "| `seed` | `1`").replace("`train_cfg` |", "`train_cgf` |")
    assert sorted(wrong(faults)) == ["seed", "train_cfg is missing", "train_cgf is no field"]


def test_the_fields_are_those_of_trl() -> None:
    """Where trl is installed, as in the environment of benchmarks/peers.py."""
    config = pytest.importorskip("trl", reason="trl is not installed", exc_type=ImportError)
    if not hasattr(config, "DDPOConfig"):
        pytest.skip("this trl has no DDPOConfig")
    fields = {f.name: f for f in dataclasses.fields(config.DDPOConfig)}
    made = {n: f.default if f.default is not dataclasses.MISSING else f.default_factory() for n, f in fields.items()}  # type: ignore[misc]
    assert {name: value for name, value in made.items() if name != "exp_name"} == FIELDS


@pytest.mark.parametrize("field", rows((DOCS / "from_trl.md").read_text()))
def test_what_stands_for_a_field_is_taken(field: str) -> None:
    """Composes, in the experiment of the page's commands; what is said to have no counterpart has none."""
    here = rows((DOCS / "from_trl.md").read_text())[field][1]
    words = re.findall(r"[\w.]+=(?:{.*?}|[^\s`]+)", here)
    assert bool(words) == (here != "none")
    if field == "resume_from":
        assert words == ["resume=runs/my-run"]
    elif words:
        compose(
            [*(word for word in GIVEN if word.partition("=")[0] not in {w.partition("=")[0] for w in words}), *words]
        )
