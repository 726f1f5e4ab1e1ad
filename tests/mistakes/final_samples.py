"""Mistakes in what is trained on final samples, and in how it is measured."""

from tests.mistakes import Mutant

MATCHING, OFFLINE, OWN = "trainers/matching.py", "trainers/offline.py", "trainers/own_samples.py"
T_MATCHING, T_OFFLINE, T_LAWS = "trainers/test_matching.py", "trainers/test_offline.py", "oracle/test_laws.py"
T_GROUPED = "trainers/test_grouped.py"

MUTANTS = [
    Mutant("matching: nft without its old policy", "trainers/nft.py", "at.old + side * (at.now - at.old)", "side * at.now", T_MATCHING, "one_pull or full_solve"),
    Mutant("matching: a bad sample pulls as a good one", "trainers/nft.py", "good * toward + (1 - good) * away", "toward", T_MATCHING, "one_pull"),
    Mutant("matching: ram moves the old estimate", "trainers/ram.py", "reached = at.pre +", "reached = at.old +", T_MATCHING, "one_pull"),
    Mutant("matching: awm makes bad samples likelier", "trainers/estimates.py", "self.error(self.x0, self.old) - self.error(self.x0, self.now)", "self.error(self.x0, self.now) - self.error(self.x0, self.old)", T_MATCHING, "one_pull"),
    Mutant("blocks: crd's own sample is in its centre", "trainers/crd.py", "(at.total(known) - known) / (size - 1).clamp(min=1)", "at.total(known) / size", T_GROUPED, "crd_has"),
    Mutant("blocks: the centre of crd is not held constant", "trainers/crd.py", "known, size = gain.detach(),", "known, size = gain,", T_GROUPED, "crd_has"),
    Mutant("blocks: dgpo's bad groups stop pulling first", "trainers/dgpo.py", "softplus(-told)", "softplus(told)", T_GROUPED, "dgpo_has"),
    Mutant("blocks: dgpo forgets how large a group is", "trainers/dgpo.py", " / at.total(gain.detach().new_ones(len(gain)))", "", T_GROUPED, "dgpo_has"),
    Mutant("blocks: fpo has a ratio a time", "trainers/fpo.py", "at.total(at.log_ratio) / self.times", "at.log_ratio", T_GROUPED, "one_ratio"),
    Mutant("blocks: every sample of a group has noise of its own", "trainers/grouped.py", "noise[block], cond", "torch.randn(len(rows), *experience.x0.shape[1:], generator=g), cond", T_GROUPED, "one_time"),
    Mutant("blocks: sums run over the pass", "trainers/estimates.py", "index_add(0, self.block, x)[self.block]", "index_add(0, 0 * self.block, x)[0 * self.block]", T_GROUPED, "has_the_published"),
    Mutant("blocks: a pass has one block alone", "trainers/denoising.py", "if filled and (filled + n) * width > world.capacity.pass_size:", "if filled:", "trainers/test_grouped.py", "one_time"),
    Mutant("matching: the KL has another weight than the loss", MATCHING, "self.coefficient * kl", "self.coefficient * kl / at.weight", T_MATCHING, "one_gradient"),
    Mutant("matching: the baseline is forgotten", MATCHING, "gain - value.detach()", "gain", T_MATCHING, "critic_is_fitted"),
    Mutant("matching: the critic is charged for the loss", MATCHING, "gain - value.detach()", "gain - value", T_MATCHING, "critic_is_fitted"),
    Mutant("matching: the critic sees the wrong step", "trainers/estimates.py", ".long().argmax(1)", ".long().argmin(1)", T_MATCHING, "critic_is_fitted"),
    Mutant("matching: failed samples stay", MATCHING, '"x0": samples.x0[measured], "cond": samples.cond[measured], "weight": gain[measured, 0]', '"weight": gain[:, 0]', T_MATCHING, "failed_samples"),
    Mutant("matching: the old policy is the new one", "diffusion/policy.py", "torch._foreach_lerp_(own, new, 1 - decay)", "torch._foreach_copy_(own, new)", T_MATCHING, "slow_copy"),
    Mutant("matching: the slow policy is not kept", MATCHING, "if self.decay and world.old else {}", "if False else {}", T_MATCHING, "slow_copy"),
    Mutant("final samples: an ODE is the reference's", OWN, "tuned_deterministic=ode", "tuned_deterministic=False", T_MATCHING, "an_ode_is"),
    Mutant("final samples: steady weights sum to twice the samples", "trainers/rwr.py", "(weight - 1) * off + own", "weight * off + own", "trainers/test_denoising.py", "steady"),
    Mutant("offline: one softmax for all conditions", OFFLINE, "rows = table.cond == c", "rows = table.cond >= 0", T_OFFLINE, "rows_by_hand"),
    Mutant("offline: a share of the weight, not of the rows", "functional/returns.py", "(low, middle) if effective_size", "(middle, high) if effective_size", T_OFFLINE, "tilted_gaussian"),
    Mutant("offline: entropy counted twice", OFFLINE, "torch.special.xlogy(p, p).sum()", "2 * torch.special.xlogy(p, p).sum()", T_OFFLINE, "limit or tilted"),
    Mutant("offline: other samples are taken", "domains/table.py", "if shape != tuple(domain.space.shape):", "if False:", T_OFFLINE, "does_not_fit"),
    Mutant("offline: the table is the evaluation's own noise", "tasks/table.py", "Stream.TABLE", "Stream.EVALUATE", T_OFFLINE, "written_and_tuned"),
    Mutant("certified: final samples by the path's KL", "certificates/certificate.py", "return figures.final_objective, figures.final_kl", "return figures.objective, figures.path_kl", "certificates/test_certificate.py", "held_against_their_tilt"),
    Mutant("law of samples: the KL from the base to the policy", "oracle/grid/laws.py", "for each in (policy, problem.reference))", "for each in (problem.reference, policy))", T_LAWS, "kl_of_final"),
    Mutant("law of samples: half of the mean's part is missing", "oracle/linear_gaussian.py", "(off.mT @ precision @ off)[:, 0, 0]", "(off.mT @ precision @ off)[:, 0, 0] / 2", T_LAWS, "plane_is"),
]  # fmt: skip
