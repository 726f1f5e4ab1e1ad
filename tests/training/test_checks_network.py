"""The doctor on how fast a network can be: fused attention is seen, and so is attention that is not; compiling takes time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from pgdlab.config.compose import compose
from pgdlab.diffusion.compiled import Compiled
from pgdlab.diffusion.conditioning import ClassLabels
from pgdlab.diffusion.denoisers import DiffusersDenoiser
from pgdlab.diffusion.schedules import DiffusersSchedule
from pgdlab.domains.image import SCHEDULER
from pgdlab.training.build import build_world
from pgdlab.training.checks_network import network
from pgdlab.world import World
from tests.worlds import BRIGHT, graphs, tiny


class Told(nn.Module):
    """A UNet that attends to one word: of 2 blocks down, the middle and 4 up, each with attention to itself and to it."""

    def __init__(self) -> None:
        super().__init__()
        self.unet: Any = UNet2DConditionModel(
            sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4, cross_attention_dim=4,
            block_out_channels=(4, 8), attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2,
        )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        word = x.new_ones(len(x), 1, 4)
        return self.unet(x, t, encoder_hidden_states=word, return_dict=False)  # type: ignore[no-any-return]


@pytest.fixture
def world() -> World:
    """Of a network that attends, which the policy and nothing else has."""
    found = build_world(compose(tiny(BRIGHT, "heldout=null", "plan.pass_size=2", "plan.rollout_batch=2")))
    attends = DiffusersDenoiser(Told().eval(), DiffusersSchedule(SCHEDULER), ClassLabels(10))
    policy = found.policy
    policy.denoiser = attends
    return replace(found, policy=policy)


def test_fused_attention_is_counted(world: World) -> None:
    """2 + 1 + 4 transformers, each with two attentions."""
    (found,) = network(world)
    assert (found.name, found.verdict) == ("attention", "ok")
    assert found.message == "14 in a pass, all fused (flash_attention)"


def test_attention_that_is_not_fused_is_said(world: World) -> None:
    """diffusers' first processor holds all weights; one of 14 attentions has it."""
    unet: Any = world.policy.denoiser.network.unet  # type: ignore[union-attr]
    next(iter(unet.mid_block.attentions)).transformer_blocks[0].attn1.set_processor(AttnProcessor())
    (found,) = network(world)
    assert found.verdict == "warning"
    assert found.message.startswith("1 of 14 attentions of a pass are not fused, and hold all their weights")


def test_networks_that_are_not_diffusers_have_no_line() -> None:
    """The molecules' attention has the pairs' features in its weights: there is no kernel for that."""
    words = (*graphs(), "reward=valid", "plan.pass_size=2", "plan.rollout_batch=2")
    assert not [*network(build_world(compose(tiny(*words))))]


def test_what_compiling_took_is_said(world: World) -> None:
    """The first pass of each: later ones are not added. What is compiled is not looked into."""
    inner = build_world(compose(tiny(BRIGHT, "plan.pass_size=2", "plan.rollout_batch=2"))).policy.denoiser
    compiled = Compiled(inner, 2)
    for part in compiled.modules():
        part._compiled_call_impl = None  # as it is, which takes less time here
    world.policy.denoiser = compiled
    x, (t, cond) = torch.zeros(2, 1, 8, 8), torch.zeros(2, 2, dtype=torch.long)
    assert compiled.seconds == 0
    compiled(x, t, cond)
    first = compiled.seconds
    compiled(x, t, cond)
    assert compiled.seconds == first > 0
    (found,) = network(world)
    assert found.message == f"the first passes took {first:.1f} s, compiling in them: 0 graphs were made, 0 cached"
