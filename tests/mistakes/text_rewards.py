"""Mistakes in rewards that see prompts."""

from tests.mistakes import Mutant

BASE, CLIP, NETWORKS, PIXELS = (f"rewards/text/{name}.py" for name in ("base", "clip", "networks", "preprocessing"))
OPEN, AESTHETIC, BLIP = (f"rewards/text/{name}.py" for name in ("open_clip", "aesthetic", "image_reward"))
AHEAD, SERVER, VLM, OCR = (f"rewards/text/{name}.py" for name in ("ahead", "server", "vlm", "ocr"))
EVAL, DETECTION, T_EVAL = "rewards/text/gen_eval.py", "rewards/text/detection.py", "rewards/test_text_gen_eval.py"
T_VLM, T_OCR = "rewards/test_text_vlm.py", "rewards/test_text_ocr.py"
T_CLIP, T_OPEN, T_AESTHETIC, T_BLIP = (
    f"rewards/test_text_{name}.py" for name in ("clip", "open_clip", "aesthetic", "image_reward")
)

MUTANTS = [
    Mutant(
        "text: everyone's prompt is the first",
        BASE,
        "[self.texts[c] for c in cond.tolist()]",
        "[self.texts[0] for c in cond.tolist()]",
        T_CLIP,
        "own",
    ),
    Mutant(
        "text: an empty prompt is a prompt",
        BASE,
        "if not all(text.strip() for text in found):",
        "if False:",
        T_CLIP,
        "sentence",
    ),
    Mutant("text: PickScore is a cosine", CLIP, "return self.clip.scale * cosine", "return cosine", T_CLIP, "logit"),
    Mutant(
        "text: the scale is rounded",
        CLIP,
        "clip.logit_scale.exp().item()",
        "clip.logit_scale.bfloat16().exp().item()",
        T_CLIP,
        "precision",
    ),
    Mutant("text: prompts are encoded anew", CLIP, "if p not in self.known]", "]", T_CLIP, "once"),
    Mutant("text: features of any length", CLIP, "torch.nn.functional.normalize(told)", "told", T_CLIP, "logit"),
    Mutant("text: weights go along", NETWORKS, "return self if self.stays else", "return", T_CLIP, "stays"),
    Mutant("text: missing weights are random", NETWORKS, '*info["missing_keys"], ', "*(), ", T_CLIP, "lacks"),
    Mutant(
        "text: the hub is asked first", NETWORKS, "local_files_only=True, **settings)", "**settings)", T_CLIP, "hub"
    ),
    Mutant("text: the hub is asked offline", NETWORKS, "if constants.HF_HUB_OFFLINE:", "if False:", T_CLIP, "hub"),
    Mutant(
        "text: pickles are executed",
        NETWORKS,
        'map_location="cpu", weights_only=True)',
        'map_location="cpu", weights_only=False)',
        T_CLIP,
        "executed",
    ),
    Mutant("text: aliased images", PIXELS, "antialias=True", "antialias=False", T_CLIP, "third"),
    Mutant("text: the corner is kept", PIXELS, "(have - keep) // 2 for", "0 * (have - keep) for", T_CLIP, "third"),
    Mutant(
        "text: proportions are lost",
        PIXELS,
        "return int(size * height / shorter), int(size * width / shorter)",
        "return self.size, self.size",
        T_CLIP,
        "third",
    ),
    Mutant("text: query is key", OPEN, 'zip("qkv", value', 'zip("kqv", value', T_OPEN, "cosine"),
    Mutant(
        "text: a projection is not transposed",
        OPEN,
        "value.T.contiguous()",
        "value.T.contiguous().roll(1)",
        T_OPEN,
        "cosine",
    ),
    Mutant(
        "text: names of layers as words", AESTHETIC, "(int(digits[-1]), n)", "(digits[-1], n)", T_AESTHETIC, "order"
    ),
    Mutant(
        "text: an embedding of any length",
        AESTHETIC,
        "nn.functional.normalize(getattr(",
        "(getattr(",
        T_AESTHETIC,
        "laion",
    ),
    Mutant("text: the last token's", BLIP, "last_hidden_state[:, 0])", "last_hidden_state[:, 1])", T_BLIP, "parts"),
    Mutant(
        "text: norms are swapped",
        BLIP,
        '"norm1.": "layer_norm1.", "norm2.": "layer_norm2."',
        '"norm1.": "layer_norm2.", "norm2.": "layer_norm1."',
        T_BLIP,
        "parts",
    ),
    Mutant("text: another mean", BLIP, "- MEAN) / STD", ") / STD", T_BLIP, "parts"),
    Mutant(
        "text: colours of a JPEG are mixed up",
        "rewards/image/jpeg.py",
        "image.permute(1, 2, 0)",
        "image.permute(1, 2, 0).flip(-1)",
        "rewards/test_image_rewards.py",
        "rgb_is",
    ),
    Mutant(
        "text: what is asked is asked again",
        AHEAD,
        "            if future is None:",
        "            if True:",
        T_VLM,
        "in_flight",
    ),
    Mutant(
        "text: any prompt is the same question",
        AHEAD,
        "repr((pixels.shape, prompt))",
        "repr(pixels.shape)",
        T_VLM,
        "in_flight",
    ),
    Mutant(
        "text: submit waits",
        AHEAD,
        "        self.begun(sample, cond)\n",
        "        [f.result() for f in self.begun(sample, cond)]\n",
        T_VLM,
        "in_flight",
    ),
    Mutant("text: failures are remembered", AHEAD, "if future not in failed}", "}", T_VLM, "given_up"),
    Mutant(
        "text: the newest is forgotten",
        AHEAD,
        "future = self.answers.pop(key, None)",
        "future = self.answers.get(key)",
        T_VLM,
        "last",
    ),
    Mutant(
        "text: NaN is black",
        AHEAD,
        "value.isfinite() & sample",
        "value.isfinite() & torch.zeros_like(sample)",
        T_VLM,
        "black",
    ),
    Mutant(
        "text: one at a time",
        AHEAD,
        "self.threads or Threads(self.workers)",
        "self.threads or Threads(1)",
        T_VLM,
        "in_flight",
    ),
    Mutant(
        "text: a server is believed",
        SERVER,
        "return os.environ.get(KEY) if own else None",
        "return os.environ.get(KEY)",
        T_VLM,
        "key",
    ),
    Mutant(
        "text: the key is quoted", SERVER, 'text.replace(self.key, "***") if self.key else text', "text", T_VLM, "key"
    ),
    Mutant("text: redirects are followed", SERVER, "build_opener(NoRedirect)", "build_opener()", T_VLM, "redirect"),
    Mutant("text: asked once", SERVER, "if number == self.tries:", "if True:", T_VLM, "asked_again"),
    Mutant("text: a cut answer is whole", SERVER, "if response.length:", "if False:", T_VLM, "asked_again"),
    Mutant("text: an answer may drip", SERVER, "if time.monotonic() > deadline:", "if False:", T_VLM, "drips or slow"),
    Mutant(
        "text: refused for all is refused for one",
        SERVER,
        "WRONG = (401, 403, 404, 405)",
        "WRONG = (405,)",
        T_VLM,
        "ends_the_run",
    ),
    Mutant(
        "text: passwords in URLs",
        SERVER,
        'if "@" in parts.netloc or parts.query:',
        "if False:",
        T_VLM,
        "cannot_be_asked",
    ),
    Mutant(
        "text: numbers out of bounds", VLM, "if not self.low <= number <= self.high:", "if False:", T_VLM, "nonsense"
    ),
    Mutant(
        "text: Nobody is no",
        VLM,
        "if word in chance:",
        "word = word[:2] if word[:2] == 'no' else word\n        if word in chance:",
        T_VLM,
        "yes_is",
    ),
    Mutant(
        "text: braces are formats",
        VLM,
        'self.question.replace("{prompt}", prompt)',
        "self.question.format(prompt=prompt).format(red=1)",
        T_VLM,
        "own_prompt",
    ),
    Mutant(
        "text: letters that are not there are free",
        OCR,
        "edits(read, wanted)",
        "edits(read, wanted) - 1",
        T_OCR,
        "by_hand",
    ),
    Mutant("text: no substitutions", OCR, "row[j - 1] + (x != y)", "row[j - 1] + 2 * (x != y)", T_OCR, "by_hand"),
    Mutant("text: an apostrophe opens", OCR, "(?<!\\w)'((", "'((", T_OCR, "quotes"),
    Mutant(
        "text: left is right",
        EVAL,
        '"left of": -across, "right of": across',
        '"left of": across, "right of": -across',
        T_EVAL,
        "by_hand",
    ),
    Mutant("text: touching is apart", EVAL, "APART = 0.1", "APART = 0.0", T_EVAL, "relations"),
    Mutant("text: everything is counted", EVAL, "LEAST_COUNTED if wanted.counted else LEAST", "LEAST", T_EVAL, "exact"),
    Mutant("text: nothing is excluded", EVAL, '< entry["count"] for entry', "< 99 for entry", T_EVAL, "exact"),
    Mutant(
        "text: the colour of the box",
        EVAL,
        "torch.where(found.mask.to(image.device), image, BACKGROUND)",
        "image",
        T_EVAL,
        "alone",
    ),
    Mutant("text: none is a class", DETECTION, ".softmax(-1)[:, :-1]", ".softmax(-1)", T_EVAL, "queries"),
    Mutant("text: unsure masks are sure", DETECTION, "score = chance * sure", "score = chance", T_EVAL, "queries"),
]
