"""One pass over each prompt, for all samples of a rollout and all trajectories of a loss.

``PrefixBook`` remembers prefixes from the rollout to the loss, and cuts the graph of a gradient that is accumulated
over micro-batches at the prefix: micro-batches of rows collect the gradients of its keys and values, then it runs
backward once, and memory does not grow with the size of a group.

Papers: Prefix Grouper (arXiv:2506.05433), schedule-level reuse (arXiv:2606.01143).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saccade.core.trajectory import Prompt
from saccade.policies.token.attention import Layout
from saccade.policies.token.passes import Chosen, OwnContext
from saccade.policies.token.rows import Chunk, Rows


@dataclass(eq=False)
class Prefixes:
    """P prompts after one forward pass: one graph, if there is any."""

    prompts: list[Prompt]
    length: list[int]
    following: Int[Tensor, "P"]
    """Position id of the token after each prefix; on the CPU."""
    last: Float[Tensor, "P D"]
    """Normed state of the last position."""
    k: list[Float[Tensor, "K S d"]]
    v: list[Float[Tensor, "K S d"]]
    features: dict[int, Tensor] = field(default_factory=dict)
    """Features of the pictures in the prompts, by the identity of the picture."""
    pictures: list[Any] = field(default_factory=list)
    """Keeps the pictures alive, so that no other object gets their identity."""
    stamp: Any = None
    """Of the weights that made it."""
    roots: list[Tensor] | None = None
    """The graph's own tensors, when those above are leaves that collect their gradients."""

    @property
    def positions(self) -> int:
        return sum(self.length)

    @property
    def differentiable(self) -> bool:
        return self.last.requires_grad

    def detached(self) -> Prefixes:
        """The same numbers without a graph."""
        return self._mapped(torch.Tensor.detach)

    def cut(self) -> Prefixes:
        """Leaves in place of the graph's tensors; ``finish`` sends what they collected into the graph."""
        found = self._mapped(lambda x: x.detach().requires_grad_(x.requires_grad))
        found.roots = self._tensors()
        return found

    def finish(self) -> None:
        """Backward through the prefixes, once, with the gradients of all rows."""
        assert self.roots is not None, "only a cut graph is finished"
        pairs = [(root, leaf.grad) for root, leaf in zip(self.roots, self._tensors(), strict=True)]
        reached = [(root, grad) for root, grad in pairs if root.requires_grad and grad is not None]
        self.roots = None
        if reached:
            torch.autograd.backward([root for root, _ in reached], [grad for _, grad in reached])

    def _tensors(self) -> list[Tensor]:
        return [self.last, *self.k, *self.v, *self.features.values()]

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Prefixes:
        features = {key: change(x) for key, x in self.features.items()}
        k, v = [change(x) for x in self.k], [change(x) for x in self.v]
        return Prefixes(
            self.prompts, self.length, self.following, change(self.last), k, v, features, self.pictures, self.stamp
        )


@dataclass(eq=False)
class Suffixes:
    """Rows after a forward pass over the first tokens of each."""

    hidden: Float[Tensor, "T D"]
    """Normed states, rows one after another."""
    start: Int[Tensor, "R"]
    """First state of each row; of no meaning for rows of which nothing was read."""
    width: Int[Tensor, "R"]
    """Tokens read of each row."""
    k: list[Float[Tensor, "K T d"]]
    v: list[Float[Tensor, "K T d"]]
    """Keys and values of each layer, if they were to be kept."""

    def context(self, rows: Int[Tensor, "N"]) -> OwnContext:
        """What these rows have read, row by row; a row may come many times."""
        width = self.width[rows]
        source = torch.cat([torch.arange(s, s + w) for s, w in zip(self.start[rows], width, strict=True)])
        return OwnContext(width, source.to(self.hidden.device), self.k, self.v)


class Network(Protocol):
    """A network that can read prefixes and their continuations apart."""

    def prefixes(self, prompts: Sequence[Prompt], chunks: Sequence[Chunk]) -> Prefixes:
        """One forward pass over these prompts, in this order."""
        ...

    def suffixes(self, rows: Rows, packing: Packing, chosen: Chosen, *, keep: bool) -> Suffixes:
        """One forward pass over the packed tokens; ``keep`` also returns their keys and values."""
        ...


class Packing:
    """The first tokens of each row, one after another without padding. Index tensors are on the CPU.

    Rows come in the order of their prefixes in the stream, so that equal groups are neighbours.
    """

    def __init__(self, rows: Rows, width: Int[Tensor, "R"], chosen: Chosen) -> None:
        begin = torch.tensor(chosen.start)[rows.prompt]
        order = torch.sort(begin, stable=True).indices
        order = order[width[order] > 0]
        self.width = width
        widths = width[order]
        self.start = torch.zeros_like(width).index_put((order,), widths.cumsum(0) - widths)
        self.row = torch.repeat_interleave(order, widths)
        self.at = torch.arange(len(self.row)) - self.start[self.row]
        self.ids = rows.ids[self.row, self.at]
        self.layout = Layout(chosen.start, chosen.length, rows.prompt[order].tolist(), widths.tolist())
        self.rows = order.tolist()
        """Rows of which something is read, in this order."""


def needed(rows: Rows) -> Int[Tensor, "R"]:
    """Tokens of each row that must be read so that all its actions can be scored."""
    width = torch.zeros(len(rows.prompt), dtype=torch.int64)
    width = width.scatter_reduce(0, rows.row, rows.at + 1, "amax")
    if rows.final_row is not None and rows.final_at is not None:
        width = width.scatter_reduce(0, rows.final_row, rows.final_at + 1, "amax")
    return width


def read_suffixes(network: Network, rows: Rows, width: Int[Tensor, "R"], chosen: Chosen, *, keep: bool) -> Suffixes:
    """A pass over the first ``width`` tokens of each row; none at all if there are no tokens."""
    packing = Packing(rows, width, chosen)
    if len(packing.ids):
        return network.suffixes(rows, packing, chosen, keep=keep)
    return Suffixes(chosen.last[:0], packing.start, width, [], [])


def read_states(network: Network, rows: Rows, row: Int[Tensor, "M"], at: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
    """States after position ``at`` of each row, from one pass over the prefixes and one over the rows."""
    chosen = choose(rows.prompts, [network.prefixes(rows.prompts, rows.prefix)])
    return states_at(chosen, read_suffixes(network, rows, needed(rows), chosen, keep=False), rows.prompt, row, at)


def states_at(
    chosen: Chosen, suffixes: Suffixes, prompt: Int[Tensor, "R"], row: Int[Tensor, "M"], at: Int[Tensor, "M"]
) -> Float[Tensor, "M D"]:
    """States after position ``at`` of each row; -1 is the last position of its prefix ``prompt[row]``."""
    flat = torch.cat([chosen.last, suffixes.hidden])
    index = torch.where(at < 0, prompt[row], len(chosen.last) + suffixes.start[row] + at)
    return flat.index_select(0, index.to(flat.device))


def choose(prompts: Sequence[Prompt], states: Sequence[Prefixes]) -> Chosen:
    """The prompts in this order, out of states that hold them all; nothing is copied if there is one state."""
    offset, place = 0, {}
    for state in states:
        at = offset
        for i, (prompt, length) in enumerate(zip(state.prompts, state.length, strict=True)):
            place[id(prompt)] = (state, i, at)
            at += length
        offset = at
    found = [place[id(prompt)] for prompt in prompts]
    if len(states) == 1:
        (only,) = states
        k, v = only.k, only.v
        same = [id(p) for p in prompts] == [id(p) for p in only.prompts]
        last = only.last if same else only.last[torch.tensor([i for _, i, _ in found], device=only.last.device)]
    else:
        k = [torch.cat(layers, 1) for layers in zip(*(state.k for state in states), strict=True)]
        v = [torch.cat(layers, 1) for layers in zip(*(state.v for state in states), strict=True)]
        last = torch.stack([state.last[i] for state, i, _ in found])
    return Chosen(
        start=[at for _, _, at in found],
        length=[state.length[i] for state, i, _ in found],
        following=torch.stack([state.following[i] for state, i, _ in found]),
        last=last,
        k=list(k),
        v=list(v),
        features={key: x for state in states for key, x in state.features.items()},
    )


POSITIONS_KEPT = 2**14
"""Positions of prefixes without a graph that are remembered for later turns."""


class PrefixBook:
    """Prefixes that a policy has at hand, and the rules by which they may be used again."""

    def __init__(self) -> None:
        self.states: list[Prefixes] = []
        self.open: list[Prefixes] | None = None
        """Cut graphs of the gradient that is being accumulated; None outside of it."""
        self.remembering = False
        self.budget = 0
        self._wanted: set[int] = set()

    def __deepcopy__(self, memo: Any) -> PrefixBook:
        return PrefixBook()

    def get(self, network: Network, rows: Rows, stamp: Any) -> Chosen:
        """The prefixes of the rows under the present weights; those that are not at hand are read in one pass.

        With gradient enabled inside ``accumulate``, the result is cut from its graph; outside of it, it is always made
        anew, because nobody knows how often its graph will be used.
        """
        graph = torch.is_grad_enabled()
        usable: list[Prefixes] = []
        if not graph:
            usable = [state for state in self.states if state.stamp == stamp]
        elif self.open is not None:
            self._adopt(stamp)
            usable = self.open
        have = {id(prompt): state for state in usable for prompt in state.prompts}
        tokens = torch.zeros(len(rows.prompts), dtype=torch.int64).index_add(0, rows.prompt, rows.length).tolist()
        missing = [
            (len(chunk.ids), count, p, chunk)
            for p, chunk, count in zip(rows.prompts, rows.prefix, tokens, strict=True)
            if id(p) not in have
        ]
        if missing:
            # Attention takes neighbours of equal length together.
            missing.sort(key=lambda item: item[:2])
            _, _, prompts, chunks = [list(part) for part in zip(*missing, strict=True)]
            state = self._made(network, prompts, chunks, stamp)
            have.update((id(prompt), state) for prompt in prompts)
        used = list({id(have[id(p)]): have[id(p)] for p in rows.prompts}.values())
        return choose(rows.prompts, used if graph else [state.detached() for state in used])

    def _made(self, network: Network, prompts: list[Prompt], chunks: list[Chunk], stamp: Any) -> Prefixes:
        if torch.is_grad_enabled():
            state = network.prefixes(prompts, chunks)
            if self.open is not None:
                state = state.cut()
                self.open.append(state)
            return state
        if not self.remembering:
            return network.prefixes(prompts, chunks)
        self.states = [state for state in self.states if state.stamp == stamp]
        kept = sum(state.positions for state in self.states if state.differentiable)
        with torch.set_grad_enabled(kept + sum(len(chunk.ids) for chunk in chunks) <= self.budget):
            state = network.prefixes(prompts, chunks)
        state.stamp = stamp
        self.states.append(state)
        self._forget_old()
        return state

    def _forget_old(self) -> None:
        """Drop the oldest prefixes without a graph beyond ``POSITIONS_KEPT``; the newest always stays."""
        plain = [state for state in self.states if not state.differentiable]
        excess = sum(state.positions for state in plain) - POSITIONS_KEPT
        dropped: list[Prefixes] = []
        for state in plain[:-1]:
            if excess <= 0:
                break
            dropped.append(state)
            excess -= state.positions
        self.states = [state for state in self.states if all(state is not other for other in dropped)]

    @contextmanager
    def remember(self, budget: int) -> Iterator[None]:
        """Within it, prefixes that are read without gradient stay at hand until ``accumulate`` or other weights come.

        Of up to ``budget`` positions the graph is kept too, for the first backward pass under the same weights.
        """
        before = self.remembering, self.budget
        self.remembering, self.budget = True, budget
        try:
            yield
        finally:
            self.remembering, self.budget = before

    def _adopt(self, stamp: Any) -> None:
        """Take over graphs of the rollout whose prompts all belong to the accumulation."""
        assert self.open is not None
        for state in self.states:
            if state.differentiable and state.stamp == stamp and {id(p) for p in state.prompts} <= self._wanted:
                self.open.append(state.cut())
        self.states = []

    def accumulate(self, micros: Sequence[Sequence[Prompt]]) -> Iterator[int]:
        """Indices of micro-batches; a prefix's graph runs backward once its last micro-batch is done.

        The loss of each micro-batch must have been backpropagated when the next index is asked for.
        """
        self._wanted = {id(prompt) for prompts in micros for prompt in prompts}
        self.open = []
        try:
            for i in range(len(micros)):
                yield i
                later = {id(prompt) for prompts in micros[i + 1 :] for prompt in prompts}
                done = [state for state in self.open if not any(id(p) in later for p in state.prompts)]
                self.open = [state for state in self.open if all(state is not other for other in done)]
                while done:
                    # The graph of one is gone before the next one's gradients grow.
                    done.pop().finish()
        finally:
            self.open = None
            self.states = []
            self._wanted = set()
