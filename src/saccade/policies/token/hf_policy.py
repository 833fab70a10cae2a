"""A transformers vision-language model that acts and re-evaluates: vision and prompt once, then suffixes on a cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from peft import PeftModel
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer, DynamicCache
from transformers.utils import cached_file

from saccade.core.batch import Batch
from saccade.core.content import Content, Text, text_of
from saccade.core.errors import CapabilityError, ConfigError, DataError
from saccade.core.policy import Act, LogProbs, Need, Policy, Sampling
from saccade.core.reference import AdaptersOff
from saccade.core.trajectory import Context, Trajectory
from saccade.policies.lora import merged_state
from saccade.policies.token.chat import ChatReader
from saccade.policies.token.families import Family, family_of
from saccade.policies.token.record import TokenRecord
from saccade.policies.token.rows import Rows, batch_rows, context_rows, padded, present
from saccade.policies.token.sampling import draw, entropy, exact_kl, tempered, uniforms
from saccade.policies.token.tags import tag_segments

if TYPE_CHECKING:
    from saccade.policies.token.hf import HFVisionLanguage

LOGITS_AT_ONCE = 2**26
"""Most logits held at a time in ``log_prob``; with gradient they are computed again in the backward pass."""

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


class HFVisionLanguagePolicy(Policy):
    """Built by ``HFVisionLanguage``; ``model`` is the transformers model, inside PEFT's wrapper if there are adapters.

    The network is always in evaluation mode: dropout in the update would move the first ratio away from 1.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"entropy", "kl", "distribution"})
    spec: HFVisionLanguage

    def __init__(self, spec: HFVisionLanguage, model: Any, reader: ChatReader) -> None:
        super().__init__()
        self.spec = spec
        self.model = model
        self.reader = reader
        ends = self.base.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        self.ends = frozenset({reader.end, reader.tokenizer.eos_token_id, *ends} - {None})
        """Tokens that stop a turn."""
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

    @torch.no_grad()
    def act(
        self, contexts: Sequence[Context], *, n: int = 1, sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Act]]:
        step = max(1, self.spec.rows // n)
        answers: list[list[Act]] = []
        for first in range(0, len(contexts), step):
            some = contexts[first : first + step]
            acts = self._sample(some, n, sampling, seeds[first * n : (first + len(some)) * n])
            answers.extend(acts[i * n : (i + 1) * n] for i in range(len(some)))
        return answers

    def log_prob(self, batch: Batch, need: Need = Need()) -> LogProbs:
        rows = batch_rows(batch, self.reader)
        trained = batch.mask.cpu()[rows.trajectory, rows.column]
        states = self._action_states(rows, trained)
        reference = None if need.kl_to is None else self._reference(need.kl_to, batch, trained)
        where = (rows.trajectory[trained].to(self.device), rows.column[trained].to(self.device))
        columns = self._score(states, rows.token[trained], rows.temperature[trained], need, reference)

        tables: dict[str, Any] = {
            name: values.new_zeros(*batch.mask.shape, *values.shape[1:]).index_put(where, values)
            for name, values in columns.items()
        }
        return LogProbs(**tables)

    def encode(self, contexts: Sequence[Context], outputs: Sequence[Content]) -> list[Act]:
        acts: list[Act] = []
        for _, output in zip(contexts, outputs, strict=True):
            for part in output:
                if not isinstance(part, Text):
                    raise DataError(f"a vision-language model writes text, got {type(part).__name__} in an output")
            ids = self.reader.write(text_of(output))
            acts.append(self._act(ids, torch.zeros(len(ids)), 1.0, trained=True))
        return acts

    def size(self, trajectory: Trajectory) -> int:
        """Positions of all rows of the trajectory, the prompt counted in each of them."""
        turns = trajectory.turns
        prompt = len(self.reader.prompt(trajectory.prompt.content).ids)
        answers = [len(self.reader.observe(turn, turn.observation).ids) for turn in turns[:-1]]
        total, shown = 0, -1
        for k, turn in enumerate(turns):
            first = k - trajectory.context(k).index
            if first != shown:
                total += prompt + sum(turns[i].num_actions + answers[i] for i in range(first, k))
            else:
                total += answers[k - 1]
            total, shown = total + turn.num_actions, first
        return total

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
        return self.model.disable_adapter() if isinstance(self.model, PeftModel) else super().without_adapters()

    def read(self, rows: Rows, width: int) -> Reading:
        """Run the prefixes once each and the first ``width`` positions of all suffixes on copies of their caches."""
        features = self._features(rows)
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

    def _features(self, rows: Rows) -> dict[int, Tensor]:
        """Features of every picture of the rows, by the identity of the picture, from one pass of the encoder."""
        shown = [*(chunk.images for chunk in rows.prefix), *rows.images]
        pictures = {id(picture): picture for images in shown for picture in images}
        if not pictures:
            return {}
        return dict(zip(pictures, self.family.features(self.base, list(pictures.values())), strict=True))

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
        ids = ids.to(self.device)
        embedded = self.base.get_input_embeddings()(ids.clamp(min=0))
        shown = [features[id(picture)] for pictures in images for picture in pictures]
        extra: dict[str, Any] = {}
        if shown:
            flat, where = torch.cat(shown, 1).to(embedded.dtype), ids < 0
            embedded = embedded.masked_scatter(where[..., None], flat[0])
            extra = self.family.inject(flat, where)
        return self._decode(embedded, positions.to(self.device), there, cache, **extra)

    def _decode(self, embedded: Tensor, positions: Tensor, there: Tensor, cache: DynamicCache, **extra: Any) -> Tensor:
        decoder = self.base.get_submodule(f"model.{self.family.decoder}")
        out = decoder(
            inputs_embeds=embedded,
            position_ids=positions if self.family.axes > 1 else positions[0],
            attention_mask=there,
            past_key_values=cache,
            use_cache=True,
            **extra,
        )
        return out.last_hidden_state

    def _action_states(self, rows: Rows, chosen: Bool[Tensor, "M"]) -> Float[Tensor, "m D"]:
        """States from which the chosen actions are predicted."""
        reading = self.read(rows, int(rows.at.max()) + 1)
        return reading.states[rows.row[chosen].to(self.device), rows.at[chosen].to(self.device) + 1]

    def _reference(self, other: Policy, batch: Batch, chosen: Tensor) -> tuple[Tensor, nn.Linear]:
        """States of the same actions under the reference policy, without gradient, and its output head."""
        if isinstance(other, AdaptersOff):
            with other.without_adapters():
                return self._reference(other.policy, batch, chosen)
        if not isinstance(other, HFVisionLanguagePolicy) or other.head.out_features != self.head.out_features:
            raise CapabilityError("exact KL needs a Hugging Face reference policy with the same vocabulary")
        with torch.no_grad():
            return other._action_states(batch_rows(batch, other.reader), chosen), other.head

    def _score(
        self, states: Tensor, token: Tensor, temperature: Tensor, need: Need, reference: tuple[Tensor, nn.Linear] | None
    ) -> dict[str, Tensor]:
        """What the table needs of each action, from its state; logits exist for some of the actions at a time."""
        head = self.head
        token, temperature = token.to(states.device), temperature.to(states.device)

        def some(state: Tensor, index: Tensor) -> dict[str, Tensor]:
            logp = tempered(head(state), temperature[index])
            columns = {"logp": logp.gather(1, token[index, None])[:, 0]}
            if need.entropy:
                columns["entropy"] = entropy(logp)
            if reference is not None:
                theirs, their_head = reference
                with torch.no_grad():
                    base = tempered(their_head(theirs[index]), temperature[index])
                columns["kl"] = exact_kl(logp, base)
            if need.distribution:
                columns["distribution"] = logp.detach()
            return columns

        index = torch.arange(len(states), device=states.device)
        parts = index.split(max(1, LOGITS_AT_ONCE // head.out_features))
        if len(parts) == 1:
            return some(states, index)
        # Nothing random happens in the head, so there is no generator to restore.
        options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
        columns: list[Any] = [checkpoint(some, states[part], part, **options) for part in parts]
        return {name: torch.cat([column[name] for column in columns]) for name in columns[0]}

    def _sample(self, contexts: Sequence[Context], n: int, sampling: Sampling, seeds: Sequence[int]) -> list[Act]:
        rows = context_rows(contexts, self.reader)
        reading = self.read(rows, rows.ids.shape[1])
        state = reading.states[torch.arange(len(contexts)), rows.length].repeat_interleave(n, 0)
        there = reading.present.repeat_interleave(n, 0)
        position = reading.following.repeat_interleave(n)
        cache = reading.cache
        cache.batch_repeat_interleave(n)

        room, total = sampling.max_actions, len(contexts) * n
        numbers = uniforms(seeds, room).to(self.device)
        stop = torch.tensor(sorted(self.ends), device=self.device)
        ids = torch.zeros(total, room, dtype=torch.int64, device=self.device)
        logp = torch.zeros(total, room, device=self.device)
        length = torch.full((total,), room, device=self.device)
        alive = torch.arange(total, device=self.device)
        for t in range(room):
            token, chosen = draw(self.head(state), numbers[alive, t], sampling)
            ids[alive, t], logp[alive, t] = token, chosen.float()
            ended = torch.isin(token, stop)
            length[alive[ended]] = t + 1
            going = (~ended).nonzero()[:, 0]
            if len(going) == 0 or t + 1 == room:
                break
            if len(going) < len(alive):
                alive, token, there, position = (x[going] for x in (alive, token, there, position))
                cache.batch_select_indices(going)
            there = torch.cat([there, there.new_ones(len(alive), 1)], 1)
            embedded = self.base.get_input_embeddings()(token[:, None])
            where = position[None, :, None].expand(self.family.axes, -1, -1)
            state = self._decode(embedded, where, there, cache)[:, 0]
            position = position + 1
        ids, logp = ids.cpu(), logp.cpu()
        return [
            self._act(ids[i, :count].clone(), logp[i, :count].clone(), sampling.temperature, not sampling.deterministic)
            for i, count in enumerate(length.tolist())
        ]

    def _act(self, ids: Int[Tensor, "T"], logp: Float[Tensor, "T"], temperature: float, trained: bool) -> Act:
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


def load(spec: HFVisionLanguage, device: torch.device, seed: int) -> HFVisionLanguagePolicy:
    """The policy that the spec describes; errors as ``HFVisionLanguage.build``."""
    where = f"policy.model {spec.model!r}"
    if spec.model.startswith((".", "/", "~")) and not Path(spec.model).is_dir():
        raise ConfigError(f"{where}: there is no such folder")
    config = _load(AutoConfig, where, "configuration", spec.model)
    kind = family_of(config, where)
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
    reader = ChatReader(
        tokenizer, _template(spec.model, tokenizer), kind(config, image_processor, placeholder), spec.system
    )
    if spec.lora is not None:
        model = spec.lora(model, seed, frozen=(kind.vision,) if spec.freeze_vision else ())
    elif spec.freeze_vision:
        model.get_submodule(f"model.{kind.vision}").requires_grad_(False)
    return HFVisionLanguagePolicy(spec, model, reader).to(device)


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
