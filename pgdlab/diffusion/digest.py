"""A digest of what does not train, by which a base is known again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from pgdlab.diffusion.pipelines import PipelineDenoiser
from pgdlab.diffusion.tuning import AdaptersOff
from pgdlab.processes import whole


def digest(part: torch.nn.Module, adapted: bool = True) -> str:
    """SHA-256 of all that does not train in a module, to know it again. adapted: with the base under adapters that are off,
    and the prompts, which checkpoints of earlier versions leave out."""
    found = hashlib.sha256()
    for name, x in [*at_rest(part), *(underneath(part) if adapted else ())]:
        found.update(name.encode() + whole(x.detach()).cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def at_rest(part: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a module has that does not train and is no other's to make: frozen weights, and buffers that are saved."""
    for path, module in part.named_modules(remove_duplicate=False):
        kept = {n: b for n, b in module._buffers.items() if n not in module._non_persistent_buffers_set}
        own = {n: p for n, p in module._parameters.items() if p is not None and not p.requires_grad}
        yield from ((f"{path}.{n}".lstrip("."), x) for n, x in (own | kept).items() if x is not None)


def underneath(part: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a reference with adapters off only shares, and what its pipeline was told."""
    shared = [m.shared[0] for m in part.modules() if isinstance(m, AdaptersOff)]
    for adapted in shared:
        yield from at_rest(adapted)
    denoisers = [m for network in (part, *shared) for m in network.modules() if isinstance(m, PipelineDenoiser)]
    yield from (("prompts", d.conditioning.fingerprint) for d in denoisers)
