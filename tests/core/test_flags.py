"""Dotted options: what they change, and what of a recipe the help can name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pytest

from saccade.core.config import overlay
from saccade.core.errors import ConfigError
from saccade.core.flags import changes, settings


@dataclass(frozen=True)
class Animal:
    """Something that lives."""

    legs: int = 4
    """How many it
    stands on."""


@dataclass(frozen=True)
class Bird(Animal):
    wings: float = 2.0
    song: str | None = None
    """What it sings."""


@dataclass(frozen=True)
class Zoo:
    kind: Literal["small", "big"] | int = "small"
    opening: tuple[int, int] = (9, 17)
    tags: tuple[str, ...] = ()
    free: bool = False
    name: str = "zoo"
    star: Animal = field(default_factory=Animal)
    guest: Animal | None = None
    cages: Mapping[str, Animal] = field(default_factory=dict)
    low: int = 0
    high: int = 5

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ConfigError(f"low must be < high, got {self.low} and {self.high}")


ZOO = Zoo(cages={"first": Bird(), "second": Animal()})


def changed(*options: tuple[str, str]) -> Zoo:
    return overlay(ZOO, changes(ZOO, [(name, words.split()) for name, words in options]))


def test_values_are_read_as_the_setting_wants_them():
    zoo = changed(("kind", "big"), ("opening", "8 18"), ("tags", "yes 7"), ("free", ""), ("name", "007"))
    assert (zoo.kind, zoo.opening, zoo.tags, zoo.free, zoo.name) == ("big", (8, 18), ("yes", "7"), True, "007")
    assert changed(("kind", "3")).kind == 3
    assert changed(("opening", "[8, 18]")).opening == (8, 18)
    assert changed(("tags", "one")).tags == ("one",)
    assert changed(("free", "false")).free is False
    assert changed(("cages.first.wings", "1e-4")).cages["first"] == Bird(wings=1e-4)
    assert changed(("cages.first.song", "null")).cages["first"] == Bird(song="null")


def test_objects_are_exchanged_and_filled_by_class_and_removed_by_none():
    zoo = changed(("star.class", "Bird"), ("star.wings", "3"), ("guest.class", "Animal"), ("guest.legs", "6"))
    assert (zoo.star, zoo.guest) == (Bird(wings=3.0), Animal(legs=6))
    zoo = changed(("cages.second", "None"), ("cages.third.class", "Bird"))
    assert zoo.cages == {"first": Bird(), "third": Bird()}


def test_settings_that_only_fit_together_may_be_given_in_any_order():
    """low = 7 alone is wrong because high is 5."""
    assert changed(("low", "7"), ("high", "9")) == changed(("high", "9"), ("low", "7"))
    with pytest.raises(ConfigError, match="low must be < high, got 7 and 5"):
        changed(("low", "7"))


def test_everything_that_can_be_set_is_listed_with_value_and_meaning():
    found = {setting.path: setting for setting in settings(ZOO)}
    assert list(found) == [
        "kind", "opening", "tags", "free", "name", "star", "star.legs", "guest", "cages", "cages.first",
        "cages.first.legs", "cages.first.wings", "cages.first.song", "cages.second", "cages.second.legs", "low", "high",
    ]  # fmt: skip
    assert (found["kind"].kind, found["kind"].value) == ("small|big|INT", "small")
    assert (found["opening"].kind, found["opening"].value) == ("INT INT", "9 17")
    assert found["cages.first.legs"].doc == "How many it stands on."
    assert found["cages.first.song"].doc == "What it sings."
    assert (found["star"].doc, found["star"].others) == ("Something that lives.", ("Bird",))
    assert (found["guest"].kind, found["guest"].others) == ("None", ("Animal", "Bird"))


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("wings", "3", "there is no option --wings; did you mean --cages.first.wings?"),
        ("xyzzy", "3", "there is no option --xyzzy; see --help for all options"),
        ("opening", "8 18 20", "opening: expected tuple"),
        ("star.class", "Brid", "there is no class 'Brid'; did you mean Bird?"),
        ("star.class", "Animal Bird", "--star.class takes one class, got Animal Bird"),
        ("name", "", "--name needs a value: STR"),
        ("low", "[1", "--low is not valid YAML"),
        ("cages.first", "3", "cages.first: expected settings of Bird, got 3"),
        ("cages.new.legs", "3", "cages.new: there is no setting 'new'"),
    ],
)
def test_what_cannot_be_set_is_named(name, words, message):
    with pytest.raises(ConfigError, match=message):
        changed((name, words))
