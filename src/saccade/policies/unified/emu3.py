"""Emu3: pictures as tokens of the text model's own vocabulary (arXiv:2409.18869).

A picture of h lines of w codes is written

    <|image start|>h*w<|image token|> (w codes <|extra_200|>) * h <|extra_201|><|image end|>

of which only the codes are chosen by anybody: the size is known, ``<|extra_200|>`` ends every line, and what follows
the last code closes the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image as PILImage
from torch import Tensor

from saccade.core.content import Content, Text
from saccade.core.trajectory import Observation, Turn
from saccade.policies.token.chat import ChatReader
from saccade.policies.token.families import Family, Picture
from saccade.policies.token.rows import Chunk
from saccade.policies.unified.drawing import CODE, IMAGE, PICTURE

OPEN, INSIDE, END = "<|image start|>", "<|image token|>", "<|image end|>"
LINE, CLOSED = "<|extra_200|>", "<|extra_201|>"


class Emu3(Family):
    """Pictures become codes by the model's own VQ encoder, and pictures again by its decoder."""

    decoder = "text_model"
    vision = "vqmodel"

    def __init__(self, config: Any, image_processor: Any, placeholder: str) -> None:
        super().__init__(config, image_processor, placeholder)
        codes = {name: token for name, token in config.vocabulary_map.items() if name.startswith("<|visual token")}
        self.names = sorted(codes)
        """Text of each code, in the order of the codebook."""
        self.tokens = torch.tensor([codes[name] for name in self.names])
        """Token of each code."""
        self.factor: int = 2 ** (len(config.vq_config.channel_multiplier) - 1)
        """Pixels along the side of what one code stands for."""
        self.model: Any = None
        """The VQ model; set by the policy."""

    def picture(self, pixels: np.ndarray) -> Picture:
        codes = self.codes(self._process(pixels))
        height, width = codes.shape
        lines = "".join("".join(self.names[code] for code in line) + LINE for line in codes.tolist())
        text = f"{OPEN}{height}*{width}{INSIDE}{lines}{CLOSED}{END}"
        return Picture({}, text, (height, width), 0)

    def features(self, model: Any, pictures: Sequence[Picture]) -> list[Float[Tensor, "L S D"]]:
        raise AssertionError("pictures are tokens: a chunk never holds any")

    def drawn(self, pixels: np.ndarray, side: int) -> Int[Tensor, "h w"]:
        """Codes of a picture at the size that is drawn."""
        scaled = PILImage.fromarray(pixels).resize((side, side), PILImage.Resampling.BICUBIC)
        return self.codes(self._process(np.asarray(scaled), do_resize=False))

    @torch.no_grad()
    def codes(self, inputs: Any) -> Int[Tensor, "h w"]:
        """Places in the codebook of the picture that the image processor made."""
        vq = self.model
        pixels = inputs["pixel_values"].to(vq.device, vq.dtype)
        return vq.encode(pixels, torch.as_tensor(inputs["image_sizes"]), return_dict=True).image_tokens[0].cpu()

    @torch.no_grad()
    def pixels(self, codes: Int[Tensor, "h w"]) -> np.ndarray:
        """The picture of these codes, uint8 RGB."""
        decoded = self.model.decode(codes[None].to(self.model.device))[0].float().cpu().permute(1, 2, 0)
        mean, std = (torch.tensor(getattr(self.image_processor, name)) for name in ("image_mean", "image_std"))
        return ((decoded * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).numpy()

    @staticmethod
    def limit_pixels(image_processor: Any, least: int | None, most: int | None) -> None:
        if least is not None:
            image_processor.min_pixels = least
        if most is not None:
            image_processor.max_pixels = most


class Emu3Reader(ChatReader):
    """A conversation in which pictures are tokens; ``<image>`` at the end of a text begins the answer's picture."""

    def __init__(self, tokenizer: Any, template: str | None, family: Emu3, system: str = "", *, side: int) -> None:
        super().__init__(tokenizer, template, family, system)
        self.lines = side // family.factor
        """Lines of a picture that is drawn, and codes in each."""
        self.open, self.inside, line = tokenizer.convert_tokens_to_ids([OPEN, INSIDE, LINE])
        self.closing = torch.tensor(tokenizer.convert_tokens_to_ids([LINE, CLOSED, END]))
        self.opening = torch.tensor([self.open, *self._tokens(f"{self.lines}*{self.lines}"), self.inside])
        """What comes before the first code of a picture that is drawn."""
        body = [*[CODE] * self.lines, line] * self.lines
        self.layout = torch.cat([self.opening[1:], torch.tensor(body[:-1])])
        """What follows the start token, up to the last code."""

    def observe(self, turn: Turn, observation: Observation | None) -> Chunk:
        chunk = super().observe(turn, observation)
        # The codes of a picture are the end of a turn.
        drew = bool((turn.segment == PICTURE).any())
        return Chunk(torch.cat([self.closing, chunk.ids])) if drew else chunk

    def _prompt(self, content: Content) -> Chunk:
        content, opening = self._asked(content)
        return Chunk(torch.cat([super()._prompt(content).ids, opening]))

    def _observation(self, content: Content) -> Chunk:
        content, opening = self._asked(content)
        return Chunk(torch.cat([super()._observation(content).ids, opening]))

    def _asked(self, content: Content) -> tuple[Content, Int[Tensor, "S"]]:
        """The content without a last ``<image>``, and what this puts behind the answer's beginning."""
        nothing = torch.zeros(0, dtype=torch.int64)
        if not content or not isinstance(content[-1], Text) or not content[-1].text.endswith(IMAGE):
            return content, nothing
        return (*content[:-1], Text(content[-1].text.removesuffix(IMAGE))), self.opening

    def _chunk(self, text: str, content: Content, first: bool = False) -> Chunk:
        return Chunk(super()._chunk(text, content, first).ids)
