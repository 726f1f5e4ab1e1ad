"""Mistakes in what mutated command lines, and old reports run again, have found."""

from tests.mistakes import Mutant

CHECKPOINT, T_RESUME = "training/checkpoint.py", "training/test_resume.py"
TRUST, T_TRUST = "config/trust.py", "config/test_trust.py"
DENOISERS, T_DENOISERS = "diffusion/denoisers.py", "diffusion/test_denoisers.py"

MUTANTS = [
    Mutant(
        "a base under adapters is not known again",
        CHECKPOINT,
        "if not same or state",
        "if state",
        T_RESUME,
        "exchanged and lora",
    ),
    Mutant(
        "a base is compared with itself",
        "evaluation/evaluate.py",
        '    weights_of(world.policy, state["current_model_state"], checkpoint)\n',
        '    load_weights(world.policy, state["current_model_state"], checkpoint)\n',
        T_RESUME,
        "exchanged and lora",
    ),
    Mutant(
        "a network is given states of another precision",
        DENOISERS,
        "self.network(x.to(self.dtype), t",
        "self.network(x, t",
        T_DENOISERS,
        "precise",
    ),
    Mutant(
        "a graph's network is given states of another precision",
        "diffusion/graphs.py",
        "part.to(self.dtype) for",
        "part for",
        "diffusion/test_graphs.py",
        "precise",
    ),
    Mutant(
        "an atoms' network is given states of another precision",
        "diffusion/atoms.py",
        "part.to(self.dtype) for",
        "part for",
        "diffusion/test_atoms.py",
        "precise",
    ),
    Mutant(
        "a decay that rounds to nothing is not said",
        "training/optimizer.py",
        "<= eps / 4",
        "<= eps / 64",
        "training/test_optimizer.py",
        "rounds",
    ),
    Mutant(
        "a decay that works is said to be none",
        "training/optimizer.py",
        "<= eps / 4",
        "<= eps * 4",
        "training/test_optimizer.py",
        "rounds",
    ),
    Mutant(
        "a saved address is contacted",
        "cli.py",
        "    trust.require_addresses(cfg.nodes, folder)\n",
        "",
        T_TRUST,
        "no_address",
    ),
    Mutant(
        "an address in a suite is not looked at",
        TRUST,
        "elif OVERRIDE.match(value) and (stated := _stated(value, key)) is not None:\n            yield from _addresses",
        "elif False:\n            yield from _addresses",
        T_TRUST,
        "no_address and suite",
    ),
    Mutant(
        "an address is trusted by its scheme",
        TRUST,
        "return name if SCHEME in name else",
        "return",
        T_TRUST,
        "user_names_is_taken",
    ),
    Mutant(
        "a folder starts its loggers", TRUST, "    return {}\n", "    return loggers\n", T_TRUST, "starts_no_logger"
    ),
    Mutant(
        "a digit's missing condition has an affine map",
        "training/build.py",
        "    require_rows(policy, domain)\n",
        "",
        "test_errors.py",
        "affine",
    ),
    Mutant(
        "the spread counts what was not measured",
        "trainers/interaction.py",
        'logs["reward_std"] = total[measured].std().item()',
        'logs["reward_std"] = total.std().item()',
        "trainers/test_policy_gradient.py",
        "trains_nothing",
    ),
    Mutant(
        "a trial's words may be given twice",
        "sweep/driver.py",
        "    once(words, slots())\n",
        "",
        "sweep/test_sweep.py",
        "every_trial_would",
    ),
    Mutant(
        "a trial's task may have no use for a word",
        "sweep/driver.py",
        "    require_read(cfg.task, [parse_one(word) for word in words], resumed=False)\n",
        "",
        "sweep/test_sweep.py",
        "every_trial_would",
    ),
    Mutant(
        "memory that has run out is a traceback",
        "cli.py",
        "or not out_of_memory(error)",
        "or True",
        "test_errors.py",
        "no_memory",
    ),
]
