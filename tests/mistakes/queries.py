"""Mistakes in options of flows, DDRL, and control variates."""

from tests.mistakes import Mutant

RATIO, REGION, PART = "trainers/likelihood_ratio.py", "penalties/trust_region.py", "credit/per_part.py"
DATA, VARIATE, LEARNED = "penalties/data_loss.py", "trainers/control_variate.py", "credit/learned_reward.py"
T_GUARD, T_TRUST, T_PART = "trainers/test_guard.py", "penalties/test_trust_region.py", "credit/test_per_part.py"
T_DATA, T_VARIATE = "penalties/test_data_loss.py", "trainers/test_control_variate.py"

MUTANTS = [
    Mutant("guard: the negative mean stays", RATIO, "guarded(world, pairs, log_ratio + moved, advantage)",
           "guarded(world, pairs, log_ratio, advantage)", T_GUARD, "noise_and_the_step"),
    Mutant("guard: steps of any length weigh alike", RATIO, "advantage / length.to(advantage)", "advantage", T_GUARD, "policy_gradient_times"),
    Mutant("region: the way back is closed", REGION, "| ~onward if self.asymmetric", "if self.asymmetric", T_TRUST, "way_back"),
    Mutant("parts: no floor", "functional/returns.py", "torch.maximum(group_std(spread, measured, groups), torch.as_tensor(smallest).to(spread))",
           "group_std(spread, measured, groups)", T_PART, "plain_sum"),
    Mutant("parts: weights without their floor", PART, "std = torch.maximum(group_std(columns, measured, groups), floors)",
           "std = group_std(columns, measured, groups)", T_PART, "pass_mark"),
    Mutant("data: Z is a sum", DATA, " - math.log(int((known.cond == c).sum()))", "", T_DATA, "tilt_of_the_data or normaliser"),
    Mutant("data: one normaliser for all conditions", DATA, "self.log_mean[c] for c in cond", "self.log_mean[0] for c in cond", T_DATA, "normaliser"),
    Mutant("data: twice the nats", DATA, "/ (2 * policy.std[h].square())", "/ policy.std[h].square()", T_DATA, "in_nats"),
    Mutant("data: the base's samples as they are", DATA, 'if self.data == "reference":\n            with', 'if False:\n            with', T_DATA, "in_nats"),
    Mutant("data: rewards as they are", "trainers/data.py", "penalties.utility(rewards.total.double(), cond)", "rewards.total.double()",
           T_DATA, "clean_samples"),
    Mutant("control variate: f is not subtracted", VARIATE, "returns_table(rewards) - guess[:, None]", "returns_table(rewards)", T_VARIATE, "exact"),
    Mutant("control variate: f's gradient is not carried", VARIATE, "sweep.carry(trajectory, slope,", "sweep.carry(trajectory, 0 * slope,", T_VARIATE, "exact"),
    Mutant("control variate: an f that has heard its own rewards", VARIATE, "        guess = self.learned(world).at(", "        self.learned(world).learn(trajectory.sample, trajectory.cond, rewards.total.double(), world.noise.generator(0, 6))\n"
           "        guess = self.learned(world).at(", T_VARIATE, "own_rewards"),
    Mutant("control variate: the newest rows are forgotten", LEARNED, "+ self.count) % len(self.sample)", ") % len(self.sample)", T_VARIATE, "remembers"),
]  # fmt: skip
