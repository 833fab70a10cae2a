"""A transformers vision-language model that acts and re-evaluates: vision and prompt once, then suffixes on a cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from peft import PeftModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer, DynamicCache
from transformers.utils import cached_file

from saccade.core.content import Content, Text, text_of
from saccade.core.errors import CapabilityError, ConfigError, DataError
from saccade.core.policy import Act, Sampling
from saccade.core.trajectory import Context, Prompt
from saccade.policies.lora import merged_state
from saccade.policies.token.chat import ChatReader
from saccade.policies.token.direct import Direct
from saccade.policies.token.families import FAMILIES, Family, family_of
from saccade.policies.token.features import FEATURES_KEPT, FeatureCache
from saccade.policies.token.passes import Chosen, DecodePass, Pass, PrefixPass, SuffixPass
from saccade.policies.token.policy import Decoder, TokenPolicy, stamp_of
from saccade.policies.token.prefix import Packing, Prefixes, Suffixes
from saccade.policies.token.record import TokenRecord
from saccade.policies.token.rows import Chunk, Rows, padded, present
from saccade.policies.token.sharing import share_prefixes, use_passes
from saccade.policies.token.tags import tag_segments

if TYPE_CHECKING:
    from saccade.policies.token.hf import HFVisionLanguage

PROCESSOR_FILES = ("processor_config.json", "chat_template.json", "video_preprocessor_config.json")
"""Files of a checkpoint that belong to the combined processor, which is not loaded here."""


@dataclass(eq=False)
class Reading:
    """Rows after the forward pass over their contexts."""

    states: Float[Tensor, "R S D"]
    """Column 0 is the state after the prefix, column j + 1 that after suffix position j."""
    cache: DynamicCache
    present: Bool[Tensor, "R S"]
    """Which positions of the cache hold tokens; False are holes left by padding."""
    following: Int[Tensor, "R"]
    """Position id of the next token, on all axes."""


class HFVisionLanguagePolicy(TokenPolicy):
    """Built by ``HFVisionLanguage``; ``model`` is the transformers model, inside PEFT's wrapper if there are adapters.

    The network is always in evaluation mode: dropout in the update would move the first ratio away from 1.
    """

    spec: HFVisionLanguage
    reader: ChatReader

    def __init__(self, spec: HFVisionLanguage, model: Any, reader: ChatReader) -> None:
        super().__init__()
        self.spec = spec
        self.model = model
        self.reader = reader
        ends = self.base.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        self.ends = frozenset({reader.end, reader.tokenizer.eos_token_id, *ends} - {None})
        self.shared = False
        """Set by ``load`` once ``share_prefixes`` has checked the architecture."""
        self.direct = Direct.fits(self.backbone)
        """Whether decoding calls the layers' own modules."""
        self._adapters = True
        self._acted: Any = None
        self._seen = FeatureCache(FEATURES_KEPT)
        self.eval()

    @property
    def base(self) -> Any:
        """The transformers model without wrapper."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @property
    def family(self) -> Family:
        return self.reader.family

    @property
    def head(self) -> nn.Linear:
        return self.base.get_output_embeddings()

    def train(self, mode: bool = True) -> HFVisionLanguagePolicy:
        super().train(mode)
        self.model.eval()
        return self

    @property
    def network(self) -> HFVisionLanguagePolicy:
        return self

    @property
    def rows_at_once(self) -> int:
        return self.spec.rows

    def same_alternatives(self, other: TokenPolicy) -> bool:
        return isinstance(other, HFVisionLanguagePolicy) and other.head.out_features == self.head.out_features

    def precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.spec.autocast else nullcontext()

    def stamp(self) -> Any:
        return self._adapters, super().stamp()

    def act(
        self, contexts: Sequence[Context], *, n: int = 1, sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Act]]:
        stamp = self.stamp()
        if stamp != self._acted:
            # A new step: what the last one read is not held beside it.
            self.reader.forget()
            self._acted = stamp
        return super().act(contexts, n=n, sampling=sampling, seeds=seeds)

    def encode(self, contexts: Sequence[Context], outputs: Sequence[Content]) -> list[Act]:
        acts: list[Act] = []
        for _, output in zip(contexts, outputs, strict=True):
            for part in output:
                if not isinstance(part, Text):
                    raise DataError(f"a vision-language model writes text, got {type(part).__name__} in an output")
            ids = self.reader.write(text_of(output))
            acts.append(self.as_act(ids, torch.zeros(len(ids)), 1.0, trained=True))
        return acts

    def save_pretrained(self, folder: Path) -> None:
        """Write a complete checkpoint, adapters merged into the weights, that plain transformers and vLLM load."""
        folder = Path(folder)
        state = merged_state(self.model) if isinstance(self.model, PeftModel) else None
        self.base.save_pretrained(folder, state_dict=state)
        for name in PROCESSOR_FILES:
            source = cached_file(self.spec.model, name, _raise_exceptions_for_missing_entries=False)
            if source is not None and Path(source).resolve() != (folder / name).resolve():
                shutil.copyfile(source, folder / name)
        self.reader.tokenizer.save_pretrained(folder)
        self.family.image_processor.save_pretrained(folder)

    def save_adapter(self, folder: Path) -> None:
        """Write the adapters alone, in PEFT's format."""
        if not isinstance(self.model, PeftModel):
            raise CapabilityError("the policy has no adapters to save; set policy.lora or use save_pretrained")
        self.model.save_pretrained(str(folder))

    def without_adapters(self) -> AbstractContextManager[Any]:
        return self._base_alone() if isinstance(self.model, PeftModel) else super().without_adapters()

    @contextmanager
    def _base_alone(self) -> Iterator[None]:
        before, self._adapters = self._adapters, False
        try:
            with self.model.disable_adapter():
                yield
        finally:
            self._adapters = before

    def prefixes(self, prompts: Sequence[Prompt], chunks: Sequence[Chunk]) -> Prefixes:
        shown = [chunk.images for chunk in chunks]
        features = self._features(shown)
        ids, length = padded([chunk.ids for chunk in chunks])
        positions, after = self._positions(ids, length, shown)
        there = present(length, ids.shape[1])
        tokens = PrefixPass(length.tolist())
        hidden = self._packed(ids[there], positions[:, there], shown, features, tokens)
        last = hidden[(length.cumsum(0) - 1).to(self.device)]
        pictures = [picture for images in shown for picture in images]
        return Prefixes(list(prompts), length.tolist(), after, last, tokens.k, tokens.v, features, pictures)

    def suffixes(self, rows: Rows, packing: Packing, chosen: Chosen, *, keep: bool) -> Suffixes:
        shown = [rows.images[r] for r in packing.rows]
        features = {**chosen.features, **self._features(shown, chosen.features)}
        positions, _ = self._positions(rows.ids, rows.length, rows.images)
        positions = (positions + chosen.following[rows.prompt][:, None])[:, packing.row, packing.at]
        tokens = SuffixPass(chosen.k, chosen.v, packing.layout, keep=keep)
        hidden = self._packed(packing.ids, positions, shown, features, tokens)
        return Suffixes(hidden, packing.start, packing.width, tokens.k, tokens.v)

    def decoder(self, tokens: DecodePass, position: Int[Tensor, "N"], room: int) -> Decoder:
        if self.direct:
            return Direct(self.backbone, self.base.get_input_embeddings(), tokens, position, room, self.family.axes)
        return _Sharing(self, tokens, position)

    def advance(self, rows: Rows) -> Int[Tensor, "R"]:
        return self._positions(rows.ids, rows.length, rows.images)[1]

    @property
    def backbone(self) -> Any:
        """The text decoder."""
        return self.base.get_submodule(f"model.{self.family.decoder}")

    def plain_states(self, rows: Rows, row: Int[Tensor, "M"], at: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        return self.read(rows, int(rows.at.max()) + 1).states[row.to(self.device), at.to(self.device) + 1]

    def plain_decoder(self, rows: Rows, n: int, room: int) -> tuple[Float[Tensor, "N D"], Decoder]:
        reading = self.read(rows, rows.ids.shape[1])
        state = reading.states[torch.arange(len(rows.prompt)), rows.length].repeat_interleave(n, 0)
        return state, _Copying(self, reading, n)

    def read(self, rows: Rows, width: int) -> Reading:
        """Run the prefixes once each and the first ``width`` positions of all suffixes on copies of their caches."""
        features = self._features([*(chunk.images for chunk in rows.prefix), *rows.images])
        ids, length = padded([chunk.ids for chunk in rows.prefix])
        prompts = [chunk.images for chunk in rows.prefix]
        positions, after = self._positions(ids, length, prompts)
        there = present(length, ids.shape[1]).to(self.device)
        cache = DynamicCache()
        hidden = self._forward(ids, positions, prompts, features, there, cache)
        last = hidden[torch.arange(len(length)), length - 1]

        prompt = rows.prompt.to(self.device)
        states = last[prompt][:, None]
        cache.batch_select_indices(prompt)
        positions, following = self._positions(rows.ids[:, :width], rows.length.clamp(max=width), rows.images)
        positions, following = positions + after[rows.prompt][:, None], following + after[rows.prompt]
        there = torch.cat([there[prompt], present(rows.length, width).to(self.device)], 1)
        if width:
            suffix = self._forward(rows.ids[:, :width], positions, rows.images, features, there, cache)
            states = torch.cat([states, suffix], 1)
        return Reading(states, cache, there, following.to(self.device))

    def _features(self, shown: Sequence[Sequence[Any]], known: Collection[int] = ()) -> dict[int, Tensor]:
        """Features of every picture that is not known, by its identity, from one pass of the encoder."""
        pictures = {id(picture): picture for images in shown for picture in images if id(picture) not in known}
        if not pictures:
            return {}
        # All that is not the decoder: behind a frozen encoder there may be a trained connector.
        encoders = [module for name, module in self.base.model.named_children() if name != self.family.decoder]
        if any(parameter.requires_grad for encoder in encoders for parameter in encoder.parameters()):
            return self._encode(pictures)
        return self._seen(pictures, self._encode, [stamp_of(encoder) for encoder in encoders])

    def _encode(self, pictures: Mapping[int, Any]) -> dict[int, Tensor]:
        return dict(zip(pictures, self.family.features(self.base, list(pictures.values())), strict=True))

    def _packed(
        self,
        ids: Int[Tensor, "T"],
        positions: Int[Tensor, "A T"],
        images: Sequence[Sequence[Any]],
        features: dict[int, Tensor],
        tokens: Pass,
    ) -> Float[Tensor, "T D"]:
        """Normed states of tokens of several rows, one after another, which attend as the pass says."""
        embedded, extra = self._embedded(ids[None], images, features)
        return self.run(embedded, positions[:, None], tokens, **extra)[0]

    def run(
        self, embedded: Float[Tensor, "B S D"], positions: Int[Tensor, "A B S"], tokens: Pass, **extra: Any
    ) -> Float[Tensor, "B S D"]:
        """The text decoder with the pass as its attention."""
        positions = positions.to(self.device)
        use_passes(self.backbone.config)
        out = self.backbone(
            inputs_embeds=embedded,
            position_ids=positions if self.family.axes > 1 else positions[0],
            # A mask of four dimensions is handed through untouched; without one, transformers would make its own.
            attention_mask=embedded.new_zeros(1, 1, 1, 1),
            use_cache=False,
            tokens=tokens,
            **extra,
        )
        return out.last_hidden_state

    def _positions(
        self, ids: Int[Tensor, "B S"], length: Int[Tensor, "B"], images: Sequence[Sequence[Any]]
    ) -> tuple[Int[Tensor, "A B S"], Int[Tensor, "B"]]:
        """Position ids counted from the start of each row, and the first position after it. CPU tensors."""
        positions = torch.arange(ids.shape[1]).expand(self.family.axes, *ids.shape).clone()
        after = length.clone()
        for row, pictures in enumerate(images):
            if pictures:
                count = int(length[row])
                offsets, end = self.family.offsets(ids[row, :count] < 0, pictures)
                positions[:, row, :count], after[row] = offsets, end
        return positions, after

    def _forward(
        self,
        ids: Int[Tensor, "B S"],
        positions: Int[Tensor, "A B S"],
        images: Sequence[Sequence[Any]],
        features: dict[int, Tensor],
        there: Bool[Tensor, "B S"],
        cache: DynamicCache,
    ) -> Float[Tensor, "B S D"]:
        embedded, extra = self._embedded(ids, images, features)
        return self._decode(embedded, positions.to(self.device), there, cache, **extra)

    def _embedded(
        self, ids: Int[Tensor, "B S"], images: Sequence[Sequence[Any]], features: dict[int, Tensor]
    ) -> tuple[Float[Tensor, "B S D"], dict[str, Any]]:
        """Embeddings with the pictures in their places, and what enters above them."""
        ids = ids.to(self.device)
        embedded = self.base.get_input_embeddings()(ids.clamp(min=0))
        shown = [features[id(picture)] for pictures in images for picture in pictures]
        if not shown:
            return embedded, {}
        flat, where = torch.cat(shown, 1).to(embedded.dtype), ids < 0
        return embedded.masked_scatter(where[..., None], flat[0]), self.family.inject(flat, where)

    def _decode(self, embedded: Tensor, positions: Tensor, there: Tensor, cache: DynamicCache, **extra: Any) -> Tensor:
        out = self.backbone(
            inputs_embeds=embedded,
            position_ids=positions if self.family.axes > 1 else positions[0],
            attention_mask=there,
            past_key_values=cache,
            use_cache=True,
            **extra,
        )
        return out.last_hidden_state

    def as_act(self, ids: Int[Tensor, "T"], logp: Float[Tensor, "T"], temperature: float, trained: bool) -> Act:
        ended = int(ids[-1]) in self.ends
        segment = [0] * len(ids)
        if self.spec.segments:
            segment = tag_segments(self.reader.pieces(ids), self.spec.segments)
        return Act(
            output=(Text(self.reader.text(ids[:-1] if ended else ids)),),
            record=TokenRecord(ids, temperature),
            logp=logp,
            mask=torch.full(ids.shape, trained),
            segment=torch.tensor(segment),
            truncated=not ended,
        )


class _Sharing:
    """Reads on over one copy of each prefix, through the decoder as transformers has it."""

    def __init__(self, policy: HFVisionLanguagePolicy, tokens: DecodePass, position: Int[Tensor, "N"]) -> None:
        self.policy, self.tokens, self.position = policy, tokens, position

    def step(self, token: Int[Tensor, "N"]) -> Float[Tensor, "N D"]:
        embedded = self.policy.base.get_input_embeddings()(token[:, None])
        where = self.position[None, :, None].expand(self.policy.family.axes, -1, -1)
        state = self.policy.run(embedded, where, self.tokens)[:, 0]
        self.tokens.advance()
        self.position = self.position + 1
        return state

    def keep(self, index: Int[Tensor, "n"]) -> None:
        self.tokens.keep(index)
        self.position = self.position[index]


class _Copying:
    """Reads on with a cache that holds the prefix for every row."""

    def __init__(self, policy: HFVisionLanguagePolicy, reading: Reading, n: int) -> None:
        self.policy, self.cache = policy, reading.cache
        self.cache.batch_repeat_interleave(n)
        self.there = reading.present.repeat_interleave(n, 0)
        self.position = reading.following.repeat_interleave(n)

    def step(self, token: Int[Tensor, "N"]) -> Float[Tensor, "N D"]:
        self.there = torch.cat([self.there, self.there.new_ones(len(token), 1)], 1)
        embedded = self.policy.base.get_input_embeddings()(token[:, None])
        where = self.position[None, :, None].expand(self.policy.family.axes, -1, -1)
        state = self.policy._decode(embedded, where, self.there, self.cache)[:, 0]
        self.position = self.position + 1
        return state

    def keep(self, index: Int[Tensor, "n"]) -> None:
        self.there, self.position = self.there[index], self.position[index]
        self.cache.batch_select_indices(index)


def load(
    spec: HFVisionLanguage,
    device: torch.device,
    seed: int,
    *,
    families: Mapping[str, type[Family]] = FAMILIES,
    read: Callable[..., ChatReader] = ChatReader,
    make: Callable[..., HFVisionLanguagePolicy] | None = None,
) -> HFVisionLanguagePolicy:
    """The policy that the spec describes, of the class ``make``; errors as ``HFVisionLanguage.build``."""
    where = f"policy.model {spec.model!r}"
    if spec.model.startswith((".", "/", "~")) and not Path(spec.model).is_dir():
        raise ConfigError(f"{where}: there is no such folder")
    config = _load(AutoConfig, where, "configuration", spec.model)
    kind = family_of(config, where, families)
    tokenizer = _load(AutoTokenizer, where, "tokenizer", spec.model)
    image_processor = _load(AutoImageProcessor, where, "image processor", spec.model, backend="pil")
    model, info = _load(
        AutoModelForImageTextToText,
        where,
        "weights",
        spec.model,
        dtype=getattr(torch, spec.dtype),
        attn_implementation=spec.attention,
        output_loading_info=True,
    )
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ConfigError(f"{where}: the weights lack {len(missing)} tensors, the first is {missing[0]}")
    if spec.min_pixels is not None or spec.max_pixels is not None:
        kind.limit_pixels(image_processor, spec.min_pixels, spec.max_pixels)

    placeholder = tokenizer.convert_ids_to_tokens(config.image_token_id)
    if placeholder is None:
        raise ConfigError(f"{where}: its tokenizer has no token {config.image_token_id}, which stands for pictures")
    reader = read(tokenizer, _template(spec.model, tokenizer), kind(config, image_processor, placeholder), spec.system)
    if spec.lora is not None:
        model = spec.lora(model, seed, frozen=(kind.vision,) if spec.freeze_vision else ())
    elif spec.freeze_vision:
        model.get_submodule(f"model.{kind.vision}").requires_grad_(False)
    policy = (make or HFVisionLanguagePolicy)(spec, model, reader).to(device)
    if spec.prefix == "shared":
        share_prefixes(policy)
    if not policy.shared and "sliding_attention" in (getattr(policy.backbone.config, "layer_types", None) or ()):
        raise ConfigError(
            f"{where}: sliding windows need policy.prefix=shared, but "
            + ("prefix is plain" if spec.prefix == "plain" else "this model cannot share prompts")
        )
    return policy


def _load(kind: Any, where: str, what: str, model: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(model, **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{where}: its {what} cannot be loaded: {reason}") from None


def _template(model: str, tokenizer: Any) -> str | None:
    """The chat template of the tokenizer, or of the combined processor in its old place."""
    if tokenizer.chat_template is not None:
        return tokenizer.chat_template
    file = cached_file(model, "chat_template.json", _raise_exceptions_for_missing_entries=False)
    return None if file is None else json.loads(Path(file).read_text(encoding="utf-8"))["chat_template"]
