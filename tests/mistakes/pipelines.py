"""Mistakes in asking pipelines of diffusers, in their encodings, and in what is written for diffusers."""

from tests.mistakes import Mutant

ASKED, ASKING, MIXING = "diffusion/asked.py", "diffusion/asking.py", "diffusion/mixing.py"
PIPELINES, PROMPTS, PLAYBACK = "diffusion/pipelines.py", "diffusion/prompts.py", "diffusion/playback.py"
FILES, DOMAIN = "diffusion/pipeline_files.py", "domains/diffusers.py"
T_PIPELINES, T_DOMAIN, T_RESUME = "diffusion/test_pipelines.py", "domains/test_diffusers.py", "training/test_resume.py"

MUTANTS = [
    Mutant(
        "guidance without its length",
        MIXING,
        "return made * (outs[self.given]",
        "return made + 0 * (outs[self.given]",
        T_PIPELINES,
        "steered and kept",
    ),
    Mutant("sign of the kept direction", MIXING, "for s in (1, -1)", "for s in (1,)", T_PIPELINES, "steered and kept"),
    Mutant("any guidance is linear", MIXING, "if linear.explains(outs, made):", "if True:", T_PIPELINES, "rescaled"),
    Mutant(
        "the first step's guidance at all",
        ASKED,
        "if not asked.mix.explains(*outputs(tape, h, per, asked.extra)):",
        "if False:",
        T_PIPELINES,
        "changes_on_the_way",
    ),
    Mutant(
        "the input of the network is not looked at",
        ASKED,
        "require_state(tape.noisy(call), state * scale, tape.rows, asked.extra)",
        "pass",
        T_PIPELINES,
        "mask",
    ),
    Mutant(
        "Euler's states as they are",
        ASKED,
        'return type(pipe.scheduler).__name__ in ("EulerDiscreteScheduler", ',
        'return type(pipe.scheduler).__name__ in ("EulerScheduler", ',
        T_PIPELINES,
        "steered and Euler",
    ),
    Mutant(
        "solvers of any order", ASKED, "config.solver_order != 1", "config.solver_order > 9", T_PIPELINES, "refused"
    ),
    Mutant(
        "the time of the first step at all", ASKED, "tape.told(h * per)", "tape.told(0)", T_PIPELINES, "steered and SD3"
    ),
    Mutant(
        "the time on the other side",
        PIPELINES,
        "told[after - 1] * (1 - share) + told[after] * share",
        "told[after] * (1 - share) + told[after - 1] * share",
        T_PIPELINES,
        "time_is_told",
    ),
    Mutant(
        "branches in one order for all",
        PIPELINES,
        "self.conditioning.rows(branch + j, cond)",
        "self.conditioning.rows(branch, cond)",
        T_PIPELINES,
        "steered and PixArt",
    ),
    Mutant(
        "the network's second call told as the first",
        PIPELINES,
        "branch += call.blocks",
        "branch += 0",
        T_PIPELINES,
        "steered and Qwen",
    ),
    Mutant(
        "encodings of another prompt",
        PROMPTS,
        "return entries.index_select(0, cond)",
        "return entries.index_select(0, cond.flip(0))",
        T_PIPELINES,
        "steered and SD3",
    ),
    Mutant(
        "no mask is put back",
        PROMPTS,
        "if mask in branch and (ragged",
        "if mask in branch and (False",
        T_PIPELINES,
        "left_out",
    ),
    Mutant("a slice keeps its whole batch", PROMPTS, "like.clone()[None]", "like[None]", T_PIPELINES, "kept_once"),
    Mutant(
        "copies copy the table",
        PROMPTS,
        "        return self\n\n    @property\n    def bytes",
        "        import copy\n\n"
        "        return Prompts(self.size, self.texts, self.metadata, copy.deepcopy(self.branches))\n\n    @property\n    def bytes",
        T_PIPELINES,
        "kept_once",
    ),
    Mutant(
        "images of the first prompt's rows",
        PLAYBACK,
        "given = (state / alpha)",
        "given = (state[:1].expand_as(state) / alpha)",
        T_PIPELINES,
        "steered and FLUX",
    ),
    Mutant(
        "alpha of the adapters forgotten",
        FILES,
        "{layers: weights, metadata: settings}",
        "{layers: weights}",
        T_PIPELINES,
        "steered and SDXL",
    ),
    Mutant(
        "the pipeline is exported as it was",
        FILES,
        "own.load_state_dict(network.state_dict())",
        "pass",
        T_DOMAIN,
        "pixels",
    ),
    Mutant(
        "the pipeline is exported without its adapters",
        FILES,
        "set_peft_model_state_dict(again, get_peft_model_state_dict(network))",
        "pass",
        T_DOMAIN,
        "inside_the_pipeline and stable",
    ),
    Mutant("fused is not asked", PIPELINES, "if self.origin.fused else", "if False else", T_DOMAIN, "inside and DDPM"),
    Mutant(
        "exports for their owner alone",
        "diffusion/files.py",
        "        file.chmod(mode)\n",
        "        pass\n",
        T_DOMAIN,
        "inside and DDPM",
    ),
    Mutant("code in a folder", FILES, "if own or code:", "if own:", T_PIPELINES, "not_executed"),
    Mutant("parts of any library", FILES, "v[0] not in known", "False", T_PIPELINES, "not_executed"),
    Mutant(
        "test prompts are trained on",
        DOMAIN,
        'range(train) if self.split == "train"',
        'range(len(texts)) if self.split == "train"',
        T_DOMAIN,
        "from_command",
    ),
    Mutant(
        "the doctor compares with itself",
        "training/checks_pipeline.py",
        "first, theirs = domain.playback.own_run([0, 1], SEED)",
        "first, _ = domain.playback.own_run([0, 1], SEED)\n    theirs = without_noise(plain, first, "
        "torch.tensor(domain.playback.heard, device=world.device))",
        T_DOMAIN,
        "doctor",
    ),
    Mutant(
        "a checkpoint of a pipeline on any base",
        "diffusion/digest.py",
        "*(underneath(part) if adapted else ())",
        "",
        T_DOMAIN,
        "resumed",
    ),
    Mutant(
        "checkpoints with the base", "diffusion/policy.py", "state.pop(prefix + name, None)", "pass", T_RESUME, "holds"
    ),
    Mutant(
        "an earlier checkpoint of any base",
        "training/checkpoint.py",
        "if not torch.equal(saved[name], frozen[name].cpu()):",
        "if False:",
        T_RESUME,
        "earlier",
    ),
    Mutant(
        "weights in bf16 are trained",
        "training/optimizer.py",
        "and p.itemsize < 4",
        "and p.itemsize < 2",
        T_DOMAIN,
        "bf16",
    ),
    Mutant(
        "blocks are kept all the same",
        "diffusion/policy.py",
        "    network.enable_gradient_checkpointing()\n",
        "",
        "rollout/test_memory.py",
        "computed_again",
    ),
    Mutant(
        "every process of torchrun makes a run",
        "config/runs.py",
        "    if rank():  # the",
        '    if rank() and launcher() == "own":  # the',
        "training/test_processes.py",
        "machines and torchrun",
    ),
    Mutant(
        "torchrun may start more than the runtime has",
        "training/fit.py",
        "and here * nodes != started()",
        "and not here",
        "training/test_runtime.py",
        "does_not_count",
    ),
]
