"""MiniWoB++: small tasks on web pages, in a real browser; screenshots in, clicks and keys out.

Every task is a page and the seed of what the page asks. The page itself says when the task is over and what it is
worth; its own time limit is lifted and its clock advances by ``TURN_MS`` a turn, so an episode depends on the actions
only and can be repeated: after a browser has died, or when there are more episodes than tabs.

Papers: World of Bits (Shi et al., ICML 2017); MiniWoB++ (Liu et al., arXiv:1802.08802).
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from saccade.core.content import Content, Image, Text, text_of
from saccade.core.environment import Environment, EnvironmentSpec, Split, Step, Tasks, VectorEnvironment, name_task
from saccade.core.errors import ConfigError, DataError
from saccade.core.random import fold_in
from saccade.core.trajectory import Observation, Task
from saccade.envs import drawing
from saccade.envs.actions import Action, NoAction, Point, read_action
from saccade.envs.browsers import BrowserError, BrowserPool, Browsers, Tab
from saccade.envs.single import check_template, framed

T = TypeVar("T")

WIDTH, HEIGHT = 160, 210
"""Size of a page in pixels."""
HEADER = 50
"""Pixels at the top in which the page repeats its instruction."""
TURN_MS = 500
"""Milliseconds that pass on the page after each action; animations and delayed answers of widgets take less."""
SCROLL = 60
"""Pixels of one scroll."""
MOST_TRIES = 20
"""Attempts at one step, those included that failed with a browser that another episode's failure ended."""
ASIDE = (400.0, 280.0)
"""Where the pointer is when an episode begins: right of the page."""

CLEAN = frozenset({
    "click-button", "click-button-sequence", "click-checkboxes", "click-collapsible", "click-color", "click-link",
    "click-option", "click-test", "click-test-2", "enter-text", "focus-text", "focus-text-2", "login-user",
})  # fmt: skip
"""Pages that begin a new episode as if they had been loaded anew, whatever was done on them; the others are loaded anew
for each episode, at ten times the cost. A test compares the two."""

UNFIT = {
    "copy-paste": "the clipboard is shared by all pages",
    "copy-paste-2": "the clipboard is shared by all pages",
}
"""Pages that cannot be used, and why."""

BEGIN = """
(async () => {
  pageClock.advance(1000);
  if (document.activeElement) document.activeElement.blur();
  if (!document.getElementById('steady')) {
    const style = document.createElement('style');
    style.id = 'steady';
    // The caret blinks and transitions take time, both by the real clock; the cover hides how an episode ended.
    style.textContent = '* { caret-color: transparent !important; transition: none !important; ' +
      'animation: none !important; } #sync-task-cover { display: none !important; }';
    document.head.appendChild(style);
  }
  core.countdownTimer = () => {};
  core.EPISODE_MAX_TIME = 2 ** 30;
  core.endEpisode(0);
  pageClock.clear();
  Math.seedrandom(SEED);
  core.startEpisodeReal();
  pageClock.advance(TURN_MS);
  await Promise.all([document.fonts.ready, ...[...document.images].filter(i => !i.complete).map(i =>
    new Promise(done => { i.addEventListener('load', done); i.addEventListener('error', done); }))]);
  const said = core.getUtterance();
  return typeof said === 'string' ? said : said.utterance;
})()
"""
SETTLE = """
(async () => {
  pageClock.advance(TURN_MS);
  await Promise.all([...document.images].filter(i => !i.complete).map(i =>
    new Promise(done => { i.addEventListener('load', done); i.addEventListener('error', done); })));
  return [WOB_DONE_GLOBAL, Number(WOB_RAW_REWARD_GLOBAL)];
})()
""".replace("TURN_MS", str(TURN_MS))


def pages_folder() -> Path:
    """Where the pages are: in the package ``miniwob``, which is not imported.

    Raises:
        ConfigError: it is not installed.
    """
    found = importlib.util.find_spec("miniwob")
    if found is None or not found.submodule_search_locations:
        raise ConfigError("MiniWoB needs the pages of the package miniwob: pip install 'saccade[gui]'")
    return Path(found.submodule_search_locations[0]) / "html" / "miniwob"


@dataclass(frozen=True)
class MiniWoBTasks(Tasks):
    """Page after page in turn, each time with another seed: ``task(i)`` is on page ``names[i % len(names)]``.

    ``Task.info``: ``page`` and ``seed``, of which training has even and test odd ones. Scripted solutions have to look
    at the page: ``MiniWoBExpert``.
    """

    names: tuple[str, ...] = ("click-test-2", "click-button", "click-tab")
    """Pages by their names in MiniWoB++."""
    count: int = 4096
    """Tasks of this part."""
    seed: int = 0
    part: Split = "train"
    prompt: str = "do what the page asks"
    """Text of every task's prompt; what exactly the page asks comes with the first observation."""

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) != len(self.names):
            raise ConfigError(f"tasks.names must be at least one page and none twice, got {self.names}")
        for name in self.names:
            if name in UNFIT:
                raise ConfigError(f"tasks.names must not have {name!r}: {UNFIT[name]}")
        if self.count < 0:
            raise ConfigError(f"tasks.count must be >= 0, got {self.count}")
        if not self.prompt:
            raise ConfigError("tasks.prompt must not be empty")

    def __len__(self) -> int:
        return self.count

    def split(self, name: Split) -> MiniWoBTasks:
        return replace(self, part=name)

    def task(self, index: int) -> Task:
        name = self.names[index % len(self.names)]
        seed = fold_in(self.seed, "miniwob", name, index // len(self.names)) % 2**40 * 2 + (self.part == "test")
        return Task(
            id=f"miniwob/{self.part}/{self.seed}/{name}/{index // len(self.names)}",
            prompt=(Text(self.prompt),),
            info={"page": name, "seed": seed, "columns": {"page": name}},
        )


@dataclass(frozen=True)
class MiniWoB(EnvironmentSpec):
    """Pages of MiniWoB++ in real browsers.

    The first observation is a screenshot and what the page asks, later ones a screenshot. An output is read by
    ``read_action``. ``done`` ends the episode, as do the pages themselves. r = 1 at the end if the page's own reward,
    without its discount by time, is above ``pass_mark``, else 0.

    Every step notes in ``Step.info``: ``valid``, ``success``, ``action`` (type, and of point, to, text, direction and
    keys what it uses, in pixels of the image the policy saw; None if invalid), at the end ``raw`` (the page's reward in
    [-1, 1]) and, when refused, ``problem``.
    """

    max_turns: int = 8
    view: Literal["page", "area"] = "page"
    """The whole page, 160 x 210, or without its header with the instruction, 160 x 160."""
    side: int | None = None
    """Make pictures square, white on the right, and resize them to this many pixels a side; None leaves them."""
    template: str = "{prompt}"
    """Text around the prompt's."""
    explanation: str = "That was not a valid action: {problem}."
    """Answer to a malformed output, after the screenshot."""
    patience: int | None = None
    """Malformed outputs answered in an episode; the next one ends it. None answers all."""
    pass_mark: float = 0.0
    """A page's reward above this is success. Some pages pay for parts: with 0, more right than wrong checkboxes do."""
    keep: int | None = None
    """Turns the policy remembers besides the prompt; None is all."""
    browsers: Browsers = Browsers()

    def __post_init__(self) -> None:
        check_template(self.template)
        if self.max_turns < 1:
            raise ConfigError(f"env.max_turns must be >= 1, got {self.max_turns}")
        if self.view not in ("page", "area"):
            raise ConfigError(f"env.view must be 'page' or 'area', got {self.view!r}")
        if self.side is not None and self.side < 16:
            raise ConfigError(f"env.side must be >= 16, got {self.side}")
        if self.patience is not None and self.patience < 0:
            raise ConfigError(f"env.patience must be >= 0, got {self.patience}")
        if not -1 <= self.pass_mark < 1:
            raise ConfigError(f"env.pass_mark must be in [-1, 1), got {self.pass_mark}")
        if self.keep is not None and self.keep < 0:
            raise ConfigError(f"env.keep must be >= 0, got {self.keep}")

    def prompt(self, task: Task) -> Content:
        return framed(task.prompt, self.template)

    def make(self) -> MiniWoBEnvironment:
        return MiniWoBEnvironment(self)

    def make_vector(self) -> MiniWoBLanes:
        return MiniWoBLanes(self)

    @property
    def _top(self) -> int:
        return HEADER if self.view == "area" else 0

    @property
    def scale(self) -> float:
        """Pixels of the image for each pixel of the page."""
        return 1.0 if self.side is None else self.side / max(WIDTH, HEIGHT - self._top)

    def picture(self, page: np.ndarray) -> Image:
        """A screenshot, uint8 RGB ``[210, 160, 3]``, as the policy sees it."""
        seen = page[self._top :]
        if self.side is None:
            return Image(seen)
        square = np.full((len(seen), len(seen), 3), 255, np.uint8)
        square[:, :WIDTH] = seen
        return Image(drawing.resize(square, self.side, self.side))

    def on_page(self, point: Point) -> Point | None:
        """A point of the image in pixels of the page; None outside the page. The far edges belong to the page."""
        x, y = point[0] / self.scale, point[1] / self.scale + self._top
        if not (0 <= x <= WIDTH and self._top <= y <= HEIGHT):
            return None
        return min(x, WIDTH - 0.5), min(y, HEIGHT - 0.5)

    def on_image(self, point: Point) -> Point:
        """A point of the page in pixels of the image."""
        return point[0] * self.scale, (point[1] - self._top) * self.scale


class MiniWoBEnvironment(Environment):
    """One episode after another of a ``MiniWoB``. It holds no browser, only what it takes to repeat the episode."""

    def __init__(self, spec: MiniWoB) -> None:
        self.spec = spec
        self.task: Task | None = None
        self.asked = ""
        """What the page asks in this episode."""
        self.turn = 0
        """Turns taken in this episode."""
        self._done: list[Action] = []
        self._image = Image(np.zeros((1, 1, 3), np.uint8))
        self._malformed = 0

    def reset(self, task: Task, seed: int) -> Observation:
        """Begin an episode; it depends on the task only, which holds the page's seed."""
        self.close()
        self._begin(task)

        def first(tab: Tab) -> np.ndarray:
            return tab.screenshot(WIDTH, HEIGHT)

        self._image = self.spec.picture(self._on_page(first))
        return self._observed(Text(self.asked))

    def follow(self, other: MiniWoBEnvironment) -> Observation:
        """Begin the episode that ``other`` has just begun; the page is loaded when it is needed."""
        self.close()
        self._begin(other.task)
        self.asked, self._image = other.asked, other._image
        return self._observed(Text(self.asked))

    def step(self, output: Content) -> Step:
        self.turn += 1
        action = read_action(text_of(output))
        if isinstance(action, NoAction):
            return self._refused(action.reason)
        placed = self._placed(action)
        if placed is None:
            return self._refused("the point is outside the page")
        noted = {"valid": True, "action": _noted(action)}
        if action.type == "done":
            return Step(self._observed(), terminated=True, info={**noted, "success": False, "raw": 0.0})

        def act(tab: Tab) -> tuple[list[Any], np.ndarray]:
            return _perform(tab, placed), tab.screenshot(WIDTH, HEIGHT)

        (over, raw), page = self._on_page(act)
        self._done.append(placed)
        self._image = self.spec.picture(page)
        if not over:
            return Step(self._observed(), info={**noted, "success": False})
        self.close()
        success = raw > self.spec.pass_mark
        return Step(self._observed(), float(success), True, info={**noted, "success": success, "raw": float(raw)})

    def look(self, script: str) -> Any:
        """The value of a JavaScript expression on the page as it is now; it must not change the page."""
        return self._on_page(lambda tab: tab.evaluate(script))

    def close(self) -> None:
        """Give back the tab; the browsers stay for the next episode."""
        self._pool.release(self)

    def _begin(self, task: Task | None) -> None:
        self.task, self.turn, self._done, self._malformed = task, 0, [], 0

    @property
    def _pool(self) -> BrowserPool:
        return self.spec.browsers.pool()

    def _observed(self, *more: Text) -> Observation:
        return Observation((self._image, *more), self.spec.keep)

    def _refused(self, problem: str) -> Step:
        self._malformed += 1
        noted = {"valid": False, "success": False, "action": None, "problem": problem}
        if self.spec.patience is not None and self._malformed > self.spec.patience:
            return Step(self._observed(), terminated=True, info={**noted, "stop": "invalid"})
        return Step(self._observed(Text(self.spec.explanation.replace("{problem}", problem))), info=noted)

    def _placed(self, action: Action) -> Action | None:
        """The action in pixels of the page; None if a point is outside."""
        point = self.spec.on_page(action.point) if action.point else None
        to = self.spec.on_page(action.to) if action.to else None
        if (action.point and not point) or (action.to and not to):
            return None
        return replace(action, point=point, to=to)

    def _on_page(self, work: Callable[[Tab], T]) -> T:
        """Do something on the page as this episode has left it, with another browser if one fails.

        Raises:
            BrowserError: browsers failed ``retries + 1`` times.
        """
        if self.task is None:
            raise BrowserError("no episode has begun")
        url = (pages_folder() / f"{self.task.info['page']}.html").as_uri()
        failures = 0
        for _ in range(MOST_TRIES):
            browser = None
            try:
                with self._pool.lend(self, url) as (tab, kept):
                    browser = tab.browser
                    if not kept:
                        self._repeat(tab, url)
                    return work(tab)
            except BrowserError as error:
                # A failure that another episode has dealt with is not held against this one.
                failures += browser is None or self._pool.broke(browser)
                if failures > self.spec.browsers.retries:
                    raise BrowserError(f"failed {failures} times, last: {error}") from error
        raise BrowserError(f"the browsers failed {MOST_TRIES} times")

    def _repeat(self, tab: Tab, url: str) -> None:
        """Bring a tab to where this episode is."""
        assert self.task is not None
        if tab.url != url or self.task.info["page"] not in CLEAN:
            if not Path(url.removeprefix("file://")).exists():
                raise ConfigError(f"tasks.names must be pages of MiniWoB++, got {self.task.info['page']!r}")
            tab.open(url)
        tab.point(*ASIDE)
        begin = BEGIN.replace("SEED", str(self.task.info["seed"])).replace("TURN_MS", str(TURN_MS))
        self.asked = str(tab.evaluate(begin))
        for action in self._done:
            _perform(tab, action)


class MiniWoBLanes(VectorEnvironment):
    """Episodes side by side on the tabs of a pool; lanes with equal tasks share the first screenshot."""

    def __init__(self, spec: MiniWoB) -> None:
        self._spec = spec
        self._lanes: list[MiniWoBEnvironment] = []
        self._pages: list[str] = []

    def reset(self, tasks: Sequence[Task], seeds: Sequence[int]) -> list[Observation | None]:
        self._lanes += [self._spec.make() for _ in range(len(tasks) - len(self._lanes))]
        self._pages = [task.info["page"] for task in tasks]
        leaders: dict[str, int] = {}
        for lane, task in enumerate(tasks):
            leaders.setdefault(task.id, lane)
        first = list(leaders.values())
        begun = self._side_by_side(first, [tasks[lane] for lane in first], lambda lane, task: lane.reset(task, 0))
        shown: dict[int, Observation | None] = dict(zip(first, begun, strict=True))
        for lane, task in enumerate(tasks):
            if lane not in shown:
                shown[lane] = self._lanes[lane].follow(self._lanes[leaders[task.id]])
        return [shown[lane] for lane in range(len(tasks))]

    def step(self, lanes: Sequence[int], outputs: Sequence[Content]) -> list[Step]:
        return self._side_by_side(lanes, outputs, lambda lane, output: lane.step(output))

    def close(self) -> None:
        for lane in self._lanes:
            lane.close()
        self._lanes = []

    def _side_by_side(
        self, lanes: Sequence[int], values: Sequence[Any], work: Callable[[MiniWoBEnvironment, Any], T]
    ) -> list[T]:
        def one(lane: int, value: Any) -> T:
            environment = self._lanes[lane]
            try:
                return work(environment, value)
            except Exception as error:
                if environment.task is not None:
                    name_task(error, environment.task)
                raise

        # Loading a page takes ten times as long as a step: what a worker does in turn is on one page or two.
        pool = self._spec.browsers.pool()
        order = sorted(range(len(lanes)), key=lambda i: self._pages[lanes[i]])
        shares = [share.tolist() for share in np.array_split(np.array(order, dtype=int), pool.size)]
        found = pool.workers.map(lambda share: [(i, one(lanes[i], values[i])) for i in share], shares)
        return [value for _, value in sorted((pair for share in found for pair in share), key=lambda pair: pair[0])]


def _noted(action: Action) -> dict[str, Any]:
    fields = {"point": action.point, "to": action.to, "text": action.text, "direction": action.direction}
    return {"type": action.type, **{k: v for k, v in {**fields, "keys": action.keys}.items() if v}}


def _perform(tab: Tab, action: Action) -> list[Any]:
    """Carry out an action in pixels of the page; whether the task is over, and the page's reward."""
    if action.type == "click" and action.point:
        tab.click(*action.point)
    elif action.type == "drag" and action.point and action.to:
        tab.drag(*action.point, *action.to)
    elif action.type == "type":
        tab.type(action.text)
    elif action.type == "key":
        tab.press(action.keys)
    elif action.type == "scroll" and action.direction:
        dx, dy = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}[action.direction]
        tab.scroll(*(action.point or (WIDTH / 2, (HEADER + HEIGHT) / 2)), dx * SCROLL, dy * SCROLL)
    return tab.evaluate(SETTLE)


# --- scripted solutions -----------------------------------------------------------------------------------------------

FILL = """
const fill = (field, text) => {
  if (field.value === text) return null;
  if (document.activeElement !== field) return field;
  if (!field.value || field.selectionEnd - field.selectionStart === field.value.length) return 'type ' + text;
  return 'key ctrl+a';
};
"""
"""The next thing to do so that a field holds a text; null if it does."""
NAMED = "const named = (kind, text) => [...document.querySelectorAll(kind)].find(e => e.textContent.trim() === text);"
SELECT = """
const wanted = said.replace(/^Select /, '').replace(/ and click Submit\\.$/, '').split(', ');
const wrong = [...document.querySelectorAll('#boxes label')].find(label =>
  label.querySelector('input').checked COMPARED wanted.includes(label.textContent.trim()));
"""
"""A box or option that is not as asked."""
SCRIPTS = {
    "click-test": "return get('#subbtn');",
    "click-test-2": "return get('#subbtn');",
    "click-button": NAMED + "return named('#area button', quoted[0]);",
    "click-tab": NAMED + "return named('#area ul a', said.match(/Tab #\\d/)[0]);",
    "click-tab-2": """
        const panels = [...document.querySelectorAll('.ui-tabs-panel')].filter(panel =>
          [...panel.querySelectorAll('.alink')].some(link => link.textContent === quoted[0]));
        const open = panels.find(panel => panel.getClientRects().length);
        return open ? [...open.querySelectorAll('.alink')].find(link => link.textContent === quoted[0])
          : get('#area ul a[href="#' + panels[0].id + '"]');""",
    "click-button-sequence": "return get(buttonsPushed.length ? '#subbtn2' : '#subbtn');",
    "click-collapsible": "return get(get('.ui-accordion-content').getClientRects().length ? '#subbtn' : '#area h3');",
    "click-checkboxes": SELECT.replace("COMPARED", "!==") + "return wrong || get('#subbtn');",
    "click-option": SELECT.replace("COMPARED", "<") + "return wrong || get('#subbtn');",
    "click-dialog": "return get('button.ui-button');",
    "click-dialog-2": NAMED
    + "return quoted[0] === 'x' ? get('.ui-dialog-titlebar button') : named('.ui-dialog-buttonset button', quoted[0]);",
    "click-link": NAMED + "return named('.alink', quoted[0]);",
    "click-color": """
        const colour = said.match(/on the (\\w+) colored/)[1];
        return get('#area .color[data-color="' + colour + '"]');""",
    "enter-text": FILL + "return fill(get('#tt'), quoted[0]) || get('#subbtn');",
    "focus-text": "return get('#tt');",
    "focus-text-2": "return get('#tt' + said.match(/the (\\d)/)[1]);",
    "login-user": FILL
    + "return fill(get('#username'), quoted[0]) || fill(get('#password'), quoted[1]) || get('#subbtn');",
}
"""For each page, JavaScript that returns the element to click next or an action in plain form, given ``said`` (what the
page asks) and ``quoted`` (its parts in quotation marks)."""
NEXT = """
(() => {
  const said = SAID, step = STEP, top = TOP, get = s => document.querySelector(s);
  const quoted = [...said.matchAll(/"([^"]*)"/g)].map(m => m[1]);
  const next = (() => { SCRIPT })();
  if (typeof next === 'string') return next;
  let best = null, least = Infinity, middle = null;
  for (const box of next.getClientRects()) {
    const cx = box.left + box.width / 2, cy = box.top + box.height / 2;
    middle = middle || [cx, cy];
    for (let y = Math.ceil((box.top - top) / step) * step + top; y < box.bottom; y += step)
      for (let x = Math.ceil(box.left / step) * step; x < box.right; x += step) {
        const far = (x - cx) ** 2 + (y - cy) ** 2;
        // What lies on top of the element gets the click.
        if (far < least && next.contains(document.elementFromPoint(x, y))) { best = [x, y]; least = far; }
      }
  }
  return best || middle;
})()
"""


@dataclass(frozen=True)
class MiniWoBExpert:
    """Solves some pages by reading them from the inside.

    It can take over at any turn and corrects what is already wrong on the page.
    """

    grid: float = 1.0
    """Clicks are on multiples of this many pixels of the image, where the target has one: side / bins of a policy with
    location tokens."""
    tag: str = "tool"
    """Tag around an action; empty for none. Inside ``tool`` tiny policies write numbers as location tokens."""

    pages: ClassVar[tuple[str, ...]] = tuple(SCRIPTS)
    """Those it can solve."""

    def __post_init__(self) -> None:
        if not self.grid > 0:
            raise ConfigError(f"expert.grid must be > 0, got {self.grid}")

    def outputs(self, environment: Environment) -> Content:
        """The output of the next turn, given the page as it is now.

        Raises:
            DataError: the environment is another one.
            ConfigError: no solution is known for the page.
        """
        if not isinstance(environment, MiniWoBEnvironment):
            raise DataError(f"this expert acts on MiniWoB, got {type(environment).__name__}")
        page = environment.task.info["page"] if environment.task else None
        if page not in SCRIPTS:
            raise ConfigError(f"tasks.names must be pages the expert solves, {', '.join(SCRIPTS)}; got {page!r}")
        spec = environment.spec
        script = NEXT.replace("SAID", json.dumps(environment.asked)).replace("STEP", str(self.grid / spec.scale))
        script = script.replace("TOP", str(HEADER if spec.view == "area" else 0)).replace("SCRIPT", SCRIPTS[page])
        found = environment.look(script)
        if not isinstance(found, str):
            x, y = (round(round(v / self.grid) * self.grid, 3) for v in spec.on_image((found[0], found[1])))
            found = str(Action("click", (x, y)))
        return (Text(f"<{self.tag}>{found}</{self.tag}>" if self.tag else found),)
