import numpy as np
import pytest

from saccade.core.content import Image, Text
from saccade.core.errors import ConfigError
from saccade.core.trajectory import Task
from saccade.envs.datasets.digits import DigitScenes
from saccade.envs.single import SingleTurn

IMAGE = Image(np.zeros((2, 2, 3), np.uint8))


def prompt(template, *content):
    return SingleTurn(DigitScenes(), template=template).prompt(Task("t", content))


def test_the_default_template_leaves_the_prompt_alone():
    assert prompt("{prompt}", IMAGE, Text("a")) == (IMAGE, Text("a"))


def test_the_template_stands_around_the_text_and_pictures_stay():
    assert prompt("Q: {prompt} {}?", IMAGE, Text("{a}")) == (IMAGE, Text("Q: {a} {}?"))


def test_several_texts_are_framed_once():
    framed = prompt("<{prompt}>", Text("a"), IMAGE, Text("b"), IMAGE, Text("c"))
    assert framed == (Text("<a"), IMAGE, Text("b"), IMAGE, Text("c>"))


def test_a_prompt_without_text_gets_the_templates():
    assert prompt("Describe. {prompt}", IMAGE) == (IMAGE, Text("Describe. "))


def test_every_output_ends_the_episode():
    environment = SingleTurn(DigitScenes()).make()
    environment.reset(DigitScenes()[0], 0)
    step = environment.step((Text("anything"),))
    assert step.terminated and not step.truncated and step.observation is None and step.reward == 0


@pytest.mark.parametrize("template", ["", "no place", "{prompt}{prompt}"])
def test_a_template_has_one_place_for_the_prompt(template):
    with pytest.raises(ConfigError, match="template must contain"):
        SingleTurn(DigitScenes(), template=template)


def test_one_turn_is_all_there_is():
    with pytest.raises(ConfigError, match="max_turns must be 1"):
        SingleTurn(DigitScenes(), max_turns=2)
