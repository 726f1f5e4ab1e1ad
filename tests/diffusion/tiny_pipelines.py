"""Tiny random pipelines of diffusers, made in code: with tokenizers and text encoders, or with encodings handed in."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import diffusers as d
import torch
import transformers as t
from tokenizers.pre_tokenizers import ByteLevel

SD = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
    "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip
PROMPTS = ("a red cat", "two dogs on a boat, at night", "the sea")
FLOW = d.FlowMatchEulerDiscreteScheduler
SMALL = {"height": 16, "width": 16}


@dataclass(frozen=True)
class Tiny:
    """A pipeline, what it is called with, and one prompt's encodings where it has no encoder."""

    pipe: Any
    call: Mapping[str, Any]
    encodings: Callable[[int], Mapping[str, Any]] | None = None
    prompts: tuple[Any, ...] = field(default=PROMPTS)

    def asked_for(self) -> list[Any]:
        """Three prompts as Caller takes them."""
        return [self.encodings(i) for i in range(3)] if self.encodings else list(self.prompts)


def clip(projection: bool = False) -> tuple[Any, Any]:
    config = t.CLIPTextConfig(
        vocab_size=514, hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=24, bos_token_id=512, eos_token_id=513, pad_token_id=513, projection_dim=32,
    )  # fmt: skip
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = t.CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=24)
    return (t.CLIPTextModelWithProjection if projection else t.CLIPTextModel)(config), tokenizer


def t5(width: int) -> tuple[Any, Any]:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(c, -3.0) for c in string.ascii_lowercase + ".,"]
    config = t.T5Config(
        vocab_size=64, d_model=width, d_ff=37, d_kv=8, num_layers=1, num_heads=4, feed_forward_proj="gated-gelu"
    )
    return t.T5EncoderModel(config), t.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=32)


def vae(**more: Any) -> Any:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return d.AutoencoderKL(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=16,
        **blocks,
        **more,
    )


def unet(cross: int, **more: Any) -> Any:
    return d.UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, sample_size=8, norm_num_groups=8, cross_attention_dim=cross,
        attention_head_dim=(2, 4), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **more,
    )  # fmt: skip


def stable_diffusion(scheduler: Any = None, **more: Any) -> Tiny:
    encoder, tokenizer = clip()
    pipe = d.StableDiffusionPipeline(
        vae=vae(scaling_factor=0.18215), text_encoder=encoder, tokenizer=tokenizer, unet=unet(32, **more),
        scheduler=scheduler or d.DDIMScheduler(**SD), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    return Tiny(pipe, {"guidance_scale": 5.0, "negative_prompt": "blurry", **SMALL})


def v_prediction() -> Tiny:
    changed = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return stable_diffusion(d.DDIMScheduler(**SD | changed | {"set_alpha_to_one": True, "steps_offset": 0}))


def euler() -> Tiny:
    kept = {k: v for k, v in SD.items() if k not in ("clip_sample", "set_alpha_to_one")}
    return stable_diffusion(d.EulerDiscreteScheduler(**kept, timestep_spacing="leading"))


def stable_diffusion_xl() -> Tiny:
    (first, first_words), (second, second_words) = clip(), clip(projection=True)
    network = unet(
        64, addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=80,
        transformer_layers_per_block=(1, 1), use_linear_projection=True,
    )  # fmt: skip
    pipe = d.StableDiffusionXLPipeline(
        vae=vae(scaling_factor=0.13025), text_encoder=first, tokenizer=first_words, text_encoder_2=second,
        tokenizer_2=second_words, unet=network, scheduler=d.DDIMScheduler(**SD),
    )  # fmt: skip
    return Tiny(pipe, {"guidance_scale": 5.0, **SMALL})


def stable_diffusion_3() -> Tiny:
    (first, first_words), (second, second_words), (third, third_words) = clip(True), clip(True), t5(64)
    network = d.SD3Transformer2DModel(
        sample_size=8, patch_size=1, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=64,
    )  # fmt: skip
    pipe = d.StableDiffusion3Pipeline(
        transformer=network, scheduler=FLOW(shift=3.0), vae=vae(scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=first, tokenizer=first_words, text_encoder_2=second, tokenizer_2=second_words,
        text_encoder_3=third, tokenizer_3=third_words,
    )  # fmt: skip
    return Tiny(pipe, {"guidance_scale": 4.5, "max_sequence_length": 12, **SMALL})


def flux() -> Tiny:
    (first, first_words), (second, second_words) = clip(), t5(32)
    network = d.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    pipe = d.FluxPipeline(
        transformer=network, scheduler=FLOW(shift=3.0, use_dynamic_shifting=True), text_encoder=first,
        vae=vae(scaling_factor=0.3611, shift_factor=0.1159), tokenizer=first_words, text_encoder_2=second,
        tokenizer_2=second_words,
    )  # fmt: skip
    call = {"guidance_scale": 3.5, "true_cfg_scale": 2.0, "negative_prompt": "blurry", "max_sequence_length": 12}
    return Tiny(pipe, {**call, **SMALL})


def encoded(
    width: int, mask: str | None = "attention", length: int = 6, kind: torch.dtype = torch.long
) -> Callable[[int], Mapping[str, Any]]:
    """Random encodings of prompt i, the negative one's beside them. mask: what the argument is called."""

    def of(i: int) -> dict[str, Any]:
        g = torch.Generator().manual_seed(i)
        kept = {"": length - 1 - i, "negative_": 2}
        out: dict[str, Any] = {}
        for prefix, count in kept.items():
            out[f"{prefix}prompt_embeds"] = torch.randn(length, width, generator=g)
            if mask == "attention":
                out[f"{prefix}prompt_attention_mask"] = (torch.arange(length) < count).to(kind)
            elif mask:
                out[f"{prefix}prompt_embeds_mask"] = (torch.arange(length) < count).to(kind)
        return out

    return of


def pixart() -> Tiny:
    network = d.PixArtTransformer2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=3, caption_channels=32,
        in_channels=4, cross_attention_dim=24, out_channels=8, attention_bias=True,
    )  # fmt: skip
    scheduler = d.DDIMScheduler(**SD | {"set_alpha_to_one": True})
    pipe = d.PixArtSigmaPipeline(tokenizer=None, text_encoder=None, vae=vae(), transformer=network, scheduler=scheduler)
    call = {"guidance_scale": 4.5, "use_resolution_binning": False, "negative_prompt": None, **SMALL}
    return Tiny(pipe, call, encoded(32))


def sana(flow: bool = True) -> Tiny:
    network = d.SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=8, sample_size=32,
    )  # fmt: skip
    autoencoder = d.AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=[1, 1], downsample_block_type="conv",
        upsample_block_type="interpolate", decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.41407,
    )  # fmt: skip
    solver = {"algorithm_type": "dpmsolver++", "prediction_type": "flow_prediction", "final_sigmas_type": "zero"}
    other = {"solver_order": 1, "use_flow_sigmas": True, "flow_shift": 3.0}
    scheduler = FLOW(shift=3.0) if flow else d.DPMSolverMultistepScheduler(**solver, **other)
    pipe = d.SanaPipeline(tokenizer=None, text_encoder=None, vae=autoencoder, transformer=network, scheduler=scheduler)
    call = {"guidance_scale": 4.5, "height": 32, "width": 32, "use_resolution_binning": False, "negative_prompt": None}
    return Tiny(pipe, call, encoded(8))


def qwen_image() -> Tiny:
    network = d.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=3,
        joint_attention_dim=16, guidance_embeds=False, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    autoencoder = d.AutoencoderKLQwenImage(
        base_dim=24, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    scheduler = FLOW(use_dynamic_shifting=True, shift_terminal=0.02)
    pipe = d.QwenImagePipeline(
        scheduler=scheduler, vae=autoencoder, text_encoder=None, tokenizer=None, transformer=network
    )
    return Tiny(pipe, {"true_cfg_scale": 4.0, "height": 32, "width": 32}, encoded(16, "embeds"))


def lumina_2(norm_kept: bool = True) -> Tiny:
    network = d.Lumina2Transformer2DModel(
        sample_size=4, patch_size=2, in_channels=4, hidden_size=24, num_layers=2, num_refiner_layers=1,
        num_attention_heads=3, num_kv_heads=1, multiple_of=2, ffn_dim_multiplier=None, norm_eps=1e-5, scaling_factor=1.0,
        axes_dim_rope=[4, 2, 2], cap_feat_dim=8,
    )  # fmt: skip
    pipe = d.Lumina2Pipeline(
        transformer=network,
        scheduler=FLOW(),
        vae=vae(scaling_factor=0.36, shift_factor=0.1),
        text_encoder=None,
        tokenizer=None,
    )
    return Tiny(pipe, {"guidance_scale": 4.0, "cfg_normalization": norm_kept, **SMALL}, encoded(8))


def z_image(norm_kept: bool = False) -> Tiny:
    network = d.ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, cap_feat_dim=16, axes_dims=[8, 4, 4], axes_lens=[256, 32, 32],
    )  # fmt: skip
    for p in network.parameters():  # some are made empty
        if not p.any() or p.isnan().any():
            torch.nn.init.normal_(p, std=0.1)
    pipe = d.ZImagePipeline(
        scheduler=FLOW(shift=3.0), vae=vae(scaling_factor=0.36, shift_factor=0.1), text_encoder=None, tokenizer=None,
        transformer=network,
    )  # fmt: skip

    def of(i: int) -> dict[str, Any]:
        g = torch.Generator().manual_seed(i)
        sizes = {"prompt_embeds": 6 - i, "negative_prompt_embeds": 3}
        return {name: [torch.randn(n, 16, generator=g)] for name, n in sizes.items()}

    return Tiny(pipe, {"guidance_scale": 4.0, "cfg_normalization": norm_kept, "height": 32, "width": 32}, of)


def chroma() -> Tiny:
    network = d.ChromaTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=[4, 4, 8], approximator_hidden_dim=32, approximator_layers=1,
        approximator_num_channels=16,
    )  # fmt: skip
    pipe = d.ChromaPipeline(
        scheduler=FLOW(use_dynamic_shifting=True), vae=vae(scaling_factor=0.36, shift_factor=0.1), text_encoder=None,
        tokenizer=None, transformer=network,
    )  # fmt: skip
    return Tiny(pipe, {"guidance_scale": 4.0, **SMALL}, encoded(32, kind=torch.float))


def aura_flow() -> Tiny:
    network = d.AuraFlowTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32, out_channels=4, pos_embed_max_size=16,
    )  # fmt: skip
    pipe = d.AuraFlowPipeline(
        tokenizer=None, text_encoder=None, vae=vae(scaling_factor=0.13), transformer=network, scheduler=FLOW(shift=1.73)
    )
    return Tiny(pipe, {"guidance_scale": 4.0, **SMALL}, encoded(32))


def cogview_4() -> Tiny:
    network = d.CogView4Transformer2DModel(
        patch_size=2, in_channels=4, num_layers=2, attention_head_dim=4, num_attention_heads=4, out_channels=4,
        text_embed_dim=32, time_embed_dim=8, condition_dim=4,
    )  # fmt: skip
    scheduler = FLOW(
        base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True, time_shift_type="linear"
    )
    pipe = d.CogView4Pipeline(
        tokenizer=None, text_encoder=None, vae=vae(scaling_factor=1.0), transformer=network, scheduler=scheduler
    )
    return Tiny(pipe, {"guidance_scale": 4.0, **SMALL}, encoded(32, None, 16))


def flux_2() -> Tiny:
    network = d.Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, timestep_guidance_channels=256, axes_dims_rope=[4, 4, 4, 4],
    )  # fmt: skip
    autoencoder = d.AutoencoderKLFlux2(
        sample_size=32, in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",), block_out_channels=(4,), layers_per_block=1, latent_channels=4,
        norm_num_groups=1, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    pipe = d.Flux2Pipeline(
        scheduler=FLOW(use_dynamic_shifting=True),
        vae=autoencoder,
        text_encoder=None,
        tokenizer=None,
        transformer=network,
    )

    def of(i: int) -> dict[str, Any]:
        return {"prompt_embeds": torch.randn(6, 16, generator=torch.Generator().manual_seed(i))}

    return Tiny(pipe, {"guidance_scale": 4.0, "height": 8, "width": 8}, of)


def dit() -> Tiny:
    network = d.DiTTransformer2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=2, in_channels=4,
        out_channels=8, attention_bias=True, num_embeds_ada_norm=1000, norm_elementwise_affine=False,
    )  # fmt: skip
    pipe = d.DiTPipeline(
        transformer=network, vae=vae(), scheduler=d.DDIMScheduler(), id2label={"3": "tiger shark", "7": "cock"}
    )
    return Tiny(pipe, {"guidance_scale": 4.0}, prompts=(3, 7, 12))


def pixels(pipeline: Any, scheduler: Any, channels: int = 3) -> Tiny:
    network = d.UNet2DModel(
        sample_size=8, in_channels=channels, out_channels=channels, layers_per_block=1, block_out_channels=(16, 32),
        norm_num_groups=8, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=8,
    )  # fmt: skip
    return Tiny(pipeline(network, scheduler), {}, prompts=(None, None, None))


KINDS: dict[str, Callable[[], Tiny]] = {
    "stable diffusion": stable_diffusion,
    "stable diffusion, v": v_prediction,
    "stable diffusion, Euler": euler,
    "stable diffusion, embedded guidance": lambda: stable_diffusion(time_cond_proj_dim=32),
    "SDXL": stable_diffusion_xl,
    "SD3": stable_diffusion_3,
    "FLUX": flux,
    "FLUX.2": flux_2,
    "PixArt": pixart,
    "Sana": sana,
    "Sana, DPM-Solver": lambda: sana(flow=False),
    "Qwen-Image": qwen_image,
    "Lumina 2": lambda: lumina_2(norm_kept=False),
    "Lumina 2, norm kept": lumina_2,
    "Z-Image": z_image,
    "Chroma": chroma,
    "AuraFlow": aura_flow,
    "CogView4": cogview_4,
    "DiT": dit,
    "DDPM": lambda: pixels(d.DDPMPipeline, d.DDPMScheduler(clip_sample=True)),
    "DDIM": lambda: pixels(d.DDIMPipeline, d.DDIMScheduler(clip_sample=True), channels=1),
}


def made(name: str) -> Tiny:
    """The same one every time, in eval mode."""
    torch.manual_seed(0)
    tiny = KINDS[name]()
    for part in tiny.pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return tiny
