"""Mistakes in text-to-image bases that are made part by part."""

from tests.mistakes import Mutant

READER, CLIPS, VAE = (f"images/{name}.py" for name in ("captioned", "contrastive", "autoencoder"))
DOMAIN, FIT, PROGRAM = "domains/captioned.py", "training/parts.py", "config/program.py"
T_PARTS, T_DOMAIN, T_EMOJI, T_COLOUR = (
    "images/test_captioned.py", "domains/test_captioned.py", "domains/test_emoji.py", "rewards/test_colour.py",
)  # fmt: skip

MUTANTS = [
    Mutant(
        "captioned: variants are things of their own",
        READER,
        'name, said["image"])',
        'name, one["image"])',
        T_PARTS,
        "tones",
    ),
    Mutant(
        "captioned: rare kinds are drawn rarely",
        READER,
        ".round().clamp(min=1)",
        ".round().clamp(max=1)",
        T_PARTS,
        "tones",
    ),
    Mutant(
        "captioned: a picture without a text",
        READER,
        "if not isinstance(text, str) or not text.strip():",
        "if False:",
        T_PARTS,
        "wrong",
    ),
    Mutant(
        "captioned: a tone is said twice", READER, "dict.fromkeys(TONES[part]", "list(TONES[part]", T_PARTS, "tones"
    ),
    Mutant(
        "captioned: equal captions are wrong answers",
        CLIPS,
        "same = (ids[:, None] == ids[None]).all(-1).to(logits)",
        "same = torch.eye(len(ids)).to(logits)",
        T_PARTS,
        "equal",
    ),
    Mutant(
        "captioned: one way alone",
        CLIPS,
        "F.cross_entropy(logits.T, right)",
        "F.cross_entropy(logits, right)",
        T_PARTS,
        "equal",
    ),
    Mutant("captioned: moved on black", CLIPS, "value=1.0", "value=-1.0", T_PARTS, "moved"),
    Mutant("captioned: ranks of farther texts", CLIPS, "(near > near.gather", "(near < near.gather", T_PARTS, "ranks"),
    Mutant(
        "captioned: the encoder trains on",
        VAE,
        "tower.requires_grad_(not frozen)",
        "tower.requires_grad_(True)",
        T_PARTS,
        "decoder",
    ),
    Mutant(
        "captioned: errors in units of [-1, 1]",
        VAE,
        "clamp(-1, 1) - x) / 2).square().flatten(1)",
        "clamp(-1, 1) - x) / 1).square().flatten(1)",
        T_PARTS,
        "spread",
    ),
    Mutant(
        "captioned: averages never forget",
        FIT,
        "1 - 10 / (float(count) + 10)",
        "1 - 1 / (float(count) + 1)",
        T_PARTS,
        "forget",
    ),
    Mutant(
        "captioned: latents of any size",
        DOMAIN,
        "torch.cat(means) * vae.config.scaling_factor",
        "torch.cat(means)",
        T_DOMAIN,
        "deviation",
    ),
    Mutant(
        "captioned: samples are not scaled back",
        DOMAIN,
        "sample.float() / self.vae.config.scaling_factor",
        "sample.float()",
        T_DOMAIN,
        "deviation",
    ),
    Mutant("captioned: text towers of two precisions", DOMAIN, '{"dtype": "float32"}', "{}", T_DOMAIN, "pipeline"),
    Mutant(
        "captioned: the words change under the network",
        "tasks/clip.py",
        'if part == "judge" or not',
        "if True or not",
        T_DOMAIN,
        "stay",
    ),
    Mutant(
        "captioned: the latents change under the network",
        "tasks/autoencoder.py",
        "frozen=known",
        "frozen=False",
        T_DOMAIN,
        "stay",
    ),
    Mutant(
        "captioned: pretraining begins anew",
        DOMAIN,
        'if (self.folder / "unet").is_dir():',
        "if False:",
        T_DOMAIN,
        "goes_on",
    ),
    Mutant(
        "emoji: a card of a prefix",
        "diffusion/pipeline_files.py",
        '"source": origin.outside',
        '"source": origin.source',
        T_EMOJI,
        "export",
    ),
    Mutant(
        "emoji: what ships is looked for here",
        PROGRAM,
        "if name.startswith(OURS) else",
        "if False else",
        T_EMOJI,
        "prefix",
    ),
    Mutant(
        "colour: the mean of all channels",
        "rewards/image/colour.py",
        "mean[:, self.channel] * 1.5",
        "mean[:, self.channel]",
        T_COLOUR,
        "channel",
    ),
]
