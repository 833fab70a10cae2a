"""Histories to choose from, the scores of choices, and the rules that do not learn."""

import numpy as np
import pytest
import torch

from saccade.core.content import Array, Text
from saccade.core.errors import ConfigError, DataError
from saccade.core.metric import Models
from saccade.core.random import numpy_generator
from saccade.core.trajectory import Prompt, Task, Trajectory, forced_turn
from saccade.envs.datasets.histories import Histories
from saccade.envs.single import SingleTurn
from saccade.policies.subset import TinySelector
from saccade.recipes.generation.choosing import AtRandom, GreedyOracle, MostRecent, Scripted, chosen
from saccade.rewards.combine import Sum
from saccade.rewards.selection import Consistency, Damage, OldScene, Subject
from saccade.testing import check_environment

QUALITY = Sum((Subject(), OldScene(weight=-0.7), Damage(weight=-1.0)))


def test_environment_keeps_its_contract():
    check_environment(SingleTurn(Histories()))


def test_training_and_test_share_neither_subjects_nor_scenes():
    said = {part: [Histories().split(part)[i].prompt[0].text.split() for i in range(200)] for part in ("train", "test")}
    for place in (1, 4, 7):
        train, test = ({int(words[place].strip(".")) for words in said[part]} for part in ("train", "test"))
        assert train and test and not train & test
        assert max(train) < 48 <= min(test)


def test_tokens_are_a_third_of_each_kind_and_a_quarter_is_damaged():
    task = Histories()[3]
    assert [task.target["kinds"].count(kind) for kind in ("subject", "scene", "other")] == [8, 8, 8]
    assert sum(task.target["damaged"]) == 6
    context, query = task.prompt[1:]
    assert (context.values.shape, query.values.shape) == ((24, 8), (3, 8))
    assert np.linalg.norm(task.target["subject"]) == pytest.approx(1)


def scene(index):
    """Rows e1, e2, e1 + e2, the last one damaged; the subject is e1, the old scene e2."""
    eye = np.eye(8, dtype=np.float32)
    rows = np.stack([eye[0], eye[1], eye[0] + eye[1]])
    target = {"subject": eye[0], "old": eye[1], "damaged": (False, False, True)}
    shown = (Text("choose"), Array("context", rows))
    output = (Array("chosen", np.array(index, np.float32)[:, None]),) if index is not None else (Text("all of them"),)
    return Trajectory(Prompt(Task("t", shown, target), shown), [forced_turn(output, None, 1)])


@pytest.mark.parametrize(
    ("index", "subject", "consistency", "old", "damage"),
    [
        # Mean e1: the filmed subject is (1, 1/2)/|..|, cosine 1 / sqrt(1.25).
        ([0], 1, 1.25**-0.5, 0, 0),
        # Mean (e1 + e2) / 2: cosines 1 / sqrt 2, and 1.5 / (sqrt 2 sqrt 1.25).
        ([0, 1], 2**-0.5, 1.5 / 2.5**0.5, 2**-0.5, 0),
        # Mean (2 e1 + e2) / 2: length sqrt 5 / 2; the filmed subject itself.
        ([0, 2], 2 / 5**0.5, 1, 5**-0.5, 0.5),
        (None, -1, -1, 1, 1),
        ([3], -1, -1, 1, 1),
        ([0.5], -1, -1, 1, 1),
    ],
)
def test_scores_of_the_next_scene(index, subject, consistency, old, damage):
    trajectory = scene(index)
    found = [reward.score(trajectory) for reward in (Subject(), Consistency(), OldScene(), Damage())]
    assert found == pytest.approx([subject, consistency, old, damage])


def test_rules_choose_what_they_say():
    task, random = Histories()[0], numpy_generator(0)
    assert MostRecent(3).choose(task, 24, random) == [23, 22, 21]
    drawn = [AtRandom(6).choose(task, 24, random) for _ in range(50)]
    assert all(len(set(one)) == 6 for one in drawn) and len({i for one in drawn for i in one}) == 24
    oracle = GreedyOracle(2, reward=QUALITY)
    assert oracle.choose(scene([0]).task, 3, random) == [0, 1]  # 0.3/√2 = 0.21 > 1.3/√5 - 1/2 = 0.08
    with pytest.raises(DataError, match="at least 30"):
        MostRecent(30)(task, random)
    with pytest.raises(ConfigError, match="count"):
        AtRandom(0)
    with pytest.raises(ConfigError, match="around"):
        Consistency(around=-1.0)


def test_scripted_is_the_mean_of_what_the_rule_gets():
    """Oracle above random by far, on the tasks of the groups, whatever their rollouts did."""
    groups = [[Trajectory(Prompt(task, task.prompt), [])] for task in Histories(part="test")[:40]]
    models = Models(TinySelector().build(torch.device("cpu")))
    found = {}
    for name, rule in {"random": AtRandom(), "oracle": GreedyOracle(reward=QUALITY)}.items():
        metric = Scripted(QUALITY, rule)
        rows = metric.rows(groups, models)
        assert [row.task for row in rows] == [group[0].task.id for group in groups]
        found[name] = metric.compute(rows).value
    assert found["random"] < 0 < 0.7 < found["oracle"]
    one = Trajectory(groups[0][0].prompt, [forced_turn(chosen([23, 22, 21, 20, 19, 18]), None, 1)])
    expected = sum(score.total for score in QUALITY([one]))
    assert Scripted(QUALITY, MostRecent()).rows(groups[:1], models)[0].value == pytest.approx(expected)
