"""Mistakes in learning from preferences."""

from tests.mistakes import Mutant

PAIRS, ASKED, PAGE = "preferences/pairs.py", "preferences/annotator.py", "preferences/page.py"
MODEL, ENSEMBLE, GALLERY = "training/reward_model.py", "preferences/ensemble.py", "preferences/gallery.py"
PUBLIC, REWARD = "preferences/public.py", "rewards/preference.py"
PAIRED, PAIRWISE, DPO = "trainers/paired.py", "trainers/pairwise.py", "trainers/dpo.py"
T_PAIRS, T_PAGE, T_MODEL = "preferences/test_pairs.py", "preferences/test_page.py", "training/test_reward_model.py"
T_REWARD, T_DPO = "rewards/test_preference.py", "trainers/test_dpo.py"
T_KTO, T_CHAIN = "trainers/test_kto.py", "trainers/test_chain_pairs.py"

MUTANTS = [
    Mutant("pairs: the loser is preferred", PAIRED, "else odds > 0", "else odds < 0", T_DPO, "neighbours"),
    Mutant("pairs: pairs of the same worth count", PAIRED, " & (odds != 0)", "", T_DPO, "say_nothing"),
    Mutant("pairs: pairs of two groups", PAIRED, "place[:, k : world.plan.group // 2 * 2 : 2]", "place[:, k::2][:, :2]", T_DPO, "neighbours"),
    Mutant("pairs: a preference has no beta", DPO, "self.beta / 2 * (winner - loser)", "(winner - loser)", T_DPO, "by_hand"),
    Mutant("pairs: the times are not summed inside", DPO, "odds = odds.sum(1, keepdim=True)", "odds = odds * 1", T_DPO, "by_hand"),
    Mutant("pairs: a tie of a pair counts as a win", DPO, "share[:, None].expand_as(odds)", "(share[:, None] > 0).to(odds).expand_as(odds)", T_DPO, "by_hand"),
    Mutant("pairs: a limit holds wrong pairs too", DPO, "odds.clamp(max=self.limit)", "odds.clamp(-self.limit, self.limit)", T_DPO, "limit"),
    Mutant("pairs: kto's bad samples are good", "trainers/kto.py", "better.sigmoid() - worse.sigmoid()", "better.sigmoid() + worse.sigmoid()", T_KTO, "by_hand"),
    Mutant("pairs: kto's point moves with the samples", "trainers/kto.py", "((winner + loser) / 2).detach()", "winner.detach()", T_KTO, "by_hand"),
    Mutant("chains: pairs begin apart", "trainers/d3po.py", "yield first.repeat_interleave(2, 0)", "yield next(noise.steps(self.own.iteration, rows, 1, shape)).repeat_interleave(2, 0)", T_CHAIN, "same_noise"),
    Mutant("chains: the worse one is preferred", "trainers/d3po.py", "(~ahead[pair]).long()", "ahead[pair].long()", T_CHAIN, "better_of_two"),
    Mutant("chains: the clamp is on the log-ratio itself", "trainers/d3po.py", "log_ratio.clamp(math.log1p(-self.clamp), math.log1p(self.clamp))", "log_ratio * (1 - self.clamp)", T_CHAIN, "published_clamp"),
    Mutant("chains: no reference", "trainers/chain_pairs.py", "(score - before)", "(score - 0 * before)", T_CHAIN, "attainable"),
    Mutant("chains: beta is forgotten", "trainers/chain_pairs.py", "odds = self.beta * (first", "odds = (first", T_CHAIN, "attainable"),
    Mutant("chains: an action is valued as a state of the step before", "trainers/ranked.py", "(len(after),), h + 1", "(len(after),), h", T_CHAIN, "by_their_estimates"),
    Mutant("chains: the policy values its own actions", "trainers/ranked.py", "world.reference.estimate(after", "world.policy.estimate(after", T_CHAIN, "by_their_estimates"),
    Mutant("pairs: the reference of a preference is forgotten", PAIRWISE, "gain = before - denoiser", "gain = 0 * before - denoiser", T_DPO, "by_hand"),
    Mutant("pairs: both samples of a pair have noise of their own", PAIRWISE, ".to(x0.dtype).repeat(2,", ".to(x0.dtype).roll(1, 0).repeat(2,", T_DPO, "by_hand"),
    Mutant("pairs: pairs with a sample on each side judge", MODEL, "both, neither = side[rows].all(1)", "both, neither = side[rows].any(1)", T_MODEL, "both_sides"),
    Mutant("pairs: a tie of an answer counts as a win", MODEL, "binary_cross_entropy_with_logits(first - second, share[pairs])", "binary_cross_entropy_with_logits(first - second, share[pairs].ceil())", T_MODEL, "half_a_vote"),
    Mutant("pairs: the last member is kept, not the best", MODEL, "if loss < kept.loss:", "if True:", T_MODEL, "says_nothing"),
    Mutant("pairs: members are not centred", ENSEMBLE, "self.centre[:, c] = score[:, column == c].mean(1)", "self.centre[:, c] = 0 * score[:, column == c].mean(1)", T_MODEL, "constant_of_a_condition"),
    Mutant("pairs: disagreement is paid", REWARD, "each.mean(0) - self.pessimism", "each.mean(0) + self.pessimism", T_REWARD, "minus_disagreement"),
    Mutant("pairs: a picture inside a pickle", GALLERY, "weights_only=True", "weights_only=False", T_PAIRS, "executed"),
    Mutant("pairs: a molecule's validity is not seen", GALLERY, "BITS]] = 1", "]] = 1", T_REWARD, "fingerprints"),
    Mutant("pairs: the worst rank is the best", PUBLIC, '(a["rank"] < b["rank"])', '(a["rank"] > b["rank"])', T_PAIRS, "image_reward_db"),
    Mutant("pairs: a cut line stays in the file", PAIRS, "file.truncate(file.read().rfind", "file.read().rfind(b'') or (file.read().rfind", T_PAIRS, "cut"),
    Mutant("pairs: undo takes nothing back", PAIRS, "kept = kept[:-1]", "kept = kept[:]", T_PAIRS, "taken_back"),
    Mutant("pairs: the side of an answer is forgotten", PAGE, '"left": question.left, "right": other', '"left": "first", "right": "second"', T_PAGE, "sides_that_were_shown"),
    Mutant("pairs: an answer that is sent twice counts twice", PAGE, "elif number != len(self.done):", "elif number < 0:", T_PAGE, "sent_twice"),
    Mutant("pairs: anyone is let in", PAGE, "return rest if right and", "return rest if True and", T_PAGE, "token_is_let_in"),
    Mutant("pairs: prompts are not escaped", PAGE, "autoescape=True", "autoescape=False", T_PAGE, "escaped"),
    Mutant("pairs: a sitting asks again", ASKED, "not in known]", "not in ()]", T_PAIRS, "goes_on"),
    Mutant("pairs: the annotator has no temperature", ASKED, "sitting.rewards().double() / self.temperature", "sitting.rewards().double()", T_MODEL, "simulated_annotator"),
]  # fmt: skip
