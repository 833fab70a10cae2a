"""Frozen dataclasses to plain data and back, and overlays: what is accepted, and how refusals read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from formulas import ADVANTAGES, OBJECTIVES
from saccade.advantages.group import GroupCentre, GroupNorm
from saccade.advantages.shaping import Clip
from saccade.core.config import dump, from_dict, load, overlay, to_dict
from saccade.core.errors import ConfigError
from saccade.objectives.policy_gradient import PPOClip


@dataclass(frozen=True)
class Tool:
    name: str = "crop"
    zoom: float = 1.0

    def __post_init__(self) -> None:
        if self.zoom <= 0:
            raise ConfigError(f"zoom must be > 0, got {self.zoom}")


@dataclass(frozen=True)
class Bench:
    size: int = 3
    rate: float = 0.5
    loud: bool = False
    kind: Literal["a", "b"] = "a"
    span: tuple[int, int] = (1, 2)
    names: tuple[str, ...] = ()
    folder: Path = Path("runs")
    tool: Tool = Tool()
    spare: Tool | None = None
    tools: Mapping[str, Tool] = field(default_factory=lambda: {"main": Tool()})
    extra: Any = None
    hidden: int = field(default=7, init=False)


class Bare:
    pass


def test_round_trip_through_text():
    bench = Bench(rate=1e-6, names=("x", "y"), spare=Tool("draw", 2.0), tools={"a b": Tool(zoom=3.0)}, extra=(1, None))
    assert from_dict(load(dump(bench))) == bench


@pytest.mark.parametrize("value", [pair[0] for pair in [*ADVANTAGES.values(), *OBJECTIVES.values()]], ids=repr)
def test_every_advantage_and_objective_survives_the_round_trip(value):
    assert from_dict(load(dump(value))) == value


def test_fields_that_are_not_settings_are_not_written():
    assert "hidden" not in to_dict(Bench())


def test_what_is_not_plain_cannot_be_written():
    with pytest.raises(ConfigError, match="a value of type Bare cannot be written"):
        dump(Bench(extra=Bare()))


def test_overlay_reaches_nested_settings_and_leaves_the_original_alone():
    bench = Bench()
    changed = overlay(bench, {"tool.zoom": 2, "tools.main.name": "draw", "span.1": 9, "tools": {"main": {"zoom": 4.0}}})
    assert changed.tool == Tool(zoom=2.0) and changed.tools["main"] == Tool("draw", 4.0) and changed.span == (1, 9)
    assert bench == Bench()


def test_overlay_of_wrapped_strategies():
    changed = overlay(Clip(GroupNorm(), 5.0), {"inner.eps": "1e-6", "limit": 2})
    assert changed == Clip(GroupNorm(eps=1e-6), 2.0)
    assert isinstance(changed.limit, float)


def test_a_class_replaces_and_the_same_class_is_changed_in_place():
    norm = Clip(GroupNorm(eps=0.5), 5.0)
    centre = {"class": "saccade.advantages.group.GroupCentre"}
    assert overlay(norm, {"inner": centre}) == Clip(GroupCentre(), 5.0)
    kept = {"class": "saccade.advantages.group.GroupNorm", "ddof": 1}
    assert overlay(norm, {"inner": kept}) == Clip(GroupNorm(eps=0.5, ddof=1), 5.0)


def test_entries_of_mappings_are_added_by_class_and_removed_by_none():
    tool = {"class": f"{Tool.__module__}.Tool", "zoom": 2.0}
    assert overlay(Bench(), {"tools.new": tool}).tools == {"main": Tool(), "new": Tool(zoom=2.0)}
    assert overlay(Bench(), {"tools.main": None}).tools == {}
    assert overlay(Bench(spare=Tool()), {"spare": None}).spare is None
    assert overlay(Bench(), {"spare": tool}).spare == Tool(zoom=2.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size_": 1}, "size_: there is no setting 'size_'; did you mean 'size'?"),
        ({"tool.zooom": 1.0}, "tool.zooom: there is no setting 'zooom'; did you mean 'zoom'?"),
        ({"tool.xyz": 1.0}, "tool.xyz: there is no setting 'xyz'; known: name, zoom"),
        ({"hidden": 1}, "hidden: there is no setting 'hidden'"),
        ({"tools.other.zoom": 1.0}, "tools.other: there is no setting 'other'; known: main"),
        ({"size": 1.5}, "size: expected int, got 1.5"),
        ({"size": True}, "size: expected int, got True"),
        ({"size": "3"}, "size: expected int, got '3'"),
        ({"rate": "fast"}, "rate: expected float, got 'fast'"),
        ({"rate": False}, "rate: expected float, got False"),
        ({"loud": 1}, "loud: expected bool, got 1"),
        ({"kind": "c"}, "kind: expected Literal['a', 'b'], got 'c'"),
        ({"span": [1]}, "span: expected tuple[int, int], got (1,)"),
        ({"span.2": 1}, "span.2: expected an index below 2, got '2'"),
        ({"names": ["x", 1]}, "names: expected tuple[str, ...], got ('x', 1)"),
        ({"tool": None}, "tool: expected Tool, got None"),
        ({"tool": 3}, "tool: expected Tool, got 3"),
        ({"tool.zoom": -1.0}, "tool: zoom must be > 0, got -1.0"),
        ({"spare.zoom": 2.0}, "spare is empty; name a class to fill it"),
        ({"size.big": 2}, "size.big: size is 3 and has no settings"),
        ({"tool": {"class": "saccade.advantages.group.GroupNorm"}}, "tool: expected Tool, got GroupNorm"),
        ({"tool": {"class": "saccade.advantages.group.GroupNrom"}}, "tool.class: there is no class"),
        ({"tool": {"class": "saccade.nowhere.Tool"}}, "tool.class: there is no class"),
        ({"tool": {"class": "antigravity.Tool"}}, "tool.class: there is no class 'antigravity.Tool'"),
        ({"tool": {"class": "pathlib.Path"}}, "tool.class: 'pathlib.Path' is not a dataclass"),
        ({"tool": {"class": "Tool"}}, "tool.class: expected module.Class, got 'Tool'"),
        ({"tool": {"class": 3}}, "tool.class: expected module.Class, got 3"),
        ({"tool": 3, "tool.zoom": 1.0}, "tool is given twice"),
    ],
)
def test_overlays_that_do_not_fit_are_refused_with_their_path(changes, message):
    with pytest.raises(ConfigError) as caught:
        overlay(Bench(), changes)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"class: {Tool.__module__}.Tool\nzoom: 0.0", "zoom must be > 0, got 0.0"),
        (f"class: {Tool.__module__}.Tool\nzom: 1.0", "zom: there is no setting 'zom'; did you mean 'zoom'?"),
        ("class: saccade.advantages.shaping.Clip", "configuration: "),
        ("class: saccade.objectives.policy_gradient.PPOClip\nlow: 7", "low must be in"),
        ("class: saccade.objectives.policy_gradient.PPOClip\nlow: [1]", "low: expected float, got (1,)"),
    ],
)
def test_files_that_do_not_fit_are_refused(text, message):
    with pytest.raises(ConfigError) as caught:
        from_dict(load(text))
    assert str(caught.value).startswith(message)


def test_numbers_in_scientific_notation_without_a_dot_are_numbers():
    """YAML reads 1e-4 as text."""
    assert from_dict(load("class: saccade.objectives.policy_gradient.PPOClip\nlow: 1e-4")) == PPOClip(low=1e-4)


def test_text_that_is_not_yaml_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"mine\.yaml is not valid YAML: ") as caught:
        load("a: [1, 2", "mine.yaml")
    assert "\n" not in str(caught.value)


def test_yaml_cannot_construct_objects():
    with pytest.raises(ConfigError, match="not valid YAML"):
        load("!!python/object/apply:os.getcwd []")
