"""Compiled networks and channels last: the same figures in another layout, and one graph for sampling and replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._inductor.codecache import PyCodeCache

from pgdlab.diffusion.compiled import Compiled, repeated
from pgdlab.diffusion.conditioning import ClassLabels
from pgdlab.diffusion.denoisers import DiffusersDenoiser
from pgdlab.diffusion.initial import Standard
from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.policy import Policy, build_policy
from pgdlab.diffusion.schedules import DiffusersSchedule
from pgdlab.diffusion.space import Dense
from pgdlab.diffusion.tuning import Full, LoRA, Tuning
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.sampler import rollout
from pgdlab.rollout.trajectory import replay
from tests.networks import CLASSES, config, denoiser

SPACE = Dense((4,))
COND = torch.arange(7) % 2


class Block(nn.Module):
    """Two layers around a nonlinearity."""

    def __init__(self) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.linear_2(nn.functional.silu(self.linear_1(x)))
        return out


class Repeating(nn.Module):
    """A network of three equal blocks. rows: of every pass of the first one, as it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.labels = nn.Linear(5, 8), nn.Linear(8, 4), nn.Embedding(CLASSES, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.rows: list[int] = []

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        self.rows.append(len(x))
        x = self.first(torch.cat([x, t[:, None] / 10], 1)) + self.labels(class_labels)
        for block in self.blocks:
            x = block(x)
        return (self.last(x),)


def policy(tuning: Tuning, **more: Any) -> Policy:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = DiffusersDenoiser(Repeating().eval(), DiffusersSchedule(config()), ClassLabels(CLASSES - 1))
        base.adapter_targets = ("linear_1", "linear_2")
        return build_policy(
            denoiser=base, space=SPACE, initial=Standard(space=SPACE, num_conditions=CLASSES, std=1.0), unconditional=2,
            kernel=DDIM(), tuning=tuning, steps=4, **more,
        )  # fmt: skip


def network_of(some: Policy) -> Any:
    return next(m for m in some.modules() if isinstance(m, Repeating))


def sampled(some: Policy) -> Any:
    return rollout(some, some.reference(), Noise(3).of(0, range(7)), COND, batch=5, trained=some.stochastic_steps)


@pytest.mark.parametrize(("tuning", "graphs"), [(Full(), 2), (LoRA(rank=2), 3)])
def test_a_compiled_policy_is_the_eager_one(tuning: Tuning, graphs: int) -> None:
    """Samples, densities and gradients agree to rounding, in sampling batches of 5 and 2 rows and a replay of 21 pairs. Replay
    adds no graph: three blocks have one for it and for sampling, and the reference, which takes the last step, another one
    (peft's layers one more, when they are first switched on again)."""
    torch._dynamo.reset()
    before = counters["stats"]["unique_graphs"]
    eager, compiled = policy(tuning), policy(tuning, compiled_rows=4)
    paths = [sampled(some) for some in (eager, compiled)]
    sampling = counters["stats"]["unique_graphs"]
    assert sampling - before == graphs
    torch.testing.assert_close(paths[1].sample, paths[0].sample, rtol=1e-5, atol=1e-6)
    pairs = paths[1].pairs(torch.arange(7 * 3))
    gradients = []
    for some in (eager, compiled):
        score = replay(some, paths[1], pairs)[1]
        gradients.append(torch.autograd.grad(score.sum(), [p for p in some.parameters() if p.requires_grad]))
    assert counters["stats"]["unique_graphs"] == sampling
    torch.testing.assert_close(score, paths[1].log_prob.flatten(), rtol=0, atol=1e-5)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4 * float(a.abs().max()))
    assert set(network_of(compiled).rows) == {4}
    assert not sampled(compiled).sample.requires_grad


def test_graphs_that_were_compiled_before_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In inductor's folder, as a later run finds them: no graph is made, and the numbers are the same."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    found = []
    for _ in range(2):
        torch._dynamo.reset()
        PyCodeCache.cache_clear()
        some = policy(Full(), compiled_rows=4)
        with torch.no_grad():
            mean = some(torch.ones(4, 4), torch.zeros(4, dtype=torch.long), COND[:4]).mean
        compiled = cast(Compiled, some.denoiser)
        found.append((compiled.made, compiled.known, mean))
    (made, known, mean), (again, cached, same) = found
    assert made > 0 == known
    assert (again, cached) == (0, made)
    assert torch.equal(same, mean)


def test_what_is_compiled() -> None:
    """Blocks of equal shapes; a network whose blocks differ as a whole."""
    assert repeated(network := Repeating()) == [*network.blocks]
    other = denoiser().network
    assert repeated(other) == [other]
    assert type(policy(Full(), compiled_rows=4).reference().denoiser) is Compiled
    with pytest.raises(ValueError, match=r"policy.compiled_rows is -1; it must be at least 1, or 0"):
        policy(Full(), compiled_rows=-1)


def test_channels_last_changes_the_layout_alone() -> None:
    space = Dense((1, 8, 8))
    made = [
        build_policy(
            denoiser=denoiser(), space=space, initial=Standard(space=space, num_conditions=CLASSES, std=1.0), unconditional=2,
            kernel=DDIM(), tuning=LoRA(rank=2), steps=4, channels_last=last,
        ) for last in (False, True)
    ]  # fmt: skip
    x, h = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])
    plain, last = (some(x, h, COND[:3]).mean for some in made)
    torch.testing.assert_close(last, plain, rtol=1e-5, atol=1e-6)
    layouts = [
        [p.is_contiguous(memory_format=torch.channels_last) for p in some.parameters() if p.ndim == 4] for some in made
    ]
    assert all(layouts[1])
    assert not all(layouts[0])
    with pytest.raises(ValueError, match="there are no convolutions of images"):
        policy(Full(), channels_last=True)
