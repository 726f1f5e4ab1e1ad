"""Offloading: a part rests on the CPU, and is on the run's device while it works."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

REST = torch.device("cpu")
HOOKS: WeakKeyDictionary[nn.Module, list[RemovableHandle]] = WeakKeyDictionary()


def offload(part: nn.Module, device: torch.device) -> None:
    """Puts a part on the CPU, from where each call moves it to the device and back, whether it returns or raises. What it gives
    out must not be differentiated: its weights are elsewhere by then."""
    for hook in HOOKS.pop(part, []):
        hook.remove()

    def bring(*_: Any) -> None:
        part.to(device)

    def put_back(*_: Any) -> None:
        part.to(REST)

    part.to(REST)
    HOOKS[part] = [part.register_forward_pre_hook(bring), part.register_forward_hook(put_back, always_call=True)]


def refuse_offloading(device: torch.device, overlapped: bool) -> None:
    """Raises ValueError where all is on the CPU already, and for rewards that do not rest while the policy samples."""
    if device.type == "cpu":
        raise ValueError("plan.offload is true, but the run is on the CPU, where all would rest: leave it false")
    if overlapped:
        raise ValueError(
            "plan.offload is true, but the reward is Overlapped: it works while the policy samples, and would be moved then. "
            "Take it out of Overlapped, or leave plan.offload false"
        )
