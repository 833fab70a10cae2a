"""What holds for every recipe, whoever wrote it."""

import ast
import inspect

import pytest

from saccade.cli.catalogue import catalogue, unavailable
from saccade.core import config
from saccade.recipe import Recipe

# Other tests register recipes of their own.
NAMES = sorted(name for name, entry in catalogue().items() if entry.make.__module__.startswith("saccade."))
LONGEST = 60


def test_every_recipe_module_can_be_imported_here():
    assert not unavailable()


@pytest.mark.parametrize("name", NAMES)
def test_docstring_says_what_the_method_is(name):
    entry = catalogue()[name]
    assert entry.paper
    assert entry.title.endswith(".")
    for part in (entry.mechanism, entry.without, entry.differences):
        assert len(part) > 20


@pytest.mark.parametrize("size", ["tiny", "base"])
@pytest.mark.parametrize("name", NAMES)
def test_recipe_survives_being_written_and_read(name, size):
    made = catalogue()[name].make(size)
    assert isinstance(made, Recipe)
    text = config.dump(made)
    assert config.dump(config.from_dict(config.load(text))) == text


@pytest.mark.parametrize("name", NAMES)
def test_base_size_names_a_real_checkpoint_or_says_that_there_is_none(name):
    entry = catalogue()[name]
    model = config.to_dict(entry.make("base").policy).get("model")
    if model is None:
        assert "in the base size either" in " ".join(entry.doc.split())
        return
    organisation, _, checkpoint = model.partition("/")
    assert organisation and checkpoint


@pytest.mark.parametrize("name", NAMES)
def test_ablation_switches_something_off(name):
    made = catalogue()[name].make("tiny")
    if made.ablation is None:
        assert name == "sft", "a method without an ablation is not done"
        return
    on = config.overlay(made, made.ablation.common)
    off = config.overlay(on, made.ablation.without)
    assert config.dump(on) != config.dump(off)
    assert config.to_dict(on.train)["steps"] == config.to_dict(off.train)["steps"], "equal budgets"
    assert len(made.ablation.seeds) >= 3


@pytest.mark.parametrize("name", NAMES)
def test_recipe_is_short(name):
    tree = ast.parse(inspect.getsource(inspect.getmodule(catalogue()[name].make)))
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    assert function.end_lineno - function.lineno + 1 <= LONGEST
