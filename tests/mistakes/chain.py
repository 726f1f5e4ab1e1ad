"""Mistakes in the chain's mathematics: schedules, clipping, densities, learning rates, weights."""

from tests.mistakes import Mutant

CONFIG, SCHEDULES, KERNELS = "diffusion/scheduler_config.py", "diffusion/schedules.py", "diffusion/kernels.py"
T_SCHEDULERS, T_DIFFUSERS, T_GAUSSIAN = (
    "diffusion/test_schedulers.py",
    "diffusion/test_against_diffusers.py",
    "functional/test_gaussian.py",
)
OPTIMIZER, T_OPTIMIZER = "training/optimizer.py", "training/test_optimizer.py"
POLICY_GRADIENT, T_POLICY_GRADIENT = "trainers/policy_gradient.py", "trainers/test_policy_gradient.py"

MUTANTS = [
    Mutant("chain: nothing is clipped", "diffusion/policy.py", "return x0 if clip is None else", "return x0 if True else",
           T_DIFFUSERS, "guidance_comes_before"),
    Mutant("chain: both branches are clipped", "diffusion/denoisers.py", "return torch.lerp(null, given, self.scale)",
           "return torch.lerp(null.clamp(-0.5, 0.5), given.clamp(-0.5, 0.5), self.scale)", T_DIFFUSERS, "guidance_comes_before"),
    Mutant("chain: guidance without bounds", "diffusion/denoisers.py", "if not abs(scale) <= LARGEST_SCALE:",
           "if False:", "diffusion/test_denoisers.py", "without_bounds"),
    Mutant("chain: any class is DDIM", CONFIG, "if kind not in PREDICTIONS:", "if False:", T_SCHEDULERS, "other_processes"),
    Mutant("chain: fields that are not followed", CONFIG, "if fields[name] != own[name] and", "if False and",
           T_SCHEDULERS, "cannot_be_followed"),
    Mutant("chain: zero SNR with epsilon", CONFIG, 'if fields.get("rescale_betas_zero_snr") and', "if False and",
           T_SCHEDULERS, "cannot_be_followed"),
    Mutant("chain: learned variance", CONFIG, "if variance not in VARIANCES or", "if",
           T_SCHEDULERS, "followed_or_refused and DDPMScheduler"),
    Mutant("chain: misspelt keys", CONFIG, 'if not k.startswith("_")', 'if False', T_SCHEDULERS, "cannot_be_followed"),
    Mutant("chain: a class inherits clipping", SCHEDULES, 'if fields.get("clip_sample") else None',
           'if fields.get("clip_sample", True) else None', T_SCHEDULERS, "inherit"),
    Mutant("chain: time T is looked up", SCHEDULES, "if times[0] >= self.train_times or", "if", T_SCHEDULERS, "outside"),
    Mutant("chain: trained at a time without noise", SCHEDULES, ".long().clamp_max(self.train_times - 1)", ".long()",
           T_SCHEDULERS, "below_the_end"),
    Mutant("chain: fixed_large is dropped", KERNELS, "if schedule.large_variance and self.eta:", "if False:",
           T_SCHEDULERS, "followed_or_refused and DDPMScheduler"),
    Mutant("chain: large noise at time 0", KERNELS, "forward_var.sqrt() * (t > 0)", "forward_var.sqrt()",
           T_SCHEDULERS, "followed_or_refused and DDPMScheduler"),
    Mutant("chain: densities summed in fp32", "diffusion/space.py",
           "squared_difference(x, y).flatten(1).sum(1, dtype=torch.float64)", "squared_difference(x, y).flatten(1).sum(1)",
           T_GAUSSIAN, "large_samples"),
    Mutant("chain: final_lr is not reached", OPTIMIZER, "update / max(1, updates - 1)", "update / updates",
           T_OPTIMIZER, "cosine"),
    Mutant("chain: cosine at half speed", OPTIMIZER, "math.cos(math.pi * done)", "math.cos(math.pi * done / 2)",
           T_OPTIMIZER, "cosine"),
    Mutant("chain: warm-up from 0", OPTIMIZER, "(update + 1) / max(1, self.warmup)", "update / max(1, self.warmup)",
           T_OPTIMIZER, "warming"),
    Mutant("chain: one rate for all", OPTIMIZER, "self.rates.get(name, self.lr)", "self.lr", T_OPTIMIZER, "own_rate"),
    Mutant("chain: rates exchanged", OPTIMIZER, "self.rates.get(name, self.lr)",
           'self.rates.get({"initial": "denoiser", "denoiser": "initial"}.get(name, name), self.lr)', T_OPTIMIZER, "own_rate"),
    Mutant("chain: one softmax for all prompts", "trainers/rwr.py", "measured, samples.cond)", "measured, 0 * samples.cond)",
           "trainers/test_denoising.py", "softmax_of_its_own"),
    Mutant("chain: a prompt's share by what was measured", "functional/returns.py", "softmax(0) * int(rows.sum())",
           "softmax(0) * int((rows & measured).sum())", "functional/test_returns.py", "softmax_weights_by_hand"),
    Mutant("chain: groups of one", POLICY_GRADIENT, "if plan.group == 1 and grouped:", "if False:", T_POLICY_GRADIENT,
           "compared_with_themselves"),
    Mutant("chain: the base's fault is the learning rate's", "trainers/interaction.py",
           "if all(torch.allclose(", "if not all(torch.allclose(", T_POLICY_GRADIENT, "not_the_learning_rates"),
    Mutant("chain: random steps rounded down", "rollout/plan.py", "round(self.fraction * len(stochastic))",
           "int(self.fraction * len(stochastic))", T_POLICY_GRADIENT, "round_to_the_nearest"),
    Mutant("chain: mean for the median bandwidth", "penalties/terminal.py", "torch.pdist(y).median()", "torch.pdist(y).mean()",
           "penalties/test_terminal.py", "median"),
]  # fmt: skip
