"""What all policies over tokens have in common: drawing token by token, scoring, and sharing prompts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from saccade.core.batch import Batch
from saccade.core.errors import CapabilityError
from saccade.core.policy import Act, LogProbs, Need, Policy, Sampling
from saccade.core.reference import AdaptersOff
from saccade.core.trajectory import Context, Prompt, Trajectory
from saccade.policies.token.grammar import Free, Grammar
from saccade.policies.token.passes import Chosen, DecodePass
from saccade.policies.token.prefix import Network, PrefixBook, needed, read_suffixes, states_at
from saccade.policies.token.rows import Reader, Rows, batch_rows, context_rows
from saccade.policies.token.sampling import draw, entropy, exact_kl, restricted, tempered, uniforms

LOGITS_AT_ONCE = 2**24
"""Most logits held at a time in ``log_prob``; with gradient they are computed again in the backward pass."""

SPARSE = 0.75
"""Share of unfinished rows below which dropping the finished ones pays for the copy."""


def stamp_of(module: nn.Module) -> Any:
    """Equal as long as nobody has written to the parameters; fused optimisers write unnoticed."""
    return tuple((parameter._version, parameter.data_ptr()) for parameter in module.parameters())


class Decoder(Protocol):
    """Rows to which tokens are added one at a time."""

    def step(self, token: Int[Tensor, "N"]) -> Float[Tensor, "N D"]:
        """States after one more token of each row."""
        ...

    def keep(self, index: Int[Tensor, "n"]) -> None:
        """Forget all other rows; ``index`` is increasing."""
        ...


class TokenPolicy(Policy):
    """A decoder over tokens: prompts are read once, for all samples of a rollout and all trajectories of a loss."""

    provides: ClassVar[frozenset[str]] = frozenset({"entropy", "kl", "distribution"})
    reader: Reader
    head: nn.Linear
    """States to logits."""
    ends: frozenset[int]
    """Tokens that stop a turn."""
    shared: bool
    """Whether losses read prompts once; otherwise only keys and values are reused (the plain path)."""

    def __init__(self) -> None:
        super().__init__()
        self.book = PrefixBook()

    @property
    @abstractmethod
    def network(self) -> Network:
        """What reads prefixes and rows."""

    @abstractmethod
    def plain_states(self, rows: Rows, row: Int[Tensor, "M"], at: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        """States after these positions, without the shared prefix."""

    @abstractmethod
    def plain_decoder(self, rows: Rows, n: int, room: int) -> tuple[Float[Tensor, "N D"], Decoder]:
        """States before the first new token of ``n`` copies of each row, and what reads on."""

    @abstractmethod
    def decoder(self, tokens: DecodePass, position: Int[Tensor, "N"], room: int) -> Decoder:
        """What reads on from ``position``, with shared prefixes."""

    def alternatives(self, token: Int[Tensor, "M"]) -> Bool[Tensor, "M V"] | None:
        """Tokens that could have stood where each of these was drawn; None: any, everywhere.

        Log-probabilities are over these. They agree with what the ``grammar`` allowed when the token was drawn.
        """
        return None

    def grammar(self, rows: Rows, n: int) -> Grammar:
        """What says which tokens may come next in ``n`` turns of each row that are about to be written."""
        return Free()

    @abstractmethod
    def as_act(self, ids: Int[Tensor, "T"], logp: Float[Tensor, "T"], temperature: float, trained: bool) -> Act:
        """A turn of these tokens."""

    def precision(self) -> AbstractContextManager[Any]:
        """Context in which the network is run."""
        return nullcontext()

    def stamp(self) -> Any:
        """Equal as long as the network computes the same function."""
        return stamp_of(self)

    @property
    def rows_at_once(self) -> int | None:
        """Most rows decoded together; None is no limit."""
        return None

    @torch.no_grad()
    def act(
        self, contexts: Sequence[Context], *, n: int = 1, sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Act]]:
        first: dict[int, int] = {}
        for context in contexts:
            first.setdefault(id(context.prompt), len(first))
        # Contexts of one prompt become neighbours.
        order = sorted(range(len(contexts)), key=lambda i: first[id(contexts[i].prompt)])
        step = len(contexts) if self.rows_at_once is None else max(1, self.rows_at_once // n)
        answers: list[list[Act]] = [[] for _ in contexts]
        for begin in range(0, len(contexts), step):
            some = order[begin : begin + step]
            chosen = [seeds[i * n + j] for i in some for j in range(n)]
            with self.precision():
                acts = self._sample([contexts[i] for i in some], n, sampling, chosen)
            for k, i in enumerate(some):
                answers[i] = acts[k * n : (k + 1) * n]
        return answers

    def log_prob(self, batch: Batch, need: Need = Need()) -> LogProbs:
        rows = batch_rows(batch, self.reader)
        trained = batch.mask.cpu()[rows.trajectory, rows.column]
        with self.precision():
            states = self.states(rows, rows.row[trained], rows.at[trained])
            reference = None if need.kl_to is None else self._reference(need.kl_to, batch, trained)
            columns = self._score(states, rows.token[trained], rows.temperature[trained], need, reference)
        where = (rows.trajectory[trained].to(self.device), rows.column[trained].to(self.device))
        tables: dict[str, Any] = {
            name: values.new_zeros(*batch.mask.shape, *values.shape[1:]).index_put(where, values)
            for name, values in columns.items()
        }
        return LogProbs(**tables)

    def accumulate(self, micros: Sequence[Batch]) -> Iterator[Batch]:
        """A prompt that several micro-batches share runs forward and backward once; only rows are split."""
        if not self.shared:
            yield from micros
            return
        for i in self.book.accumulate([micro.prompts for micro in micros]):
            yield micros[i]

    def remember_prompts(self, budget: int) -> AbstractContextManager[None]:
        return self.book.remember(budget if self.shared else 0)

    def states(self, rows: Rows, row: Int[Tensor, "M"], at: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        """States after position ``at`` of each row, normed as the head reads them; -1 is the last of the prefix."""
        if not self.shared:
            return self.plain_states(rows, row, at)
        chosen = self.chosen_prefixes(rows)
        suffixes = read_suffixes(self.network, rows, needed(rows), chosen, keep=False)
        return states_at(chosen, suffixes, rows.prompt, row, at)

    def chosen_prefixes(self, rows: Rows) -> Chosen:
        """The prefixes of the rows, read now or at hand."""
        return self.book.get(self.network, rows, self.stamp())

    def size(self, trajectory: Trajectory) -> int:
        """Positions of all rows of the trajectory; the prompt counts in each row unless it is shared."""
        turns = trajectory.turns
        prompt = 0 if self.shared else len(self.reader.prompt(trajectory.prompt.content).ids)
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

    def shared_size(self, prompt: Prompt) -> int:
        """Positions of the prompt."""
        return len(self.reader.prompt(prompt.content).ids) if self.shared else 0

    def _reference(self, other: Policy, batch: Batch, trained: Bool[Tensor, "M"]) -> tuple[Tensor, nn.Linear]:
        """States of the same actions under the reference policy, without gradient, and its output head."""
        if isinstance(other, AdaptersOff):
            with other.without_adapters():
                return self._reference(other.policy, batch, trained)
        if not isinstance(other, TokenPolicy) or not self.same_alternatives(other):
            raise CapabilityError(
                f"exact KL needs a reference policy with the vocabulary of this {type(self).__name__}, "
                f"got {type(other).__name__}"
            )
        rows = batch_rows(batch, other.reader)
        with torch.no_grad():
            return other.states(rows, rows.row[trained], rows.at[trained]), other.head

    @abstractmethod
    def same_alternatives(self, other: TokenPolicy) -> bool:
        """Whether the logits of both stand for the same tokens."""

    def _score(
        self, states: Tensor, token: Tensor, temperature: Tensor, need: Need, reference: tuple[Tensor, nn.Linear] | None
    ) -> dict[str, Tensor]:
        """What the table needs of each action, from its state; logits exist for some of the actions at a time."""
        head = self.head
        token, temperature = token.to(states.device), temperature.to(states.device)

        def some(state: Tensor, index: Tensor) -> dict[str, Tensor]:
            allowed = self.alternatives(token[index])
            logp = tempered(restricted(head(state), allowed), temperature[index])
            columns = {"logp": logp.gather(1, token[index, None])[:, 0]}
            if need.entropy:
                columns["entropy"] = entropy(logp)
            if reference is not None:
                theirs, their_head = reference
                with torch.no_grad():
                    base = tempered(restricted(their_head(theirs[index]), allowed), temperature[index])
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
        room, total = sampling.max_actions, len(contexts) * n
        rows = context_rows(contexts, self.reader)
        state, decoder = self._begin(rows, n, room) if self.shared else self.plain_decoder(rows, n, room)
        grammar = self.grammar(rows, n)
        numbers = uniforms(seeds, room).to(self.device)
        stop = torch.tensor(sorted(self.ends), dtype=torch.int64, device=self.device)
        ids = torch.zeros(total, room, dtype=torch.int64, device=self.device)
        logp = torch.zeros(total, room, device=self.device)
        length = torch.full((total,), room, device=self.device)
        alive = torch.arange(total, device=self.device)
        going = torch.ones_like(alive, dtype=torch.bool)
        for t in range(room):
            token, chosen = draw(restricted(self.head(state), grammar.allowed()), numbers[alive, t], sampling)
            ids[alive, t], logp[alive, t] = token, chosen.float()
            ended = torch.isin(token, stop) | grammar.step(token)
            length[alive[going & ended]] = t + 1
            going = going & ~ended
            left = int(going.sum())
            if left == 0 or t + 1 == room:
                break
            if left <= SPARSE * len(alive):
                index = going.nonzero()[:, 0]
                alive, token, going = alive[index], token[index], going[index]
                decoder.keep(index)
                grammar.keep(index)
            state = decoder.step(token)
        ids, logp = ids.cpu(), logp.cpu()
        return [
            self.as_act(ids[i, :c].clone(), logp[i, :c].clone(), sampling.temperature, not sampling.deterministic)
            for i, c in enumerate(length.tolist())
        ]

    def _begin(self, rows: Rows, n: int, room: int) -> tuple[Tensor, Decoder]:
        chosen = self.chosen_prefixes(rows)
        suffixes = read_suffixes(self.network, rows, rows.length, chosen, keep=True)
        contexts = torch.arange(len(rows.prompt))
        state = states_at(chosen, suffixes, rows.prompt, contexts, rows.length - 1).repeat_interleave(n, 0)
        copies = contexts.repeat_interleave(n)
        own = suffixes.context(copies) if int(rows.length.sum()) else None
        tokens = DecodePass(chosen, rows.prompt[copies].tolist(), own, room)
        position = (chosen.following[rows.prompt] + self.advance(rows))[copies]
        return state, self.decoder(tokens, position.to(self.device), room)

    def advance(self, rows: Rows) -> Int[Tensor, "R"]:
        """By how much positions grow over each whole row; on the CPU."""
        return rows.length
