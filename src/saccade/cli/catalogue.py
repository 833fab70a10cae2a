"""Finding recipes and making them from what the command line says."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import saccade.recipes
from saccade.core import config, flags
from saccade.core.errors import ConfigError
from saccade.recipe import ENTRIES, Entry, Recipe, Size

Given = Sequence[tuple[str, Sequence[str]]]
"""Options that are no command's own: settings of the recipe, or keywords of the recipe's function."""


@cache
def _load() -> dict[str, str]:
    """Import every recipe; the packages that are missing, by the module that wants them."""
    missing: dict[str, str] = {}
    for found in pkgutil.walk_packages(saccade.recipes.__path__, "saccade.recipes."):
        try:
            importlib.import_module(found.name)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package in ("", "saccade"):
                raise
            missing[found.name.rpartition(".")[2]] = package
    return missing


def catalogue() -> dict[str, Entry]:
    """All recipes that can be used with the packages that are installed, by pillar and name."""
    _load()
    return dict(sorted(ENTRIES.items(), key=lambda item: (item[1].pillar, item[0])))


def shipped() -> list[Entry]:
    """The library's own recipes; whoever imports this may have registered some more."""
    return [entry for entry in catalogue().values() if entry.make.__module__.startswith("saccade.")]


def unavailable() -> dict[str, str]:
    """Recipe modules that cannot be imported, and the package each lacks."""
    return _load()


def entry_of(name: str) -> Entry:
    """The recipe of this name.

    Raises:
        ConfigError: there is none; the message has the nearest.
    """
    entries = catalogue()
    if name in entries:
        return entries[name]
    if name in unavailable():
        package = unavailable()[name]
        raise ConfigError(f"recipe {name} needs the package {package!r}: pip install 'saccade[vlm]'")
    near = difflib.get_close_matches(name, entries, n=1)
    raise ConfigError(f"there is no recipe {name!r}; {f'did you mean {near[0]!r}?' if near else 'see `saccade list`'}")


def keywords(entry: Entry) -> dict[str, inspect.Parameter]:
    """What the recipe's function takes besides the size."""
    return {name: p for name, p in inspect.signature(entry.make).parameters.items() if name != "size"}


def make(
    name: str, size: Size | None, given: Given, known: Sequence[str] = (), overlay: Mapping[str, Any] | None = None
) -> Recipe:
    """A recipe with the YAML overlay and then the options applied.

    Args:
        name: of the recipe.
        size: default tiny.
        given: settings and keywords of the recipe's function.
        known: the command's own options, to suggest for a misspelt one.
        overlay: settings from a file.
    """
    entry = entry_of(name)
    own_keys = keywords(entry)
    hints = typing.get_type_hints(entry.make)
    own = [(key, words) for key, words in given if key in own_keys]
    chosen: dict[str, Any] = {}
    for key, words in own:
        if key in chosen:
            raise ConfigError(f"--{key} is given twice")
        chosen[key] = flags.read_words(words, hints[key], key)
        wanted = hints[key]
        if isinstance(wanted, type) and not isinstance(chosen[key], wanted):
            raise ConfigError(f"--{key}: expected {wanted.__name__}, got {chosen[key]!r}")
    recipe = entry.make(size or "tiny", **chosen)
    if overlay:
        recipe = config.overlay(recipe, overlay)
    return change(recipe, [pair for pair in given if pair not in own], (*known, *own_keys), name)


def change(recipe: Recipe, given: Given, known: Sequence[str] = (), name: str = "") -> Recipe:
    """The recipe with these settings."""
    return config.overlay(recipe, changes(recipe, given, known, name))


def changes(recipe: Recipe, given: Given, known: Sequence[str] = (), name: str = "") -> dict[str, Any]:
    """The settings as dotted overrides."""
    fields = config.field_types(type(recipe))
    for key, _ in given:
        if key.replace("-", "_").partition(".")[0] in fields:
            continue
        generic = [entry.name for entry in catalogue().values() if key in keywords(entry)]
        if generic and name:
            raise ConfigError(f"recipe {name} takes no --{key}; those that do: {', '.join(generic)}")
        raise ConfigError(flags.unknown(recipe, key, known))
    return flags.changes(recipe, given)


def read_config(path: Path) -> Recipe | dict[str, Any]:
    """A whole recipe, as runs leave it, or settings to change."""
    plain = config.load(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(plain, dict):
        raise ConfigError(f"{path}: expected settings, name: value, got {type(plain).__name__}")
    settings = cast(dict[str, Any], plain)
    if "class" not in settings:
        return settings
    recipe = config.from_dict(settings, "")
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"{path}: expected a Recipe, got {type(recipe).__name__}")
    return recipe
