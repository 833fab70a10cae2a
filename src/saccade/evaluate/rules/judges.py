"""Pretrained models that score pictures: detectors, a colour classifier, visual question answering, and CLIP.

All are loaded with transformers from a local folder or a hub id that the caller names. There are no defaults and no
stand-ins: without a name, or without the weights, a ``ConfigError`` of one line says what to give.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image as Picture
from torch import Tensor
from torch.nn import functional as F

from saccade.core.content import Image
from saccade.core.errors import ConfigError

Box = tuple[float, float, float, float]

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
"""The colours that GenEval tells apart."""
GREY = (153, 153, 153)
"""What GenEval paints around an object before its colour is judged: #999."""
KEPT = 65_536
"""Answers that are remembered, so that the columns of a table do not ask again."""


@dataclass(frozen=True, eq=False)
class Detection:
    """One object of a picture."""

    name: str
    score: float
    """In [0, 1]."""
    box: Box
    """x1 y1 x2 y2 in pixels of the picture."""
    mask: np.ndarray | None = None
    """bool ``[H, W]``, where the detector segments."""


class Detector(Protocol):
    """Finds objects of known classes."""

    @property
    def names(self) -> Collection[str]:
        """The classes it knows."""
        ...

    def __call__(self, image: Image) -> list[Detection]:
        """All objects, the surest first."""
        ...


class ColourClassifier(Protocol):
    """Says which of ``COLOURS`` each of some objects of one class has."""

    def __call__(self, image: Image, found: Sequence[Detection], name: str) -> list[str]: ...


class Answers(Protocol):
    """Answers yes-or-no questions about a picture with the probability of yes, in [0, 1]."""

    def __call__(self, image: Image, questions: Sequence[str]) -> list[float]: ...


def load_detector(name: str, field: str = "detector") -> Detector:
    """A detector: Mask2Former for instances, or any model that transformers knows as an object detector.

    Raises:
        ConfigError: no name is given, or there is no such checkpoint.
    """
    wanted = "a Mask2Former or object detection checkpoint, such as facebook/mask2former-swin-small-coco-instance"
    return _loaded(name, field, wanted, _detector)


def load_colours(name: str, field: str = "classifier") -> ColourClassifier:
    """A CLIP checkpoint as GenEval's colour classifier.

    Raises:
        ConfigError: no name is given, or there is no such checkpoint.
    """
    return _loaded(name, field, "a CLIP checkpoint, such as openai/clip-vit-large-patch14", _colours)


def load_clip(name: str, field: str = "clip") -> ClipModel:
    """A CLIP checkpoint.

    Raises:
        ConfigError: no name is given, or there is no such checkpoint.
    """
    return _loaded(name, field, "a CLIP checkpoint, such as openai/clip-vit-base-patch32", _clip)


def load_answers(name: str, field: str = "answerer") -> Answers:
    """A model for visual questions: BLIP, or any model that transformers knows as image-text-to-text.

    Raises:
        ConfigError: no name is given, or there is no such checkpoint.
    """
    wanted = "a BLIP or image-text-to-text checkpoint, such as Salesforce/blip-vqa-base"
    return _loaded(name, field, wanted, _answers)


def _loaded(name: str, field: str, wanted: str, load: Callable[[str], Any]) -> Any:
    if not name:
        raise ConfigError(f"{field} must name {wanted} (a folder or a hub id), got ''")
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError(f"{field}: {name} needs transformers: pip install 'saccade[vlm]'")
    try:
        return load(name)
    except (OSError, ValueError, KeyError) as error:
        why = " ".join(str(error).split())[:160]
        raise ConfigError(f"{field} must name {wanted} (a folder or a hub id), got {name!r}: {why}") from None


def _ready(model: Any) -> Any:
    """For evaluation, on the accelerator where there is one."""
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


# --- detectors ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _detector(name: str) -> Detector:
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForObjectDetection,
        Mask2FormerForUniversalSegmentation,
    )

    kind = AutoConfig.from_pretrained(name).model_type
    processor = AutoImageProcessor.from_pretrained(name)
    if kind == "mask2former":
        return Mask2FormerDetector(_ready(Mask2FormerForUniversalSegmentation.from_pretrained(name)), processor)
    return BoxDetector(_ready(AutoModelForObjectDetection.from_pretrained(name)), processor)


class Mask2FormerDetector:
    """Instances by Mask2Former, scored as in the paper (arXiv:2112.01527): class probability times mask quality.

    The likeliest pairs of query and class, one pair for each query the model has; the quality is the mean probability
    inside the mask. Boxes are those of the masks; instances without a pixel are dropped.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.labels: dict[int, str] = model.config.id2label

    @property
    def names(self) -> Collection[str]:
        return self.labels.values()

    @torch.no_grad()
    def __call__(self, image: Image) -> list[Detection]:
        inputs = self.processor(images=[Picture.fromarray(image.pixels)], return_tensors="pt")
        output = self.model(**inputs.to(self.model.device))
        probability = output.class_queries_logits[0].float().cpu().softmax(-1)[:, :-1]
        score, pair = probability.flatten().topk(len(probability))
        query, label = pair // probability.shape[1], pair % probability.shape[1]
        masks = self._at_size(output.masks_queries_logits.cpu(), inputs, (image.height, image.width))[query]
        inside = (masks > 0).flatten(1)
        quality = (masks.sigmoid().flatten(1) * inside).sum(1) / inside.sum(1).clamp(min=1)
        found = [
            Detection(self.labels[int(label[i])], float(score[i] * quality[i]), _box_of(masks[i] > 0), mask)
            for i in range(len(score))
            if (mask := (masks[i] > 0).numpy()).any()
        ]
        return sorted(found, key=lambda one: -one.score)

    @staticmethod
    def _at_size(logits: Tensor, inputs: Any, size: tuple[int, int]) -> Float[Tensor, "Q H W"]:
        """Mask logits at the picture's size: the part that was padded is cut off."""
        full = F.interpolate(logits.float(), inputs["pixel_values"].shape[-2:], mode="bilinear")
        used = inputs["pixel_mask"][0].bool().cpu()
        height, width = int(used.any(1).sum()), int(used.any(0).sum())
        return F.interpolate(full[:, :, :height, :width], size, mode="bilinear")[0]


class BoxDetector:
    """Objects by DETR and its kin; no masks."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.labels: dict[int, str] = model.config.id2label

    @property
    def names(self) -> Collection[str]:
        return self.labels.values()

    @torch.no_grad()
    def __call__(self, image: Image) -> list[Detection]:
        inputs = self.processor(images=[Picture.fromarray(image.pixels)], return_tensors="pt").to(self.model.device)
        sizes = torch.tensor([[image.height, image.width]])
        (result,) = self.processor.post_process_object_detection(self.model(**inputs), 0.0, sizes)
        found = [
            Detection(self.labels[int(label)], float(score), (x1, y1, x2, y2))
            for score, label, (x1, y1, x2, y2) in zip(
                result["scores"], result["labels"], result["boxes"].tolist(), strict=True
            )
        ]
        return sorted(found, key=lambda one: -one.score)


def _box_of(mask: Bool[Tensor, "H W"]) -> Box:
    rows, columns = torch.where(mask)
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    return float(columns.min()), float(rows.min()), float(columns.max()) + 1, float(rows.max()) + 1


# --- CLIP -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _clip(name: str) -> ClipModel:
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    model = _ready(CLIPModel.from_pretrained(name))
    return ClipModel(model, AutoTokenizer.from_pretrained(name), AutoImageProcessor.from_pretrained(name))


class ClipModel:
    """CLIP's embeddings, of length 1."""

    def __init__(self, model: Any, tokenizer: Any, processor: Any) -> None:
        self.model, self.tokenizer, self.processor = model, tokenizer, processor

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        longest = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt", verbose=False
        )
        tokens = tokens.to(self.model.device)
        output = self.model.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], return_dict=True
        )
        return F.normalize(output.pooler_output.cpu(), dim=1)

    @torch.no_grad()
    def images(self, pictures: Sequence[Picture.Image]) -> Float[Tensor, "N D"]:
        pixels = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"].to(self.model.device)
        output = self.model.get_image_features(pixel_values=pixels, return_dict=True)
        return F.normalize(output.pooler_output.cpu(), dim=1)

    def cosine(self, image: Image, text: str) -> float:
        """Cosine of a picture and a text, in [-1, 1]."""
        return float((self.images([Picture.fromarray(image.pixels)]) @ self.texts([text]).T).item())


@lru_cache(maxsize=2)
def _colours(name: str) -> ClipColours:
    return ClipColours(_clip(name))


class ClipColours:
    """GenEval's classifier: CLIP on the object alone, cut out and put on grey, against three phrases a colour."""

    PHRASES = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")

    def __init__(self, clip: ClipModel) -> None:
        self.clip = clip
        self.known: dict[str, Tensor] = {}

    def __call__(self, image: Image, found: Sequence[Detection], name: str) -> list[str]:
        if not found:
            return []
        if name not in self.known:
            self.known[name] = self._classes(name)
        shown = self.clip.images([cut_out(image, one) for one in found])
        return [COLOURS[int(i)] for i in (shown @ self.known[name].T).argmax(1)]

    def _classes(self, name: str) -> Float[Tensor, "C D"]:
        means = [
            self.clip.texts([phrase.format(colour=colour, name=name) for phrase in self.PHRASES]).mean(0)
            for colour in COLOURS
        ]
        return F.normalize(torch.stack(means), dim=1)


def cut_out(image: Image, found: Detection) -> Picture.Image:
    """An object's box of the picture, with what is outside its mask in grey."""
    picture = Picture.fromarray(image.pixels)
    if found.mask is not None:
        grey = Picture.new("RGB", picture.size, GREY)
        picture = Picture.composite(picture, grey, Picture.fromarray(found.mask))
    left, top, right, bottom = (round(side) for side in found.box)
    return picture.crop((left, top, max(right, left + 1), max(bottom, top + 1)))


# --- visual questions -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _answers(name: str) -> Answers:
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForImageTextToText,
        AutoProcessor,
        AutoTokenizer,
        BlipForQuestionAnswering,
    )

    if AutoConfig.from_pretrained(name).model_type == "blip":
        model = _ready(BlipForQuestionAnswering.from_pretrained(name))
        processor = AutoImageProcessor.from_pretrained(name)
        return Remembered(BlipAnswers(model, AutoTokenizer.from_pretrained(name), processor))
    model = _ready(AutoModelForImageTextToText.from_pretrained(name))
    return Remembered(ChatAnswers(model, AutoProcessor.from_pretrained(name)))


class BlipAnswers:
    """BLIP's first answer token:  P(yes) / (P(yes) + P(no)), as T2I-CompBench asks it (arXiv:2307.06350)."""

    def __init__(self, model: Any, tokenizer: Any, processor: Any) -> None:
        self.model, self.tokenizer, self.processor = model, tokenizer, processor
        self.yes, self.no = _token(tokenizer, "yes"), _token(tokenizer, "no")

    @torch.no_grad()
    def __call__(self, image: Image, questions: Sequence[str]) -> list[float]:
        device = self.model.device
        pixels = self.processor(images=[Picture.fromarray(image.pixels)], return_tensors="pt")["pixel_values"]
        seen = self.model.vision_model(pixel_values=pixels.to(device))[0]
        found: list[float] = []
        for question in questions:
            tokens = self.tokenizer(question, return_tensors="pt", truncation=True, max_length=35).to(device)
            asked = self.model.text_encoder(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], encoder_hidden_states=seen,
                encoder_attention_mask=torch.ones(seen.shape[:-1], dtype=torch.long, device=device), return_dict=False,
            )[0]  # fmt: skip
            begin = torch.full((1, 1), self.model.decoder_start_token_id, device=device)
            logits = self.model.text_decoder(
                input_ids=begin, encoder_hidden_states=asked, encoder_attention_mask=tokens["attention_mask"]
            ).logits[0, -1]
            found.append(float(logits[[self.yes, self.no]].float().softmax(0)[0]))
        return found


class ChatAnswers:
    """A chat model told to answer yes or no:  P(yes) / (P(yes) + P(no)) of the first token, in either case."""

    TOLD = "{} Answer with yes or no."

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        tokenizer = processor.tokenizer
        self.yes = sorted({_token(tokenizer, word) for word in ("yes", "Yes")})
        self.no = sorted({_token(tokenizer, word) for word in ("no", "No")})
        if set(self.yes) & set(self.no):
            raise ValueError("its tokenizer begins yes and no with the same token")

    @torch.no_grad()
    def __call__(self, image: Image, questions: Sequence[str]) -> list[float]:
        return [self._yes(Picture.fromarray(image.pixels), question) for question in questions]

    def _yes(self, picture: Picture.Image, question: str) -> float:
        content = [{"type": "image"}, {"type": "text", "text": self.TOLD.format(question)}]
        text = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = self.processor(images=[picture], text=[text], return_tensors="pt").to(self.model.device)
        chance = self.model(**inputs).logits[0, -1].float().cpu().softmax(0)
        yes, no = float(chance[self.yes].sum()), float(chance[self.no].sum())
        return yes / (yes + no) if yes + no else 0.0


class Remembered:
    """Answers that were given before are not asked for again."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.known: dict[tuple[bytes, str], float] = {}

    def __call__(self, image: Image, questions: Sequence[str]) -> list[float]:
        key = sha256(str(image.pixels.shape).encode() + image.pixels.tobytes()).digest()
        new = [question for question in dict.fromkeys(questions) if (key, question) not in self.known]
        if len(self.known) + len(new) > KEPT:
            self.known.clear()
            new = list(dict.fromkeys(questions))
        if new:
            answered = self.answers(image, new)
            self.known |= {(key, question): one for question, one in zip(new, answered, strict=True)}
        return [self.known[key, question] for question in questions]


def _token(tokenizer: Any, word: str) -> int:
    return tokenizer(word, add_special_tokens=False)["input_ids"][0]
