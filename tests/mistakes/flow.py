"""Mistakes in flows: their schedules, the configs of their schedulers, kernels, and windows of noise."""

from tests.mistakes import Mutant

SCHEDULES, KERNELS, PLAN = "diffusion/schedules.py", "diffusion/kernels.py", "rollout/plan.py"
FLOW_SCHEDULER, PREDICTIONS = "diffusion/flow_scheduler.py", "diffusion/predictions.py"
T_FLOW, T_KERNELS, T_SCHEDULERS, T_WINDOW = (
    "diffusion/test_flow.py", "diffusion/test_kernels_flow.py", "diffusion/test_flow_schedulers.py",
    "trainers/test_noise_window.py",
)  # fmt: skip

MUTANTS = [
    Mutant("flow: the velocity's other sign", PREDICTIONS, "torch.addcmul(x, out, -sigma)", "torch.addcmul(x, out, sigma)",
           T_FLOW, "on_the_line"),
    Mutant("flow: the shift the other way", SCHEDULES, "self.shift * sigma / (1 + (self.shift - 1) * sigma)",
           "sigma / (self.shift + (1 - self.shift) * sigma)", T_FLOW, "shifted"),
    Mutant("flow: times of training are not shifted", SCHEDULES, "return self.shifted(SMALLEST_SIGMA +",
           "return (SMALLEST_SIGMA +", T_FLOW, "times_of_training"),
    Mutant("flow: training at no noise", SCHEDULES, "SMALLEST_SIGMA = 1e-3", "SMALLEST_SIGMA = 0.0", T_FLOW, "times_of_training"),
    Mutant("flow: a grid that rises", SCHEDULES, "if len(grid) < 2 or not falling or", "if len(grid) < 2 or", T_FLOW, "no_grid"),
    Mutant("flow: another number of steps", SCHEDULES, "if steps != len(self.sigmas) - 1:", "if False:", T_FLOW, "handed_over"),
    Mutant("flow: units of noise at full noise", "diffusion/residual.py", "(1 if schedule.straight else schedule.alpha(t))",
           "schedule.alpha(t)", T_FLOW, "noise_unit"),
    Mutant("flow: fields that are not followed", FLOW_SCHEDULER, "if fields[name] != own[name] and", "if False and",
           T_SCHEDULERS, "cannot_be_followed"),
    Mutant("flow: misspelt keys", FLOW_SCHEDULER, 'if not k.startswith("_")', "if False", T_SCHEDULERS, "cannot_be_followed"),
    Mutant("flow: any prediction", FLOW_SCHEDULER, "if predicted not in PREDICTED:", "if False:", T_SCHEDULERS, "solvers_cannot"),
    Mutant("flow: an even grid is not handed over", FLOW_SCHEDULER, "if self.even else {}", "if False else {}",
           T_SCHEDULERS, "shift_of_a_length"),
    Mutant("flow: mu is e^mu", FLOW_SCHEDULER, "return math.exp(mu) if", "return mu if", T_SCHEDULERS, "shift_of_a_length"),
    Mutant("flow: any schedule has the SDE of flows", KERNELS, "if not schedule.straight:", "if False:", T_KERNELS, "elsewhere"),
    Mutant("flow: half the pull", KERNELS, "variance * d / (2 * sigma**2)", "variance * d / (4 * sigma**2)", T_KERNELS, "published"),
    Mutant("flow: the pull to x0 without alpha", KERNELS, "pull * schedule.alpha(t)", "pull", T_KERNELS, "published"),
    Mutant("flow: infinite noise at the start", KERNELS, "(sigma_t - sigma_s) / 100", "0.0", T_KERNELS, "level_as_std"),
    Mutant("flow: CPS with a straight eta", KERNELS, "math.sin(self.eta * math.pi / 2)", "self.eta", T_KERNELS, "published"),
    Mutant("flow: noise near the data", KERNELS, "(QUIET if schedule.straight else 0.0)", "0.0", T_KERNELS, "near_the_data or trap"),
    Mutant("flow: other schedules are quiet too", KERNELS, "(QUIET if schedule.straight else 0.0)", "QUIET",
           T_KERNELS, "keep_all"),
    Mutant("flow: std alone is quiet", KERNELS, "torch.where(where, a, b)", "a if a is not noisy[2] else torch.where(where, a, b)",
           T_KERNELS, "near_the_data"),
    Mutant("flow: a sigma of .1 is quiet", KERNELS, "> quiet - ROUNDING", ">= quiet", T_KERNELS, "a_tenth"),
    Mutant("flow: the reference takes a window's other steps", "trainers/interaction.py", "_replace(tuned_deterministic=True)",
           "_replace(tuned_deterministic=False)", T_WINDOW, "tuned_networks"),
    Mutant("flow: noise outside the window", "trainers/policy_gradient.py",
           "if trained and not steps.noise_elsewhere:", "if False:", T_WINDOW, "tuned_networks"),
    Mutant("flow: a window is scaled", PLAN, "places[int(torch.randint(len(places), (), generator=generator))]\n\n"
           "    def scale(self, stochastic: int, trained: int) -> float:\n        return 1.0",
           "places[int(torch.randint(len(places), (), generator=generator))]", T_WINDOW, "exact"),
    Mutant("flow: the last window is left out", PLAN, "range(len(inside) - self.size + 1)", "range(len(inside) - self.size)",
           T_WINDOW, "anywhere"),
    Mutant("flow: a window that stays", PLAN, "iteration // self.every * self.stride", "0", T_WINDOW, "moves_on"),
    Mutant("flow: estimates hide the tuned steps' cost", "trainers/interaction.py",
           "if extras.estimates and not extras.tuned_deterministic else", "if extras.estimates else", T_WINDOW, "costs"),
    Mutant("flow: windows are found out late", "trainers/policy_gradient.py",
           "else:  # a window", "elif False:  # a window", T_WINDOW, "before_sampling"),
]  # fmt: skip
