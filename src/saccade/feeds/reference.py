"""Groups drawn by the reference policy instead of the trained one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from saccade.core.feed import Feed, Problem
from saccade.core.policy import Actor, LocalActor
from saccade.core.state import TrainState
from saccade.core.trajectory import Group
from saccade.feeds.on_policy import OnPolicy


@dataclass(eq=False)
class ByReference(Feed):
    """The inner feed with the reference policy as actor.

    With a fixed reference its samples are a data set that the pretrained model has drawn: offline preferences. With a
    moving average they come from a slower copy of the policy, as in DiffusionNFT (arXiv:2509.16117).
    """

    inner: Feed = field(default_factory=OnPolicy)

    def stream(self, problem: Problem, actor: Actor, state: TrainState) -> Iterator[list[Group]]:
        assert state.reference is not None, "the state has a reference policy where the feed needs one"
        yield from self.inner.stream(problem, LocalActor(state.reference), state)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state)

    @property
    def needs_reference(self) -> bool:
        return True

    @property
    def stats(self) -> Mapping[str, float]:
        return self.inner.stats
