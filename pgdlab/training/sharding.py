"""FSDP2: the networks' weights are cut over the processes, block by block, and put together for the pass that needs them."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from pgdlab.diffusion.compiled import Compiled, blocks
from pgdlab.diffusion.denoisers import NetworkDenoiser
from pgdlab.processes import spread, whole
from pgdlab.world import World


class FullyShardedStrategy(DDPStrategy):
    """Lightning's processes with torch's fully_shard (after Zhao et al. 2023, arXiv:2304.11277) in the place of DDP.

    Of a network with adapters, or under a correction, the frozen weights are cut, and what trains is a copy in each process, as
    under DDP; a network that trains is cut with its gradients, its moments and its moving average. Checkpoints hold whole
    tensors, as those of any other run. Lightning's ModelParallelStrategy reads and writes models without the frozen weights
    left out, and its averaging of weights knows no shards.

    process_group_backend: nccl for GPUs, gloo for the CPU. DDP's own settings are none of it.
    """

    cut: list[Cut]

    def __init__(self, *, process_group_backend: str) -> None:
        super().__init__(process_group_backend=process_group_backend)

    def configure_ddp(self) -> None:
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        world: World = self.lightning_module.world  # type: ignore[union-attr, assignment]
        self.cut = [Cut(network, mesh) for network in networks(world)]

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return together(super().lightning_module_state_dict())

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return together(super().optimizer_state(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [p for group in optimizer.param_groups for p in group["params"]]
            own = {k: {n: x.clone() for n, x in entry.items()} for k, entry in state["state"].items()}
            for k, entry in own.items():
                entry |= {n: spread(x, weights[k]) for n, x in entry.items() if x.shape == weights[k].shape}
            optimizer.load_state_dict(state | {"state": own})

    def on_train_end(self) -> None:
        """Afterwards one process measures the policy, and needs the whole of it."""
        for cut in self.cut:
            cut.join()


def refuse_sharding(world: World, sheets: int, kind: object = None) -> None:
    """Raises ValueError for what a network that no process has the whole of cannot serve. kind: see Optimization."""
    if not networks(world):
        raise ValueError(
            f"runtime.strategy cuts networks, and a {type(world.policy.denoiser).__name__} has none: set runtime=ddp"
        )
    if any(isinstance(part, Compiled) for part in world.policy.modules()):
        raise ValueError("policy.compiled_rows compiles networks, and one that is cut is not whole: set it to 0")
    if not all(p.is_contiguous() for network in networks(world) for p in network.parameters()):
        raise ValueError("policy.channels_last lays weights out otherwise than they are cut: set it to false")
    if kind is not None:
        raise ValueError("optimizer.kind was not tried with moments that are cut: leave it out, or set runtime=ddp")
    if world.old is not None:
        raise ValueError(
            "a trust region copies the policy, and a network that is cut cannot be copied: set runtime=ddp"
        )
    if sheets:
        raise ValueError(
            "contact sheets are drawn by one process, and a network that is cut needs all: set plan.sheet_every=0"
        )


def networks(world: World) -> list[nn.Module]:
    """Those of the policy and of the reference, each once."""
    denoisers = [m for policy in (world.policy, world.reference) for m in policy.denoiser.modules()]
    return list(dict.fromkeys(m.network for m in denoisers if isinstance(m, NetworkDenoiser)))


class Cut:
    """A network whose weights are cut over the processes of a mesh, and the way back."""

    def __init__(self, network: nn.Module, mesh: DeviceMesh) -> None:
        self.network = network
        self.before = {part: (type(part), marks(part)) for part in network.modules()}
        trained = {p for p in network.parameters() if p.requires_grad}
        copied = trained if len(trained) < len(list(network.parameters())) else set()
        for part in (*blocks(network), network):  # after a pass too, so that the weights are always found as they train
            fully_shard(part, mesh=mesh, reshard_after_forward=True, ignored_params=copied)
        for unit in sharded_in(network):
            unit.set_gradient_divide_factor(1.0)  # losses are divided by global counts
            unit.set_force_sum_reduction_for_comms(True)

    def join(self) -> None:
        """The network as it was, with the weights as they are. A collective call."""
        for part, (kind, before) in self.before.items():
            held: dict[str, Any] = part._parameters
            for name, p in held.items():
                if isinstance(p, DTensor):
                    part._parameters[name] = nn.Parameter(whole(p.detach()), p.requires_grad)
            part.__class__ = kind
            for name in part.__dict__.keys() - before.keys():
                del part.__dict__[name]
            part.__dict__.update({name: kept for name, kept in before.items() if kept is not None})


def sharded_in(network: nn.Module) -> list[FSDPModule]:
    """The parts of a network that are cut by themselves."""
    return [part for part in network.modules() if isinstance(part, FSDPModule)]


def marks(part: nn.Module) -> dict[str, Any]:
    """The attributes of a module: copies of its tables of hooks, None for all else."""
    return {name: type(x)(x) if "hooks" in name and isinstance(x, dict) else None for name, x in part.__dict__.items()}


def together(state: Any) -> Any:
    """A state with whole tensors. A collective call."""
    if isinstance(state, dict):
        return type(state)((key, together(x)) for key, x in state.items())
    return whole(state) if isinstance(state, Tensor) else state
