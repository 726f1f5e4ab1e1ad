"""Mistakes in what follows the gradient of a reward."""

from tests.mistakes import Mutant

SWEEP, PATHWISE, SLOPE = "rollout/sweep.py", "trainers/pathwise.py", "trainers/reward_gradient.py"
T_SWEEP, T_PATHWISE, T_SLOPE = (
    "rollout/test_sweep.py",
    "trainers/test_pathwise.py",
    "trainers/test_reward_gradient.py",
)
KEPT = """            if h in trajectory.trained:
                after[part, trajectory.trained.index(h)] = a
"""
CARRIED = """            x = trajectory.states[part, trajectory.stored_at[h]]
            a, networks = self.back(x, h, trajectory.cond[part], a)
"""

MUTANTS = [
    Mutant(
        "a step is paired with the adjoint of the state before it", SWEEP, KEPT + CARRIED, CARRIED + KEPT, T_PATHWISE, "published"
    ),
    Mutant(
        "the full adjoint goes through the reference", SWEEP, "(self.policy if own else self.reference)", "(self.reference)",
        T_SWEEP, "full_adjoint",
    ),
    Mutant(
        "the full adjoint leaves the KL's slope out", SWEEP, "compared = self.cost is not None and own", "compared = False",
        T_PATHWISE, "exact_gradient",
    ),
    Mutant("the KL is a gain of the full adjoint", SWEEP, "carried - self.cost", "carried + self.cost", T_SWEEP, "full_adjoint"),
    Mutant(
        "limits of grey levels end gradients", "functional/clamping.py", "_StraightThrough.apply(x, low, high)",
        "x.clamp(low, high)", T_SLOPE, "limit",
    ),
    Mutant(
        "a gradient that is not finite counts as measured", SLOPE, "score.measured & finite, parts", "score.measured, parts",
        T_PATHWISE, "without_a_finite_gradient",
    ),
    Mutant(
        "rho follows the adjoint of the first trained step", PATHWISE, "0 if world.policy.trains_initial else ", "",
        T_PATHWISE, "trains_the_initial",
    ),
    Mutant(
        "the loss forgets the KL", PATHWISE, "loss = loss + penalties.loss_term", "loss = loss + 0 * penalties.loss_term",
        T_PATHWISE, "kl_that_is_charged",
    ),
]  # fmt: skip
