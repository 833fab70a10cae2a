"""Conversations as tokens: the chat template of a model, its pictures, and where a turn ends."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from saccade.core.content import Content, Image, Text, Video, frames_of
from saccade.core.errors import CapabilityError, DataError
from saccade.core.trajectory import Observation, Turn
from saccade.policies.token.families import Family
from saccade.policies.token.rows import Chunk

IMAGE = -1
"""Id of every image position in a chunk. No policy can draw it, so that an image token that was drawn stays a token."""

PLAIN_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ image_token }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
)
"""For models without a chat template: the parts, a line for each message."""

_ANSWER = "{answer}"
_PICTURES_KEPT = 2**28


class ChatReader:
    """Reads content as the messages of a conversation: prompt and observations are the user's, turns the assistant's.

    The first message is rendered with the template; what a template puts between an answer and the next one is cut out
    of a rendering of a conversation with a known answer. Later context is therefore always an extension of earlier
    context, whatever the template does. Videos are read frame by frame.
    """

    def __init__(self, tokenizer: Any, template: str | None, family: Family, system: str = "") -> None:
        self.tokenizer = tokenizer
        self.template = template or PLAIN_TEMPLATE
        self.family = family
        self.system = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
        self._recent = _Recent(_PICTURES_KEPT)
        after = self._tokens(self._after_answer(()))
        added = tokenizer.added_tokens_decoder.get(after[0]) if after else None
        self.end: int = after[0] if added is not None and added.special else tokenizer.eos_token_id
        """Token that ends a turn."""

    def prompt(self, content: Content) -> Chunk:
        return self._recent("prompt", content, lambda: self._prompt(content))

    def observe(self, turn: Turn, observation: Observation | None) -> Chunk:
        content = observation.content if observation is not None else ()
        chunk = self._recent("observation", content, lambda: self._observation(content))
        ended = turn.record.ids[-1] == self.end
        # The template ends the answer, but the policy has done so itself.
        return Chunk(chunk.ids[1:], chunk.images) if ended and chunk.ids[0] == self.end else chunk

    def forget(self) -> None:
        """Hold nothing of what was read so far."""
        self._recent.clear()

    def write(self, text: str) -> Int[Tensor, "T"]:
        """A turn with this text."""
        return torch.tensor([*self._tokens(text), self.end])

    def text(self, ids: Int[Tensor, "T"]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def pieces(self, ids: Int[Tensor, "T"]) -> list[str]:
        """Text of each token."""
        return [self.tokenizer.decode(i, clean_up_tokenization_spaces=False) for i in ids[:, None]]

    def _prompt(self, content: Content) -> Chunk:
        text = self._render([*self.system, self._message("user", content)], answer_next=True)
        bos = self.tokenizer.bos_token
        return self._chunk(text, content, first=bos is None or not text.startswith(bos))

    def _observation(self, content: Content) -> Chunk:
        return self._chunk(self._after_answer([self._message("user", content)]), content)

    def _after_answer(self, messages: Any) -> str:
        start = [self._message("user", (Text("."),)), self._message("assistant", (Text(_ANSWER),))]
        return self._render([*start, *messages], answer_next=bool(messages)).partition(_ANSWER)[2]

    def _render(self, messages: list[Mapping[str, Any]], answer_next: bool) -> str:
        return self.tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=answer_next,
            chat_template=self.template,
            image_token=self.family.placeholder,
        )

    def _message(self, role: str, content: Content) -> Mapping[str, Any]:
        parts: list[dict[str, str]] = []
        for part in content:
            if isinstance(part, Text):
                if self.family.placeholder in part.text:
                    found = self.family.placeholder
                    raise DataError(
                        f"the text {part.text[:60]!r} contains {found!r}, which marks pictures in this model"
                    )
                parts.append({"type": "text", "text": part.text})
            elif isinstance(part, Image | Video):
                parts.extend({"type": "image"} for _ in frames_of((part,)))
            else:
                raise CapabilityError(
                    f"a vision-language model reads text, images and videos, not {type(part).__name__}"
                )
        # Some templates look at the first part of every message.
        return {"role": role, "content": parts or [{"type": "text", "text": ""}]}

    def _chunk(self, text: str, content: Content, first: bool = False) -> Chunk:
        pictures = tuple(self.family.picture(pixels) for pixels in frames_of(content))
        before, *after = text.split(self.family.placeholder)
        text = before + "".join(picture.text + rest for picture, rest in zip(pictures, after, strict=True))
        ids = torch.tensor(self._tokens(text, first))
        return Chunk(torch.where(ids == self.family.image_token, IMAGE, ids), pictures)

    def _tokens(self, text: str, first: bool = False) -> list[int]:
        return self.tokenizer(text, add_special_tokens=first)["input_ids"]


class _Recent:
    """Chunks by the identity of the content they were made from; the oldest go when their pictures exceed a limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._kept: OrderedDict[tuple[str, int], tuple[Content, Chunk, int]] = OrderedDict()

    def __call__(self, kind: str, content: Content, make: Callable[[], Chunk]) -> Chunk:
        key = (kind, id(content))
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][1]
        chunk = make()
        size = sum(tensor.nbytes for picture in chunk.images for tensor in picture.tensors.values())
        size += chunk.ids.nbytes
        # The content is kept as well: its id would otherwise be given to another object.
        self._kept[key] = (content, chunk, size)
        self.bytes += size
        while self.bytes > self.limit and len(self._kept) > 1:
            self.bytes -= self._kept.popitem(last=False)[1][2]
        return chunk

    def clear(self) -> None:
        self._kept.clear()
        self.bytes = 0

    def __deepcopy__(self, memo: Any) -> _Recent:
        return _Recent(self.limit)
