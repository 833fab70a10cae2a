"""Rewards that ask a second system."""

import re
from dataclasses import dataclass

import pytest
import torch
from cases import trajectory

from saccade.core.errors import CheckpointError, ConfigError, ContractError, DataError
from saccade.core.policy import Sampling
from saccade.core.reward import Score
from saccade.policies.token.tiny import TinyVLM
from saccade.rewards.combine import scores
from saccade.rewards.learned import Comparator, Downstream, PairwiseJudge, PolicySolver, Solver
from saccade.rewards.verify import ExactMatch

SPEC = TinyVLM(width=16, layers=1, heads=2)


@dataclass(frozen=True)
class Minus(Solver):
    """Reads "how many red minus blue" questions from counts such as "3 red"."""

    def solve(self, texts, questions):
        found = []
        for text, question in zip(texts, questions, strict=True):
            counts = {colour: int(n) for n, colour in re.findall(r"(\d) (\w+)", text)}
            a, b = question.split()[2], question.split()[4]
            found.append(str(counts[a] - counts[b]) if {a, b} <= counts.keys() else "unknown")
        return found


@dataclass(frozen=True)
class Mute(Solver):
    def solve(self, texts, questions):
        return []


@dataclass(frozen=True)
class Longer(Comparator):
    """Prefers the longer text, and the first by ``bias`` more than it should."""

    bias: float = 0.0

    def compare(self, pairs):
        right = [(len(a.text) > len(b.text)) + 0.5 * (len(a.text) == len(b.text)) for a, b in pairs]
        return [min(1.0, verdict + self.bias) for verdict in right]


@dataclass(frozen=True)
class Outside(Comparator):
    def compare(self, pairs):
        return [2.0] * len(pairs)


def asked(output):
    return trajectory(output, target="2", question="how many red minus blue")


def test_downstream_pays_what_the_solver_makes_of_the_text():
    reward = Downstream(solver=Minus(), inner=ExactMatch(tag=""), question="question")
    found = scores(reward, [asked("3 red and 1 blue"), asked("3 red"), asked("2 red, 1 blue")])
    assert [score.total for score in found] == [1.0, 0.0, 0.0]
    assert found[1].note == "solver: unknown"


def test_downstream_gives_the_solver_the_content_of_the_tag_only():
    reward = Downstream(solver=Minus(), inner=ExactMatch(tag=""), question="question", tag="caption")
    good, untagged = asked("9 red <caption>3 red 1 blue</caption>"), asked("3 red 1 blue")
    assert scores(reward, [untagged, good]) == [Score(0.0, note="no <caption>"), Score(1.0, note="solver: 2")]


def test_downstream_pays_at_the_end_of_the_policys_own_trajectory():
    (score,) = scores(
        Downstream(solver=Minus(), inner=ExactMatch(tag=""), question="question"), [asked("3 red 1 blue")]
    )
    assert (score.value, dict(score.turns), score.actions) == (1.0, {}, None)


def test_downstream_names_what_is_missing():
    reward = Downstream(solver=Minus(), inner=ExactMatch(tag=""), question="query")
    with pytest.raises(DataError, match=r"task 't': info\.query must be text, got None"):
        scores(reward, [asked("x")])
    with pytest.raises(ContractError, match="solver Mute returned 0 answers for 1 questions"):
        scores(Downstream(solver=Mute(), inner=ExactMatch()), [asked("x")])
    with pytest.raises(ConfigError, match="inner must look at single trajectories, got PairwiseJudge"):
        Downstream(solver=Minus(), inner=PairwiseJudge(comparator=Longer()))


def test_policy_solver_answers_alike_in_any_batch():
    texts, questions = ["3 red", "1 blue", "red red", "0"], ["how many red?"] * 4
    solver = PolicySolver(SPEC, sampling=Sampling(max_actions=6, deterministic=True))
    answers = solver.solve(texts, questions)
    one_by_one = PolicySolver(SPEC, sampling=Sampling(max_actions=6, deterministic=True), batch=1)
    assert answers == solver.solve(texts, questions) == one_by_one.solve(texts, questions)
    assert len(answers) == 4 and all(isinstance(answer, str) for answer in answers)


def test_policy_solver_takes_the_saved_weights(tmp_path):
    policy = SPEC.build(torch.device("cpu"), seed=5)
    policy.save_pretrained(tmp_path)
    sampling = Sampling(max_actions=6, deterministic=True)
    saved = PolicySolver(SPEC, weights=tmp_path, sampling=sampling)
    from saccade.rewards.learned import _frozen

    assert _frozen(saved) is _frozen(PolicySolver(SPEC, weights=tmp_path, sampling=sampling))
    for own, loaded in zip(policy.parameters(), _frozen(saved).parameters(), strict=True):
        assert torch.equal(own, loaded) and not loaded.requires_grad


def test_policy_solver_names_weights_that_do_not_fit(tmp_path):
    SPEC.build(torch.device("cpu")).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not hold the weights of TinyVLM"):
        PolicySolver(TinyVLM(width=32, layers=1, heads=2), weights=tmp_path).solve(["x"], ["y"])
    with pytest.raises(CheckpointError, match="found no such file"):
        PolicySolver(SPEC, weights=tmp_path / "none").solve(["x"], ["y"])
    with pytest.raises(ConfigError, match="deterministic"):
        PolicySolver(SPEC, sampling=Sampling())
    with pytest.raises(ConfigError, match="batch"):
        PolicySolver(SPEC, batch=0)


def test_pairwise_judge_pays_the_mean_of_wins():
    """Lengths 1, 3, 3: the first loses twice; each of the others wins once and ties once: 3/4."""
    group = [trajectory("a"), trajectory("bbb"), trajectory("ccc")]
    assert [s.total for s in scores(PairwiseJudge(comparator=Longer()), group)] == [0.0, 0.75, 0.75]


def test_a_bias_towards_the_first_place_cancels():
    """c(i, j) = 1/2 + bias for equal texts in either order: (1/2 + b + 1 - 1/2 - b) / 2 = 1/2."""
    group = [trajectory("aa"), trajectory("bb"), trajectory("cc")]
    assert [s.total for s in scores(PairwiseJudge(comparator=Longer(bias=0.3)), group)] == pytest.approx([0.5] * 3)


def test_a_trajectory_alone_is_unscored_by_a_judge():
    assert scores(PairwiseJudge(comparator=Longer()), [trajectory("a")])[0].value is None


def test_verdicts_are_checked():
    with pytest.raises(ContractError, match=r"comparator Outside, task 't': expected a number in \[0, 1\], got 2.0"):
        scores(PairwiseJudge(comparator=Outside()), [trajectory("a"), trajectory("b")])
