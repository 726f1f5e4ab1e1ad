"""Mistakes in fitted values, in what follows them, and in the laws that ways of steering are held against."""

from tests.mistakes import Mutant

VALUE, SHIFT, PARTICLES, SMC, LEARNED = (
    f"guidance/{name}.py" for name in ("value", "shift", "particles", "smc", "learned")
)  # fmt: skip
FIT, FITTED, LAW, CERTIFICATE = (
    "training/value_fit.py", "credit/fitted.py", "oracle/grid/law.py", "certificates/steering.py",
)  # fmt: skip
T_VALUE, T_SHIFT, T_LEARNED = (f"guidance/test_{name}.py" for name in ("value", "shift", "learned"))
T_LAW, T_CERTIFICATE = "oracle/test_law.py", "certificates/test_steering.py"

MUTANTS = [
    Mutant("value: its gradient divided by lambda twice", VALUE, "found.times(1 / self.how.lam)",
           "found.times(1 / self.how.lam**2)", T_VALUE, "the_kl_is"),
    Mutant("value: a shift without std^2", VALUE, "std**2 * self.tilted(", "self.tilted(", T_VALUE,
           "linear_gaussian"),
    Mutant("value: own without std^2", VALUE, "std**2 * self.slope(x, x0, h,", "self.slope(x, x0, h,", T_VALUE,
           "linear_gaussian"),
    Mutant("value: of the state before instead of the next one", VALUE, "self.slope(mean, x0, h + 1, batch.cond)",
           "self.slope(mean, x0, h, batch.cond)", T_VALUE, "linear_gaussian"),
    Mutant("value: draws weigh alike", VALUE, ".softmax(0)", ".mul(0).softmax(0)", T_VALUE, "law_of_exact"),
    Mutant("value: the KL without the shift", "rollout/sampler.py", "g = g if shift is None else replace(g, mean=g.mean + shift)",
           "x0, shift = (x0, shift)", T_VALUE, "the_kl_is"),
    Mutant("value: another lambda", "guidance/base.py", "not math.isclose(own, lam)", "False", T_LEARNED, "something_else"),
    Mutant("value: a tuned policy has the base's law", VALUE, 'return "none" if source.tuned else self.law', "return self.law",
           T_VALUE, "on_top"),
    Mutant("shift: unbounded", SHIFT, ".clamp(max=1)", ".clamp(min=1, max=1)", T_SHIFT, "the_bound"),
    Mutant("shift: what is not measured moves", SHIFT, "torch.where(known, found.gradient, 0.0)", "found.gradient + 5.0 * ~known",
           T_SHIFT, "the_gradient or not_measured or by_hand"),
    Mutant("twist: without the ratio of the densities", SMC, "extras=request.extras._replace(reference=True)",
           "extras=request.extras", T_SHIFT, "weights_undo"),
    Mutant("twist: gradients stay where the particles were", PARTICLES, "found.gradient[rows]", "found.gradient", T_SHIFT,
           "with_moved_proposals"),
    Mutant("twist: a further row a step", "rollout/sampler.py", "asked = shared is None and (", "asked = (", T_SHIFT, "no_further_row"),
    Mutant("twist: the tuned policy held against the base", SMC, "request.reference if self.ratio else source.policy",
           "request.reference", T_SHIFT, "tuned_policy"),
    Mutant("forms: the largest so far is not carried", PARTICLES, "now.so_far[rows]", "now.so_far", T_SHIFT, "largest_so_far"),
    Mutant("forms: weighed once", PARTICLES, "self.psi + so_far", "so_far", T_SHIFT, "by_hand"),
    Mutant("value fit: what is held out is fitted", FIT,
           "slice(0, fitted), slice(fitted, fitted + judged), slice(fitted + judged, paths)",
           "slice(0, paths), slice(0, fitted), slice(0, fitted)", T_LEARNED, "held_out"),
    Mutant("value fit: the loss is flat beyond its end", FIT, "near.exp() * (1 + (off - near))", "near.exp()", T_LEARNED, "tangent"),
    Mutant("value fit: without - log n", FIT, " - math.log(len(reward))", "", T_LEARNED, "psi or constant"),
    Mutant("value fit: off in units of the reward", FIT, ".reshape(n, steps)) / how.unit", ".reshape(n, steps))", T_LEARNED,
           "in_nats"),
    Mutant("value fit: no range", FIT, "value.low, value.high = flat.amin(0), flat.amax(0)", "pass", T_LEARNED, "constant"),
    Mutant("fitted: another base", FITTED, 'self.facts["base"] != own["base"]', "False", T_LEARNED, "something_else"),
    Mutant("fitted: another sampler", FITTED, "not same or not", "not", T_LEARNED, "something_else"),
    Mutant("fitted: no numbers", FITTED, "not x.isfinite().all()", "False", T_LEARNED, "damaged"),
    Mutant("fitted: a soft value as a critic", FITTED, 'found.facts["of"] != "mean"', "False", T_LEARNED, "critic_begins"),
    Mutant("fitted: its costs are forgotten", "tasks/steer.py", '"samples": before["samples"] + asked +',
           '"samples": before["samples"] +', T_LEARNED, "from_the_command_line"),
    Mutant("law: a cell's reward untilted", LAW, "(r * weight).sum(1) / weight.sum(1).clamp(min=1e-300)", "r.mean(1)", T_LAW,
           "inside_of_a_cell"),
    Mutant("law: the mean of a cell's middle alone", LAW, "averaged(reward, nodes))", "reward(nodes[:, None]).double() * 0)", T_LAW,
           "base_and_tilt"),
    Mutant("law: n too many", LAW, "best = above**n", "best = above ** (n + 1)", T_LAW, "best_of_n"),
    Mutant("law: softly, one more draw", LAW, "phi ** (n - 1)", "phi**n", T_LAW, "soft_best"),
    Mutant("law: a bias of another sign", LAW, "return -(base.mass @ square)", "return (base.mass @ square)", T_LAW, "leading"),
    Mutant("certificate of steering: the chain's samples for the data", CERTIFICATE, "replace(base, mass=mass / mass.sum())", "base",
           T_CERTIFICATE, "tilt_of_the_data"),
    Mutant("certificate of steering: all gradients against one law", CERTIFICATE, "1, along.law, along)", '1, "attainable", along)',
           T_CERTIFICATE, "each_form_names"),
    Mutant("certificate of steering: best-of-n against the tilt", CERTIFICATE, 'laws.best_of(known["base"], method.n)',
           'known["T_full"]', T_CERTIFICATE, "own_law"),
]  # fmt: skip
