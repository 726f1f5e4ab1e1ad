"""Learning rates, clipping and the half-life, by hand."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from pgdlab.config.schema import complete, instantiate
from pgdlab.training.optimizer import Optimization


def test_a_cosine_ends_at_the_final_rate() -> None:
    """Five updates: the angles 0, 45, 90, 135 and 180 degrees, between 1 and .2."""
    rates = [Optimization(final_lr=0.2).lr_factor(k, 5) for k in range(5)]
    assert rates == pytest.approx([1.0, 0.6 + 0.4 * 0.5**0.5, 0.6, 0.6 - 0.4 * 0.5**0.5, 0.2])
    assert Optimization(final_lr=0.1).lr_factor(9, 10) == pytest.approx(0.1)
    assert Optimization(final_lr=0.1).lr_factor(0, 1) == 1.0  # the only update is the first


def test_warming_up_begins_above_nothing_and_ends_at_the_whole_rate() -> None:
    """Four updates of warm-up, in the middle of which the constant rate begins."""
    assert [Optimization(warmup=4).lr_factor(k, 10) for k in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    both = Optimization(warmup=2, final_lr=0.0)
    assert [both.lr_factor(k, 3) for k in range(3)] == pytest.approx([0.5, 0.5, 0.0])


def test_a_warm_up_longer_than_the_run_is_warned_about() -> None:
    """Once, at the first update; ten of ten updates are no reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Optimization(warmup=10).lr_factor(0, 10) == 0.1
        assert Optimization(warmup=11).lr_factor(9, 10) == pytest.approx(10 / 11)
    with pytest.warns(UserWarning, match=r"optimizer.warmup is 11 updates, but the run has 10"):
        Optimization(warmup=11).lr_factor(0, 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_decay_that_rounds_to_nothing_is_warned_about(dtype: torch.dtype) -> None:
    """An update without a gradient, of weights of every leading digit: they stay where the warning says so, and else do not."""
    quarter = torch.finfo(dtype).eps / 4
    for share, idle in ((0.9, True), (8.0, False)):
        part = nn.Linear(1, 1000, bias=False, dtype=dtype)
        with torch.no_grad():
            part.weight.copy_(torch.linspace(1, 2, 1000, dtype=dtype)[:, None])
        before, part.weight.grad = part.weight.detach().clone(), torch.zeros_like(part.weight)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            optimizer = Optimization(lr=0.5, weight_decay=share * quarter / 0.5).build({"denoiser": part})
        optimizer.step()
        assert torch.equal(part.weight, before) == idle
        assert [str(w.message).startswith("optimizer.weight_decay") for w in said] == [True] * idle


def test_every_part_has_its_own_rate() -> None:
    """By name: the denoiser's is lr, the others' are in rates; a part without one has lr."""
    parts: dict[str, nn.Module] = {name: nn.Linear(1, 1) for name in ("denoiser", "initial", "critic", "other")}
    groups = Optimization(lr=0.5, rates={"initial": 0.25, "critic": 0.125}).build(parts).param_groups
    found = {id(p): group["lr"] for group in groups for p in group["params"]}
    expected = {"denoiser": 0.5, "initial": 0.25, "critic": 0.125, "other": 0.5}
    assert found == {id(p): expected[name] for name, part in parts.items() for p in part.parameters()}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ema_halflife": 1.5}, "ema_halflife is 1.5; it must be above 0, at most 1"),
        ({"clip_norm": 1e-30}, "clip_norm is 1e-30; it must be at least 0 .none., and 1e-06 where it clips"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0"),
        ({"lr": float("inf")}, "lr is inf; it must be above 0, and finite"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"rates": {"critic": float("inf")}}, "rates.critic is inf"),
        ({"final_lr": 1.5}, "final_lr is 1.5"),
    ],
)
def test_bounds(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Optimization(**settings)


NADAM = {"_target_": "torch.optim.NAdam", "_partial_": True}


def made(**kind: Any) -> Optimization:
    """As a configuration makes it."""
    node = {"_target_": f"{Optimization.__module__}.Optimization", "kind": kind}
    found = instantiate(complete(node, "optimizer"), "optimizer")
    assert isinstance(found, Optimization)
    return found


def test_another_class_is_made_as_adamw_is() -> None:
    """A class of torch's under a configuration's node, with a setting of its own; rates, betas and decay are the optimizer's. Its
    first step is that of the class by itself."""
    part, same = nn.Linear(2, 3), nn.Linear(2, 3)
    same.load_state_dict(part.state_dict())
    own = made(**NADAM, momentum_decay=0.1).build({"denoiser": part})
    theirs = torch.optim.NAdam(same.parameters(), lr=1e-4, betas=(0.9, 0.999), weight_decay=0.0, momentum_decay=0.1)
    assert type(own) is torch.optim.NAdam
    for one, optimizer in ((part, own), (same, theirs)):
        for p in one.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert torch.equal(part.weight, same.weight)


def test_a_class_that_would_not_heed_the_settings_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"kind is SGD, which takes no betas; it must be a class like torch.optim.AdamW"
    ):
        made(_target_="torch.optim.SGD", _partial_=True)
    with pytest.raises(ValueError, match=r"kind.lr is 0.1, which optimizer.lr decides"):
        made(**NADAM, lr=0.1)
    with pytest.raises(ValueError, match=r"kind.betas is .*, which optimizer.beta1 and beta2 decides"):
        made(**NADAM, betas=[0.5, 0.9])
    made(**NADAM, betas=[0.9, 0.999])
