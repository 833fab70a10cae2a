"""A small Emu3 with random weights, built and saved on the spot."""

from pathlib import Path

import torch
from transformers import Emu3Config, Emu3ForConditionalGeneration
from transformers.models.emu3.image_processing_emu3 import Emu3ImageProcessor

from policies.hf.checkpoints import text_sizes, train_tokenizer

CODES = 24
SPECIALS = (
    "<image>", "<|image start|>", "<|image token|>", "<|image end|>", "<|extra_200|>", "<|extra_201|>", "<|end|>",
    *(f"<|visual token {i:06d}|>" for i in range(CODES)),
)  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | upper }}: {% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}<image>{% else %}{{ p['text'] }}{% endif %}{% endfor %}"
    "{% if m['role'] == 'assistant' %}<|end|>{% else %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def build(folder: Path, *, seed: int = 0) -> Path:
    """Write model, tokenizer and image processor into the folder; one code stands for 8 x 8 pixels."""
    tokenizer = train_tokenizer(SPECIALS, "<|end|>", TEMPLATE)
    config = Emu3Config(
        text_config={**text_sizes(tokenizer), "attention_dropout": 0.1, "bos_token_id": 0},
        vq_config=dict(
            codebook_size=CODES, embed_dim=4, latent_channels=4, base_channels=32, channel_multiplier=[1, 1, 1, 1],
            num_res_blocks=1, attn_resolutions=[3], hidden_size=32, num_attention_heads=1, temporal_downsample_factor=4,
        ),
        vocabulary_map=tokenizer.get_vocab(),
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Emu3ForConditionalGeneration(config)
    # At the scale of a fresh model logits are almost uniform and every test blind.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "vqmodel" not in name:
                parameter.mul_(5.0)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Emu3ImageProcessor(min_pixels=16 * 16, max_pixels=32 * 32).save_pretrained(folder)
    return folder
