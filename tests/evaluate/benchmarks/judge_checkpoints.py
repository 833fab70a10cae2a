"""Small checkpoints, random weights, of the networks that judge pictures; built and saved on the spot."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BlipConfig,
    BlipForQuestionAnswering,
    CLIPConfig,
    CLIPModel,
    DetrConfig,
    DetrForObjectDetection,
    LlavaProcessor,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    PreTrainedTokenizerFast,
    ResNetConfig,
    SwinConfig,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

from policies.hf import checkpoints

COCO_LIKE = ("cat", "dog", "car", "bench", "bowl", "book", "clock", "vase")
WORDS = [
    "a",
    "photo",
    "of",
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
    "colored",
    "object",
    "cat",
    "dog",
    "car",
    "bench",
    "bowl",
    "is",
    "there",
    "the",
    "?",
    "-",
    "yes",
    "no",
    "answer",
    "with",
    "or",
    ".",
    "person",
    "looking",
    "at",
    "and",
    "an",
]


def tokenizer(*, begin: str, end: str, words: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """One token a word."""
    names = list(dict.fromkeys([begin, end, "[PAD]", "[UNK]", *WORDS, *words]))
    vocabulary = {name: i for i, name in enumerate(names)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])
    made.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, vocabulary[begin]), (end, vocabulary[end])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=begin, eos_token=end, pad_token="[PAD]", unk_token="[UNK]"
    )


def mask2former(folder: Path, names: tuple[str, ...] = COCO_LIKE) -> Path:
    torch.manual_seed(0)
    backbone = SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=32,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=32, num_queries=6,
        id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)},
    )  # fmt: skip
    model = Mask2FormerForUniversalSegmentation(config)
    with torch.no_grad():
        for parameter in model.class_predictor.parameters():
            parameter.mul_(30)
    model.save_pretrained(folder)
    size = {"shortest_edge": 64, "longest_edge": 128}
    Mask2FormerImageProcessorPil(size=size, size_divisor=32).save_pretrained(folder)
    return folder


def detr(folder: Path, names: tuple[str, ...] = COCO_LIKE) -> Path:
    torch.manual_seed(0)
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1], out_features=["stage4"], layer_type="basic"
    )
    config = DetrConfig(
        backbone_config=backbone, use_timm_backbone=False, backbone=None, use_pretrained_backbone=False, d_model=16,
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, num_queries=5, id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )  # fmt: skip
    DetrForObjectDetection(config).save_pretrained(folder)
    DetrImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 64}).save_pretrained(folder)
    return folder


def clip(folder: Path) -> Path:
    torch.manual_seed(0)
    words = tokenizer(begin="<s>", end="</s>")
    config = CLIPConfig(
        text_config=dict(
            vocab_size=len(words), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=16, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        ),
        vision_config=dict(
            hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32,
            patch_size=8,
        ),
        projection_dim=16,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def blip(folder: Path) -> Path:
    torch.manual_seed(0)
    words = tokenizer(begin="[CLS]", end="[SEP]", words=("[DEC]",))
    config = BlipConfig(
        text_config=dict(
            vocab_size=len(words), hidden_size=32, encoder_hidden_size=32, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=40, bos_token_id=words.convert_tokens_to_ids("[DEC]"),
            eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id, sep_token_id=words.eos_token_id,
        ),
        vision_config=dict(
            hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32,
            patch_size=8,
        ),
        projection_dim=16,
    )  # fmt: skip
    model = BlipForQuestionAnswering(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def chat(folder: Path) -> Path:
    checkpoints.build("llava", folder)
    _, words, pictures = checkpoints.llava(0)
    LlavaProcessor(
        pictures, words, patch_size=8, vision_feature_select_strategy="default", chat_template=words.chat_template,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder
