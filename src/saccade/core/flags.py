"""Dotted options of the command line: what there is to set in a value, and the changes that some options ask for.

``--train.steps 3 --rewards.iou.weight 2`` are the keys of ``config.overlay``; values are read as the setting's type
wants them. A class is exchanged with ``--objective.pg.class GSPO``, an entry removed with ``--objective.kl None``.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from saccade.core import config
from saccade.core.errors import ConfigError


@dataclass(frozen=True)
class Setting:
    """One line of the help."""

    path: str
    kind: str
    """What a value looks like; for an object the class it has."""
    value: str | None
    """What it is now; None for objects, whose own settings follow."""
    doc: str
    others: tuple[str, ...] = ()
    """Names of the classes that could take an object's place."""


def settings(value: Any, where: str = "") -> Iterator[Setting]:
    """Everything that can be set in a dataclass and the objects in it, in the order of the fields."""
    for key, hint in config.field_types(type(value)).items():
        doc = field_docs(type(value)).get(key, "")
        yield from _described(getattr(value, key), hint, f"{where}{key}", doc)


def _described(value: Any, hint: Any, path: str, doc: str) -> Iterator[Setting]:
    if _is_object(value):
        kind = type(value).__name__
        own = inspect.cleandoc(type(value).__doc__ or "").partition("\n")[0]
        # A dataclass without docstring gets its signature as one.
        others = sorted({other.__name__ for other in _loaded(hint)} - {kind})
        yield Setting(path, kind, None, doc or ("" if own.startswith(f"{kind}(") else own), tuple(others))
        yield from settings(value, f"{path}.")
        return
    if value is None and (others := sorted({other.__name__ for other in _loaded(hint)})):
        yield Setting(path, "None", None, doc, tuple(others))
        return
    entries = _entries(value)
    if any(_is_object(item) for item in entries.values()):
        yield Setting(path, "", None, doc)
        for key, item in entries.items():
            yield from _described(item, _item_type(hint, key), f"{path}.{key}", "")
        return
    shown = "None" if value is None else " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    yield Setting(path, kind_of(hint), shown, doc)


def _is_object(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _entries(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {str(key): item for key, item in typing.cast("Mapping[str, Any]", value).items()}
    if isinstance(value, tuple):
        return {str(i): item for i, item in enumerate(typing.cast("tuple[Any, ...]", value))}
    return {}


def _item_type(hint: Any, key: str) -> Any:
    """The type of one entry of a mapping or tuple."""
    options = [option for option in _options(hint) if typing.get_args(option)]
    if not options:
        return Any
    args = typing.get_args(options[0])
    if typing.get_origin(options[0]) is not tuple:
        return args[-1]
    if args[-1] is Ellipsis or not key.isdigit():
        return args[0]
    return args[int(key)] if int(key) < len(args) else Any


def _options(hint: Any) -> list[Any]:
    """The members of a union, Literals and aliases in it taken apart; else the type itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [option for part in typing.get_args(hint) for option in _options(part)]
    return [hint]


def kind_of(hint: Any) -> str:
    """A type in the words of the help: ``INT``, ``group|batch``, ``FLOAT...``."""
    words: list[str] = []
    for option in _options(hint):
        origin, args = typing.get_origin(option), typing.get_args(option)
        if origin is typing.Literal:
            words += [str(arg) for arg in args]
        elif origin is tuple and args:
            words.append(f"{kind_of(args[0])}..." if args[-1] is Ellipsis else " ".join(map(kind_of, args)))
        elif option is type(None):
            words.append("None")
        else:
            name = getattr(option, "__name__", str(option))
            words.append(name.upper() if option in (bool, int, float, str) else name)
    return "|".join(words)


@cache
def field_docs(kind: type) -> Mapping[str, str]:
    """The docstrings that follow the fields of a class and of its bases."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        if dataclasses.is_dataclass(base):
            found |= _own_docs(base)
    return found


def _own_docs(kind: type) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError):
        return {}  # no source, as for classes made at run time
    found: dict[str, str] = {}
    body = typing.cast(ast.ClassDef, tree.body[0]).body
    for field, text in pairwise(body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                found[name] = " ".join(doc.split())
            case _:
                continue
    return found


Options = Sequence[tuple[str, Sequence[str]]]
"""Names without dashes in front, each with the words that followed it."""


def changes(value: Any, options: Options) -> dict[str, Any]:
    """What ``config.overlay`` is to change, by dotted path.

    Raises:
        ConfigError: an option names nothing that can be set, or its words are no value for it.
    """
    found: dict[str, Any] = {}
    for name, words in options:
        path = name.replace("-", "_")
        if path in found:
            raise ConfigError(f"--{name} is given twice")
        found[path] = _read(value, path, words)
    return found


def _read(value: Any, path: str, words: Sequence[str]) -> Any:
    current, hint, parent = value, Any, None
    for key in path.split("."):
        if key == "class" and (_is_object(current) or current is None):
            return _class_name(path, hint, words)
        parent = current
        if _is_object(current):
            types_ = config.field_types(type(current))
            if key not in types_:
                if path.count(".") == 0:
                    raise ConfigError(unknown(value, path))
                # Another class may be asked for beside this option; overlay knows and complains if not.
                return _plain(path, words)
            hint, current = types_[key], getattr(current, key)
            continue
        hint, current = _item_type(hint, key), _entries(current).get(key)
    if isinstance(parent, Mapping) and tuple(words) == ("None",):
        return None
    return read_words(words, hint, path)


def unknown(value: Any, name: str, others: Sequence[str] = ()) -> str:
    """Why an option is none, with the nearest that is."""
    paths = [setting.path for setting in settings(value) if setting.value is not None]
    same = [path for path in paths if path.rpartition(".")[2] == name]
    near = same or difflib.get_close_matches(name, [*paths, *others, *config.field_types(type(value))], n=1)
    hint = f"did you mean --{near[0]}?" if near else "see --help for all options"
    return f"there is no option --{name}; {hint}"


def read_words(words: Sequence[str], hint: Any, path: str) -> Any:
    """The value that these words are for a setting of this type.

    Raises:
        ConfigError: naming the path; a type that does not fit is left to ``config.overlay``.
    """
    options = _options(hint)
    if not words:
        if bool not in options:
            raise ConfigError(f"--{path} needs a value: {kind_of(hint)}")
        return True
    several = [option for option in options if typing.get_origin(option) is tuple]
    if words[0].startswith("["):
        return _plain(path, [" ".join(words)])
    if several and tuple(words) != ("None",):
        return [read_words([word], _item_type(several[0], str(i)), path) for i, word in enumerate(words)]
    if len(words) > 1:
        raise ConfigError(f"--{path} takes one value ({kind_of(hint)}), got {' '.join(words)}")
    word = words[0]
    if word == "None":
        return None
    named = [
        arg for option in options if typing.get_origin(option) is typing.Literal for arg in typing.get_args(option)
    ]
    if word in named or str in options:
        return word
    return _plain(path, words)


def _plain(path: str, words: Sequence[str]) -> Any:
    plain = [config.load(word, f"--{path}") for word in words]
    return True if not plain else plain[0] if len(plain) == 1 else plain


def _class_name(path: str, base: Any, words: Sequence[str]) -> str:
    if len(words) != 1:
        raise ConfigError(f"--{path} takes one class, got {' '.join(words) or 'nothing'}")
    if "." in words[0]:
        return words[0]
    known = {kind.__name__: kind for kind in _loaded(base)}
    if words[0] not in known:
        near = difflib.get_close_matches(words[0], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known)) or 'none'}"
        raise ConfigError(f"--{path}: there is no class {words[0]!r}; {hint}")
    kind = known[words[0]]
    return f"{kind.__module__}.{kind.__qualname__}"


def _loaded(hint: Any) -> Iterator[type]:
    """Classes, among those that the program has imported, that a setting of this type can have."""
    for option in _options(hint):
        if isinstance(option, type):
            yield from _subclasses(option)


def _subclasses(base: type) -> Iterator[type]:
    for kind in (base, *base.__subclasses__()):
        if kind is not base:
            yield from _subclasses(kind)
        elif dataclasses.is_dataclass(kind) and not inspect.isabstract(kind):
            yield kind
