"""How each model family turns pictures into tokens, features and positions.

The image processor is called directly: the combined processors of some families need a video processor, and that
needs torchvision.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image as PILImage
from torch import Tensor

from saccade.core.errors import ConfigError, DataError


@dataclass(eq=False)
class Picture:
    """One picture as a model takes it."""

    tensors: dict[str, Tensor]
    """What the image processor made of it."""
    text: str
    """What replaces the placeholder in the rendered prompt."""
    size: tuple[int, int]
    """Rows and columns of features, where they form one grid; (1, positions) otherwise."""
    positions: int
    """Features, and image tokens in ``text``."""


class Family(ABC):
    """The differences between architectures, on top of what transformers has in common.

    A family knows the modules of its model by name and nothing of rollouts, batches or caches.
    """

    axes: ClassVar[int] = 1
    """Axes of position ids."""
    decoder: ClassVar[str] = "language_model"
    """The text backbone, as a path below ``model.model``."""
    vision: ClassVar[str] = "visual"
    """The image encoder, likewise."""

    def __init__(self, config: Any, image_processor: Any, placeholder: str) -> None:
        self.config = config
        self.image_processor = image_processor
        self.image_token: int = config.image_token_id
        self.placeholder = placeholder
        """Text of the image token; the chat template writes it once a picture."""

    @abstractmethod
    def picture(self, pixels: np.ndarray) -> Picture:
        """One picture through the image processor.

        Args:
            pixels: uint8 RGB [H, W, 3].

        Raises:
            DataError: the image processor refuses it.
        """

    @abstractmethod
    def features(self, model: Any, pictures: Sequence[Picture]) -> list[Float[Tensor, "L S D"]]:
        """Features of each picture, with gradient: layer 0 stands for its tokens, further layers are for ``inject``."""

    def inject(self, features: Float[Tensor, "L F D"], where: Bool[Tensor, "N S"]) -> dict[str, Any]:
        """Arguments of the backbone for features that enter above the embeddings."""
        return {}

    def offsets(self, image: Bool[Tensor, "S"], pictures: Sequence[Picture]) -> tuple[Int[Tensor, "A S"], int]:
        """Position ids of a piece of context that starts at position 0, and the first position after it."""
        length = image.shape[0]
        return torch.arange(length).expand(self.axes, length), length

    @staticmethod
    def limit_pixels(image_processor: Any, least: int | None, most: int | None) -> None:
        """Set the processor's range of picture areas, in pixels."""
        raise ConfigError(f"min_pixels and max_pixels cannot be set for {type(image_processor).__name__}")

    def _process(self, pixels: np.ndarray, **options: Any) -> Any:
        height, width = pixels.shape[:2]
        try:
            return self.image_processor([PILImage.fromarray(pixels)], return_tensors="pt", **options)
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise DataError(f"a picture of {width} x {height} pixels cannot be used by this model: {reason}") from None


class Qwen2_5VL(Family):
    """Dynamic resolution: one token for ``merge_size ** 2`` patches; rotary positions on time, height and width."""

    axes = 3

    def picture(self, pixels: np.ndarray) -> Picture:
        out = self._process(pixels)
        merge = self.image_processor.merge_size
        _, rows, columns = out["image_grid_thw"][0].tolist()
        size = (rows // merge, columns // merge)
        return Picture(dict(out), self.placeholder * math.prod(size), size, math.prod(size))

    def features(self, model: Any, pictures: Sequence[Picture]) -> list[Float[Tensor, "L S D"]]:
        return [layer[None] for layer in self._encode(model, pictures).pooler_output]

    def _encode(self, model: Any, pictures: Sequence[Picture]) -> Any:
        device = model.device
        # The graph keeps the pixels, so that of one picture they are not copied.
        parts = [picture.tensors["pixel_values"] for picture in pictures]
        pixels = (parts[0] if len(parts) == 1 else torch.cat(parts)).to(device)
        grid = torch.cat([picture.tensors["image_grid_thw"] for picture in pictures]).to(device)
        return model.model.get_image_features(pixels, grid, return_dict=True)

    def offsets(self, image: Bool[Tensor, "S"], pictures: Sequence[Picture]) -> tuple[Int[Tensor, "A S"], int]:
        """Text counts on; h x w tokens of a picture at p have (p, p + row, p + column), what follows p + max(h, w)."""
        places = image.nonzero()[:, 0].tolist()
        parts: list[Tensor] = []
        index = start = used = 0
        for picture in pictures:
            first = places[used]
            parts.append((start + torch.arange(first - index)).expand(3, -1))
            start += first - index
            rows, columns = picture.size
            grid = torch.meshgrid(torch.arange(1), torch.arange(rows), torch.arange(columns), indexing="ij")
            parts.append(start + torch.stack(grid).reshape(3, -1))
            start += max(rows, columns)
            index, used = first + picture.positions, used + picture.positions
        rest = image.shape[0] - index
        parts.append((start + torch.arange(rest)).expand(3, -1))
        return torch.cat(parts, 1), start + rest

    @staticmethod
    def limit_pixels(image_processor: Any, least: int | None, most: int | None) -> None:
        size = image_processor.size
        least = size["shortest_edge"] if least is None else least
        most = size["longest_edge"] if most is None else most
        image_processor.size = {"shortest_edge": least, "longest_edge": most}


class Qwen3VL(Qwen2_5VL):
    """As Qwen2.5-VL, with features of inner encoder layers added to the first layers of the decoder (DeepStack)."""

    def features(self, model: Any, pictures: Sequence[Picture]) -> list[Float[Tensor, "L S D"]]:
        out = self._encode(model, pictures)
        return [torch.stack(layers) for layers in zip(out.pooler_output, *out.deepstack_features, strict=True)]

    def inject(self, features: Float[Tensor, "L F D"], where: Bool[Tensor, "N S"]) -> dict[str, Any]:
        return {"visual_pos_masks": where, "deepstack_visual_embeds": list(features[1:])}


class Idefics3(Family):
    """Idefics3 and SmolVLM: pictures are cut into tiles of one size and number of tokens, plus an overview."""

    decoder = "text_model"
    vision = "vision_model"

    def picture(self, pixels: np.ndarray) -> Picture:
        out = self._process(pixels, return_row_col_info=True)
        rows, columns = int(out["rows"][0][0]), int(out["cols"][0][0])
        tiles, side = out["pixel_values"].shape[1], out["pixel_values"].shape[-1]
        length = (side // self.config.vision_config.patch_size) ** 2 // self.config.scale_factor**2
        tokens = self.placeholder * length
        fake, whole = "<fake_token_around_image>", "<global-img>"
        text = ""
        for row in range(rows):
            text += "".join(f"{fake}<row_{row + 1}_col_{column + 1}>{tokens}" for column in range(columns)) + "\n"
        text += ("\n" if rows else "") + f"{fake}{whole}{tokens}{fake}"
        tensors = {name: out[name] for name in ("pixel_values", "pixel_attention_mask")}
        return Picture(tensors, text, (1, tiles * length), tiles * length)

    def features(self, model: Any, pictures: Sequence[Picture]) -> list[Float[Tensor, "L S D"]]:
        tensors = [
            torch.cat([picture.tensors[name] for picture in pictures], 1).to(model.device)
            for name in ("pixel_values", "pixel_attention_mask")
        ]
        flat = torch.cat(list(model.model.get_image_features(*tensors, return_dict=True).pooler_output))
        return list(flat[None].split([picture.positions for picture in pictures], 1))

    @staticmethod
    def limit_pixels(image_processor: Any, least: int | None, most: int | None) -> None:
        """The longest side is that of a square of ``most`` pixels; there is no lower limit."""
        if least is not None:
            raise ConfigError("min_pixels cannot be set for this model: its pictures are always scaled to max_pixels")
        if most is not None:
            image_processor.size = {"longest_edge": math.isqrt(most)}


class Llava(Family):
    """LLaVA: every picture is resized to one size and gives one number of tokens."""

    vision = "vision_tower"

    def picture(self, pixels: np.ndarray) -> Picture:
        out = self._process(pixels)
        height, width = out["pixel_values"].shape[-2:]
        patch = self.config.vision_config.patch_size
        whole = self.config.vision_feature_select_strategy == "full"
        positions = (height // patch) * (width // patch) + (1 if whole and self._has_class_token() else 0)
        return Picture({"pixel_values": out["pixel_values"]}, self.placeholder * positions, (1, positions), positions)

    def _has_class_token(self) -> bool:
        return self.config.vision_config.model_type == "clip_vision_model"

    def features(self, model: Any, pictures: Sequence[Picture]) -> list[Float[Tensor, "L S D"]]:
        pixels = torch.cat([picture.tensors["pixel_values"] for picture in pictures]).to(model.device, model.dtype)
        return [layer[None] for layer in model.model.get_image_features(pixels, return_dict=True).pooler_output]


FAMILIES: dict[str, type[Family]] = {
    "qwen2_vl": Qwen2_5VL,
    "qwen2_5_vl": Qwen2_5VL,
    "qwen3_vl": Qwen3VL,
    "idefics3": Idefics3,
    "smolvlm": Idefics3,
    "llava": Llava,
}
"""By ``config.model_type``."""


def family_of(config: Any, where: str, families: Mapping[str, type[Family]] = FAMILIES) -> type[Family]:
    """The family of a model configuration.

    Raises:
        ConfigError: there is none.
    """
    if config.model_type not in families:
        known = ", ".join(families)
        raise ConfigError(f"{where}: architecture {config.model_type!r} is not supported; supported are {known}")
    return families[config.model_type]
