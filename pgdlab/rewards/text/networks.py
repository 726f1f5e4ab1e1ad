"""Pretrained networks of others: found on this machine first, on the hub where they are not; no code of a repository is run."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from pgdlab.config.program import extra, located
from pgdlab.images.contrastive import put_together
from pgdlab.rewards.guard import quoted
from pgdlab.rewards.text.preprocessing import Preprocessing

T = TypeVar("T")
DType = Literal["float32", "bfloat16", "float16"]
IDENTIFIER = re.compile(r"[\w.\-]+/[\w.\-]+")  # owner/name on the hub


def transformers() -> ModuleType:
    """The library. Raises ValueError where it is missing."""
    try:
        import transformers as library
    except ImportError as error:
        raise ValueError(f"this reward is a network of the package transformers ({error}): {extra('text')}") from error
    return library


class Network(nn.Module):
    """Frozen networks on a device and in a precision of their own. device: stays there, whatever is moved; null: goes with the
    run. dtype: of the weights; what is given out is float32."""

    def __init__(self, *networks: nn.Module, device: str | None, dtype: DType) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks).eval().requires_grad_(False).to(getattr(torch, dtype))
        if device is not None:
            self.networks.to(known_device(device))
        self.stays = device is not None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Network:
        """What nn.Module.to() and its kin go through."""
        return self if self.stays else super()._apply(fn, recurse)

    def lent(self, x: Tensor) -> Tensor:
        """A tensor where the weights are; real numbers in their precision."""
        weight = next(self.parameters())
        return x.to(weight.device, weight.dtype if x.is_floating_point() else x.dtype)


def known_device(name: str) -> torch.device:
    """A device. Raises ValueError for what torch does not know or does not have."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device is {name!r}, which torch does not have here: {quoted(error)}") from error
    return device


def found(load: Callable[..., T], name: str, key: str, **settings: Any) -> T:
    """load(name), from a folder or the hub's cache on this machine; from the hub where it is in neither. Raises ValueError
    where it cannot be read; key: the option that the name is from."""
    from huggingface_hub import constants

    folder = located(name)
    here = folder.is_dir()
    try:
        return load(str(folder) if here else name, local_files_only=True, **settings)
    except Exception as error:  # not there, or whatever a damaged or foreign checkpoint leads to
        missing = error
    if here or not IDENTIFIER.fullmatch(name):
        what = "which cannot be read" if here else "which is no folder, and no owner/name of the hub"
        raise ValueError(f"{key} is {name!r}, {what}: {quoted(missing)}") from missing
    if constants.HF_HUB_OFFLINE:
        raise ValueError(
            f"{key} is {name!r}, which is no folder and not in the hub's cache, and HF_HUB_OFFLINE forbids to ask the hub: set "
            "HF_HUB_OFFLINE=0, or give a folder"
        ) from missing
    try:
        return load(name, **settings)
    except Exception as error:
        raise ValueError(f"{key} is {name!r}, which cannot be had from the hub: {quoted(error)}") from error


def model(kind: str, name: str, key: str = "weights") -> Any:
    """A model of a class of transformers; the text tower of a CLIP in a pipeline's folder may be the pipeline's. Raises
    ValueError where a weight of it is not in the checkpoint, which transformers would fill with random numbers."""
    if kind == "CLIPModel" and (state := put_together(located(name))) is not None:
        return built(kind, found(transformers().CLIPConfig.from_pretrained, name, key), state, name, "float32", key)
    load = getattr(transformers(), kind).from_pretrained
    with quiet():
        network, info = found(load, name, key, output_loading_info=True, weights_only=True)
    wrong = [str(x) for x in (*info["missing_keys"], *info["mismatched_keys"])]
    if wrong:
        raise ValueError(
            f"{key} is {name!r}, which is no {kind}: of its weights {len(wrong)} are missing, {wrong[0]} first"
        )
    return network


def built(kind: str, config: Any, state: Mapping[str, Tensor], name: str, dtype: DType, key: str = "weights") -> Any:
    """A model of a class of transformers with these weights; no others are drawn first, which takes minutes of a large one.
    Raises ValueError where one is missing, of another shape, or has no place."""
    load = getattr(transformers(), kind).from_pretrained
    try:
        with quiet():
            network, info = load(
                None, config=config, state_dict=dict(state), dtype=getattr(torch, dtype), output_loading_info=True
            )
    except RuntimeError as error:
        raise ValueError(f"{key} is {name!r}, whose weights are of another shape: {quoted(error)}") from error
    wrong = sorted(str(x) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for x in info[kind])
    if wrong:
        raise ValueError(
            f"{key} is {name!r}, which is of another layout: {len(wrong)} names do not fit, {wrong[0]} first"
        )
    return network


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and reports of transformers: what is wrong is said by whoever loads."""
    logs = transformers().utils.logging
    shown, level = logs.is_progress_bar_enabled(), logs.get_verbosity()
    logs.disable_progress_bar()
    logs.set_verbosity_error()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if shown:
            logs.enable_progress_bar()


def tokenizer(kind: str, name: str, key: str = "processor") -> Any:
    """A tokenizer of a class of transformers."""
    return found(getattr(transformers(), kind).from_pretrained, name, key)


def preprocessing(name: str, key: str = "processor") -> Preprocessing:
    """What is done with an image first, as the repository's processor states it."""
    from transformers.image_processing_utils import ImageProcessingMixin

    config, _ = found(ImageProcessingMixin.get_image_processor_dict, name, key)
    return Preprocessing.read(config)


def weights_file(name: str, key: str = "weights") -> dict[str, Tensor]:
    """The tensors of a file: a path, or owner/name/file on the hub. Safetensors, or a pickle of which only tensors are read; one
    level of nesting (state_dict) is opened. Raises ValueError where it cannot be read."""
    path = Path(name).expanduser()
    if not path.is_file():
        owner, _, rest = name.partition("/")
        repository, _, file = rest.partition("/")
        if not file or path.is_absolute():
            raise ValueError(f"{key} is {name!r}; it must be a file, or owner/name/file on the hub")
        path = Path(found(_Download(file), f"{owner}/{repository}", key))
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever a damaged file leads to
        raise ValueError(f"{key} is {name!r}, which holds no weights that can be read: {quoted(error)}") from error
    return tensors_of(state.get("state_dict", state) if isinstance(state, Mapping) else state, name, key)


def tensors_of(state: Any, name: str, key: str) -> dict[str, Tensor]:
    """The tensors among what a pickle holds by name. Raises ValueError where there are none."""
    found = {k: v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, Mapping) else {}
    if not found:
        raise ValueError(f"{key} is {name!r}, which holds no tensors by name")
    return found


class _Download:
    """A file of a repository on the hub, or in its cache; its path."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __call__(self, repository: str, **settings: Any) -> str:
        from huggingface_hub import hf_hub_download

        return os.fspath(hf_hub_download(repository, self.file, **settings))


def filled(network: T, state: Mapping[str, Tensor], name: str, key: str = "weights") -> T:
    """A network with these weights. Raises ValueError where one is missing, of another shape, or has no place."""
    assert isinstance(network, nn.Module)
    kept = {k: v for k, v in state.items() if not k.endswith("position_ids")}  # a count, which older checkpoints hold
    try:
        missing, unexpected = network.load_state_dict(kept, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{key} is {name!r}, whose weights are of another shape: {quoted(error)}") from error
    wrong = [k for k in (*missing, *unexpected) if not k.endswith("position_ids")]
    if wrong:
        raise ValueError(
            f"{key} is {name!r}, which is of another layout: {len(wrong)} names do not fit, {wrong[0]} first"
        )
    return network
