"""Pictures with captions, as the data that a text-to-image base of one's own is made from, part by part."""

from __future__ import annotations

import copy
import functools
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pgdlab.config.program import program
from pgdlab.diffusion.conditioning import Conditioning
from pgdlab.diffusion.denoisers import DiffusersDenoiser
from pgdlab.diffusion.pipeline_files import WHOLE, quiet
from pgdlab.diffusion.prompts import Prompts
from pgdlab.diffusion.schedules import DiffusersSchedule
from pgdlab.diffusion.space import Dense, Space
from pgdlab.domains.base import Decoder, LabelledDomain
from pgdlab.domains.image import SCHEDULER
from pgdlab.functional.clamping import straight_through
from pgdlab.images import autoencoder, contrastive
from pgdlab.images.autoencoder import FACTOR
from pgdlab.images.captioned import Captioned, captioned
from pgdlab.images.drawing import picture
from pgdlab.images.parts import pixels_of

DDIM = SCHEDULER | {"_class_name": "DDIMScheduler", "steps_offset": 1}
WIDTHS, HEADS, GROUPS = (96, 160), (4, 8), 16  # of the network's levels
STATES = ("encoder_hidden_states",)


class Captions(Prompts):
    """The text tower's states of all captions, and of the empty one last, which stands for none."""

    def __init__(self, texts: tuple[str, ...], states: Float[Tensor, "N L W"]) -> None:
        super().__init__(len(texts) - 1, texts, [], [{STATES: states}])

    def forward(self, cond: Int[Tensor, " P"]) -> dict[str, Any]:
        return {STATES[0]: self.picked(0, STATES, cond)}


class LatentDecoder(Decoder):
    """Latents of standard deviation 1 -> images (B, 3, S, S) in [0, 1]."""

    gives, chunk = "images", 64

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def decode(self, sample: Float[Tensor, "B 4 s s"]) -> Float[Tensor, "B 3 S S"]:
        with torch.autocast(sample.device.type, enabled=False):
            image: Tensor = self.vae.decode(sample.float() / self.vae.config.scaling_factor).sample
        return straight_through(image / 2 + 0.5)


class LatentDenoiser(DiffusersDenoiser):
    """The network of a text-to-image base. parts: the folder of what else belongs to it."""

    def __init__(self, network: Any, schedule: DiffusersSchedule, conditioning: Conditioning, parts: Path) -> None:
        super().__init__(network, schedule, conditioning)
        self.parts = parts

    def save(self, folder: Path) -> str:
        """A whole StableDiffusionPipeline in half precision, with the CLIPs and their preprocessing beside it; the
        tokenizer and the text encoder are not repeated."""
        from diffusers import AutoencoderKL, StableDiffusionPipeline
        from transformers import CLIPTextModel

        network: Any = copy.deepcopy(self.network)
        clip, tokenizer = contrastive.read(self.parts / "clip")
        tower = CLIPTextModel(clip.config.text_config)
        getattr(tower, "text_model", tower).load_state_dict(
            clip.text_model.state_dict()
        )  # transformers 5 has no inner one
        with quiet():
            pipe: Any = StableDiffusionPipeline(
                vae=AutoencoderKL.from_pretrained(self.parts / "vae"), unet=network.cpu(), tokenizer=tokenizer,
                text_encoder=tower, scheduler=self.schedule.scheduler, safety_checker=None, feature_extractor=None,
                requires_safety_checker=False,
            )  # fmt: skip
            for part in (pipe.vae, pipe.unet, pipe.text_encoder):
                nn.Module.to(part, torch.float16)  # past the library's advice on single layers
            pipe.save_pretrained(folder, safe_serialization=True)
        contrastive.write_words(tokenizer, folder / "tokenizer")
        contrastive.name_as_transformers_4(folder / "text_encoder" / "model.safetensors")
        config = folder / "text_encoder" / "config.json"  # which transformers reads the precision from, unasked
        config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
        for part in contrastive.SIZES:
            if (self.parts / part).is_dir():
                network, _ = contrastive.read(self.parts / part)
                contrastive.save_beside(network, folder / part, part)
                shutil.copy(self.parts / part / contrastive.PREPROCESSING, folder / part)
        example = f"image = pipe({self.conditioning.texts[0]!r}).images[0]" if self.conditioning.texts else ""
        return WHOLE.format(name=folder.name, example=example, without="")


@dataclass(frozen=True, kw_only=True, eq=False)
class CaptionedPictures(LabelledDomain):
    """Pictures with captions. A base of them is made by three tasks, each of which goes on from what is there: clip (two CLIPs,
    one for the base and one that judges), autoencoder, pretrain (the network that denoises latents).

    pictures: a folder with metadata.jsonl, a line a picture with file_name and text; or that of the npm package
    emoji-datasource-google. weights: the folder that the parts are written to and read from. size: pixels a side. Nothing is held
    out: a base of few pictures knows them by heart, and prompts that are no caption are its test.
    """

    pictures: str | None = None
    weights: str | None = None
    size: int = 64
    name: str = field(default="captioned", init=False)

    def __post_init__(self) -> None:
        for key in ("pictures", "weights"):
            if getattr(self, key) is None:
                raise ValueError(f"domain.{key} is null; it must be a folder")
        if self.size < 2 * FACTOR or self.size % (2 * FACTOR):
            raise ValueError(f"size is {self.size}; it must be a multiple of {2 * FACTOR} pixels")

    @property
    def folder(self) -> Path:
        """Of the parts."""
        return Path(str(self.weights)).expanduser()

    @functools.cached_property
    def read(self) -> Captioned:
        """The pictures and captions."""
        return captioned(Path(str(self.pictures)).expanduser(), self.size)

    @property
    def space(self) -> Space:  # type: ignore[override]
        """Of latents."""
        return Dense((4, self.size // FACTOR, self.size // FACTOR))

    @functools.cached_property
    def conditioning(self) -> Captions:  # type: ignore[override]
        """The captions, as the text tower of the CLIP gives them."""
        clip, tokenizer = contrastive.read(self.folder / "clip")
        texts = (*self.read.captions, "")
        ids = contrastive.tokens(tokenizer, list(texts))
        with torch.no_grad():
            return Captions(texts, torch.cat([clip.text_model(part)[0] for part in ids.split(256)]))

    @property
    def train_conditions(self) -> tuple[int, ...]:  # type: ignore[override]
        """All captions."""
        return tuple(range(len(self.read.captions)))

    @functools.cached_property
    def decoder(self) -> LatentDecoder:  # type: ignore[override]
        """The autoencoder's."""
        with quiet():
            vae = autoencoder.read(self.folder / "vae")
        return LatentDecoder(vae.requires_grad_(False))

    @functools.cached_property
    def latents(self) -> Float[Tensor, "N 4 s s"]:
        """The means of all pictures' latents, scaled."""
        vae = self.decoder.vae
        with torch.no_grad():
            means = [vae.encode(pixels_of(part)).latent_dist.mean for part in self.read.pixels.split(64)]
        return torch.cat(means) * vae.config.scaling_factor

    def data(self, split: str) -> tuple[Tensor, Int[Tensor, " N"]]:
        """Of "train" about as many of every kind, of "test" each picture once."""
        if split not in ("train", "test"):
            raise ValueError(f"split is {split!r}; it must be train or test")
        rows = self.read.balanced() if split == "train" else torch.arange(len(self.read.captions))
        return self.latents[rows], rows

    def fresh(self, generator: torch.Generator) -> LatentDenoiser:
        """What is in the folder, or an untrained network."""
        from diffusers import UNet2DConditionModel
        from diffusers.models.attention_processor import AttnProcessor

        if (self.folder / "unet").is_dir():
            return self.base().train()
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            network: Any = UNet2DConditionModel(
                sample_size=self.size // FACTOR, block_out_channels=WIDTHS, layers_per_block=2,
                cross_attention_dim=self.conditioning.branches[0][STATES][0].shape[-1], attention_head_dim=HEADS,
                norm_num_groups=GROUPS, down_block_types=("CrossAttnDownBlock2D",) * 2,
                up_block_types=("CrossAttnUpBlock2D",) * 2,
            )  # fmt: skip
        network.set_attn_processor(AttnProcessor())  # the fused one is twice as slow on a CPU, backward in bf16
        return LatentDenoiser(network, DiffusersSchedule(DDIM), self.conditioning, self.folder)

    def base(self) -> LatentDenoiser:
        from diffusers import UNet2DConditionModel

        try:
            network = UNet2DConditionModel.from_pretrained(
                self.folder / "unet", local_files_only=True, use_safetensors=True, torch_dtype=torch.float32
            )
        except Exception as error:  # whatever a damaged or foreign folder makes the library raise
            raise ValueError(
                f"there is no network in {self.folder / 'unet'} ({error}). Make it with `{program()} "
                f"experiment=pretrain/captioned domain.pictures={self.pictures} domain.weights={self.weights}`"
            ) from error
        return LatentDenoiser(network, DiffusersSchedule(DDIM), self.conditioning, self.folder).eval()

    @functools.cached_property
    def judge(self) -> tuple[Any, Tensor] | None:
        """The CLIP that only judges, and the directions of all captions under it; None where it has not been made."""
        if not (self.folder / "judge").is_dir():
            return None
        clip, tokenizer = contrastive.read(self.folder / "judge")
        ids = contrastive.tokens(tokenizer, list(self.read.captions))
        return clip, contrastive.directions(clip, ids)

    @torch.no_grad()
    def metrics(self, sample: Tensor, cond: Tensor) -> dict[str, float]:
        """How often, to the judge, no caption is nearer to a sample than its own, and fewer than ten are."""
        if self.judge is None:
            return {}
        clip, told = self.judge
        image = self.decoder(sample.detach()).cpu()
        rank = contrastive.ranks(clip, image, told, cond.cpu())
        return {
            "caption_first": float((rank == 0).double().mean()),
            "caption_top10": float((rank < 10).double().mean()),
        }

    def show(self, rows: dict[str, Tensor], path: Path, cond: Int[Tensor, " B"] | None = None) -> None:
        captions = [self.read.captions[c] for c in cond.tolist()] if cond is not None else None
        picture({title: self.decoder(sample.detach()).cpu() for title, sample in rows.items()}, path, captions)
