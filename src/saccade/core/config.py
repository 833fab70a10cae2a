"""Frozen dataclasses to and from plain data, strictly: a wrong name, type or value raises ``ConfigError``."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from saccade.core.errors import ConfigError

Plain = dict[str, Any] | list[Any] | str | int | float | bool | None


def to_dict(value: Any) -> Any:
    """Plain data that ``from_dict`` turns back into an equal value. Dataclasses carry their ``class``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        fields = {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {"class": f"{kind.__module__}.{kind.__qualname__}", **fields}
    if isinstance(value, Mapping):
        return {str(key): to_dict(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_dict(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ConfigError(f"a value of type {type(value).__name__} cannot be written to a configuration file")


def from_dict(data: Any, where: str = "") -> Any:
    """The value that ``to_dict`` described.

    Only dataclasses are constructed, and only from ``saccade`` itself or from modules the program has imported.
    """
    if isinstance(data, Mapping):
        if "class" not in data:
            return {key: from_dict(item, _join(where, key)) for key, item in data.items()}
        kind = _resolve(data["class"], where)
        return _construct(kind, {k: v for k, v in data.items() if k != "class"}, {}, where)
    if isinstance(data, list):
        return tuple(from_dict(item, _join(where, i)) for i, item in enumerate(data))
    return data


def overlay(value: Any, changes: Mapping[str, Any], where: str = "") -> Any:
    """``value`` with some settings replaced.

    Keys may be dotted (``"rewards.iou.weight"``) or nested mappings. A mapping with ``class`` replaces the object by
    one of that class; None removes an entry of a mapping.

    Raises:
        ConfigError: naming the dotted path, what was found and the nearest known name.
    """
    nested = _nest(changes, where)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # All at once: settings that only fit together must not be checked half changed.
        new = {key: _new_field(value, key, change, where) for key, change in nested.items()}
        return _built(lambda: dataclasses.replace(value, **new), where)
    for key, change in nested.items():
        value = _overlay_entry(value, key, change, where)
    return value


def dump(value: Any) -> str:
    """YAML text of ``to_dict(value)``."""
    return yaml.safe_dump(to_dict(value), sort_keys=False, width=120, allow_unicode=True)


def load(text: str, where: str = "") -> Any:
    """Plain data from YAML text; ConfigError names the place of a syntax error."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where or 'configuration'} is not valid YAML: {' '.join(str(error).split())}") from None


def _nest(changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, change in changes.items():
        if not isinstance(key, str):
            raise ConfigError(f"{where or 'configuration'}: names must be text, got {key!r}")
        head, _, rest = key.partition(".")
        if not rest:
            old = nested.get(head)
            both = isinstance(old, dict) and isinstance(change, Mapping)
            nested[head] = {**typing.cast("dict[str, Any]", old), **change} if both else change
        elif isinstance(nested.setdefault(head, {}), dict):
            nested[head][rest] = change
        else:
            raise ConfigError(f"{_join(where, head)} is given twice")
    return nested


def _new_field(value: Any, key: str, change: Any, where: str) -> Any:
    path = _join(where, key)
    hints = field_types(type(value))
    if key not in hints:
        raise ConfigError(_unknown(path, key, hints))
    return _changed(getattr(value, key), change, hints[key], path)


def _overlay_entry(value: Any, key: str, change: Any, where: str) -> Any:
    path = _join(where, key)
    if isinstance(value, Mapping):
        entries = dict(typing.cast("Mapping[str, Any]", value))
        if change is None and key in entries:
            del entries[key]
            return entries
        if key not in entries and not (isinstance(change, Mapping) and "class" in change):
            raise ConfigError(_unknown(path, key, entries))
        entries[key] = _changed(entries.get(key), change, Any, path)
        return entries
    if isinstance(value, tuple):
        items = list(typing.cast("tuple[Any, ...]", value))
        if not key.isdigit() or int(key) >= len(items):
            raise ConfigError(f"{path}: expected an index below {len(items)}, got {key!r}")
        items[int(key)] = _changed(items[int(key)], change, Any, path)
        return tuple(items)
    raise ConfigError(f"{path}: {where or 'the value'} is {value!r} and has no settings")


def _changed(old: Any, change: Any, hint: Any, path: str) -> Any:
    if isinstance(change, Mapping):
        if "class" in change:
            kind = _resolve(change["class"], path)
            kept = old if type(old) is kind else None
            given = {k: v for k, v in change.items() if k != "class"}
            if kept is not None:
                return overlay(kept, given, path)
            return _check(_construct(kind, given, {}, path), hint, path)
        if old is None:
            raise ConfigError(f"{path} is empty; name a class to fill it")
        return overlay(old, change, path)
    if hint is Any and dataclasses.is_dataclass(old) and not dataclasses.is_dataclass(change):
        raise ConfigError(f"{path}: expected settings of {type(old).__name__}, got {change!r}")
    if isinstance(change, list):
        return _check(tuple(from_dict(item, _join(path, i)) for i, item in enumerate(change)), hint, path)
    return _check(change, hint, path)


def _construct(kind: type, data: Mapping[str, Any], base: Mapping[str, Any], where: str) -> Any:
    hints = field_types(kind)
    values = dict(base)
    for key, item in data.items():
        path = _join(where, key)
        if key not in hints:
            raise ConfigError(_unknown(path, key, hints))
        # A mapping to ``object`` holds overrides: a class named in them is a change to be made, not a value.
        made = item if hints[key] == Mapping[str, object] else from_dict(item, path)
        values[key] = _check(made, hints[key], path)
    return _built(lambda: kind(**values), where)


def _built(make: Callable[[], Any], where: str) -> Any:
    try:
        return make()
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}" if where and where not in str(error) else str(error)) from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where or 'configuration'}: {error}") from None


def _resolve(name: Any, where: str) -> type:
    if not isinstance(name, str) or "." not in name:
        raise ConfigError(f"{_join(where, 'class')}: expected module.Class, got {name!r}")
    module_name, _, class_name = name.rpartition(".")
    ours = module_name == "saccade" or module_name.startswith("saccade.")
    try:
        module = importlib.import_module(module_name) if ours else sys.modules[module_name]
        kind = getattr(module, class_name)
    except (ImportError, AttributeError, KeyError):
        raise ConfigError(f"{_join(where, 'class')}: there is no class {name!r}") from None
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise ConfigError(f"{_join(where, 'class')}: {name!r} is not a dataclass")
    return kind


def field_types(kind: type) -> dict[str, Any]:
    """The settings of a dataclass and their types, in order."""
    names = [f.name for f in dataclasses.fields(kind) if f.init]
    hints = typing.get_type_hints(kind)
    return {name: hints[name] for name in names}


def _check(value: Any, hint: Any, path: str) -> Any:
    fitted, ok = _fit(value, hint)
    if not ok:
        raise ConfigError(f"{path}: expected {_name(hint)}, got {value!r}")
    return fitted


def _fit(value: Any, hint: Any) -> tuple[Any, bool]:
    """The value as this type, and whether it fits. Ints and text in float notation (YAML's 1e-4) fit floats."""
    origin = typing.get_origin(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return value, True
    if origin in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            fitted, ok = _fit(value, option)
            if ok:
                return fitted, True
        return value, False
    if origin is typing.Literal:
        return value, value in typing.get_args(hint)
    if origin in (typing.ClassVar, typing.Final, typing.Annotated):
        return _fit(value, typing.get_args(hint)[0])
    if origin is not None:
        return _fit_container(value, origin, typing.get_args(hint))
    return _fit_scalar(value, hint)


def _fit_scalar(value: Any, hint: Any) -> tuple[Any, bool]:
    if hint is None or hint is type(None):
        return None, value is None
    if hint is float:
        if isinstance(value, str):
            try:
                return float(value), True
            except ValueError:
                return value, False
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        return (float(value) if fits else value), fits
    if hint is int:
        return value, isinstance(value, int) and not isinstance(value, bool)
    if hint is Path and isinstance(value, str):
        return Path(value), True
    return value, isinstance(value, hint) if isinstance(hint, type) else True


def _fit_container(value: Any, origin: Any, args: tuple[Any, ...]) -> tuple[Any, bool]:
    if origin is tuple:
        if not isinstance(value, tuple | list):
            return value, False
        items = typing.cast("Sequence[Any]", value)
        if args and args[-1] is not Ellipsis:
            if len(args) != len(items):
                return value, False
            fitted = [_fit(item, arg) for item, arg in zip(items, args, strict=True)]
        else:
            fitted = [_fit(item, args[0] if args else Any) for item in items]
        return tuple(item for item, _ in fitted), all(ok for _, ok in fitted)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            return value, False
        entries = {k: _fit(v, args[1] if args else Any) for k, v in typing.cast("Mapping[str, Any]", value).items()}
        return {k: item for k, (item, _) in entries.items()}, all(ok for _, ok in entries.values())
    return value, isinstance(value, origin)


def _unknown(path: str, key: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
    return f"{path}: there is no setting {key!r}; {hint}"


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "").replace("saccade.core.", "")
