"""One-line mistakes that the tests must notice: `python -m tests.mutants`.

Each is applied to a temporary copy of the package, in a process of its own, and the named tests must fail; on the copy
as it is they must pass. Ends with 1 if a mistake goes unnoticed or its old text is not found exactly once. A word as
argument runs only the mistakes whose description contains it, `--part 3/10` every tenth, starting with the third.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 300  # seconds that one may take
PROCESSES = 2


@dataclass(frozen=True)
class Mutant:
    """A mistake: in pgdlab/<file>, old becomes new; tests/<test>, narrowed by the -k expression, must fail."""

    what: str
    file: str
    old: str
    new: str
    test: str
    only: str = ""


RETURNS, GAUSSIAN, PATH_KL = "functional/returns.py", "functional/gaussian.py", "penalties/path_kl.py"
GRADIENT, ROLLOUT, KERNELS = "trainers/policy_gradient.py", "rollout/sampler.py", "diffusion/kernels.py"
RATIO = "trainers/likelihood_ratio.py"
T_RETURNS, T_GAUSSIAN, T_PATH_KL = (
    "functional/test_returns.py",
    "functional/test_gaussian.py",
    "penalties/test_path_kl.py",
)
T_CREDIT, T_EXACT, T_ROLLOUT = (
    "trainers/test_policy_gradient.py",
    "trainers/test_gradient.py",
    "rollout/test_rollout.py",
)
T_CERTIFICATE, T_PASSES = "certificates/test_certificate.py", "training/test_passes.py"
T_BUDGET, T_SWEEP, T_MEMORY = "training/test_budget.py", "sweep/test_sweep.py", "rollout/test_memory.py"
T_ONE_PASS = "trainers/test_one_pass.py"
T_KERNELS, T_DENOISERS = "diffusion/test_kernels.py", "diffusion/test_denoisers.py"
CREDIT, TABLES, TABULAR = "functional/credit.py", "oracle/tables/mdp.py", "oracle/tables/tabular.py"
T_VALUES, T_TABLES, T_TABULAR = "functional/test_credit.py", "oracle/test_tables.py", "oracle/test_tabular.py"
UNBIASED = "unbiased or harmless or bootstraps or follow"  # of T_TABULAR: by enumeration, a second
GRID, RULES, QUADRATURE, T_GRID = (
    "oracle/grid/optimum.py",
    "oracle/grid/rules.py",
    "oracle/grid/quadrature.py",
    "oracle/test_grid.py",
)

ACTOR, TRUST, DIVERGENCES = "credit/actor_critic.py", "penalties/trust_region.py", "functional/divergences.py"
T_ACTOR, T_TRUST, T_TERMINAL, T_DIVERGENCES = (
    "credit/test_actor_critic.py",
    "penalties/test_trust_region.py",
    "penalties/test_terminal.py",
    "functional/test_divergences.py",
)
GRAPHS, TRANSFORMER, T_GRAPHS = (
    "diffusion/graphs.py",
    "diffusion/networks/graph_transformer.py",
    "diffusion/test_graphs.py",
)
ATOMS, EGNN, GEOMETRY = "diffusion/atoms.py", "diffusion/networks/egnn.py", "molecules/geometry.py"
T_ATOMS, T_EGNN, T_GEOMETRY = "diffusion/test_atoms.py", "diffusion/test_egnn.py", "molecules/test_geometry.py"

MUTANTS = [
    Mutant("sign of the baseline", RETURNS, "returns - baseline(", "returns + baseline(", T_RETURNS),
    Mutant("batch mean for the group's", RETURNS, 'same = groups if kind == "group" else torch.zeros_like(groups)',
           "same = torch.zeros_like(groups)", T_RETURNS),
    Mutant("own sample in leave-one-out", RETURNS, "total = group_sum(masked, same) - masked",
           "total = group_sum(masked, same)", T_RETURNS),
    Mutant("dead groups kept", RETURNS, "advantage.masked_fill(dead, 0.0) /",
           "advantage /", T_RETURNS),
    Mutant("one ulp of fp32 is a difference", RETURNS, "ROUNDED = 1e-6", "ROUNDED = 1e-9", T_RETURNS),
    Mutant("KL's spread for the reward's", RETURNS, "group_std(spread, measured, groups)",
           "group_std(returns, measured, groups)", T_RETURNS),
    Mutant("own reward left out of the return", RETURNS, "reward_to_go(costs) - costs.double()", "reward_to_go(costs)",
           T_RETURNS),
    Mutant("KL without its 1/2", GAUSSIAN, "return 0.5 * mahalanobis(mean_p, mean_q, std, space, cond)",
           "return mahalanobis(mean_p, mean_q, std, space, cond)", T_GAUSSIAN),
    Mutant("std not squared", GAUSSIAN, "/ std.reshape(-1).square()", "/ std.reshape(-1)", T_GAUSSIAN),
    Mutant("density without its constant", GAUSSIAN, " + 0.5 * math.log(2 * math.pi)", "", T_GAUSSIAN),
    Mutant("mean over dimensions", "diffusion/space.py", "squared_difference(x, y).flatten(1).sum(1)",
           "squared_difference(x, y).flatten(1).mean(1)", T_GAUSSIAN),
    Mutant("variance for std", "diffusion/policy.py", "from_x0, x0), std)", "from_x0, x0), std**2)",
           T_ROLLOUT),
    Mutant("kernel's exponent", KERNELS, "(alpha_t / alpha_s) ** 2 * sigma_s**2", "(alpha_t / alpha_s) * sigma_s**2",
           T_KERNELS),
    Mutant("kernel's std upside down", KERNELS, "(sigma_s / sigma_t)", "(sigma_t / sigma_s)", T_KERNELS),
    Mutant("eta ignored", KERNELS, "std = self.eta * (", "std = (", T_KERNELS),
    Mutant("max for min in the clip", "functional/surrogates.py", "torch.where(advantage < 0", "torch.where(advantage > 0",
           "functional/test_surrogates.py"),
    Mutant("clip the wrong way round", "trainers/ppo.py", "return -self.clip, self.clip", "return self.clip, -self.clip",
           "trainers/test_ppo.py"),
    Mutant("own step's KL in form A's return", PATH_KL, "strictly_later(own) if", "reward_to_go(own) if", T_PATH_KL),
    Mutant("form B counted twice", PATH_KL, 'return self.coefficient * (self.form == "A") * kl',
           "return self.coefficient * kl", T_EXACT, "both_forms and 1.0"),
    Mutant("KL missing from the return", PATH_KL, "return torch.cat([cost.sum(1, keepdim=True), later], 1)",
           "return torch.cat([cost.sum(1, keepdim=True), 0 * later], 1)", T_EXACT, "both_forms and 1.0"),
    Mutant("penalties: the last one alone trusts", "penalties/base.py", "inside = inside & p.trusted(kl)",
           "inside = p.trusted(kl)", T_TRUST, "add_up"),
    Mutant("penalties: not in the returns", "penalties/base.py",
           "sum((p.return_cost(trajectory) for p in self.each()), super().return_cost(trajectory))",
           "super().return_cost(trajectory)", T_EXACT, "both_forms and 1.0"),
    Mutant("KL without gradient", RATIO, "kl = kl_same_std(g.mean, mean",
           "kl = kl_same_std(g.mean.detach(), mean", T_EXACT, "both_forms and 1.0"),
    Mutant("rho's KL dropped", RATIO, "(cost - self.surrogate(log_ratio, advantage))",
           "(-self.surrogate(log_ratio, advantage))", T_EXACT, "initial and False-0.0-A"),
    Mutant("old log-prob follows the policy", RATIO, "score - sampled.detach()",
           "score - score.detach()", "trainers/test_ppo.py"),
    Mutant("step scale dropped", GRADIENT, "steps * (scale * experience.step_scale)", "steps * scale", T_CREDIT, "subset"),
    Mutant("objective's scale dropped", GRADIENT, "experience.objective_scale / piece.count, piece",
           "1 / piece.count, piece", T_EXACT, "batch_std"),
    Mutant("divided by a local count", GRADIENT, "experience.objective_scale / piece.count, piece",
           "experience.objective_scale / len(piece.pairs.index), piece", T_CREDIT, "passes or processes"),
    Mutant("unmeasured rows trained", GRADIENT, "chosen[experience.measured.numpy()[chosen]]", "chosen", T_CREDIT,
           "measured"),
    Mutant("action credited with the step before", GRADIENT, "[h + 1 for h in trained]", "[h for h in trained]", T_CREDIT,
           "hand"),
    Mutant("another group's condition", "trainers/interaction.py", "[:groups]].repeat_interleave(plan.group)",
           "[:groups]].repeat(plan.group)", T_CREDIT, "condition"),
    Mutant("reference passes that no penalty needs", GRADIENT,
           "compared = world.penalties.needs_reference() and", "compared =", T_PASSES, "coefficient"),
    Mutant("reference passes of a frozen denoiser", GRADIENT,
           "compared = world.penalties.needs_reference() and policy.trains_denoiser",
           "compared = world.penalties.needs_reference()", T_PASSES, "initial"),
    Mutant("the reference asked twice", ROLLOUT, "pre = policy.step(x, base, at)",
           "pre = self.reference(x, at, cond)", T_PASSES, "constraint"),
    Mutant("passes of any size", GRADIENT, "world.capacity.pass_size)\n", "10**9)\n", T_PASSES, "eager"),
    Mutant("stored state off by one", "rollout/trajectory.py", "row * m + stored[h + 1]]", "row * m + stored[h]]", T_ROLLOUT),
    Mutant("a pair of another row", "rollout/trajectory.py", "row * m + stored[h], row", "row * b + stored[h], row", T_ROLLOUT),
    Mutant("logs are read in every pass", "training/module.py", "append((total.detach(), count))",
           "append((torch.tensor(float(total)), count))", T_PASSES, "waits and path"),
    Mutant("the average is left on the CPU", "training/callbacks.py", "self._device = trainer.strategy.root_device", "pass",
           "training/test_module.py", "where_the_weights"),
    Mutant("the average starts at the weights before", "training/callbacks.py", "if self._latest_update_step else 1.0",
           "if self._latest_update_step else 1 - self.decay", "training/test_module.py", "by_hand"),
    Mutant("one pass: off-policy too", GRADIENT, "alone = self.updates_per_iteration(world.plan) == 1 and not",
           "alone = not", T_ONE_PASS,
           "not_the_same"),
    Mutant("one pass: more than fits", GRADIENT, "0 < pairs <= world.capacity.pass_size", "0 < pairs", T_ONE_PASS,
           "not_the_same"),
    Mutant("one pass: without its reference", RATIO, "score - sampled.detach()", "score - sampled", T_ONE_PASS, "replay"),
    Mutant("one pass: counted as a replay", GRADIENT, "0 if pairs is None or experience.trajectory.has_graph else",
           "0 if pairs is None else", T_ONE_PASS, "counted"),
    Mutant("one pass: batches joined without a graph", ROLLOUT, "with torch.set_grad_enabled(extras.graph):",
           "with torch.no_grad():", T_ONE_PASS, "batches"),
    Mutant("one pass: actions are differentiated", ROLLOUT, "        action = g.sample(self",
           "        with torch.set_grad_enabled(graph): action = g.sample(self", T_ONE_PASS, "constants"),
    Mutant("one pass: half a graph after memory ran out", ROLLOUT, "earlier.drop_graph()", "pass", T_ONE_PASS, "half"),
    Mutant("one pass: tried again in every iteration", GRADIENT, "if graph and not collected.trajectory.has_graph:", "if False:",
           T_ONE_PASS, "ends_the_graph"),
    Mutant("weights counted as activations", "rollout/memory.py", "if where not in weights", "if True", T_MEMORY, "profiler"),
    Mutant("room for a pass of all", "rollout/memory.py", "room * len(x) //", "room //", T_MEMORY, "open"),
    Mutant("counted twice after memory ran out", "training/module.py", "for name, entry in before[0].items()}, before[1]",
           "for name, entry in self.sums.items()}, self.rows", T_MEMORY, "smaller"),
    Mutant("rows left out after memory ran out", ROLLOUT, "batch = batch if extras.graph else smaller",
           "batch, done = smaller, done + 1", T_MEMORY, "smaller"),
    Mutant("scored before it is rounded", ROLLOUT, "g.sample(self.drawn()).to(x.dtype)", "g.sample(self.drawn())", T_ROLLOUT),
    Mutant("reference takes the stochastic steps", ROLLOUT, "own = stochastic or self.extras.tuned_deterministic",
           "own = self.extras.tuned_deterministic", T_ROLLOUT),
    Mutant("tuned network takes the last step", ROLLOUT, "own = stochastic or self.extras.tuned_deterministic", "own = True",
           T_ROLLOUT),
    Mutant("estimates by the policy itself", ROLLOUT, "base = self.reference.estimate(", "base = self.policy.estimate(",
           T_ROLLOUT),
    Mutant("noise without the iteration", "rollout/noise.py", "[0, 0, i, iteration]", "[0, 0, i, 0]", "rollout/test_noise.py"),
    Mutant("noise by the row of the batch", "rollout/noise.py", "for i in index]", "for i in range(len(index))]",
           "rollout/test_noise.py"),
    Mutant("adapters left on", "diffusion/tuning.py", "self.switch(False)", "self.switch(True)",
           "diffusion/test_adapters.py"),
    Mutant("sign of the guidance", "diffusion/denoisers.py", "torch.lerp(null, given, self.scale)",
           "torch.lerp(null, given, -self.scale)", T_DENOISERS),
    Mutant("reference is the policy itself", "diffusion/denoisers.py", "copy.deepcopy(self).eval()", "self.eval()",
           T_DENOISERS),
    Mutant("sign of v", "diffusion/denoisers.py", "torch.addcmul(alpha * x, out, -sigma)", "torch.addcmul(alpha * x, out, sigma)",
           "diffusion/test_against_diffusers.py", "ddpm and v_prediction"),
    Mutant("unweighted regression", "trainers/denoising.py", "(weight * each).sum()", "each.sum()",
           "trainers/test_denoising.py", "hand"),
    Mutant("grid: KL doubled in the search", RULES, "max(self.weight, TIE) / std**2", "2 * max(self.weight, TIE) / std**2",
           T_GRID, "recursion"),
    Mutant("grid: a step's KL without its 1/2", RULES, "/ (2 * self.std**2)", "/ self.std**2", T_GRID, "recursion"),
    Mutant("grid: ceiling for attainable", GRID, "rule: Rule = Attainable(problem.lam) if",
           "rule: Rule = Ceiling(problem.lam) if", T_GRID, "recursion"),
    Mutant("grid: variance for std", QUADRATURE, "width = std / float(spacing)", "width = std**2 / float(spacing)", T_GRID,
           "recursion"),
    Mutant("grid: rho's KL free", GRID, "objective=value - lam0 * start.kl", "objective=value", T_GRID, "recursion"),
    Mutant("grid: the path's KL in E[reward]", GRID, "reward=value + weight * kl", "reward=value", T_GRID, "recursion"),
    Mutant("grid: running rewards lost", "oracle/grid/induction.py", "parts = [self.running[h]] if h in self.running else []",
           "parts = []", T_GRID, "recursion"),
    Mutant("grid: a local maximum for the global", "oracle/grid/maximum.py", "value > best)[:, None]", "value < best)[:, None]",
           "oracle/test_spline.py", "best_mean"),
    Mutant("grid: jumps where the nodes see them", QUADRATURE, "if not bad.any():", "if True:", "oracle/test_spline.py", "jump"),
    Mutant("grid: jumps averaged before the exponential", RULES, "tilted_mean(values, self.weight, self.weight)",
           "values.mean(1)", T_GRID, "weighted_samples or two_optima"),
    Mutant("grid: std in Tweedie's formula", RULES, "y + table.std**2 / self.weight", "y + table.std / self.weight", T_GRID,
           "tilted_mean"),
    Mutant("grid: a fixed reach for the ceiling", RULES, "return REACH + 1.2 * pull", "return REACH", T_GRID, "many_stds"),
    Mutant("tilt: sign of the determinant", "oracle/tilted.py", "- torch.linalg.slogdet(b)[1] / 2",
           "+ torch.linalg.slogdet(b)[1] / 2", "oracle/test_tilted.py"),
    Mutant("tilt: weights stay", "oracle/tilted.py", "density = GaussianMixture(logits.softmax(0),",
           "density = GaussianMixture(base.weights,", "oracle/test_tilted.py"),
    Mutant("NaN rewards kept", "rewards/guard.py", "measured = paid.measured & finite", "measured = paid.measured",
           "rewards/test_guard.py"),
    Mutant("discount off by one", CREDIT, "values[:, h].double() + gamma * later",
           "gamma * (values[:, h].double() + later)", T_VALUES),
    Mutant("first step discounted", CREDIT, "torch.arange(steps, dtype", "torch.arange(1, steps + 1, dtype", T_VALUES),
    Mutant("GAE bootstraps past termination", CREDIT, "torch.where(ended, 0.0, v[:, -1])", "v[:, -1]", T_VALUES),
    Mutant("no bootstrap at truncation", CREDIT, "torch.where(ended, 0.0, v[:, -1])", "0.0 * v[:, -1]", T_TABULAR,
           UNBIASED),
    Mutant("lambda forgotten", CREDIT, "terminated), gamma * lam)", "terminated), gamma)", T_VALUES),
    Mutant("V of the next state subtracted", CREDIT, "1) - v[:, :-1]", "1) - v[:, 1:]", T_VALUES),
    Mutant("sign of V in the TD error", CREDIT, "1) - v[:, :-1]", "1) + v[:, :-1]", T_TABULAR, UNBIASED),
    Mutant("target follows the critic", CREDIT, "values[:, :-1].detach().double()", "values[:, :-1].double()", T_VALUES),
    Mutant("sign of rbar", CREDIT, "return r - torch.as_tensor(average", "return r + torch.as_tensor(average", T_VALUES),
    Mutant("rbar runs away", CREDIT, "return old + step_size", "return old - step_size", T_VALUES),
    Mutant("min for max in backward induction", TABLES, "values.insert(0, q.max(1).values)",
           "values.insert(0, q.min(1).values)", T_TABLES),
    Mutant("policy one step late", TABLES, "by_step(policy, horizon).flip(0)", "by_step(policy, horizon)", T_TABLES),
    Mutant("soft value in nats", TABLES, "weight * tilted.logsumexp(1)", "tilted.logsumexp(1)", T_TABLES, "soft"),
    Mutant("KL of tables the wrong way round", TABLES, "torch.xlogy(policy, policy) - torch.xlogy(policy, reference)",
           "torch.xlogy(reference, reference) - torch.xlogy(reference, policy)", T_TABLES, "soft or kl"),
    Mutant("value iteration stops early", TABLES, "2 * gamma * change <= tolerance * (1 - gamma)",
           "change <= tolerance", T_TABLES, "stops"),
    Mutant("gain in the transformed MDP's units", TABLES, "- values) / (1 - stay)", "- values)", T_TABLES, "average"),
    Mutant("periodic MDP left as it is", TABLES, "(1 - stay) * mdp.look_ahead(values) + stay * values[:, None]",
           "(1 - stay) * mdp.look_ahead(values) + stay * values.mean()", T_TABLES, "average"),
    Mutant("trap not seen", TABLES, "trap if trap.any() else closed & ~first", "closed & ~first", T_TABLES, "multichain"),
    Mutant("tables go downhill", TABULAR, "loss = -gain.sum()", "loss = gain.sum()", T_TABULAR, UNBIASED),
    Mutant("KL missing from the tables' return", TABULAR, "batch.rewards - problem.weight * kl", "batch.rewards",
           T_TABULAR, UNBIASED),
    Mutant("KL's own gradient missing", TABULAR, "loss + problem.weight * (kl *", "loss + 0 * (kl *", T_TABULAR, UNBIASED),
    Mutant("gamma^h dropped", TABULAR,
           "return advantage\n        return advantage * discount_factors(problem.horizon, problem.gamma)",
           "return advantage\n        return advantage", T_TABULAR, UNBIASED),
    Mutant("baseline over all runs", TABULAR, "measured, batch.run, self.baseline",
           "measured, torch.zeros_like(batch.run), self.baseline", T_TABULAR, UNBIASED),
    Mutant("critic takes the sum of its visits", TABULAR, "total / count.clamp(min=1) - flat", "total - flat", T_TABULAR,
           "critic"),
    Mutant("V(s_0) as rho's baseline", ACTOR, "rho = scaled[:, 0] + self.advantage_lambda * advantage[:, 0]",
           "rho = self.advantage_lambda * advantage[:, 0]", T_ACTOR, "exact_one"),
    Mutant("V without the penalty", ACTOR, "earned = between((rewards.values.double() - cost[:, 1:]) * factors",
           "earned = between(rewards.values.double() * factors", T_ACTOR, "exact_one"),
    Mutant("V of the next state for this one's", ACTOR, "states = torch.cat([scaled, torch.zeros_like(first)[:, None]], 1)",
           "states = torch.cat([torch.zeros_like(first)[:, None], scaled], 1)", T_ACTOR, "exact_one or definition"),
    Mutant("discount without gamma^h", ACTOR, "weight = factors[trained] if self.weighted_states else",
           "weight = factors[trained] if not self.weighted_states else", T_ACTOR, "gamma"),
    Mutant("discounted reward, undiscounted KL", RATIO, "cost * experience.cost_weight[pairs.index % len(trajectory.trained)]",
           "cost", T_ACTOR, "gamma"),
    Mutant("sign of the critic's target", "credit/critic.py", "- pick(targets, pairs.index)",
           "+ pick(targets, pairs.index)", T_ACTOR, "target_leads"),
    Mutant("target and advantage lambda exchanged", ACTOR, "gae(steps, states, 1.0, self.advantage_lambda, True)",
           "gae(steps, states, 1.0, self.target_lambda, True)", T_ACTOR, "definition"),
    Mutant("the critic decides the clip", "training/module.py", "clip_grad_norm_(part, self.optimization.clip_norm",
           "clip_grad_norm_([p for x in self.parts.values() for p in x], self.optimization.clip_norm", T_ACTOR, "clipped"),
    Mutant("price of a step left out of V", "oracle/linear_gaussian.py", "value = Quadratic(value.p + price.p, value.q + price.q",
           "value = Quadratic(value.p, value.q", T_ACTOR, "simulation"),
    Mutant("mask inverted", RATIO, "gain.masked_fill(~inside, 0.0)", "gain.masked_fill(inside, 0.0)", T_TRUST, "outside"),
    Mutant("trust region around the reference", RATIO, "old, _ = replay(world.old,", "old, _ = replay(world.reference,",
           T_TRUST, "outside"),
    Mutant("the old policy stays where the run began", "trainers/interaction.py", "world.old.follow(world.policy)", "pass",
           T_TRUST, "old_policy"),
    Mutant("the old policy is the policy", "diffusion/policy.py",
           "for x in (*self.parameters(), *self.buffers()) if not x.requires_grad}",
           "for x in (*self.parameters(), *self.buffers())}", T_TRUST, "old_policy"),
    Mutant("the gradient of the last pass", "training/module.py", "self.manual_backward(self.pass_loss(piece))",
           "optimizer.zero_grad(), self.manual_backward(self.pass_loss(piece))", "training/test_module.py", "many_passes"),
    Mutant("a reward's batch is one too large", "rewards/base.py", "starts = range(0, len(cond), self.batch)",
           "starts = range(0, len(cond), self.batch + 1)", "rewards/test_guard.py", "batches"),
    Mutant("blocks of noise run over", "rollout/noise.py", "count = min(most, steps - start)", "count = most",
           "rollout/test_noise.py", "however_many"),
    Mutant("dual descent", "penalties/constraint.py", "self.rate * (kl / self.limit - 1)",
           "self.rate * (1 - kl / self.limit)", T_TRUST, "hand"),
    Mutant("sign of the witness", DIVERGENCES, "others(xx) / (n - 2) - xy.mean(1)", "xy.mean(1) - others(xx) / (n - 2)",
           T_DIVERGENCES),
    Mutant("witness as a fixed reward", DIVERGENCES, "u = 2 * (others", "u = (others", T_DIVERGENCES, "gradient"),
    Mutant("own sample in the others' witness", DIVERGENCES, "others(xx) / (n - 2)", "others(xx) / (n - 1)", T_DIVERGENCES,
           "gradient"),
    Mutant("own kernel in the estimate", DIVERGENCES, "return gram.sum(1) - gram.diagonal()", "return gram.sum(1)",
           T_DIVERGENCES),
    Mutant("another condition's reference", "penalties/terminal.py", "reference[conditions == c]", "reference", T_TERMINAL,
           "conditions"),
    Mutant("terminal cost for the unmeasured", GRADIENT, "costs.masked_fill(~measured, 0.0)[:, None]",
           "costs[:, None]", T_TERMINAL, "failed"),
    # what a short run that is held against the exact optimum notices by itself
    Mutant("certified: baseline added", RETURNS, "advantage = returns - baseline(", "advantage = returns + baseline(",
           T_CERTIFICATE, "optimum and linear and not reused"),
    Mutant("certified: KL of later steps not in the return", PATH_KL, "later = strictly_later(own) if",
           "later = 0 * strictly_later(own) if", T_CERTIFICATE, "gradient and quadratic-A"),
    Mutant("certified: KL not differentiated", PATH_KL, "return self.coefficient * (", "return 0 * (", T_CERTIFICATE,
           "optimum and quadratic and not ppo"),
    Mutant("certified: maximum in the clip", "functional/surrogates.py", "above, below).exp()", "below, above).exp()",
           T_CERTIFICATE, "linear-reused"),
    Mutant("certified: KL of the prior to rho", "rollout/trajectory.py", "kl(policy.initial(cond), reference.initial(cond),",
           "kl(reference.initial(cond), policy.initial(cond),", T_CERTIFICATE, "optimum and rho"),
    Mutant("certified: advantage of the last step", GRADIENT, "[h + 1 for h in trained]", "[len(trained) for h in trained]",
           T_CERTIFICATE, "optimum and quadratic and not ppo"),
    # molecules in space
    Mutant("in space: 3 n degrees of freedom", ATOMS, " * (n - 1) / n", "", T_ATOMS, "divergences"),
    Mutant("in space: the centre of the padding too", ATOMS, "place.sum(1, keepdim=True) / expand(cond, place)",
           "place.mean(1, keepdim=True)", T_ATOMS, "white"),
    Mutant("in space: a scale for each coordinate", ATOMS, "place.mean((1, 2), keepdim=True).expand_as(place)", "place",
           T_ATOMS, "initial"),
    Mutant("in space: a centre of mass that is free", ATOMS, "self.types + 3 * (cond - 1)",
           "self.types + 3 * cond", T_ATOMS, "probabilities"),
    Mutant("graphs: every pair counted twice", GRAPHS, "cond * (cond - 1) // 2 * self.bonds", "cond * (cond - 1) * self.bonds",
           T_GRAPHS, "densities"),
    Mutant("in space: the sign of v", ATOMS, "alpha * x - sigma * v", "alpha * x + sigma * v", T_ATOMS, "gives_v"),
    Mutant("in space: where the molecule is", EGNN, "line = x[i] - x[j]", "line = x[i]", T_EGNN, "where"),
    Mutant("in space: pulls are not bounded", EGNN, "(distance[:, None] + 1)", "distance[:, None]", T_EGNN, "equations"),
    Mutant("in space: hydrogens are added", GEOMETRY, "SetNoImplicit(True)", "SetNoImplicit(False)", T_GEOMETRY, "trivalent"),
    Mutant("in space: radicals pass", GEOMETRY, 'return Molecule(built, "valence", None, built)', "pass", T_GEOMETRY,
           "trivalent"),
    Mutant("in space: angles are not looked at", GEOMETRY, "pair & (bonds == 2)", "pair & (bonds == 1)", T_GEOMETRY, "angles"),
    # graphs, and what is trained on them
    Mutant("graphs: every pair counts twice", GRAPHS, "last = torch.triu_indices(self.atoms, self.atoms, 1)[1]",
           "last = torch.triu_indices(self.atoms, self.atoms, 1)[0]", T_GRAPHS, "densities"),
    Mutant("graphs: noise on the padding", GRAPHS, "return noise * self.mask(cond, noise)", "return noise", T_GRAPHS, "white"),
    Mutant("graphs: the posterior at another noise", GRAPHS, "self.schedule.sigma(t).square(), x)", "self.schedule.sigma(t), x)",
           T_GRAPHS, "posterior"),
    Mutant("graphs: no prior", GRAPHS, "return nodes + self.shares.log(), pairs", "return nodes, pairs", T_GRAPHS, "posterior"),
    Mutant("graphs: padding in the loss", GRAPHS, "(chosen * mask[..., :1])", "chosen", T_GRAPHS, "cross_entropy"),
    Mutant("graphs: atoms attend to the padding", TRANSFORMER, "scores.masked_fill(~real[:, None, None], -1e4)", "scores",
           T_GRAPHS, "not_read"),
    Mutant("graphs: triangles through the padding", TRANSFORMER, "self.sides(seen) * pairing.within(real)", "self.sides(seen)",
           T_GRAPHS, "not_read"),
    Mutant("graphs: one triangle product", TRANSFORMER, "product + product.mT", "product", T_GRAPHS, "moves_with"),
    Mutant("graphs: orbits of pairs and nodes are mixed", GRAPHS, "self.types + torch.arange(self.bonds)",
           "torch.arange(self.bonds)", T_GRAPHS, "share"),
    Mutant("regression on noise outside the space", "trainers/denoising.py", "noise = world.policy.space.project(noise, given)",
           "pass", T_GRAPHS, "regression"),
    Mutant("eager: bad samples become likelier", "trainers/eager.py", "(advantage * off)", "(-advantage * off)",
           "trainers/test_eager.py", "hand"),
    Mutant("eager: the next state for the sample", "trainers/eager.py", "trajectory.sample[pairs.row]",
           "pick(trajectory.states, pairs.action)", "trainers/test_eager.py", "hand"),
    # figures of molecules
    Mutant("molecules: novel per distinct for vun", "molecules/metrics.py", 'out = {"vun": novel / total}',
           'out = {"vun": novel / max(1, len(distinct))}', "molecules/test_metrics.py", "by_hand"),
    Mutant("molecules: the smallest piece", "molecules/metrics.py", "piece = max(", "piece = min(",
           "molecules/test_metrics.py", "by_hand"),
    Mutant("molecules: pairs with itself", "molecules/fingerprints.py", "pairs = len(smiles) * (len(smiles) - 1)",
           "pairs = len(smiles) ** 2", "molecules/test_metrics.py", "pair_by_pair"),
    Mutant("molecules: the surest bond goes", "molecules/projection.py", "score[..., 1:] - score[..., :-1]",
           "score[..., :-1] - score[..., 1:]", "molecules/test_projection.py", "least_certain"),
    Mutant("molecules: both ends count once", "molecules/projection.py", " / ends.clamp_min(1)", "",
           "molecules/test_projection.py", "relieves_both"),
    Mutant("molecules: FCD without the covariances", "molecules/fcd.py", "- 2 * cross)", ")", "molecules/test_fcd.py", "axes"),
    Mutant("molecules: one margin for all bonds", "molecules/stability.py", "MARGIN = (10, 5, 3)", "MARGIN = (10, 10, 10)",
           "molecules/test_stability.py", "cutoff"),
    Mutant("molecules: stable where bonds are missing", "molecules/stability.py", "orders.sum(-1) == allowed",
           "orders.sum(-1) <= allowed", "molecules/test_stability.py", "trivalent"),
    Mutant("molecules: coordinates are made anew", "molecules/tables.py", "if molecule.geometry is not None:", "if False:",
           "molecules/test_tables.py", "kept"),
    Mutant("compare: the worst of n", "guidance/best_of_n.py", "new.value > best.value", "new.value < best.value",
           "guidance/test_best_of_n.py", "kept"),
    Mutant("compare: the same candidate again", "guidance/best_of_n.py", "noise=noise.of(k, range(count))",
           "noise=noise.of(0, range(count))",
           "guidance/test_best_of_n.py", "kept or maximum"),
    Mutant("compare: samples beside the budget", "guidance/best_of_n.py", "range(max(samples, slots), 0, -slots)",
           "range(max(samples, slots), slots - 1, -slots)", "guidance/test_best_of_n.py", "budget"),
    Mutant("compare: what failed may be kept", "guidance/best_of_n.py", "masked_fill(~found.rewards.measured, -math.inf)",
           "masked_fill(~found.rewards.measured, math.inf)", "guidance/test_best_of_n.py", "measured"),
    Mutant("compare: log n for the bound", "guidance/best_of_n.py", "(math.log(n) - (n - 1) / n)", "math.log(n)",
           "guidance/test_best_of_n.py", "bound"),
    Mutant("compare: a third cut at each end", "comparison/statistics.py", "flat.shape[-1] // 4", "flat.shape[-1] // 3",
           "comparison/test_statistics.py", "rliable"),
    Mutant("compare: ties lost", "comparison/statistics.py", "0.5 * (difference == 0)", "0.0 * (difference == 0)",
           "comparison/test_statistics.py", "improvement"),
    Mutant("compare: seeds drawn over all domains", "comparison/statistics.py",
           "return generator.integers(0, shape[0], (resamples, *shape))",
           "return np.repeat(generator.integers(0, shape[0], (resamples, shape[0], 1)), shape[1], 2)",
           "comparison/test_statistics.py", "interval_is_that_of_rliable"),
    Mutant("compare: a one-sided p-value", "comparison/statistics.py", "np.abs(signs @ differences)", "signs @ differences",
           "comparison/test_statistics.py", "by_hand"),
    Mutant("compare: Holm may fall", "comparison/statistics.py", "max(floor, min(1.0,", "max(0.0, min(1.0,",
           "comparison/test_statistics.py", "holm"),
    Mutant("compare: seeds for one comparison", "comparison/statistics.py", "math.log2(2 * comparisons / ALPHA)",
           "math.log2(2 / ALPHA)", "comparison/test_statistics.py", "allow"),
    Mutant("compare: any number of seeds", "comparison/comparison.py", "self.seeds >= stats.FEWEST and self.adjusted",
           "self.seeds >= 2 and self.p * 0 + self.adjusted * 0", "comparison/test_comparison.py", "below_six"),
    Mutant("compare: not corrected", "comparison/comparison.py", "self.adjusted <= stats.ALPHA", "self.p <= stats.ALPHA",
           "comparison/test_comparison.py", "more_methods"),
    Mutant("compare: budgets mixed", "comparison/methods.py", 'return keys | {"queries": budget(run)}', "return keys",
           "comparison/test_comparison.py", "never_mixed"),
    Mutant("compare: the KL is free", "comparison/scale.py", "gained - self.weight * kl", "gained",
           "comparison/test_comparison.py", "on_points"),
    Mutant("compare: hacking turned round", "comparison/columns.py", "1 - gains[0] / gains[1]", "1 - gains[1] / gains[0]",
           "comparison/test_comparison.py", "hacking"),
    Mutant("config: an old key stays", "config/renamed.py", "put(new, keys.get(key, key), item)", "put(new, key, item)",
           "config/test_old_runs.py", "every_node"),
    Mutant("config: an old path stays", "config/renamed.py", "MODULES.get(module, module)", "module",
           "config/test_old_runs.py", "every_node"),
    Mutant("config: one option of many", "config/groups.py", "{','.join(names)}", "{names[0]}", "config/test_compose.py", "many"),
    Mutant("config: a mapping is replaced", "config/schema.py", "return {**default, **{k: under(", "return {**{k: under(",
           "config/test_compose.py", "mapping_states"),
    Mutant("config: a trainer of best-of-n", "config/compose.py", "if f\"{name}.\".startswith(f\"{key}.\") or",
           "if False and", "guidance/test_best_of_n.py", "refused"),
    Mutant("budget: a query too few", "training/budget.py", "-(-self.queries // plan.samples)", "(self.queries // plan.samples)",
           T_BUDGET, "lower"),
    Mutant("budget: one iteration too many", "training/budget.py", "used >= limit", "used > limit", T_BUDGET, "reached"),
    Mutant("sweep: a cap that does not bind", "sweep/file.py", "islice(every, self.cap)", "islice(every, None)",
           T_SWEEP, "wandb_makes"),
    Mutant("sweep: the words are lost", "sweep/file.py", "return [*self.words, *(", "return [*(", T_SWEEP, "wandb_makes"),
    Mutant("sweep: values unchecked", "sweep/driver.py", "for some in sweep.probes():", "for some in sweep.probes()[:1]:",
           T_SWEEP, "mistake_in_one"),
    Mutant("sweep: a warm end forgotten", "sweep/trial.py", "if self.code is None:\n                self",
           "if True:\n                self", T_SWEEP, "every_row"),
    Mutant("sweep: rows left out", "sweep/trial.py", "[self.reported : -1]", "[self.reported : -2]", T_SWEEP, "every_row"),
]  # fmt: skip


def applied(mutant: Mutant, root: Path) -> str:
    """The mutated text of the file. Raises ValueError where the old text is not there exactly once."""
    text = (root / "pgdlab" / mutant.file).read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(
            f"{mutant.what}: {mutant.old!r} is {text.count(mutant.old)} times in pgdlab/{mutant.file}, not once"
        )
    return text.replace(mutant.old, mutant.new)


def start(copy: Path, test: str, only: str, log: Path) -> int:
    """Begins pytest in a forked process, which has torch and diffusers loaded but nothing of pgdlab; its number."""
    child = os.fork()
    if child:
        return child
    signal.alarm(LIMIT)
    with log.open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    os.chdir(copy)
    sys.path[:] = [str(copy), *(p for p in sys.path if Path(p or ".").resolve() not in (ROOT, ROOT / "tests"))]
    sys.dont_write_bytecode = True
    for name in [n for n in sys.modules if n.split(".")[0] == "tests"]:  # of `python -m tests.mutants`
        del sys.modules[name]
    import pytest

    narrowed = ["-k", only] if only else []
    code = int(pytest.main(["-x", "-q", "-n0", "-p", "no:cacheprovider", f"tests/{test}", *narrowed]))
    loaded = Path(sys.modules["pgdlab"].__file__ or "")
    sys.stdout.flush()
    os._exit(code if loaded.is_relative_to(copy) else 99)


def codes(mutants: Sequence[Mutant], copies: Sequence[Path]) -> Iterator[tuple[Mutant, int, str]]:
    """(mutant, pytest's exit code, output) as they end, one at a time in each copy, whose file is put back afterwards."""
    waiting, free = list(mutants), list(copies)
    running: dict[int, tuple[Mutant, Path, str]] = {}
    while waiting or running:
        if waiting and free:
            mutant, copy = waiting.pop(0), free.pop()
            file = copy / "pgdlab" / mutant.file
            clean = file.read_text()
            file.write_text(applied(mutant, copy) if mutant.old else clean)
            running[start(copy, mutant.test, mutant.only, copy / "log")] = mutant, copy, clean
            continue
        child, status = os.wait()
        mutant, copy, clean = running.pop(child)
        (copy / "pgdlab" / mutant.file).write_text(clean)
        free.append(copy)
        yield mutant, os.waitstatus_to_exitcode(status), (copy / "log").read_text()


def copied(folder: Path) -> Path:
    """What the tests need of the checkout, in the folder."""
    for part in ("pgdlab", "tests", "configs", "benchmarks"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def chosen(word: str, part: str) -> list[Mutant]:
    """Those whose description contains the word; of these every n-th for a part "k/n", starting with the k-th."""
    first, _, step = part.partition("/")
    if not (first.isdigit() and step.isdigit() and 1 <= int(first) <= int(step)):
        raise SystemExit(f"--part is {part}; it must be k/n with k from 1 to n, such as 3/10")
    return [m for m in MUTANTS if word in m.what][int(first) - 1 :: int(step)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; 1 if anything is wrong. A crash, or no test found, is not a catch."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("word", nargs="?", default="", help="only mistakes whose description contains it")
    parser.add_argument("--part", default="1/1", help="k/n: every n-th, starting with the k-th")
    given = parser.parse_args(arguments)
    mutants = chosen(given.word, given.part)
    if not mutants:
        raise SystemExit(f"no mistake's description contains {given.word!r}")
    import diffusers.models.unets.unet_2d
    import diffusers.schedulers.scheduling_ddim
    import diffusers.schedulers.scheduling_ddpm  # noqa: F401
    import peft  # noqa: F401

    bad, started = 0, time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="pgdlab-mutants-") as folder:
        copies = [copied(Path(folder).resolve() / str(i)) for i in range(PROCESSES)]
        clean = {(m.test, m.only): replace(m, old="", new="") for m in mutants}
        for mutant, code, output in codes(list(clean.values()), copies):
            bad += code != 0
            if code:
                print(f"tests/{mutant.test} -k {mutant.only!r} fails without any mistake:\n{output[-3000:]}")
        if bad:
            return 1
        for mutant, code, output in codes(mutants, copies):
            verdict = {0: "SURVIVED", 1: "caught"}.get(code, f"BROKEN (pytest ended with {code})")
            bad += code != 1
            print(f"{verdict:10} {mutant.what:40} pgdlab/{mutant.file:28} tests/{mutant.test}", flush=True)
            if code != 1:
                print(output[-2000:])
    print(f"{len(mutants) - bad} of {len(mutants)} mistakes caught in {time.perf_counter() - started:.0f} s")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
