"""Procedural screens of a graphical interface: icons, words on buttons, a text field, a list that scrolls.

A procedural stand-in with the interface of a real one: it sees pictures and takes the same actions as text. It is
written as an array program (``envs/arrays.py``): many screens are laid out, drawn and stepped at once.

- ``Screens`` are single steps: "click the red circle", "click save", "type hello", "scroll down". Any action ends the
  episode.
- ``Apps`` are small applications: a row of pages joined by buttons. The icon that is asked for must be selected on the
  last page, then the episode must be ended with ``done``. There is a long way, page by page, on some pages after
  scrolling, and where ``shortcut`` is set one of three steps.

Every screen has two columns of four slots. A widget takes one slot and stands somewhere inside it, at least two pixels
from its neighbours. Sizes of buttons, field, list and letters grow with the screen; icons have a size of their own, so
that targets can be made as small as 3 pixels on any screen.

A click hits a widget if its point lies in the widget's box, left and upper edges included.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np

from saccade.core.content import Content, Text, text_of
from saccade.core.environment import EnvironmentSpec, Split, Tasks
from saccade.core.errors import ConfigError
from saccade.core.random import fold_in
from saccade.core.trajectory import Task
from saccade.envs.actions import Action, NoAction, read_action
from saccade.envs.arrays import ArrayEnvironment, ArrayLane, Index, State, orders, paste, uniform
from saccade.envs.single import check_template, framed

Box = tuple[float, float, float, float]
Kind = Literal["icon", "word", "type", "scroll"]
KINDS: tuple[Kind, ...] = ("icon", "word", "type", "scroll")
"""What an instruction of a single step asks for."""
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 230),
    "yellow": (225, 205, 30),
    "purple": (150, 50, 180),
    "orange": (240, 135, 20),
}
SHAPES = ("circle", "square", "triangle", "cross")
WORDS = ("next", "back", "hello", "ok", "yes", "no", "save", "open", "help", "stop", "menu", "mail")
"""Words on buttons and to type; the first two belong to apps."""
DIRECTIONS = ("up", "down", "left", "right")
CLICK, TYPE, SCROLL, DONE, IDLE = range(5)
"""Kinds of action: first number of an array action (kind, x, y). A click has x and y in pixels; typing has the number
of the word in ``WORDS`` as x (-1: any other text), scrolling that of the direction in ``DIRECTIONS``."""
SLOTS = 8
VOCABULARY = tuple(
    dict.fromkeys(("click", "the", *COLOURS, *SHAPES, *WORDS, "type", "scroll", *DIRECTIONS, "choose", "then", "done"))
)
"""Every word of instructions and compact actions."""

_NEXT, _BACK = 0, 1
_FIRST_WORD = 2
_PAGES = ((232, 232, 236), (222, 234, 222), (236, 228, 218), (220, 230, 240), (236, 222, 232), (228, 228, 214))
_INK, _PAPER, _PANEL = (30, 30, 30), (252, 252, 252), (190, 190, 200)
_ICONS = len(COLOURS) * len(SHAPES)
_LOOKS = max(_ICONS, len(WORDS))
# Letters of 3 x 5 pixels, a digit for every row; the bits of a digit from left to right have the values 4, 2 and 1.
_LETTERS = {
    "a": "25755", "b": "65656", "c": "34443", "d": "65556", "e": "74647", "f": "74644", "g": "34553", "h": "55755",
    "i": "72227", "j": "11152", "k": "55655", "l": "44447", "m": "57755", "n": "65555", "o": "25552", "p": "65644",
    "q": "25563", "r": "65655", "s": "34216", "t": "72222", "u": "55557", "v": "55552", "w": "55775", "x": "55255",
    "y": "55222", "z": "71247",
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """What screens look like."""

    size: int = 64
    """Pixels a side: 64, 128, 192 or 256."""
    icon: int = 7
    """Pixels a side of an icon, the least target; 3 at least."""
    icons: int = 4
    """Icons on a screen, all different, 1 to 5."""

    def __post_init__(self) -> None:
        if self.size not in (64, 128, 192, 256):
            raise ConfigError(f"look.size must be 64, 128, 192 or 256, got {self.size}")
        if not 3 <= self.icon <= 14 * self.scale:
            raise ConfigError(f"look.icon must be in 3 .. {14 * self.scale} for this size, got {self.icon}")
        if not 1 <= self.icons <= 5:
            raise ConfigError(f"look.icons must be in 1 .. 5, got {self.icons}")

    @property
    def scale(self) -> int:
        """Pixels a side of a dot of a letter."""
        return self.size // 64

    @property
    def button(self) -> tuple[int, int]:
        """Width and height."""
        return 23 * self.scale, 9 * self.scale

    @property
    def field(self) -> tuple[int, int]:
        """Width and height."""
        return 29 * self.scale, 9 * self.scale

    @property
    def list(self) -> tuple[int, int]:
        """Width and height."""
        return 29 * self.scale, 13 * self.scale


# --- task sets ---


@dataclass(frozen=True)
class ScreenTasks(Tasks):
    """Single steps. Task i depends on (seed, part, i) and the settings only.

    ``Task.target``: ``type`` ("click", "type" or "scroll"), ``box`` (x1 y1 x2 y2 of a click), ``text``, ``direction``;
    what an action type does not need is None. ``Task.info``: ``kind``, ``instruction``, ``seed``, ``world``.
    """

    count: int = 8192
    words: float = 0.2
    """Share of tasks in which a button with a word must be clicked."""
    typing: float = 0.2
    """Share of tasks in which a word must be typed."""
    scrolling: float = 0.2
    """Share of tasks in which the list must be scrolled. In all others an icon must be clicked."""
    look: Look = Look()
    buttons: int = 2
    """Buttons with words, all different; with icons, field and list at most 8 widgets."""
    answer: str = "<answer>{action}</answer>"
    """What gold outputs look like; ``{action}`` is replaced by the action in compact form."""
    seed: int = 0
    part: Split = "train"

    def __post_init__(self) -> None:
        _check_tasks(self.count, self.part, self.answer)
        shares = (self.words, self.typing, self.scrolling)
        if min(shares) < 0 or sum(shares) > 1 + 1e-9:
            raise ConfigError(f"tasks.words, typing and scrolling must be >= 0 and sum to 1 at most, got {shares}")
        if not 1 <= self.buttons <= SLOTS - 2 - self.look.icons:
            raise ConfigError(f"tasks.buttons must be in 1 .. {SLOTS - 2 - self.look.icons}, got {self.buttons}")

    @property
    def world(self) -> tuple[Any, ...]:
        """The settings an environment must share with its tasks."""
        return ("screens", self.look, self.buttons)

    def __len__(self) -> int:
        return self.count

    def split(self, name: Split) -> ScreenTasks:
        return replace(self, part=name)

    def kinds(self, seeds: np.ndarray) -> np.ndarray:
        """The kind of instruction that belongs to each seed, by the shares: int64 ``[n]``, places in ``KINDS``."""
        bounds = np.cumsum([1 - self.words - self.typing - self.scrolling, self.words, self.typing])
        return np.minimum((uniform(seeds, 1, stream=1) >= bounds).sum(axis=1), 3)

    def task(self, index: int) -> Task:
        seed = fold_in(self.seed, "screens", self.part, index)
        seeds = np.array([seed], np.uint64)
        kind = self.kinds(seeds)
        target, instruction, action = _wanted(self, start_screens(self, seeds, kind))
        return Task(
            id=f"screens/{self.part}/{self.seed}/{index}",
            prompt=(Text(instruction),),
            target=target,
            gold=((Text(self.answer.replace("{action}", action)),),),
            info={"kind": KINDS[kind[0]], "instruction": instruction, "seed": seed, "world": self.world},
        )


@dataclass(frozen=True)
class AppTasks(Tasks):
    """Applications of several pages. Task i depends on (seed, part, i) and the settings only.

    ``Task.target``: ``goal`` (the icon's name), ``shortest`` (steps of the shortest way), ``detour`` (steps page by
    page). ``Task.info``: ``instruction``, ``seed``, ``world``. The gold outputs take the shortest way.
    """

    count: int = 8192
    pages: int = 5
    """3 to 6."""
    detour: int = 8
    """Steps of the way page by page, the last ``done`` included: ``pages + 1`` and one for each page, from the first,
    on which the next page's button appears only after scrolling; at most ``2 * pages``."""
    shortcut: bool = True
    """Whether the first page has the wanted icon too, and a click on it leads to the last page: a way of 3 steps."""
    look: Look = Look()
    answer: str = "<answer>{action}</answer>"
    """What gold outputs look like; ``{action}`` is replaced by the action in compact form."""
    seed: int = 0
    part: Split = "train"

    def __post_init__(self) -> None:
        _check_tasks(self.count, self.part, self.answer)
        if not 3 <= self.pages <= len(_PAGES):
            raise ConfigError(f"tasks.pages must be in 3 .. {len(_PAGES)}, got {self.pages}")
        if not self.pages + 1 <= self.detour <= 2 * self.pages:
            raise ConfigError(
                f"tasks.detour must be in {self.pages + 1} .. {2 * self.pages} with {self.pages} pages, "
                f"got {self.detour}"
            )

    @property
    def world(self) -> tuple[Any, ...]:
        """The settings an environment must share with its tasks."""
        return ("apps", self.look, self.pages, self.detour, self.shortcut)

    @property
    def scrolls(self) -> int:
        """Pages, from the first, that must be scrolled."""
        return self.detour - self.pages - 1

    @property
    def shortest(self) -> int:
        """Steps of the shortest way."""
        return 3 if self.shortcut else self.detour

    def __len__(self) -> int:
        return self.count

    def split(self, name: Split) -> AppTasks:
        return replace(self, part=name)

    def task(self, index: int) -> Task:
        seed = fold_in(self.seed, "apps", self.part, index)
        state = start_apps(self, np.array([seed], np.uint64))
        last, place = self.pages - 1, int(state["place"][0])
        goal = _name(int(state["look"][0, last, place]))
        if self.shortcut:
            way = [_click(self, state, 0, place)]
        else:
            way = []
            for page in range(last):
                way += ["scroll down"] * (page < self.scrolls) + [_click(self, state, page, self.look.icons)]
        way += [_click(self, state, last, place), "done"]
        instruction = f"choose the {goal} then done"
        return Task(
            id=f"apps/{self.part}/{self.seed}/{index}",
            prompt=(Text(instruction),),
            target={"goal": goal, "shortest": self.shortest, "detour": self.detour},
            gold=tuple((Text(self.answer.replace("{action}", action)),) for action in way),
            info={"instruction": instruction, "seed": seed, "world": self.world},
        )


# --- specs ---


@dataclass(frozen=True)
class Screens(EnvironmentSpec):
    """Instruction and screen, one action, the end."""

    tasks: ScreenTasks = field(default_factory=ScreenTasks)
    template: str = "{prompt}"
    """Text around the instruction; contains ``{prompt}`` once."""

    def __post_init__(self) -> None:
        check_template(self.template)
        if self.max_turns != 1:
            raise ConfigError(f"env.max_turns must be 1 on screens of one step, got {self.max_turns}")

    def prompt(self, task: Task) -> Content:
        return framed(task.prompt, self.template)

    def make(self) -> ArrayLane[ScreenArrays]:
        return ArrayLane(self.make_vector())

    def make_vector(self) -> ScreenArrays:
        return ScreenArrays(self)


@dataclass(frozen=True)
class Apps(EnvironmentSpec):
    """Instruction and first page; after every action the page as it is then."""

    tasks: AppTasks = field(default_factory=AppTasks)
    max_turns: int = 12
    """Actions after which an episode is truncated."""
    template: str = "{prompt}"
    """Text around the instruction; contains ``{prompt}`` once."""
    keep: int | None = 1
    """Turns that stay visible besides the prompt, the last pages with them; None: all."""

    def __post_init__(self) -> None:
        check_template(self.template)
        if self.max_turns < 1:
            raise ConfigError(f"env.max_turns must be >= 1, got {self.max_turns}")
        if self.keep is not None and self.keep < 1:
            raise ConfigError(f"env.keep must be >= 1 or none, got {self.keep}")

    def prompt(self, task: Task) -> Content:
        return framed(task.prompt, self.template)

    def make(self) -> ArrayLane[AppArrays]:
        return ArrayLane(self.make_vector())

    def make_vector(self) -> AppArrays:
        return AppArrays(self)


# --- array programs ---


class _Pages(ArrayEnvironment):
    """Pages of widgets. Columns of widget arrays: icons, then buttons, then what ``_panel`` says.

    State: ``look``, ``x`` and ``y``, int64 ``[N, pages, widgets]`` (number of the icon, word or picture, and upper left
    corner), ``page``, int64 ``[N]``.
    """

    sees = "pixels"
    look: Look

    def __init__(self, look: Look, buttons: int) -> None:
        super().__init__()
        self.look = look
        self._widths, self._heights = _sizes(look, buttons, self._panels)
        self._buttons = slice(look.icons, look.icons + buttons)

    _panels: ClassVar[tuple[str, ...]]

    @abstractmethod
    def present(self, lanes: Index) -> np.ndarray:
        """Which widgets of the current page are there: bool ``[n, widgets]``."""

    def boxes(self, lanes: Index) -> np.ndarray:
        """x1 y1 x2 y2 of the widgets of the current page: int64 ``[n, widgets, 4]``."""
        x, y = self._current("x", lanes), self._current("y", lanes)
        return np.stack([x, y, x + self._widths, y + self._heights], axis=-1)

    def read(self, output: Content, lane: int) -> tuple[np.ndarray, dict[str, Any]]:
        action = read_action(text_of(output))
        if isinstance(action, NoAction):
            return np.array([[IDLE, 0, 0]], np.float32), {"valid": False, "action": None, "problem": action.reason}
        return _encoded(action)[None], {"valid": True, "action": noted(action)}

    def states(self, lanes: Index) -> np.ndarray:
        """Widgets of the current page (there, look, x1, y1, x2, y2), then what ``_asked`` says, all in [0, 1]."""
        there = self.present(lanes)
        boxes = self.boxes(lanes) / self.look.size
        look = self._current("look", lanes) / _LOOKS
        widgets = np.concatenate([there[..., None], look[..., None], boxes], axis=-1) * there[..., None]
        return np.concatenate([widgets.reshape(len(there), -1), self._asked(lanes)], axis=1).astype(np.float32)

    @abstractmethod
    def _asked(self, lanes: Index) -> np.ndarray: ...

    def pictures(self, lanes: Index) -> np.ndarray:
        look, x, y = (self._current(name, lanes) for name in ("look", "x", "y"))
        page, there = self.state["page"][lanes], self.present(lanes)
        icons, art = self.look.icons, _art(self.look)
        drawn = art.pages[page]
        self._mark(drawn, lanes, x, y)
        where = np.repeat(np.arange(len(page)), icons)
        stamps = art.icons[page[where], look[:, :icons].ravel()]
        paste(drawn, where, x[:, :icons].ravel(), y[:, :icons].ravel(), stamps)
        columns = self._buttons
        which, column = np.nonzero(there[:, columns])
        column += columns.start
        paste(drawn, which, x[which, column], y[which, column], art.words[look[which, column]])
        for column, name in enumerate(self._panels, columns.stop):
            which = np.flatnonzero(there[:, column])
            paste(drawn, which, x[which, column], y[which, column], art.panels[name][look[which, column]])
        return drawn

    def _mark(self, drawn: np.ndarray, lanes: Index, x: np.ndarray, y: np.ndarray) -> None:
        """Draw what lies under the widgets."""

    def _hits(self, lanes: Index, actions: np.ndarray) -> np.ndarray:
        """Which widgets a click hits: bool ``[n, widgets]``."""
        x, y = self._current("x", lanes), self._current("y", lanes)
        across, down = actions[:, 1:2] - x, actions[:, 2:3] - y
        hit = (across >= 0) & (across < self._widths) & (down >= 0) & (down < self._heights)
        return hit & self.present(lanes) & (actions[:, :1] == CLICK)

    def _current(self, name: str, lanes: Index) -> np.ndarray:
        page = self.state["page"][lanes]
        values = self.state[name][lanes]
        return values[:, 0] if values.shape[1] == 1 else values[np.arange(len(page)), page]


class ScreenArrays(_Pages):
    """``Screens`` as an array program: actions ``[N, 3]`` (kind, x, y), pictures uint8 ``[N, size, size, 3]``.

    ``Step.info``: ``valid``; ``action``, a mapping of ``type``, ``point``, ``text`` and ``direction``, or None where
    the output could not be read (``problem`` says why); ``success``; ``type_right``; ``steps``.
    """

    limit = 1
    _panels = ("field", "list")

    def __init__(self, spec: Screens) -> None:
        super().__init__(spec.tasks.look, spec.tasks.buttons)
        self.tasks = spec.tasks
        self.world = spec.tasks.world

    def start(self, seeds: np.ndarray, variants: np.ndarray) -> State:
        return start_screens(self.tasks, seeds, variants)

    def variants(self, seeds: np.ndarray) -> np.ndarray:
        return self.tasks.kinds(seeds)

    def variant(self, task: Task) -> int:
        return KINDS.index(task.info["kind"])

    def present(self, lanes: Index) -> np.ndarray:
        return np.ones((len(self.state["page"][lanes]), len(self._widths)), bool)

    def advance(self, lanes: Index, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kind, place, asked = (self.state[name][lanes] for name in ("kind", "place", "asked"))
        n = len(kind)
        hit = self._hits(lanes, actions)[np.arange(n), place]
        wanted = np.where(kind == 2, TYPE, SCROLL)
        said = (actions[:, 0] == wanted) & (actions[:, 1] == asked)
        clicks = kind < 2
        success = np.where(clicks, hit, said)
        self.state["success"][lanes] = success
        self.state["type_right"][lanes] = actions[:, 0] == np.where(clicks, CLICK, wanted)
        return success.astype(np.float32), np.ones(n, bool)

    def notes(self, lane: int) -> dict[str, Any]:
        return {"success": bool(self.state["success"][lane]), "type_right": bool(self.state["type_right"][lane])}

    def _asked(self, lanes: Index) -> np.ndarray:
        """Kind of instruction as four numbers, what it asks for (icon, word or direction)."""
        kind, asked = self.state["kind"][lanes], self.state["asked"][lanes]
        return np.concatenate([kind[:, None] == np.arange(4), asked[:, None] / _LOOKS], axis=1)


class AppArrays(_Pages):
    """``Apps`` as an array program: actions ``[N, 3]`` (kind, x, y), pictures uint8 ``[N, size, size, 3]``.

    ``done`` terminates: with success if the wanted icon is selected on the last page. ``Step.reward`` is 1 then, else
    0. Milestones: every page after the first, having selected the wanted icon, success; ``pages + 1`` in all; how many
    an episode has reached never falls.

    ``Step.info``: ``valid``, ``action`` (and ``problem``) as on screens; ``success``; ``page``; ``milestones`` and
    ``total``; ``event``, what the step did in a word or two; ``steps``, ``path`` (actions of the episode) and
    ``shortest`` (those of the shortest way).
    """

    _panels = ("list",)
    EVENTS: ClassVar[tuple[str, ...]] = ("nothing", "scrolled", "selected", "selected other", "done")

    def __init__(self, spec: Apps) -> None:
        super().__init__(spec.tasks.look, 2)
        self.tasks = spec.tasks
        self.world = spec.tasks.world
        self.limit = spec.max_turns
        self.keep = spec.keep

    def start(self, seeds: np.ndarray, variants: np.ndarray) -> State:
        return start_apps(self.tasks, seeds)

    def variants(self, seeds: np.ndarray) -> np.ndarray:
        return np.zeros(len(seeds), np.int64)

    def variant(self, task: Task) -> int:
        return 0

    def present(self, lanes: Index) -> np.ndarray:
        page, scrolled = self.state["page"][lanes], self.state["scrolled"][lanes]
        icons, last = self.look.icons, self.tasks.pages - 1
        there = np.ones((len(page), icons + 3), bool)
        there[:, icons] = (page < last) & (scrolled[np.arange(len(page)), page] | (page >= self.tasks.scrolls))
        there[:, icons + 1] = page > 0
        there[:, icons + 2] = page < self.tasks.scrolls
        return there

    def advance(self, lanes: Index, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        names = ("page", "place", "selected", "furthest", "chosen", "scrolled")
        page, place, selected, furthest, chosen, scrolled = (self.state[name][lanes] for name in names)
        icons, last, rows = self.look.icons, self.tasks.pages - 1, np.arange(len(page))
        hits = self._hits(lanes, actions)
        goal = page == last
        icon = hits[:, :icons]
        picked = goal & icon.any(axis=1)
        jump = hits[rows, place] & (page == 0) & self.tasks.shortcut
        moved = np.where(jump, last, page + hits[:, icons] - hits[:, icons + 1])
        rolls = (actions[:, 0] == SCROLL) & (page < self.tasks.scrolls) & (actions[:, 1] >= 0) & (actions[:, 1] < 2)
        before = scrolled[rows, page]
        after = np.where(rolls, actions[:, 1] == 1, before)
        selected = np.where(picked, icon.argmax(axis=1), selected)
        right = selected == place
        done = actions[:, 0] == DONE
        event = np.zeros(len(page), np.int64)
        event[after != before] = 1
        event[picked] = 3 - right[picked]
        event[done] = 4
        event[moved != page] = 5 + moved[moved != page]
        state = self.state
        state["scrolled"][lanes] = _with(scrolled, rows, page, after)
        state["look"][lanes] = self._lists(lanes, rows, page, after)
        state["page"][lanes] = moved
        state["selected"][lanes] = selected
        state["furthest"][lanes] = np.maximum(furthest, moved)
        state["chosen"][lanes] = chosen | right
        state["success"][lanes] = done & right
        state["event"][lanes] = event
        return (done & right).astype(np.float32), done

    def _lists(self, lanes: Index, rows: np.ndarray, page: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Looks of all widgets with the list of the page as it is scrolled now: at its upper or lower end."""
        looks = self.state["look"][lanes]
        looks[rows, page, self.look.icons + 2] = np.where(after, 2, 0)
        return looks

    def notes(self, lane: int) -> dict[str, Any]:
        state = {name: int(self.state[name][lane]) for name in ("page", "furthest", "chosen", "success", "event")}
        event = state["event"]
        return {
            "success": bool(state["success"]),
            "page": state["page"],
            "milestones": state["furthest"] + state["chosen"] + state["success"],
            "total": self.tasks.pages + 1,
            "event": self.EVENTS[event] if event < 5 else f"page {event - 5}",
            "path": int(self.steps[lane]),
            "shortest": self.tasks.shortest,
        }

    def _mark(self, drawn: np.ndarray, lanes: Index, x: np.ndarray, y: np.ndarray) -> None:
        page, selected = self.state["page"][lanes], self.state["selected"][lanes]
        which = np.flatnonzero((page == self.tasks.pages - 1) & (selected >= 0))
        if which.size:
            side = self.look.icon + 2
            frames = np.broadcast_to(np.array(_INK, np.uint8), (len(which), side, side, 3))
            paste(drawn, which, x[which, selected[which]] - 1, y[which, selected[which]] - 1, frames)

    def _asked(self, lanes: Index) -> np.ndarray:
        """The page as ``pages`` numbers, the icon asked for, the icon selected (0: none)."""
        page, place, selected = (self.state[name][lanes] for name in ("page", "place", "selected"))
        rows = np.arange(len(page))
        looks = self.state["look"][lanes, self.tasks.pages - 1]
        chosen = np.where(selected >= 0, looks[rows, selected] + 1, 0)
        numbers = np.stack([looks[rows, place], chosen], axis=1) / _LOOKS
        return np.concatenate([page[:, None] == np.arange(self.tasks.pages), numbers], axis=1)


# --- layouts ---


def start_screens(tasks: ScreenTasks, seeds: np.ndarray, kinds: np.ndarray) -> State:
    """Screens of single steps, before the action: arrays ``[n, ...]``."""
    look, n = tasks.look, len(seeds)
    icons, buttons = look.icons, tasks.buttons
    chance = uniform(seeds, _ICONS + len(WORDS) + 3, stream=2)
    which = orders(chance[:, :_ICONS])[:, :icons]
    words = orders(chance[:, _ICONS : _ICONS + len(WORDS) - _FIRST_WORD])[:, : buttons + 1] + _FIRST_WORD
    place = np.where(
        kinds == 1, icons + (chance[:, -1] * buttons).astype(np.int64), (chance[:, -2] * icons).astype(np.int64)
    )
    looks = np.zeros((n, 1, icons + buttons + 2), np.int64)
    looks[:, 0, :icons] = which
    looks[:, 0, icons : icons + buttons] = words[:, :buttons]
    looks[:, 0, -1] = 1
    # A word that stands on no button is typed; lists can be scrolled up and down.
    rows = np.arange(n)
    asked = np.select(
        [kinds < 2, kinds == 2], [looks[rows, 0, place], words[:, buttons]], (chance[:, -3] * 2).astype(np.int64)
    )
    x, y = _placed(seeds, 1, look, _sizes(look, buttons, ScreenArrays._panels))
    return {
        "look": looks,
        "x": x,
        "y": y,
        "page": np.zeros(n, np.int64),
        "kind": np.asarray(kinds, np.int64),
        "place": place,
        "asked": asked,
        "success": np.zeros(n, bool),
        "type_right": np.zeros(n, bool),
    }


def start_apps(tasks: AppTasks, seeds: np.ndarray) -> State:
    """Apps on their first page: arrays ``[n, ...]``."""
    look, n, pages = tasks.look, len(seeds), tasks.pages
    icons = look.icons
    chance = uniform(seeds, _ICONS + 1, stream=2)
    order = orders(chance[:, :_ICONS])
    place = (chance[:, -1] * icons).astype(np.int64)
    looks = np.zeros((n, pages, icons + 3), np.int64)
    decoys = 1 + np.arange(pages * icons).reshape(pages, icons) % (_ICONS - 1)
    looks[:, :, :icons] = order[:, decoys]
    rows = np.arange(n)
    for page in (0, pages - 1) if tasks.shortcut else (pages - 1,):
        looks[rows, page, place] = order[:, 0]
    looks[:, :, icons], looks[:, :, icons + 1] = _NEXT, _BACK
    x, y = _placed(seeds, pages, look, _sizes(look, 2, AppArrays._panels))
    return {
        "look": looks,
        "x": x,
        "y": y,
        "page": np.zeros(n, np.int64),
        "place": place,
        "selected": np.full(n, -1),
        "furthest": np.zeros(n, np.int64),
        "chosen": np.zeros(n, bool),
        "scrolled": np.zeros((n, pages), bool),
        "success": np.zeros(n, bool),
        "event": np.zeros(n, np.int64),
    }


def _placed(
    seeds: np.ndarray, pages: int, look: Look, sizes: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Upper left corners of the widgets, each in a slot of its own: int64 ``[n, pages, widgets]`` twice."""
    widths, heights = sizes
    count = len(widths)
    chance = uniform(seeds, pages * (SLOTS + 2 * count), stream=3).reshape(len(seeds), pages, -1)
    slot = orders(chance[..., :SLOTS])[..., :count]
    wide, high = look.size // 2, look.size // 4
    right = (chance[..., SLOTS : SLOTS + count] * (wide - widths - 1)).astype(np.int64)
    down = (chance[..., SLOTS + count :] * (high - heights - 1)).astype(np.int64)
    return slot % 2 * wide + 1 + right, slot // 2 * high + 1 + down


def _sizes(look: Look, buttons: int, panels: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Widths and heights of the widgets, in pixels: int64 ``[widgets]`` twice."""
    both = [(look.icon, look.icon)] * look.icons + [look.button] * buttons
    both += [{"field": look.field, "list": look.list}[name] for name in panels]
    widths, heights = np.array(both).T
    return widths, heights


def _with(values: np.ndarray, rows: np.ndarray, columns: np.ndarray, new: np.ndarray) -> np.ndarray:
    changed = values.copy()
    changed[rows, columns] = new
    return changed


def _name(icon: int) -> str:
    colour, shape = divmod(icon, len(SHAPES))
    return f"{tuple(COLOURS)[colour]} {SHAPES[shape]}"


def _wanted(tasks: ScreenTasks, state: State) -> tuple[dict[str, Any], str, str]:
    """Target, instruction and action of a single step, from a state of one lane."""
    kind, place, asked = KINDS[state["kind"][0]], int(state["place"][0]), int(state["asked"][0])
    target: dict[str, Any] = {"type": kind, "box": None, "text": None, "direction": None}
    if kind == "type":
        return {**target, "text": WORDS[asked]}, f"type {WORDS[asked]}", f"type {WORDS[asked]}"
    if kind == "scroll":
        return {**target, "direction": DIRECTIONS[asked]}, f"scroll {DIRECTIONS[asked]}", f"scroll {DIRECTIONS[asked]}"
    widths, heights = _sizes(tasks.look, tasks.buttons, ScreenArrays._panels)
    x, y = int(state["x"][0, 0, place]), int(state["y"][0, 0, place])
    box = (float(x), float(y), float(x + widths[place]), float(y + heights[place]))
    what = f"the {_name(asked)}" if kind == "icon" else WORDS[asked]
    action = f"click {x + widths[place] // 2} {y + heights[place] // 2}"
    return {**target, "type": "click", "box": box}, f"click {what}", action


def _click(tasks: AppTasks, state: State, page: int, column: int) -> str:
    """The click on the middle of a widget, in compact form."""
    widths, heights = _sizes(tasks.look, 2, AppArrays._panels)
    x, y = int(state["x"][0, page, column]), int(state["y"][0, page, column])
    return f"click {x + widths[column] // 2} {y + heights[column] // 2}"


def noted(action: Action) -> dict[str, Any]:
    """An action as plain data for ``Step.info``: ``type``, ``point``, ``text``, ``direction``; None what it lacks."""
    return {
        "type": action.type,
        "point": action.point,
        "text": action.text or None,
        "direction": action.direction,
    }


def _encoded(action: Action) -> np.ndarray:
    """An action of text as (kind, x, y), float32 ``[3]``."""
    kind, x, y = IDLE, 0.0, 0.0
    if action.type == "click" and action.point is not None:
        kind, (x, y) = CLICK, action.point
    elif action.type == "type":
        word = " ".join(action.text.casefold().split())
        kind, x = TYPE, WORDS.index(word) if word in WORDS else -1
    elif action.type == "scroll":
        kind, x = SCROLL, DIRECTIONS.index(action.direction or "down")
    elif action.type == "done":
        kind = DONE
    return np.array([kind, x, y], np.float32)


# --- pictures ---


@dataclass(frozen=True, eq=False)
class _Art:
    """Everything that is pasted, uint8."""

    pages: np.ndarray
    """``[pages, size, size, 3]``: backgrounds."""
    icons: np.ndarray
    """``[pages, icons, icon, icon, 3]``."""
    words: np.ndarray
    """``[words, h, w, 3]``: buttons."""
    panels: dict[str, np.ndarray]
    """The empty field ``[1, h, w, 3]``; the list scrolled to its upper end, its middle and its lower end."""


@cache
def _art(look: Look) -> _Art:
    pages = np.array(_PAGES, np.uint8)
    masks = np.array([_shape(name, look.icon) for name in SHAPES])
    paint = np.array(list(COLOURS.values()), np.uint8)
    icons = np.where(masks[None, None, ..., None], paint[None, :, None, None, None], pages[:, None, None, None, None])
    words = np.array([_button(look, word) for word in WORDS])
    lists = np.array([_list(look, at) for at in range(3)])
    panels = {"field": _panel(look.field, look.scale)[None], "list": lists}
    backgrounds = np.tile(pages[:, None, None], (1, look.size, look.size, 1))
    return _Art(backgrounds, icons.reshape(len(pages), _ICONS, look.icon, look.icon, 3), words, panels)


def _shape(name: str, side: int) -> np.ndarray:
    """Pixels of a shape: bool ``[side, side]``."""
    y, x = np.mgrid[:side, :side] + 0.5
    across, down = np.abs(x - side / 2), np.abs(y - side / 2)
    if name == "circle":
        return across**2 + down**2 <= (side / 2) ** 2 * (1.0 if side > 4 else 0.7)
    if name == "triangle":
        return across <= y / 2
    if name == "cross":
        return np.abs(across - down) < max(0.6, side / 9)
    return np.ones((side, side), bool)


def _panel(size: tuple[int, int], scale: int) -> np.ndarray:
    """A white rectangle with a dark frame."""
    width, height = size
    picture = np.full((height, width, 3), _INK, np.uint8)
    picture[scale:-scale, scale:-scale] = _PAPER
    return picture


def _button(look: Look, word: str) -> np.ndarray:
    width, height = look.button
    picture = np.full((height, width, 3), _PANEL, np.uint8)
    picture[-look.scale :] = _INK
    _write(picture, word, (width // look.scale - 4 * len(word) + 1) // 2, 2, look.scale)
    return picture


def _list(look: Look, at: int) -> np.ndarray:
    """Two of four lines, and a bar that says which."""
    scale = look.scale
    width = look.list[0]
    picture = _panel(look.list, scale)
    for line in range(2):
        # Lines of the list are dots and dashes: no words that could be clicked.
        top = (3 + 5 * line) * scale
        length = (8 + 4 * ((at + line) % 3)) * scale
        picture[top : top + 2 * scale, 3 * scale : 3 * scale + length] = _PANEL
    top = (1 + 4 * at) * scale
    picture[top : top + 3 * scale, width - 4 * scale : width - scale] = _INK
    return picture


def _write(picture: np.ndarray, word: str, left: int, top: int, scale: int) -> None:
    """Letters in place; left and top in dots."""
    for i, letter in enumerate(word):
        rows = [[int(row) >> bit & 1 for bit in (2, 1, 0)] for row in _LETTERS[letter]]
        dots = np.repeat(np.repeat(np.array(rows, bool), scale, axis=0), scale, axis=1)
        x, y = (left + 4 * i) * scale, top * scale
        picture[y : y + 5 * scale, x : x + 3 * scale][dots] = _INK


def _check_tasks(count: int, part: str, answer: str) -> None:
    if count < 0:
        raise ConfigError(f"tasks.count must be >= 0, got {count}")
    if part not in ("train", "test"):
        raise ConfigError(f"tasks.part must be train or test, got {part!r}")
    if answer.count("{action}") != 1:
        raise ConfigError(f"tasks.answer must contain {{action}} once, got {answer!r}")
