"""The one problem that both sides solve: a random Qwen2.5-VL in a folder, pictures to count on, and a reward.

Imported by the peer's environment too: nothing here needs saccade.
"""

from __future__ import annotations

import json
import math
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

LR, MAX_NORM, CLIP, TEMPERATURE = 1e-5, 1.0, 0.2, 1.0
ROWS = 64
"""Least number of tasks; a run never shows one twice."""

SPECIALS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 70, 220), "yellow": (230, 210, 40)}
SHAPES = ("circle", "square", "triangle")
PIXELS = 28
"""Pixels a side of one image token: two patches of 14."""


@dataclass(frozen=True)
class Shape:
    """A Qwen2.5-VL: hidden size, layers, feed-forward size, heads, key heads; of the vision tower likewise."""

    text: tuple[int, int, int, int, int]
    vision: tuple[int, int, int, int]
    full_attention: tuple[int, ...]
    """Layers of the vision tower that do not attend in windows."""


SIZES = {
    "s": Shape((256, 6, 704, 8, 2), (160, 4, 432, 4), (1, 3)),
    "m": Shape((384, 8, 1024, 6, 2), (256, 4, 688, 4), (1, 3)),
    "3b": Shape((2048, 36, 11008, 16, 2), (1280, 32, 3420, 16), (7, 15, 23, 31)),
}


@dataclass(frozen=True)
class Settings:
    """One row of the table, as the workers receive it."""

    folder: str
    image_tokens: int = 256
    completion: int = 32
    group: int = 8
    prompts: int = 1
    size: str = "m"
    beta: float = 0.0
    iterations: int = 1
    bf16: bool = False
    rounds: int = 5
    threads: int = 1
    vocab: int = 2048
    device: str = "cpu"
    prefix: str = "shared"
    micro_size: int = 0
    """Most positions the library puts into one pass; 0 is the prompts and the completions of half a group. The
    peer has no such setting: it would run a prompt again for every part of a group."""

    @property
    def pass_size(self) -> int:
        """``micro_size``, or what it stands for; a prompt has some 30 tokens besides the picture's."""
        half = self.completion * (self.group // 2)
        return self.micro_size or self.prompts * (self.image_tokens + 32) + half

    @property
    def dtype(self) -> str:
        """Of the weights."""
        return "bfloat16" if self.size == "3b" else "float32"

    @property
    def side(self) -> int:
        """Image tokens a side of the picture."""
        return math.isqrt(self.image_tokens)

    @property
    def steps(self) -> int:
        """All rounds: two are not timed. In the first, optimiser states come about; the mark for memory follows, and
        the second asks the system for the pages again that were given back there."""
        return self.rounds + 2

    @property
    def rows(self) -> int:
        return max(ROWS, self.steps * self.prompts)

    @property
    def tasks(self) -> Path:
        return Path(self.folder) / "tasks.jsonl"

    @property
    def peer_step(self) -> Path:
        """What the peer wrote down of its first update."""
        return Path(self.folder) / "peer_step.safetensors"

    def save(self, path: Path) -> Path:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path


def load_settings(path: str) -> Settings:
    return Settings(**json.loads(Path(path).read_text(encoding="utf-8")))


def reward(completions: Sequence[Any], answer: Sequence[str], **columns: Any) -> list[float]:
    """1 if the first number is the answer, 0.2 for any number, and a little for the length, modulo 7.

    The last term keeps a group's rewards apart: random weights are never right.
    """
    paid: list[float] = []
    for completion, right in zip(completions, answer, strict=True):
        text = completion if isinstance(completion, str) else completion[0]["content"]
        number = re.search(r"\d+", text)
        paid.append((0.0 if number is None else 1.0 if number.group() == right else 0.2) + 0.01 * (len(text) % 7))
    return paid


def write(settings: Settings) -> None:
    """Write model, tokenizer, image processor and tasks into ``settings.folder``."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = Path(settings.folder)
    tokenizer = build_tokenizer(settings.vocab)
    tokenizer.save_pretrained(folder)
    area = (PIXELS * settings.side) ** 2
    Qwen2VLImageProcessorPil(size={"shortest_edge": PIXELS**2, "longest_edge": area}).save_pretrained(folder)
    build_model(settings, tokenizer).save_pretrained(folder)
    _write_tasks(settings)


def build_tokenizer(vocab: int) -> Any:
    """A byte-level BPE of the questions, filled up to ``vocab`` tokens with words that no text is split into."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|pad|>", *SPECIALS], show_progress=False, initial_alphabet=alphabet
    )
    bpe.train_from_iterator([f"user {_question(shape)} assistant {i}" for shape in SHAPES for i in range(10)], trainer)
    plain = json.loads(bpe.to_str())
    words = plain["model"]["vocab"]
    words.update({f"Ġw{i}": i for i in range(len(words), vocab)})
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(plain)),
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIALS),
        padding_side="left",
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def build_model(settings: Settings, tokenizer: Any) -> Any:
    """Random weights, tied embeddings, seed 0."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    shape = SIZES[settings.size]
    hidden, layers, feed_forward, heads, key_heads = shape.text
    width, depth, vision_feed_forward, vision_heads = shape.vision
    half = hidden // heads // 2
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [half // 4, half // 4, half - 2 * (half // 4)]}
    token = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=settings.vocab,
            hidden_size=hidden,
            intermediate_size=feed_forward,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=key_heads,
            max_position_embeddings=8192,
            rope_parameters=rope,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        vision_config=dict(
            depth=depth,
            hidden_size=width,
            intermediate_size=vision_feed_forward,
            num_heads=vision_heads,
            out_hidden_size=hidden,
            fullatt_block_indexes=list(shape.full_attention),
        ),
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device(settings.device):
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.to(getattr(torch, settings.dtype))


def load_model(settings: Settings) -> Any:
    """The stock model of the folder."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    options = {"dtype": getattr(torch, settings.dtype), "attn_implementation": "sdpa"}
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(settings.folder, **options).to(settings.device)


def load_processor(folder: str) -> Any:
    """Qwen2.5-VL's processor without its video part, which needs torchvision."""
    from transformers import AutoTokenizer, ProcessorMixin, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    class ImageOnlyProcessor(Qwen2_5_VLProcessor):
        def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

        def check_argument_for_proper_class(self, argument_name, argument):
            return type(argument)

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return ImageOnlyProcessor(Qwen2VLImageProcessorPil.from_pretrained(folder), tokenizer, tokenizer.chat_template)


def load_rows(settings: Settings) -> list[dict[str, Any]]:
    """The tasks in order, pictures opened."""
    from PIL import Image

    rows = [json.loads(line) for line in settings.tasks.read_text(encoding="utf-8").splitlines()]
    return [{**row, "image": Image.open(settings.tasks.parent / row["image"]).convert("RGB")} for row in rows]


def chat(row: dict[str, Any]) -> list[dict[str, Any]]:
    """A row as the messages that a processor takes."""
    content = [{"type": "image", "image": row["image"]}, {"type": "text", "text": row["prompt"]}]
    return [{"role": "user", "content": content}]


def _write_tasks(settings: Settings) -> None:
    from PIL import Image, ImageDraw

    dice, side = random.Random(0), PIXELS * settings.side
    lines: list[str] = []
    for i in range(settings.rows):
        picture = Image.new("RGB", (side, side), (255, 255, 255))
        shapes = _draw(ImageDraw.Draw(picture), dice, side // 3)
        name, asked = f"picture{i:04}.png", dice.choice(SHAPES)
        picture.save(settings.tasks.parent / name)
        lines.append(json.dumps({"prompt": _question(asked), "image": name, "answer": str(shapes.count(asked))}))
    settings.tasks.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _draw(pen: Any, dice: random.Random, cell: int) -> list[str]:
    """One to nine shapes in the cells of a 3 x 3 grid; returns their names."""
    cells = [(column, row) for column in range(3) for row in range(3)]
    drawn: list[str] = []
    for column, row in dice.sample(cells, dice.randint(1, 9)):
        colour, shape = COLOURS[dice.choice(list(COLOURS))], dice.choice(SHAPES)
        radius, x, y = dice.randint(cell // 5, cell // 3), column * cell + cell // 2, row * cell + cell // 2
        left, top, right, bottom = x - radius, y - radius, x + radius, y + radius
        if shape == "circle":
            pen.ellipse((left, top, right, bottom), fill=colour)
        elif shape == "square":
            pen.rectangle((left, top, right, bottom), fill=colour)
        else:
            pen.polygon([(x, top), (left, bottom), (right, bottom)], fill=colour)
        drawn.append(shape)
    return drawn


def _question(shape: str) -> str:
    return f"how many {shape}s are in the picture ? answer with one number ."


if __name__ == "__main__":
    write(load_settings(sys.argv[1]))
