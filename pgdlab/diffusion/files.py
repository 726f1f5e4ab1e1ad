"""Export: a denoiser's weights in a folder, with a card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from pgdlab.config.runs import COMMAND
from pgdlab.diffusion.conditioning import Conditioning
from pgdlab.diffusion.denoisers import Denoiser, DiffusersDenoiser
from pgdlab.diffusion.schedules import DiffusersSchedule


def write_base(denoiser: Denoiser, folder: Path, facts: dict[str, Any], run: Path | None = None) -> None:
    """Writes the weights, as Denoiser.save does, and README.md into a folder. run: the run's, the folder above by default."""
    loading = denoiser.save(folder)
    card(folder, facts, loading, run or folder.parent)
    share(folder)


def share(folder: Path) -> None:
    """Gives all files in a folder the mode of its README.md, which the umask gave: safetensors writes for the owner alone."""
    mode = (folder / "README.md").stat().st_mode
    for file in (path for path in folder.rglob("*") if path.is_file()):
        file.chmod(mode)


def card(folder: Path, facts: dict[str, Any], loading: str, run: Path) -> None:
    """README.md: how it was made, how good it is, how to load it."""
    made = run / COMMAND
    command = made.read_text().strip() if made.is_file() else "(the command was not kept)"
    lines = [
        f"# {run.resolve().name}",
        "",
        "Made with pgdlab by",
        "",
        f"    {command}",
        "",
        "Load it with",
        "",
        loading,
        "",
    ]
    lines += ["It was made for `sampler`; under another it is another policy.", "", "```json"]
    lines += [json.dumps(facts, indent=2), "```", ""]
    (folder / "README.md").write_text("\n".join(lines))


def write(network: nn.Module, sizes: dict[str, Any], folder: Path) -> None:
    """Writes both files. sizes: the keywords that build the network again."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(sizes, indent=2) + "\n")
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors")


def adapters(domain: str, module: str, folder: Path) -> str:
    """How to load lora/ onto a domain's base, in markdown."""
    return f"""```python
from peft import PeftModel
from {module} import {domain}

denoiser = {domain}(weights="the base folder").base()
denoiser.network = PeftModel.from_pretrained(denoiser.network, "{folder.name}/lora")
```"""


def read(network: nn.Module, folder: Path) -> None:
    """Reads the weights that write() wrote. Raises ValueError where they are missing, broken or of another network."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network.load_state_dict(load_file(folder / "model.safetensors"))
    except RuntimeError as error:
        raise ValueError(
            f"model.safetensors and config.json are of two networks, with {_differences(error)}"
        ) from error
    except (OSError, SafetensorError) as error:
        raise ValueError(str(error)) from error


def read_diffusers(
    kind: Any, folder: Path, wanted: dict[str, Any], conditioning: Conditioning, *, name: str, again: str
) -> DiffusersDenoiser:
    """The network of a class of diffusers in unet/, with its scheduler/. wanted: what its configuration must have. name: of the
    domain. Raises ValueError where it is missing, broken or another one, with what to do about it (`again`)."""
    from safetensors import SafetensorError

    try:
        scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        network, found = kind.from_pretrained(
            folder, subfolder="unet", local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False,
            output_loading_info=True,
        )  # fmt: skip
        schedule = DiffusersSchedule(scheduler)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"cannot load the base of {name} from {folder}: {error}. {again}") from error
    has = {key: network.config.get(key) for key in wanted}
    if has != wanted or found["missing_keys"] or found["unexpected_keys"]:
        raise ValueError(
            f"{folder} is no base of {name}: its network has {has}, {wanted} is wanted; "
            f"{len(found['missing_keys'])} weights missing, {len(found['unexpected_keys'])} unknown. {again}"
        )
    return DiffusersDenoiser(network, schedule, conditioning).eval()


def sizes(folder: Path) -> dict[str, Any]:
    """The keywords that write() was given. Raises ValueError where it is missing or broken."""
    try:
        return dict(json.loads((folder / "config.json").read_text()))
    except (OSError, TypeError) as error:
        raise ValueError(str(error)) from error


def _differences(error: RuntimeError) -> str:
    """The first of torch's long list."""
    first = str(error).splitlines()[1].strip()
    return first if len(first) < 120 else f"{first[:120]}..."
