"""Mistakes in what large models need: weights that are cut, offloading, compiled networks, lost processes."""

from tests.mistakes import Mutant

SHARDING, MODULE, OPTIMIZER = "training/sharding.py", "training/module.py", "training/optimizer.py"
T_SHARDING, T_PROCESSES, T_COMPILED = (
    "training/test_sharding.py",
    "training/test_processes.py",
    "diffusion/test_compiled.py",
)
T_OFFLOAD = "rollout/test_offload.py"

MUTANTS = [
    Mutant(
        "sharding: gradients are means over the processes",
        SHARDING,
        "unit.set_gradient_divide_factor(1.0)",
        "unit.set_gradient_divide_factor(2.0)",
        T_SHARDING,
        "whole_ones_give and passes",
    ),
    Mutant(
        "sharding: the norm of what is not cut alone",
        OPTIMIZER,
        "torch.stack(norms).norm() if len(norms) > 1 else norms[0]",
        "norms[0]",
        T_SHARDING,
        "whole_ones_give and passes",
    ),
    Mutant(
        "sharding: frozen weights are not cut",
        SHARDING,
        "for part in (*blocks(network), network):",
        "for part in blocks(network):",
        T_SHARDING,
        "has_its_part",
    ),
    Mutant(
        "sharding: moments are whole in every process",
        SHARDING,
        "spread(x, weights[k]) for n, x",
        "x for n, x",
        T_SHARDING,
        "and_back",
    ),
    Mutant(
        "sharding: one makes its passes smaller",
        "rollout/memory.py",
        "if shared and is_oom_error(error):",
        "if False:",
        T_SHARDING,
        "not_made_smaller",
    ),
    Mutant(
        "sharding: a trust region's copy is cut",
        SHARDING,
        "if world.old is not None:",
        "if False:",
        T_SHARDING,
        "cannot_serve",
    ),
    Mutant(
        "offload: a part stays on the device",
        "rollout/offload.py",
        "register_forward_hook(put_back, always_call=True)",
        "register_forward_hook(put_back)",
        T_OFFLOAD,
        "while_it_works",
    ),
    Mutant(
        "offload: hooks add up",
        "rollout/offload.py",
        "        hook.remove()",
        "        pass",
        T_OFFLOAD,
        "while_it_works",
    ),
    Mutant(
        "compiled: sampling has a graph of its own",
        "diffusion/compiled.py",
        "with torch.enable_grad():",
        "with torch.set_grad_enabled(graph):",
        T_COMPILED,
        "eager and tuning0",
    ),
    Mutant(
        "compiled: the last pass as it is",
        "diffusion/compiled.py",
        "if len(x) < rows else x",
        "if len(x) < 0 else x",
        T_COMPILED,
        "eager and tuning0",
    ),
    Mutant(
        "channels last: nothing is laid out",
        "diffusion/compiled.py",
        "network.to(memory_format=torch.channels_last)",
        "network.to(memory_format=torch.preserve_format)",
        T_COMPILED,
        "layout_alone",
    ),
    Mutant(
        "watch: nobody looks",
        "training/watch.py",
        'trainer.world_size > 1 and launcher() == "own"',
        'trainer.world_size > 9 and launcher() == "own"',
        T_PROCESSES,
        "lost and reward",
    ),
]
