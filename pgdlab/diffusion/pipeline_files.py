"""Pipelines of diffusers in folders: loaded without executing anything that lies there, and written with trained weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pgdlab.config.program import OURS, located

INDEX = "model_index.json"
LIBRARIES = ("diffusers", "transformers")
WEIGHTS = "pytorch_lora_weights.safetensors"

LORA = """```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{source}"{without}){scheduler}
pipe.load_lora_weights("{name}")
{example}
```"""

PEFT = """```python
from diffusers import DiffusionPipeline
from peft import PeftModel

pipe = DiffusionPipeline.from_pretrained("{source}"{without}){scheduler}
pipe.{part} = PeftModel.from_pretrained(pipe.{part}, "{name}/lora").merge_and_unload()
{example}
```"""

WHOLE = """```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{name}"{without})
{example}
```"""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a pipeline is from and how it is called. source: a folder, or an id of the hub. scheduler: what was changed in its
    scheduler's config. part: the name of its network. example: a call of it, in Python. fused: whether adapters are
    exported inside the whole pipeline."""

    source: str
    part: str
    dtype: str = "float32"
    variant: str | None = None
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    example: str = ""
    fused: bool = False

    @property
    def outside(self) -> str:
        """The source as diffusers knows it."""
        return str(located(self.source)) if self.source.startswith(OURS) else self.source

    def load(self) -> Any:
        """The pipeline as it was before training."""
        return load_pipeline(self.source, self.dtype, self.variant, self.scheduler)


def load_pipeline(source: str, dtype: str, variant: str | None, scheduler: Mapping[str, Any]) -> Any:
    """A pipeline of a folder, of the cache of the hub, or of the hub itself, in this order; in eval mode.

    Raises ValueError where it is missing or broken, and where loading it would execute code or a pickle.
    """
    folder = found(source, variant)
    try:
        with quiet(), complete(folder):
            pipe = read(folder, dtype, variant)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:
        raise ValueError(f"cannot load the pipeline {source}: {error}") from error
    if pipe.components.get("safety_checker") is not None:
        pipe.safety_checker = None  # it blackens samples, which rewards would then score
    with_scheduler(pipe, scheduler)
    return pipe


def read(folder: Path, dtype: str, variant: str | None) -> Any:
    """The pipeline of a folder."""
    import diffusers
    from packaging.version import Version

    named = "dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype"
    settings = {named: getattr(torch, dtype), "variant": variant, "use_safetensors": True}
    settings |= dict.fromkeys(left_out(folder))
    return diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True, **settings)


def left_out(folder: Path) -> list[str]:
    """The parts that a pipeline was saved without and its class expects: diffusers loads it where they are given as None."""
    import diffusers

    index = json.loads((folder / INDEX).read_text())
    optional = getattr(getattr(diffusers, index["_class_name"], None), "_optional_components", ())
    return [k for k, v in index.items() if isinstance(v, list) and v[:1] == [None] and k not in optional]


def without(folder: Path) -> str:
    """The arguments for left_out(), in Python."""
    return "".join(f", {part}=None" for part in left_out(folder))


def no_advice(record: logging.LogRecord) -> bool:
    """Whether a message says something else than that torchvision is not installed, or that a part which is not there is not
    saved."""
    said = record.getMessage()
    return "torchvision" not in said and "<class 'NoneType'> cannot be saved" not in said


@contextmanager
def quiet() -> Iterator[None]:
    """No bars for the parts of a pipeline, and no advice to install torchvision, whose wheels break other builds of torch."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    with ExitStack() as after:
        for name in ("transformers.utils.import_utils", "diffusers.pipelines.pipeline_utils"):
            logger = logging.getLogger(name)
            logger.addFilter(no_advice)
            after.callback(logger.removeFilter, no_advice)
        for library in (of_diffusers, of_transformers):
            if library.is_progress_bar_enabled():
                library.disable_progress_bar()
                after.callback(library.enable_progress_bar)
        yield


class Missing(logging.Handler):
    """Keeps what diffusers and transformers say of weights that they drew at random, and hands all else on."""

    def __init__(self, others: Sequence[logging.Handler]) -> None:
        super().__init__()
        self.others, self.said = others, list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        if "newly initialized" in record.getMessage():
            self.said.append(record.getMessage())
            return
        for handler in self.others:
            if record.levelno >= handler.level:
                handler.handle(record)


@contextmanager
def complete(folder: Path) -> Iterator[None]:
    """Raises ValueError where a part has weights that its file lacks: the libraries draw them at random, and warn."""
    loggers = [logging.getLogger(library) for library in LIBRARIES]
    before = [(logger.handlers, logger.level) for logger in loggers]
    heard = [Missing(handlers) for handlers, _ in before]
    for logger, handler in zip(loggers, heard, strict=True):
        logger.handlers = [handler]
        logger.setLevel(min(logger.level, logging.WARNING))
    try:
        yield
    finally:
        for logger, (handlers, level) in zip(loggers, before, strict=True):
            logger.handlers = handlers
            logger.setLevel(level)
    for said in (line for handler in heard for line in handler.said):
        parts = [part.name for part in sorted(folder.iterdir()) if str(part) in said]
        raise ValueError(
            f"{' and '.join(parts) or 'a part'} lacks weights, which would be drawn at random: the file is damaged, or was "
            "saved by another version of the library"
        )


def found(source: str, variant: str | None) -> Path:
    """The folder of a pipeline on this machine; one of the hub is fetched where it is not here. Raises ValueError where it cannot
    be, and for one with code of its own."""
    folder = located(source)
    if not folder.is_dir():
        folder = of_the_hub(source, variant)
    require_plain(folder)
    return folder


def of_the_hub(source: str, variant: str | None) -> Path:
    """The cached files of an id of the hub."""
    from diffusers import DiffusionPipeline
    from huggingface_hub import constants

    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise ValueError(f"pipeline is {source!r}, and there is no such folder; an id of the hub is owner/name")
    settings: dict[str, Any] = {"variant": variant, "use_safetensors": True}
    try:
        return Path(DiffusionPipeline.download(source, local_files_only=True, **settings))
    except (OSError, ValueError) as error:
        if constants.HF_HUB_OFFLINE:
            raise ValueError(
                f"{source} is no folder here and not in the hub's cache, and HF_HUB_OFFLINE=1: fetch it with "
                f"`hf download {source}`, or run with HF_HUB_OFFLINE=0"
            ) from error
    return Path(DiffusionPipeline.download(source, **settings))


def require_plain(folder: Path) -> None:
    """Raises ValueError where a folder is no pipeline, or has a pipeline or parts that are its own code."""
    try:
        index = json.loads((folder / INDEX).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} is no folder of a pipeline: its {INDEX} cannot be read ({error})") from error
    import diffusers.pipelines

    known = (*LIBRARIES, *dir(diffusers.pipelines))
    named = {k: v for k, v in index.items() if isinstance(v, list) and v and v[0] is not None}
    own = sorted(k for k, v in named.items() if k == "_class_name" or v[0] not in known)
    code = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.py"))
    if own or code:
        raise ValueError(f"{folder} has code of its own ({', '.join([*own, *code][:3])}), which is not executed here")


def with_scheduler(pipe: Any, changes: Mapping[str, Any]) -> None:
    """Changes the pipeline's scheduler: fields of its config, its class (`_class_name`) among them. Raises ValueError for a
    class or a field that is not there."""
    if not changes:
        return
    import diffusers

    from pgdlab.diffusion.scheduler_config import defaults

    name = changes.get("_class_name", type(pipe.scheduler).__name__)
    if not str(name).endswith("Scheduler") or name not in dir(diffusers):
        raise ValueError(f"scheduler._class_name is {name!r}; it must be a scheduler of diffusers")
    fields = {k: v for k, v in changes.items() if k != "_class_name"}
    if unknown := sorted(fields.keys() - defaults(name).keys()):
        raise ValueError(f"scheduler has {', '.join(unknown)}, which {name} does not know")
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **fields)


def save_pipeline(origin: Origin, network: Any, folder: Path) -> str:
    """Writes the pipeline with this network; how to load it, in markdown."""
    pipe = origin.load()
    own = pipe.components[origin.part]
    own.load_state_dict(network.state_dict())
    with quiet():
        pipe.save_pretrained(folder, safe_serialization=True)
    return WHOLE.format(name=folder.name, example=origin.example, without=without(folder))


def save_fused(origin: Origin, network: Any, folder: Path) -> str:
    """Writes the pipeline with a network's adapters added to its weights; how to load it, in markdown."""
    from peft import get_peft_model
    from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict

    pipe = origin.load()
    again = get_peft_model(pipe.components[origin.part], network.peft_config["default"])
    set_peft_model_state_dict(again, get_peft_model_state_dict(network))
    setattr(pipe, origin.part, again.merge_and_unload())
    with quiet():
        pipe.save_pretrained(folder, safe_serialization=True)
    return WHOLE.format(name=folder.name, example=origin.example, without=without(folder))


def save_adapters(origin: Origin, network: Any, folder: Path) -> str:
    """Writes a network's adapters as the pipeline's class does; how to load them, in markdown."""
    from diffusers.loaders import PeftAdapterMixin
    from diffusers.loaders.lora_base import LoraBaseMixin
    from peft.utils import get_peft_model_state_dict

    kind: Any = pipeline_class(origin)
    said = {"source": origin.outside, "name": folder.name, "part": origin.part, "example": origin.example}
    said["without"] = without(found(origin.source, origin.variant))
    said["scheduler"] = f"\npipe.scheduler = {scheduler_text(origin)}" if origin.scheduler else ""
    base = network.get_base_model()
    if not (issubclass(kind, LoraBaseMixin) and isinstance(base, PeftAdapterMixin)):
        network.save_pretrained(folder / "lora", safe_serialization=True)
        return PEFT.format(**said)
    weights = {k.removeprefix("base_model.model."): v for k, v in get_peft_model_state_dict(network).items()}
    settings = network.peft_config["default"].to_dict()
    layers, metadata = f"{origin.part}_lora_layers", f"{origin.part}_lora_adapter_metadata"
    kind.save_lora_weights(folder, safe_serialization=True, **{layers: weights, metadata: settings})
    return LORA.format(**said)


def pipeline_class(origin: Origin) -> type:
    """The class of a pipeline, read from its index."""
    import diffusers

    index = json.loads((found(origin.source, origin.variant) / INDEX).read_text())
    kind: type = getattr(diffusers, index["_class_name"])
    return kind


def scheduler_text(origin: Origin) -> str:
    """The change of the scheduler, in Python."""
    fields = {k: v for k, v in origin.scheduler.items() if k != "_class_name"}
    name = origin.scheduler.get("_class_name")
    kind = f"diffusers.{name}" if name else "type(pipe.scheduler)"
    given = "".join(f", {k}={v!r}" for k, v in fields.items())
    return f"{kind}.from_config(pipe.scheduler.config{given})"
