"""Recipes for graphical interfaces: cut down to seconds, both arms run; what their own classes say."""

import importlib.util

import numpy as np
import pytest
import torch

from saccade.cli.catalogue import catalogue
from saccade.core import config
from saccade.core.content import Text, text_of
from saccade.core.errors import ConfigError
from saccade.core.metric import Models
from saccade.core.trajectory import Prompt, Task, Trajectory, forced_turn
from saccade.envs.actions import read_action
from saccade.envs.browsers import Browsers, find_chromium
from saccade.envs.miniwob import MiniWoBExpert
from saccade.evaluate.samples import totals
from saccade.experiment import start_policy
from saccade.feeds.demonstrations import ScriptedActor
from saccade.feeds.experts import demonstrate
from saccade.learn.loop import Run, train
from saccade.policies.token.tiny import TinyVLM
from saccade.recipes.vla.gta1 import BestOfN, Fallible
from saccade.recipes.vla.mobilegui_rl import EfficientSuccess, Hesitant, SomeSucceed, TurnsOrLimit, TurnsToSuccess
from saccade.recipes.vla.screen import Distracted, Snapped
from saccade.rewards.gui import ClickInBox
from saccade.rewards.match import KeySteps, ProgressDelta, key_steps, symbols
from saccade.rollout.lockstep import rollout

CPU = torch.device("cpu")
MODELS = Models(TinyVLM(width=8, layers=1, heads=1).build(CPU))
DRAWN = ("gta1", "gui_r1", "progrm")


def browser_missing():
    if importlib.util.find_spec("miniwob") is None:
        return "miniwob is not installed (pip install 'saccade[gui]')"
    try:
        find_chromium()
    except ConfigError as error:
        return str(error)
    return ""


def cut(name, arm="with", **more):
    """Two steps on a narrow network, after a warm-up of two."""
    recipe = catalogue()[name].make("tiny")
    changes = {**recipe.ablation.common, **(recipe.ablation.without if arm == "without" else {})}
    recipe = config.overlay(recipe, changes)
    small = {
        "policy.width": 16,
        "policy.layers": 1,
        "policy.heads": 2,
        "stages.warm_up.train.steps": 2,
        "stages.warm_up.train.groups": 4,
        "train.steps": 2,
        "train.groups": 3,
        "train.group_size": 4,
    }
    for later in {"distract", "hesitation"} & set(recipe.stages):
        small |= {f"stages.{later}.train.steps": 2, f"stages.{later}.train.groups": 4}
    return config.overlay(recipe, small | more)


def trained(recipe):
    state = train(recipe, Run(), policy=start_policy(recipe, CPU))
    assert state.step == 2
    assert all(np.isfinite(value) for value in state.last.values())
    if "pg/clip_fraction" in state.last:
        assert state.last["policy/actor_mismatch_k1"] == pytest.approx(0, abs=1e-5), "fresh data have a ratio of 1"


@pytest.mark.parametrize("arm", ["with", "without"])
@pytest.mark.parametrize("name", DRAWN)
def test_both_arms_of_a_cut_down_recipe_train(name, arm):
    trained(cut(name, arm))


browser = pytest.mark.skipif(bool(browser_missing()), reason=browser_missing() or "a browser is there")


@browser
@pytest.mark.parametrize("arm", ["with", "without"])
def test_both_arms_train_in_a_real_browser(arm):
    browsers = Browsers(count=1, tabs=3)
    small = {
        "env.max_turns": 3,
        "env.browsers.count": browsers.count,
        "env.browsers.tabs": browsers.tabs,
        "stages.warm_up.feed.count": 3,
        "stages.warm_up.feed.batch": 3,
        "stages.hesitation.feed.count": 3,
        "stages.hesitation.feed.batch": 3,
        "train.group_size": 2,
        "feed.refill": 0,
    }
    try:
        trained(cut("mobilegui_rl", arm, **small))
    finally:
        browsers.pool().close()


# --- demonstrations ---


@pytest.mark.parametrize("name", DRAWN)
def test_snapped_demonstrations_succeed(name):
    """Clicks on multiples of 4 still hit icons of 13 pixels, and the tiny policy has a token for each coordinate."""
    recipe = catalogue()[name].make("tiny")
    assert all(t.turns[-1].info["success"] for t in demonstrated(recipe, Snapped()))


def demonstrated(recipe, script, count=40):
    tasks = [recipe.env.tasks[i] for i in range(count)]
    random = np.random.default_rng(0)
    outputs = {task.id: script(task, random) for task in tasks}
    actor = ScriptedActor(recipe.policy.build(CPU), outputs)
    groups = rollout(actor, recipe.env, tasks, group_size=1, sampling=recipe.feed.sampling, seeds=range(count))
    return [group[0] for group in groups]


def test_snapped_clicks_are_on_the_grid():
    task = Task("a", (), gold=((Text("<tool>click 33 47</tool>"),), (Text("<tool>done</tool>"),)))
    told = [text_of(output) for output in Snapped()(task, np.random.default_rng(0))]
    assert told == ["<tool>click 32 48</tool>", "<tool>done</tool>"]


def test_distracted_demonstrator_errs_half_of_the_time_and_keeps_the_kind():
    """First actions: 1/2 + 1/2 * 1/12 = 0.54 of words right, 1/2 + 1/2 * 1/4 = 0.625 of directions, of clicks
    1/2 + 1/2 * 13^2 / 64^2 = 0.52. The right action is the last."""
    tasks = catalogue()["gui_r1"].make("tiny").env.tasks
    random, right = np.random.default_rng(0), {"click": [], "type": [], "scroll": []}
    for task in (tasks[i] for i in range(600)):
        outputs = Distracted()(task, random)
        assert outputs[-1:] == Snapped()(task, random)
        action, wanted = read_action(text_of(outputs[0])), task.target
        assert action.type == wanted["type"]
        if action.type == "click":
            (x, y), (x1, y1, x2, y2) = action.point, wanted["box"]
            assert x % 4 == y % 4 == 0
            right["click"].append(x1 <= x < x2 and y1 <= y < y2)
        else:
            same = action.text == wanted["text"] if action.type == "type" else action.direction == wanted["direction"]
            right[action.type].append(same)
    assert np.mean(right["click"]) == pytest.approx(0.52, abs=0.1)
    assert np.mean(right["type"]) == pytest.approx(0.54, abs=0.1)
    assert np.mean(right["scroll"]) == pytest.approx(0.625, abs=0.1)


def test_distracted_demonstrator_of_episodes_tries_again():
    task = catalogue()["progrm"].make("tiny").env.tasks[0]
    assert Distracted(right=1.0)(task, np.random.default_rng(0)) == Snapped()(task, np.random.default_rng(0))
    outputs = Distracted(right=0.0)(task, np.random.default_rng(0))
    assert outputs[1::2] == Snapped()(task, np.random.default_rng(0))
    assert {read_action(text_of(output)).type for output in outputs[::2]} == {"click"}


@pytest.mark.parametrize("wrong", [{"right": -0.1}, {"right": 1.1}, {"side": 0}, {"grid": 0}])
def test_distracted_refuses_what_makes_no_sense(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Distracted(**wrong)


@browser
def test_hesitant_demonstrations_scroll_and_give_up_as_often_as_said():
    """Of 40 turns or so 45 % scroll; the others click and succeed, unless they give up (10 %)."""
    small = {"env.browsers.count": 1, "env.browsers.tabs": 3}
    recipe = config.overlay(catalogue()["mobilegui_rl"].make("tiny"), small)
    expert, env = recipe.stages["hesitation"].feed.expert, recipe.env
    try:
        shown = demonstrate(None, expert, env, [env.tasks[i] for i in range(15)], range(15))
        environment = env.make()
        environment.reset(env.tasks[0], 0)
        assert expert.outputs(environment) == expert.outputs(environment) == shown[0][0].turns[0].output
        environment.close()
    finally:
        env.browsers.pool().close()
    episodes = [group[0].turns for group in shown]
    kinds = [turn.info["action"]["type"] for turns in episodes for turn in turns]
    assert set(kinds) == {"click", "scroll", "done"}
    assert kinds.count("scroll") / len(kinds) == pytest.approx(0.45, abs=0.2)
    ended = [turns[-1].info for turns in episodes if len(turns) < env.max_turns]
    assert all(info["success"] == (info["action"]["type"] == "click") for info in ended)


@pytest.mark.parametrize("wrong", [{"scroll": -0.1}, {"stop": -0.1}, {"scroll": 0.6, "stop": 0.4}])
def test_hesitant_refuses_never_to_act(wrong):
    with pytest.raises(ConfigError, match="scroll and stop"):
        Hesitant(MiniWoBExpert(), **wrong)


# --- progress ---


def test_key_steps_of_gold_episodes_are_the_milestones():
    """Two pages after the first, the choice, ``done``: a quarter of the way each, by either kind of label."""
    recipe = catalogue()["progrm"].make("tiny")
    episodes = demonstrated(recipe, Snapped(), 5)
    steps = key_steps([symbols(episode) for episode in episodes])
    assert steps == ("page 1", "page 2", "selected", "done")
    for label in (recipe.rewards["progress"], ProgressDelta(progress=KeySteps(steps))):
        assert [label.score(episode).turns for episode in episodes] == [{k: 0.25 for k in range(4)}] * 5


# --- efficient success ---


def episode(turns, success, last="click", text="x", task="a"):
    played = [forced_turn((Text(text),), None, 1) for _ in range(turns)]
    for turn in played:
        turn.info.update(success=False, action={"type": "click"})
    played[-1].info.update(success=success, action=last and {"type": last})
    return Trajectory(Prompt(Task(task, (), target={"box": (0, 0, 10, 10)}), ()), played)


def test_efficient_success_pays_short_ways_and_charges_premature_stops():
    """0.25^(2/4) = 0.5; 0.25^(4/4) = 0.25; a failed click costs nothing, a failed ``done`` 0.3."""
    reward = EfficientSuccess(gamma=0.25, limit=4, premature=0.3)
    assert reward.score(episode(2, True)) == pytest.approx(0.5)
    assert reward.score(episode(4, True)) == pytest.approx(0.25)
    assert reward.score(episode(4, False)) == 0
    assert reward.score(episode(1, False, last=None)) == 0, "an output without action is no stop"
    assert reward.score(episode(1, False, last="done")) == pytest.approx(-0.3)
    assert EfficientSuccess(gamma=1.0, limit=4).score(episode(4, True)) == 1, "without the length term"


@pytest.mark.parametrize("wrong", [{"gamma": 0.0}, {"gamma": 1.5}, {"limit": 0}, {"premature": -0.1}])
def test_efficient_success_refuses_what_makes_no_sense(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        EfficientSuccess(**{"limit": 4, **wrong})


def test_groups_in_which_all_fail_are_left_out():
    assert SomeSucceed().keep([episode(1, False), episode(2, True)], {})
    assert not SomeSucceed().keep([episode(1, False), episode(2, False)], {})


def test_turns_to_success_are_those_of_successes():
    groups = [[episode(3, True), episode(5, False)], [episode(1, True)]]
    assert [row.value for row in TurnsToSuccess().rows(groups, MODELS)] == [3, 1]
    assert [row.value for row in TurnsOrLimit(8).rows(groups, MODELS)] == [3, 8, 1], "a failure is as long as can be"


# --- judged proposals ---

HIT = ClickInBox(tag="")


def proposals(task, hits):
    """Misses are at 50, hits inside the box from 0 to 10; all texts differ."""
    return [episode(1, hit, text=f"({i},5)" if hit else f"({50 + i},5)", task=task) for i, hit in enumerate(hits)]


def judged(accuracy, n, tasks=200):
    """Of eight proposals two hit, at random places."""
    random = np.random.default_rng(1)
    groups = [proposals(f"t{i}", random.permutation([1, 1, 0, 0, 0, 0, 0, 0]).astype(bool)) for i in range(tasks)]
    rows = BestOfN(HIT, Fallible(HIT, accuracy), n).rows(groups, MODELS)
    assert len(rows) == tasks
    return np.mean([row.value for row in rows])


def test_a_judge_without_fault_finds_what_hits_and_one_that_errs_always_avoids_it():
    assert judged(1.0, 8) == 1
    assert judged(0.0, 8) == 0


def test_more_proposals_help_with_a_fallible_judge_and_not_with_a_coin():
    """One proposal hits with probability 1/4; of two, 1/28 + 12/28 * accuracy: 0.34 for 0.7 and 0.25 for 0.5."""
    assert judged(0.7, 1) == pytest.approx(0.25, abs=0.08)
    assert judged(0.7, 2) == pytest.approx(0.336, abs=0.08)
    assert judged(0.7, 8) > judged(0.7, 2) + 0.1
    assert judged(0.5, 2) == pytest.approx(0.25, abs=0.08)
    assert judged(0.5, 8) == pytest.approx(0.25, abs=0.08)


def test_fallible_judge_does_not_depend_on_the_order():
    judge, (a, b, c) = Fallible(HIT, 0.7), proposals("t", [True, False, False])
    for one, other in ((a, b), (a, c), (b, c)):
        assert judge.compare([(one, other)])[0] == 1 - judge.compare([(other, one)])[0]


def test_fallible_judge_tosses_a_coin_between_equals_of_which_copies_are_others():
    """Four copies of a text, told apart by their seeds: 6 pairs of 100 tasks, half of them won by the first."""
    judge, verdicts = Fallible(HIT, 0.7), []
    for task in range(100):
        copies = [episode(1, False, text="(50,5)", task=f"t{task}") for _ in range(4)]
        for seed, copy in enumerate(copies):
            copy.seed = seed
        verdicts += judge.compare([(copies[i], copies[j]) for i in range(4) for j in range(i)])
    assert set(verdicts) == {0.0, 1.0}
    assert np.mean(verdicts) == pytest.approx(0.5, abs=0.08)
    assert judge.compare([(copies[0], copies[0])]) == [0.5]


def test_the_first_of_equals_is_chosen_and_too_few_proposals_are_refused():
    group = proposals("t", [False, False])
    assert totals(HIT, [group]) == [[0.0, 0.0]]
    assert BestOfN(HIT, Fallible(HIT), 2).rows([group], MODELS)[0].value == 0
    with pytest.raises(ConfigError, match=r"evaluation\.n"):
        BestOfN(HIT, Fallible(HIT), 3).rows([group], MODELS)
