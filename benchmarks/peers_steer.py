"""A text-to-image pipeline steered by trl's trainers and by pgdlab, at equal numbers of reward queries:

    peers/bin/python -m benchmarks.peers_steer --pipeline FOLDER --prompts FILE --clip FOLDER --judge FOLDER

in the environment of benchmarks/peers.py, whose trl 0.23.1 is the last one with DDPOTrainer and AlignPropTrainer. The reward is
the cosine of image and prompt under one CLIP, the judge another CLIP that nobody trains on. Every run has a process of its own,
one thread, and trains the same adapters (rank 4, attention) of the same pipeline; what it wrote is then loaded into diffusers'
plain pipeline, which draws the same noise for all. Time is the processor's, memory the process's largest (Linux), of training.
docs/from_trl.md has the figures, and says what the methods are.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

import pgdlab
from benchmarks.loop import clocked
from pgdlab.cli import configuration
from pgdlab.config.runs import save_config
from pgdlab.rewards.text.clip import ClipScore, features
from pgdlab.training.build import build_module
from pgdlab.training.fit import fit

TARGETS = ("to_k", "to_q", "to_v", "to_out.0")  # trl's, and its rank
COSTS = ("processor", "peak", "own", "queries")
EVALUATION = 10_000  # of the noise, which no training draws
Options = argparse.Namespace
Row = dict[str, float]


def words(o: Options, group: int) -> list[str]:
    """Our run: the experiment of the documentation with this reward, adapters and sizes."""
    return [
        "experiment=diffusers/jpeg", f"domain.pipeline={o.pipeline}", f"domain.prompts={o.prompts}",
        f"domain.call={{guidance_scale: {o.guidance}}}", "reward=clip_score", f"reward.weights={o.clip}", "heldout=null",
        "policy.tuning.rank=4", f"policy.tuning.targets=[{','.join(TARGETS)}]", f"policy.steps={o.steps}",
        "penalty=none", f"plan.iterations={o.iterations}", f"plan.samples={o.samples}", f"plan.group={group}",
        f"plan.checkpoint_every={o.iterations}", f"optimizer.lr={o.rate}", f"seed={o.seed}",
    ]  # fmt: skip


def in_groups(o: Options) -> list[str]:
    """PPO as it comes, but for the baseline: samples are compared with those of the same prompt."""
    return [*words(o, o.group), "trainer=ppo", "trainer.baseline=group"]


def like_trl(o: Options) -> list[str]:
    """What DDPOTrainer does: its loss, normalisation, updates, passes. Its gradient is a mean over the steps."""
    return [
        *words(o, 1), "trainer=ddpo", "trainer.baseline=mean", "trainer.epochs=1", f"trainer.minibatches={o.samples // o.batch}",
        "plan.trained_steps={_target_: pgdlab.rollout.plan.AllSteps}", f"optimizer.clip_norm={o.steps}",
        "optimizer.weight_decay=1e-4", f"plan.rollout_batch={o.samples}", f"plan.pass_size={o.batch}",
    ]  # fmt: skip


def like_alignprop(o: Options) -> list[str]:
    """What AlignPropTrainer does: an update for every batch, by the gradient through a random number of last steps."""
    own = words(o, 1)
    for key, value in (("iterations", o.iterations * o.samples // o.batch), ("samples", o.batch)):
        own = [word for word in own if not word.startswith(f"plan.{key}=")] + [f"plan.{key}={value}"]
    steps = "plan.trained_steps={_target_: pgdlab.rollout.plan.AllSteps}"
    return [*own, steps, "trainer=draft", "trainer.last=random", f"plan.pass_size={o.batch}"]


def status(name: str) -> float:
    """MiB of this process: VmRSS, what it has; VmHWM, the most that it had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def spent(training: Callable[[], Any]) -> Row:
    """Seconds of the processor, and MiB: the process's peak, and how much higher that is than before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, (wall, processor) = status("VmRSS"), clocked(training)
    return {"wall": wall, "processor": processor, "peak": status("VmHWM"), "own": status("VmHWM") - before}


def ours(given: list[str], o: Options, out: Path) -> Row:
    """A run of pgdlab, exported."""
    cfg = configuration(given)
    module, folder = build_module(cfg), out.parent / "run"
    folder.mkdir()
    save_config(cfg, folder)
    row = spent(lambda: fit(module, cfg, folder))
    pgdlab.load(folder).export(out)
    return row | {"queries": int(module.queries)}


def base(o: Options, out: Path) -> Row:
    """The pipeline as it is."""
    return dict.fromkeys(COSTS, 0)


def cosines(scorer: ClipScore, images: Tensor, prompts: list[str]) -> Tensor:
    """ClipScore's, of any texts."""
    clip = scorer.clip
    seen = features(clip.clip.get_image_features(pixel_values=clip.preprocess(images)))
    return (normalize(seen) * clip.texts(prompts)).sum(-1)


def trl(kind: str, o: Options, out: Path, **more: Any) -> Row:
    """A run of trl's trainer of this name, and its adapters."""
    import trl as library
    from accelerate import PartialState
    from peft.utils import get_peft_model_state_dict
    from trl.models.modeling_sd_base import DefaultDDPOStableDiffusionPipeline, convert_state_dict_to_diffusers

    scorer, prompts, draw = ClipScore(weights=o.clip), read(o.prompts), random.Random(o.seed)
    asked: list[int] = []

    def reward(images: Tensor, texts: tuple[str, ...], _: Any) -> Any:
        asked.append(len(images))
        return cosines(scorer, images, list(texts)), {}

    config = getattr(library, f"{kind}Config")(
        seed=o.seed, sample_num_steps=o.steps, sample_guidance_scale=o.guidance, train_batch_size=o.batch,
        train_learning_rate=o.rate, mixed_precision="no", save_freq=10**9, **more,
    )  # fmt: skip
    PartialState()  # else its logger, which says that no images are logged, raises
    pipe = DefaultDDPOStableDiffusionPipeline(o.pipeline)
    trainer = getattr(library, f"{kind}Trainer")(config, reward, lambda: (draw.choice(prompts), {}), pipe)
    pipe.set_progress_bar_config(disable=True)
    row = spent(trainer.train)
    adapters = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet))
    pipe.sd_pipeline.save_lora_weights(out, unet_lora_layers=adapters)
    return row | {"queries": sum(asked)}


def ddpo(o: Options, out: Path) -> Row:
    """All samples in one batch of sampling, which is trl's fastest."""
    sampled = {"sample_batch_size": o.samples, "sample_num_batches_per_epoch": 1}
    return trl("DDPO", o, out, num_epochs=o.iterations, **sampled)


def alignprop(o: Options, out: Path) -> Row:
    """An update for every batch. Its default range of the truncation, 0 to 50, is for 50 steps."""
    epochs = o.iterations * o.samples // o.batch
    return trl("AlignProp", o, out, num_epochs=epochs, truncated_rand_backprop_minmax=(0, o.steps))


METHODS: dict[str, Callable[[Options, Path], Row]] = {
    "base": base,
    "trl DDPOTrainer": ddpo,
    "trl AlignPropTrainer": alignprop,
    "pgdlab, DDPOTrainer's settings": lambda o, out: ours(like_trl(o), o, out),
    "pgdlab, AlignPropTrainer's way": lambda o, out: ours(like_alignprop(o), o, out),
    "pgdlab, ppo": lambda o, out: ours(in_groups(o), o, out),
}


def read(file: str) -> list[str]:
    """The prompts, one a line."""
    return [line.strip() for line in Path(file).read_text().splitlines() if line.strip()]


@torch.no_grad()
def judged(o: Options, adapters: Path) -> Row:
    """Means of reward and judge over samples of diffusers' own pipeline with these adapters, if there are any."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(o.pipeline)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    if adapters.is_dir():
        pipe.load_lora_weights(adapters, weight_name="pytorch_lora_weights.safetensors")
    prompts, generator = read(o.prompts), torch.Generator().manual_seed(EVALUATION)
    texts = [prompts[i % len(prompts)] for i in range(o.evaluate)]
    call = {"num_inference_steps": o.steps, "guidance_scale": o.guidance, "eta": 1.0, "generator": generator}
    parts = [pipe(texts[i : i + 32], output_type="pt", **call).images for i in range(0, o.evaluate, 32)]
    scorers = {name: ClipScore(weights=weights) for name, weights in (("reward", o.clip), ("judge", o.judge))}
    return {name: float(cosines(s, torch.cat(parts), texts).mean()) for name, s in scorers.items()}


def one(o: Options) -> Row:
    """A run from the pipeline to its figures."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "adapters"
        return METHODS[o.one](o, out) | judged(o, out)


def apart(method: str, rate: float, seed: int) -> Row | str:
    """The same in a process of its own; the last line of its error where it fails."""
    chosen = ["--one", method, "--rate", str(rate), "--seed", str(seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "benchmarks.peers_steer", *sys.argv[1:], *chosen]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    print(f"{method}, rate {rate:g}, seed {seed}: {lines[-1]}", file=sys.stderr, flush=True)
    return lines[-1] if done.returncode else dict(json.loads(lines[-1]))


def line(method: str, rate: float, rows: list[Row | str]) -> str:
    """A row of the table: means over the seeds, and the range of what depends on them."""
    figures = [row for row in rows if not isinstance(row, str)]
    if len(figures) < len(rows):
        return f"| {method} | {rate:g} | failed: {next(row for row in rows if isinstance(row, str))} | | | | |"
    cells = [spread([row[name] for row in figures]) for name in ("reward", "judge")]
    processor, peak, own, queries = (f"{mean(row[name] for row in figures):,.0f}" for name in COSTS)
    cells += [processor, f"{peak} ({own})", queries]
    return f"| {method} | {rate:g} | {' | '.join(cells)} |"


def spread(values: list[float]) -> str:
    """Mean, and in brackets the smallest and largest of several."""
    ends = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
    return f"{mean(values):.3f}{ends}"


def main(o: Options) -> None:
    """Prints the table in markdown."""
    print("| method | rate | reward | judge | processor, s | peak memory, MiB (of training) | queries |")
    print("|---|---|---|---|---|---|---|")
    print(line("base", 0, [apart("base", 0, 0)]), flush=True)
    for method in o.methods:
        for rate in o.rates:
            print(line(method, rate, [apart(method, rate, seed) for seed in o.seeds]), flush=True)


def parsed() -> Options:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", required=True, help="folder of a StableDiffusionPipeline")
    parser.add_argument("--prompts", required=True, help="file, a prompt a line")
    parser.add_argument("--clip", required=True, help="folder of a CLIPModel: the reward")
    parser.add_argument("--judge", required=True, help="folder of another")
    steered = [method for method in METHODS if method != "base"]
    parser.add_argument("--methods", nargs="+", choices=steered, default=steered)
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 3e-3], help="learning rates")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    sizes = {"iterations": 10, "samples": 32, "batch": 8, "group": 8, "steps": 10, "evaluate": 128}
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--guidance", type=float, default=3.0, help="above 1, which trl cannot do")
    parser.add_argument("--one", choices=list(METHODS), help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    options = parsed()
    print(json.dumps(one(options))) if options.one else main(options)
