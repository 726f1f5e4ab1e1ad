"""Export: a folder that plain diffusers loads, or LoRA weights for peft, each with a card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pgdlab.diffusion.denoisers import ClassifierFreeGuidance, Denoiser, DiffusersDenoiser
from pgdlab.diffusion.policy import Policy
from pgdlab.diffusion.tuning import Adapted
from pgdlab.runs import COMMAND

LOADING = """```python
from diffusers import DDIMScheduler, UNet2DModel

unet = UNet2DModel.from_pretrained("{name}", subfolder="unet")
scheduler = DDIMScheduler.from_pretrained("{name}", subfolder="scheduler")
```"""

ADAPTERS = """```python
from diffusers import UNet2DModel
from peft import PeftModel

unet = PeftModel.from_pretrained(UNet2DModel.from_pretrained("the base folder", subfolder="unet"), "{name}/lora")
```"""


def unwrapped(denoiser: Denoiser) -> Denoiser:
    """The denoiser that holds the weights."""
    return unwrapped(denoiser.denoiser) if isinstance(denoiser, ClassifierFreeGuidance) else denoiser


def origin(cfg: Any, policy: Policy) -> dict[str, Any]:
    """The sampler that a run trained and measured under, and what was tuned: a network under another sampler, or with
    another initial distribution, is another policy."""
    nodes = OmegaConf.to_container(OmegaConf.masked_copy(cfg, ["policy", "initial", "plan"]), resolve=True)
    assert isinstance(nodes, dict)
    tuned = {"tuning": nodes["policy"].get("tuning"), "initial": nodes["initial"], "steps": nodes["plan"]["steps"]}
    return {
        "sampler": {key: nodes["policy"].get(key) for key in ("kernel", "steps", "guidance")},
        "tuned": tuned | {"stochastic_steps": len(policy.stochastic_steps)},
    }


def write_base(denoiser: Denoiser, folder: Path, facts: dict[str, Any]) -> None:
    """Writes unet/ and scheduler/ (diffusers format; for adapters lora/ and scheduler/) and README.md into a folder of the
    run's."""
    inner = unwrapped(denoiser)
    adapted = isinstance(inner, Adapted)
    network = inner.denoiser if isinstance(inner, Adapted) else inner
    if not isinstance(network, DiffusersDenoiser):
        raise ValueError(f"only a diffusers network or its adapters can be exported, not a {type(network).__name__}")
    network.network.save_pretrained(folder / ("lora" if adapted else "unet"), safe_serialization=True)
    network.schedule.scheduler.save_pretrained(folder / "scheduler")
    card(folder, facts, (ADAPTERS if adapted else LOADING).format(name=folder.name))


def card(folder: Path, facts: dict[str, Any], loading: str) -> None:
    """README.md: how it was made, how good it is, how to load it."""
    made = folder.parent / COMMAND
    command = made.read_text().strip() if made.is_file() else "(the command was not kept)"
    lines = [f"# {folder.resolve().parent.name}", "", "Made with pgdlab by", "", f"    {command}", "", "```json"]
    lines += [json.dumps(facts, indent=2), "```", ""]
    lines += ["It was made for `sampler`; under another it is another policy.", "", "Load it with", "", loading, ""]
    (folder / "README.md").write_text("\n".join(lines))
