"""task=export: a run's averaged weights as a folder that plain diffusers (or peft, for adapters) loads."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from safetensors.torch import save_file

from pgdlab.config.configuration import Config
from pgdlab.config.program import program
from pgdlab.config.runs import CONFIG, SUMMARY, run_folder, short, whole
from pgdlab.diffusion.files import share, write_base
from pgdlab.evaluation.evaluate import load_run
from pgdlab.training.build import build_world, origin, tell_loggers

READS = ()  # there is nothing to export without a run
RESUMES = ("domain", "runtime", "logger")
INSTEAD = "an export is of a run as it was trained"


def main(cfg: Config) -> None:
    """Writes <run>/export. A trained initial distribution goes beside as initial.safetensors (its parameters by name)."""
    if not cfg.resume:
        raise ValueError(f"task=export needs a run: {program()} task=export resume=runs/<name>")
    out = run_folder(cfg) / "export"
    export(cfg, out)
    tell_loggers(cfg, out.parent, {}, out)
    print(f"exported to {short(out.parent) / out.name}; its README.md says how to load it")


def export(cfg: Config, out: Path) -> None:
    """Writes the averaged weights of the run that cfg resumes into a folder, whole or not at all."""
    world, folder = build_world(cfg), run_folder(cfg)
    load_run(world.policy, folder)
    summary = folder / SUMMARY
    facts = json.loads(summary.read_text()) if summary.is_file() else {"note": "the run was not finished"}
    with whole(out):
        goal = {"domain": cfg.nodes["domain"], "reward": yaml.safe_load((folder / CONFIG).read_text())["reward"]}
        write_base(world.policy.denoiser, out, facts | origin(cfg, world.policy) | goal, folder)
        if world.policy.trains_initial:
            initial = {k: v.contiguous() for k, v in world.policy.initial.state_dict().items()}
            save_file(initial, out / "initial.safetensors")
            share(out)
