"""Small checkpoints of the real architectures with random weights, built and saved on the spot, without a network."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

ARCHITECTURES = ("qwen2_5_vl", "qwen3_vl", "idefics3")
"""The architectures that the library is checked on."""
OTHERS = ("qwen2_vl", "smolvlm", "llava")
"""Built as well; they share most code with the above."""

QWEN_SPECIALS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
IDEFICS_SPECIALS = (
    "<|im_start|>",
    "<end_of_utterance>",
    "<fake_token_around_image>",
    "<image>",
    "<global-img>",
    *(f"<row_{i}_col_{j}>" for i in range(1, 5) for j in range(1, 5)),
)
LLAVA_SPECIALS = ("<image>", "</s>")

QWEN_TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nYou are a helpful "
    "assistant.<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for p in m['content'] %}{% if p['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in p %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IDEFICS_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper }}: {% for p in message['content'] %}"
    "{% if p['type'] == 'image' %}<image>\n{% else %}{{ p['text'] }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}</s>{% else %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)

CORPUS = ("which digit is in the picture ? answer with one number .", "system user assistant You are a helpful") * 4


def train_tokenizer(specials: tuple[str, ...], end: str, template: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on a few words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|pad|>", *specials],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token=end, additional_special_tokens=list(specials)
    )
    wrapped.chat_template = template
    return wrapped


def build(architecture: str, folder: Path, *, seed: int = 0) -> Path:
    """Write model, tokenizer and image processor of one architecture into a folder; returns the folder."""
    model, tokenizer, processor = BUILDERS[architecture](seed)
    # Weights drawn at 0.02 leave the logits almost uniform and every test blind: make attention and images matter.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5.0)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def text_sizes(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return dict(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )


def qwen_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()}


def qwen2_5_vl(seed: int, **text: Any):
    tokenizer = train_tokenizer(QWEN_SPECIALS, "<|im_end|>", QWEN_TEMPLATE)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
    config = Qwen2_5_VLConfig(
        text_config={**text_sizes(tokenizer), "rope_parameters": rope, **text},
        vision_config=dict(
            depth=2, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=48, patch_size=8,
            window_size=32, fullatt_block_indexes=[1],
        ),
        tie_word_embeddings=True,
        **qwen_ids(tokenizer),
    )  # fmt: skip
    torch.manual_seed(seed)
    processor = Qwen2VLImageProcessorPil(patch_size=8, size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64})
    return Qwen2_5_VLForConditionalGeneration(config), tokenizer, processor


def sliding(seed: int):
    """Qwen2.5-VL whose second layer sees 16 positions: fewer than a prompt, more than a turn."""
    return qwen2_5_vl(seed, use_sliding_window=True, sliding_window=16, max_window_layers=1)


def qwen2_vl(seed: int):
    tokenizer = train_tokenizer(QWEN_SPECIALS, "<|im_end|>", QWEN_TEMPLATE)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
    config = Qwen2VLConfig(
        text_config={**text_sizes(tokenizer), "rope_parameters": rope},
        vision_config=dict(depth=2, embed_dim=32, hidden_size=48, num_heads=2, mlp_ratio=2, patch_size=8),
        tie_word_embeddings=True,
        **qwen_ids(tokenizer),
    )
    torch.manual_seed(seed)
    processor = Qwen2VLImageProcessorPil(patch_size=8, size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64})
    return Qwen2VLForConditionalGeneration(config), tokenizer, processor


def qwen3_vl(seed: int):
    tokenizer = train_tokenizer(QWEN_SPECIALS, "<|im_end|>", QWEN_TEMPLATE)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
    config = Qwen3VLConfig(
        text_config={**text_sizes(tokenizer), "num_hidden_layers": 3, "head_dim": 12, "rope_parameters": rope},
        vision_config=dict(
            depth=2, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=48, patch_size=8,
            num_position_embeddings=64, deepstack_visual_indexes=[0, 1],
        ),
        tie_word_embeddings=True,
        **qwen_ids(tokenizer),
    )  # fmt: skip
    torch.manual_seed(seed)
    processor = Qwen2VLImageProcessorPil(
        patch_size=8,
        size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return Qwen3VLForConditionalGeneration(config), tokenizer, processor


def idefics3(
    seed: int,
    config_class: Any = Idefics3Config,
    model_class: Any = Idefics3ForConditionalGeneration,
    processor_class: Any = Idefics3ImageProcessorPil,
):
    tokenizer = train_tokenizer(IDEFICS_SPECIALS, "<end_of_utterance>", IDEFICS_TEMPLATE)
    config = config_class(
        text_config={**text_sizes(tokenizer), "model_type": "llama"},
        vision_config=dict(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ),
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    processor = processor_class(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return model_class(config), tokenizer, processor


def smolvlm(seed: int):
    return idefics3(seed, SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMImageProcessorPil)


def llava(seed: int):
    tokenizer = train_tokenizer(LLAVA_SPECIALS, "</s>", LLAVA_TEMPLATE)
    config = LlavaConfig(
        text_config={**text_sizes(tokenizer), "model_type": "llama"},
        vision_config=dict(
            model_type="clip_vision_model", hidden_size=32, intermediate_size=48, num_hidden_layers=3,
            num_attention_heads=2, image_size=32, patch_size=8, projection_dim=32,
        ),
        image_token_index=tokenizer.get_vocab()["<image>"],
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(seed)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return LlavaForConditionalGeneration(config), tokenizer, processor


BUILDERS = {make.__name__: make for make in (qwen2_vl, qwen2_5_vl, sliding, qwen3_vl, idefics3, smolvlm, llava)}
