"""``saccade train NAME --help``: the settings of a recipe, with their values and what they mean."""

from __future__ import annotations

import shutil
import textwrap
import typing
from argparse import ArgumentParser
from collections.abc import Iterator

from saccade.cli.catalogue import entry_of, keywords
from saccade.core.flags import Setting, kind_of, settings
from saccade.recipe import Entry, Recipe, Size

COLUMN = 44
MOST_OTHERS = 10
"""Classes that are listed where one could be exchanged; of more than that the documentation has a list."""


def print_recipe_help(parser: ArgumentParser, name: str, size: Size) -> None:
    """The command's own help, then everything that can be set in this recipe."""
    entry = entry_of(name)
    print(parser.format_help())
    width = min(120, shutil.get_terminal_size((120, 24)).columns)
    print("\n".join(recipe_help(entry, entry.make(size), size, width)))


def recipe_help(entry: Entry, recipe: Recipe, size: Size, width: int = 120) -> Iterator[str]:
    """The lines below the command's own help."""
    yield entry.title
    if keywords(entry):
        yield from ("", f"what {entry.name} is run on:")
        hints = typing.get_type_hints(entry.make)
        for key, parameter in keywords(entry).items():
            default = "" if parameter.default in ("", None) else f"(default {parameter.default})"
            yield from _line(f"--{key} {kind_of(hints[key])}", default, width)
    yield from ("", f"settings of {entry.name} in size {size}, with their values:")
    for setting in settings(recipe):
        if "." not in setting.path:
            yield ""
        if setting.kind:
            yield from _line(_option(setting), _explained(setting), width)
        elif setting.doc:
            yield from textwrap.wrap(f"{setting.path}: {setting.doc}", width - 2, initial_indent="  ")


def _option(setting: Setting) -> str:
    if setting.value is not None:
        return f"--{setting.path} {setting.kind} = {setting.value}"
    return f"--{setting.path}.class = {setting.kind}"


def _explained(setting: Setting) -> str:
    others = f"(or {', '.join(setting.others)})" if 0 < len(setting.others) <= MOST_OTHERS else ""
    return " ".join(part for part in (setting.doc, others) if part)


def _line(option: str, text: str, width: int) -> list[str]:
    indent = " " * COLUMN
    lines = textwrap.wrap(text, max(30, width - COLUMN))
    first = f"  {option}"
    if len(first) + 2 > COLUMN:
        return [first, *(indent + line for line in lines)]
    return [first.ljust(COLUMN) + (lines[0] if lines else ""), *(indent + line for line in lines[1:])]
