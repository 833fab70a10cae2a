"""Rounds of pairs: who becomes a pair, how a later round renews it, what is yielded and where a stream goes on."""

import copy
from dataclasses import dataclass, field, replace
from itertools import islice

import pytest
import torch

from letters import LetterGame, Letters, LetterTasks, RightLetters
from saccade.core.content import Text
from saccade.core.errors import ConfigError
from saccade.core.feed import Feed, Problem
from saccade.core.optimiser import AdamW
from saccade.core.policy import LocalActor
from saccade.core.random import torch_generator
from saccade.core.reward import SampleReward, Score
from saccade.core.state import TrainState
from saccade.core.trajectory import Prompt, Task, Trajectory, Turn
from saccade.feeds.on_policy import OnPolicy
from saccade.feeds.reference import ByReference
from saccade.feeds.rounds import PairRounds


@dataclass(frozen=True, kw_only=True)
class Written(SampleReward):
    """What the text says, as a number; a question mark is unscored."""

    def score(self, trajectory):
        return None if trajectory.text == "?" else float(trajectory.text)


@dataclass(eq=False)
class Told(Feed):
    """One batch after another of groups that are told: task id to the texts of its samples, which are their scores."""

    batches: list = field(default_factory=list)
    records: dict = field(default_factory=dict)

    def __post_init__(self):
        self._next = 0

    def stream(self, problem, actor, state):
        while True:
            groups = []
            for name, texts in self.batches[self._next].items():
                info = {"record": self.records[name]} if name in self.records else {}
                prompt = Prompt(Task(name, (), info=info), ())
                one = torch.zeros(1)
                turns = [Turn((Text(text),), None, one, one == 0, one.long()) for text in texts]
                scores = [Score(Written().score(Trajectory(prompt, [turn]))) for turn in turns]
                groups.append(
                    [Trajectory(prompt, [turn], scores={"w": s}) for turn, s in zip(turns, scores, strict=True)]
                )
            self._next += 1
            yield groups

    def state_dict(self):
        return {"next": self._next}

    def load_state_dict(self, state):
        self._next = state["next"]


def yielded(batches, count, records=None, groups=1, **settings):
    """Texts of the first ``count`` batches, task by task."""
    feed = PairRounds(Told(batches, records or {}), **settings)
    problem = Problem(LetterGame(LetterTasks()), {"w": Written()}, groups=groups, group_size=2, seed=0)
    steps = list(islice(feed.stream(problem, None, None), count))
    for groups_ in steps:
        assert all(one.prompt is group[0].prompt for group in groups_ for one in group)
    return [{group[0].task.id: [one.text for one in group] for group in groups_} for groups_ in steps]


def test_the_pair_is_the_best_and_the_worst_of_a_round_and_stays_for_all_its_steps():
    batches = [{"t": ["0.5", "0.9", "?"]}, {"t": ["0.7", "0.1"]}]
    assert yielded(batches, 3, steps=3, draws=2) == [{"t": ["0.9", "0.1"]}] * 3


def test_what_beats_the_old_winner_is_set_against_it_and_what_does_not_against_the_old_loser():
    """(0.7, 0.2); then 0.8 > 0.7: (0.8, 0.7); then 0.75 < 0.8: (0.75, 0.7), though the round's own worst is 0.1."""
    batches = [{"t": ["0.7", "0.2"]}, {"t": ["0.8", "0.3"]}, {"t": ["0.75", "0.1"]}]
    found = [{"t": ["0.7", "0.2"]}, {"t": ["0.8", "0.7"]}, {"t": ["0.75", "0.7"]}]
    assert yielded(batches, 3, steps=1) == found


def test_an_equal_best_is_set_against_the_old_loser():
    assert yielded([{"t": ["1", "0"]}, {"t": ["1.0", "0.5"]}], 2, steps=1)[1] == {"t": ["1.0", "0"]}


@pytest.mark.parametrize("later", [["0.6", "0.1"], ["0.65", "0.65"], ["?", "?"]])
def test_an_old_pair_stays_where_the_new_best_is_too_bad_or_no_better_than_the_loser(later):
    """least is 0.6, exclusive; the old loser has 0.65."""
    assert yielded([{"t": ["0.9", "0.65"]}, {"t": later}], 2, steps=1, least=0.6)[1] == {"t": ["0.9", "0.65"]}


def test_a_record_counts_once_all_its_tasks_have_pairs():
    """In the first round the answers of r are all right: only s is learned from."""
    first = {"r/draw": ["1", "0"], "r/answer": ["1", "1"], "s/draw": ["1", "0"], "s/answer": ["1", "0"]}
    second = {"r/draw": ["1", "1"], "r/answer": ["1", "0"]}
    records = {name: name[0] for name in first}
    one, two = yielded([first, second], 2, records, groups=4, steps=1)
    assert set(one) == {"s/draw", "s/answer"}, "as often as it takes to fill the batch"
    assert set(two) == set(first)


def test_without_any_pair_there_is_nothing_to_prefer_and_the_draws_are_repeated():
    batches = [{"t": ["0.5", "0.1"]}, {"t": ["0.5", "0.5"]}, {"t": ["0.9", "0.1"]}]
    found = yielded(batches, 3, steps=1, least=0.6)
    assert found == [{"t": ["0.5"]}, {"t": ["0.5"]}, {"t": ["0.9", "0.1"]}]


def test_an_epoch_shows_every_record_once_and_its_tasks_together():
    told = {f"{record}/{kind}": ["1", "0"] for record in "abcdef" for kind in ("draw", "answer")}
    records = {name: name[0] for name in told}
    steps = yielded([told], 6, records, groups=4, steps=6)
    for epoch in (steps[:3], steps[3:]):
        assert sorted(name for batch in epoch for name in batch) == sorted(told)
    for batch in steps:
        assert len(batch) == 4 and len({records[name] for name in batch}) == 2
    assert [list(batch) for batch in steps[:3]] != [list(batch) for batch in steps[3:]]


def sampled(feed, count, state=None):
    """Texts of batches from a real policy, which changes a little at each step."""
    policy = Letters().build(torch.device("cpu"))
    optimiser = AdamW().build([{"params": list(policy.parameters())}], 1e-3)
    now = state or TrainState(policy, optimiser, torch_generator(0), seed=0, total=10)
    problem = Problem(LetterGame(LetterTasks()), {"right": RightLetters()}, groups=4, group_size=6, seed=3)
    texts = []
    for groups in islice(feed.stream(problem, LocalActor(now.policy), now), count):
        texts.append([[one.text for one in group] for group in groups])
        with torch.no_grad():
            now.policy.logits.mul_(1.1)
    return texts, now


def test_a_stream_goes_on_where_it_was_saved_within_a_round(tmp_path):
    whole, _ = sampled(PairRounds(OnPolicy(), steps=3, draws=2), 8)
    first = PairRounds(OnPolicy(), steps=3, draws=2)
    begun, now = sampled(first, 4)
    torch.save(first.state_dict(), tmp_path / "feed.pt")
    rest = PairRounds(OnPolicy(), steps=3, draws=2)
    rest.load_state_dict(torch.load(tmp_path / "feed.pt", weights_only=False))
    assert begun + sampled(rest, 4, now)[0] == whole
    assert whole[0] != whole[3], "the second round has pairs of its own"


def test_saved_pairs_do_not_change_when_the_feed_goes_on():
    feed = PairRounds(OnPolicy(), steps=1, draws=1)
    _, now = sampled(feed, 1)
    saved = copy.copy(feed.state_dict())
    before = {record: dict(pairs) for record, pairs in saved["records"].items()}
    sampled(feed, 3, now)
    assert saved["records"] == before


def test_counts_are_logged():
    feed = PairRounds(Told([{"t": ["1", "0"]}, {"t": ["1", "1"], "u": ["1", "0"]}, {"t": ["0", "0"]}]), steps=1)
    problem = Problem(LetterGame(LetterTasks()), {"w": Written()}, groups=1, group_size=2, seed=0)
    found = []
    for _ in islice(feed.stream(problem, None, None), 3):
        found.append((feed.stats["round"], feed.stats["pairs"], feed.stats["renewed"]))
    assert found == [(1, 1, 1), (2, 2, 2), (3, 2, 0)]


def test_settings_are_checked_and_the_reference_is_passed_on():
    for bad in ({"steps": 0}, {"draws": 0}):
        with pytest.raises(ConfigError, match=r"must be >= 1, got 0"):
            PairRounds(**bad)
    assert PairRounds(ByReference()).needs_reference and not PairRounds().needs_reference
    assert replace(PairRounds(), steps=7).steps == 7
