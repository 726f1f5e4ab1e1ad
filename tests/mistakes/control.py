"""Mistakes in the closed loop: what leaks, what is not charged, what is not counted."""

from tests.mistakes import Mutant

CREDIT, LOOP, CLOSED, EPISODES = (
    "functional/credit.py",
    "credit/environment.py",
    "trainers/closed_loop.py",
    "control/episodes.py",
)
REGULATOR, LINEAR, INITIAL = "oracle/regulator.py", "control/linear.py", "diffusion/initial.py"
T_CREDIT, T_CLOSED, T_EPISODES = (
    "functional/test_credit.py",
    "trainers/test_closed_loop.py",
    "control/test_episodes.py",
)
T_REGULATOR, T_OBSERVED = "oracle/test_regulator.py", "diffusion/test_observed.py"
LEAK, HAND, SEES = "leaks", "answers_for", "every_chain"

MUTANTS = [
    Mutant(
        "control: the next episode's value leaks over a time limit",
        CREDIT,
        "goes_on = (~(terminated | truncated)).double()",
        "goes_on = (~terminated).double()",
        T_CREDIT,
        "row",
    ),
    Mutant(
        "control: the first observation of the next episode in the place of the last one",
        EPISODES,
        'self.afters.append(after)\n        self.observation = after\n        self.begin(every[flags["terminated"] | '
        'flags["truncated"] | flags["failed"]])',
        'self.observation = after\n        self.begin(every[flags["terminated"] | flags["truncated"] | '
        'flags["failed"]])\n        self.afters.append(self.observation)',
        T_EPISODES,
        LEAK,
    ),
    Mutant(
        "control: truncation is termination",
        LOOP,
        "for x in (episodes.terminated, episodes.truncated)",
        "for x in (episodes.terminated | episodes.truncated, episodes.truncated)",
        T_EPISODES,
        LEAK,
    ),
    Mutant(
        "control: termination is truncation",
        CREDIT,
        "after.detach().double().masked_fill(terminated, 0.0)",
        "after.detach().double()",
        T_CREDIT,
        "row",
    ),
    Mutant(
        "control: later chunks' KL is free",
        LOOP,
        "rewards.values.double().sum(1) - cost.sum(1)",
        "rewards.values.double().sum(1)",
        T_CLOSED,
        HAND,
    ),
    Mutant(
        "control: an action answers for what was charged before it",
        LOOP,
        " + cost.sum(1, keepdim=True) - world",
        " - world",
        T_CLOSED,
        HAND,
    ),
    Mutant(
        "control: gamma_denoise from the wrong end",
        LOOP,
        "torch.arange(len(trained) - 1, -1, -1,",
        "torch.arange(0, len(trained), 1,",
        T_CLOSED,
        HAND,
    ),
    Mutant(
        "control: a failure is a value's error",
        LOOP,
        "paid = paid.where(rewards.measured, now - self.gamma * after)",
        "paid = paid",
        T_EPISODES,
        "teach_nothing",
    ),
    Mutant(
        "control: a failure is not counted",
        EPISODES,
        "measured=~failed.flatten()",
        "measured=torch.ones_like(failed).flatten()",
        T_EPISODES,
        "failure_ends or teach",
    ),
    Mutant(
        "control: what went before a failure sees beyond it",
        EPISODES,
        "truncated[:, :-1] |= failed[:, 1:] & ~terminated[:, :-1]",
        "truncated[:, :-1] |= False",
        T_EPISODES,
        "failure_ends",
    ),
    Mutant(
        "control: an episode goes on after a failure",
        EPISODES,
        'self.begin(every[flags["terminated"] | flags["truncated"] | flags["failed"]])',
        'self.begin(every[flags["terminated"] | flags["truncated"]])',
        T_EPISODES,
        "failure_ends",
    ),
    Mutant(
        "control: NaN is a reward",
        EPISODES,
        "found.failed | ~found.reward.isfinite() |",
        "found.failed |",
        T_EPISODES,
        "failure_ends",
    ),
    Mutant(
        "control: no limit of failures", CLOSED, "if share > max_failed:", "if share > 1:", T_EPISODES, "teach_nothing"
    ),
    Mutant(
        "control: a chunk goes on after the end",
        EPISODES,
        'rows = every[~(flags["terminated"] | flags["truncated"] | flags["failed"])]',
        "rows = every",
        T_EPISODES,
        "chunk",
    ),
    Mutant(
        "control: a chunk is paid its last step",
        EPISODES,
        "reward[good] += found",
        "reward[good] = found",
        T_EPISODES,
        "chunk",
    ),
    Mutant(
        "control: episodes of all processes are alike",
        CLOSED,
        "noise.noise.episode(noise.iteration, first + row, number)",
        "noise.noise.episode(noise.iteration, row, number)",
        T_CLOSED,
        SEES,
    ),
    Mutant("control: rows in the order of steps", CLOSED, ".reshape(loop.chunks, -1).T.flatten()", "", T_CLOSED, SEES),
    Mutant(
        "control: observations one step late",
        CLOSED,
        "domain.conditioning.write(cond[:, t], loop.observation)",
        "domain.conditioning.write(cond[:, min(t + 1, loop.chunks - 1)], loop.observation)",
        T_CLOSED,
        SEES,
    ),
    Mutant(
        "regulator: the action's noise is free",
        REGULATOR,
        "rest = (h * spread).sum() + ",
        "rest = ",
        T_REGULATOR,
        "simulated",
    ),
    Mutant(
        "regulator: the discount is left out",
        REGULATOR,
        "m = self.q + self.gamma * square",
        "m = self.q + square",
        T_REGULATOR,
        "simulated or riccati",
    ),
    Mutant(
        "regulator: the tilt is half as strong",
        REGULATOR,
        "own = torch.linalg.inv(base.precision + 2 * h / lam)",
        "own = torch.linalg.inv(base.precision + h / lam)",
        T_REGULATOR,
        "tilted_policy_is_the_base",
    ),
    Mutant(
        "regulator: the limit's observation without its time",
        LINEAR,
        "self.done[rows, None].double() / self.of.limit",
        "0 * self.done[rows, None].double()",
        T_CLOSED,
        SEES,
    ),
    Mutant(
        "observations: those of the last rollout stay",
        "diffusion/conditioning.py",
        "given = self.table[: self.size].to(self.mean.device)",
        "given = self.table.to(self.mean.device)",
        T_OBSERVED,
        "table",
    ),
    Mutant(
        "observations: a copy has a table of its own",
        "diffusion/conditioning.py",
        "-> Observations:\n        return self",
        "-> Observations:\n        return Observations(self.table.clone())",
        T_OBSERVED,
        "table",
    ),
    Mutant(
        "a floor is under the mean too",
        "diffusion/kernels.py",
        "return from_x, from_x0, std.clamp(min=self.std)",
        "return from_x * (std / std.clamp(min=self.std)), from_x0, std.clamp(min=self.std)",
        T_OBSERVED,
        "floor",
    ),
    Mutant(
        "the first steps are tuned too", "diffusion/tuning.py", "if late.all():", "if True:", T_OBSERVED, "first_steps"
    ),
    Mutant(
        "rho: its scale is never trained",
        INITIAL,
        "out[:, 1] if self.scaled else",
        "out[:, 1] * 0 if self.scaled else",
        T_OBSERVED,
        "rho_begins",
    ),
    Mutant(
        "normalisers of the wrong demonstrations",
        "diffusion/observed.py",
        '"network": self.network, "observations": self.conditioning,',
        '"network": self.network,',
        T_OBSERVED,
        "read_back",
    ),
    Mutant(
        "critic: not fitted where nothing is denoised",
        "trainers/policy_gradient.py",
        "isinstance(at, Pairs) else fit_at_rows(*given, at)",
        "isinstance(at, Pairs) else fit_at_rows(*given, at[:0])",
        T_CLOSED,
        "noise_tuning",
    ),
]
MUTANTS.append(
    Mutant("control: the spread of one process's rows", "trainers/policy_gradient.py", "expand_as(credited.table)", "expand_as(table)",
           T_CLOSED, "all_processes")
)  # fmt: skip
