"""Small pipelines of the real architectures with random weights, built and saved on the spot, without a network."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

SD_BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
LENGTH = 24
"""Tokens of a caption; a token is a letter."""


def clip_tokenizer() -> CLIPTokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    return CLIPTokenizer({name: i for i, name in enumerate(names)}, [], model_max_length=LENGTH)


def t5_tokenizer() -> T5Tokenizer:
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz"]
    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5Tokenizer([*specials, *((letter, -1.0) for letter in letters)], extra_ids=0, model_max_length=LENGTH)


def clip(kind: type[CLIPTextModel] | type[CLIPTextModelWithProjection], tokenizer: CLIPTokenizer) -> Any:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        projection_dim=16,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return kind(config)


def t5(tokenizer: T5Tokenizer) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=32, d_ff=32, d_kv=8, num_layers=2, num_heads=2, is_gated_act=True)
    )


def autoencoder(**settings: Any) -> AutoencoderKL:
    """Two pixels a side become one latent."""
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        **settings,
    )


def unet(**settings: Any) -> UNet2DConditionModel:
    base: dict[str, Any] = dict(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    return UNet2DConditionModel(**base | settings)


def stable_diffusion(scheduler: Any) -> StableDiffusionPipeline:
    tokenizer = clip_tokenizer()
    return StableDiffusionPipeline(
        vae=autoencoder(scaling_factor=0.7),
        text_encoder=clip(CLIPTextModel, tokenizer),
        tokenizer=tokenizer,
        unet=unet(),
        scheduler=scheduler,
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )


def sd1() -> StableDiffusionPipeline:
    return stable_diffusion(PNDMScheduler(**SD_BETAS, skip_prk_steps=True, set_alpha_to_one=False))


def sd2() -> StableDiffusionPipeline:
    return stable_diffusion(
        DDIMScheduler(**SD_BETAS, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False)
    )


def sd2_zero() -> StableDiffusionPipeline:
    """Its last noise level is pure noise."""
    return stable_diffusion(
        DDIMScheduler(
            **SD_BETAS,
            prediction_type="v_prediction",
            clip_sample=False,
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
        )
    )


def sdxl() -> StableDiffusionXLPipeline:
    tokenizer = clip_tokenizer()
    network = unet(
        cross_attention_dim=32,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 16,
    )
    return StableDiffusionXLPipeline(
        vae=autoencoder(scaling_factor=0.5),
        text_encoder=clip(CLIPTextModel, tokenizer),
        text_encoder_2=clip(CLIPTextModelWithProjection, tokenizer),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=network,
        scheduler=EulerDiscreteScheduler(**SD_BETAS, timestep_spacing="leading"),  # type: ignore[arg-type]
        add_watermarker=False,
    )


def sd3(*, with_t5: bool = True, **scheduler: Any) -> StableDiffusion3Pipeline:
    tokenizer, third = clip_tokenizer(), t5_tokenizer()
    network = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
    )
    return StableDiffusion3Pipeline(
        transformer=network,
        scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0} | scheduler),
        vae=autoencoder(scaling_factor=1.5, shift_factor=0.06),
        text_encoder=clip(CLIPTextModelWithProjection, tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=clip(CLIPTextModelWithProjection, tokenizer),
        tokenizer_2=tokenizer,
        text_encoder_3=t5(third) if with_t5 else None,  # type: ignore[arg-type]
        tokenizer_3=third if with_t5 else None,  # type: ignore[arg-type]
    )


def sd3_without_t5() -> StableDiffusion3Pipeline:
    return sd3(with_t5=False)


def sd3_dynamic() -> StableDiffusion3Pipeline:
    """The shift depends on the size of the picture."""
    return sd3(use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64)


def flux(*, distilled: bool = True) -> FluxPipeline:
    tokenizer, second = clip_tokenizer(), t5_tokenizer()
    network = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=distilled,
        axes_dims_rope=(2, 2, 4),
    )
    dynamic = dict(use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**dynamic if distilled else {}),  # type: ignore[arg-type]
        vae=autoencoder(scaling_factor=0.4, shift_factor=0.1),
        text_encoder=clip(CLIPTextModel, tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=t5(second),
        tokenizer_2=second,
        transformer=network,
    )


def flux_schnell() -> FluxPipeline:
    return flux(distilled=False)


BUILDERS = {
    make.__name__: make for make in (sd1, sd2, sd2_zero, sdxl, sd3, sd3_without_t5, sd3_dynamic, flux, flux_schnell)
}


def build(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Write one pipeline into a folder; returns the folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline: Any = BUILDERS[name]()
        # Weights drawn at 0.02 make captions alike and every test blind.
        for component in pipeline.components.values():
            if isinstance(component, CLIPTextModel | CLIPTextModelWithProjection | T5EncoderModel):
                for parameter in component.parameters():
                    if parameter.ndim > 1:
                        parameter.data.mul_(5.0)
    pipeline.save_pretrained(folder)
    return folder
