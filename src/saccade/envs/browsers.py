"""Headless Chromium without a driver between: processes, tabs, and a pool of tabs that many episodes share.

Commands of the DevTools protocol go through a pipe to the browser's process (``--remote-debugging-pipe``), so nothing
listens on a port and a browser ends with the process that started it. Time on the pages stands still: timers, dates and
animation frames follow a clock that advances only when it is told to, so a page does the same thing whenever the same
actions are repeated, however slow the machine is.
"""

from __future__ import annotations

import atexit
import base64
import io
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture

from saccade.core.errors import ConfigError

BINARIES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
"""Where ``MINIWOB_CHROME_BINARY`` is not set, the first of these that is on the path."""
WINDOW = (500, 320)
"""Width and height of a page in pixels, those MiniWoB++ uses."""
START_S = 60.0
"""Seconds a browser may take to start."""
FLAGS = (
    "--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check",
    "--disable-gpu", "--disable-software-rasterizer", "--in-process-gpu", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--mute-audio", "--lang=en-US", "--force-color-profile=srgb",
    "--disable-lcd-text", "--disable-smooth-scrolling", "--password-store=basic",
    # Redrawing a part of a rounded corner blends it into what is there: pixels would depend on when frames fall.
    "--disable-partial-raster",
    # Pages never sleep, not even behind other windows.
    "--disable-background-timer-throttling", "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    # A screenshot waits for two frames: with a limit of 60 a second that would be most of a step's time.
    "--disable-frame-rate-limit", "--disable-gpu-vsync",
    # All pages of a browser live in one renderer process: 20 MB a tab less.
    "--process-per-site", "--renderer-process-limit=1",
)  # fmt: skip

CLOCK = """
(() => {
  const RealDate = Date, start = RealDate.UTC(2020, 0, 6, 12);
  let now = 0, next = 1;
  const timers = new Map();
  const add = (run, ms, every) => {
    ms = Math.max(1, Number(ms) || 0);
    timers.set(next, {at: now + ms, every: every ? ms : 0, run});
    return next++;
  };
  const call = (f, args) => () => typeof f === 'function' ? f(...args) : (0, eval)(f);
  window.setTimeout = (f, ms, ...args) => add(call(f, args), ms, false);
  window.setInterval = (f, ms, ...args) => add(call(f, args), ms, true);
  window.requestAnimationFrame = f => add(() => f(now), 16, false);
  window.clearTimeout = window.clearInterval = window.cancelAnimationFrame = id => { timers.delete(id); };
  window.performance.now = () => now;
  function PageDate(...args) {
    const date = args.length ? new RealDate(...args) : new RealDate(start + now);
    return new.target ? date : date.toString();
  }
  PageDate.prototype = RealDate.prototype;
  PageDate.prototype.constructor = PageDate;
  Object.assign(PageDate, {now: () => start + now, parse: RealDate.parse, UTC: RealDate.UTC});
  window.Date = PageDate;
  window.alert = () => {}; window.confirm = () => false; window.prompt = () => null; window.open = () => null;
  // Leaving the page or handing a drag to the desktop is nothing an episode can come back from.
  window.addEventListener('dragstart', e => e.preventDefault(), true);
  window.addEventListener('submit', e => e.preventDefault());
  window.addEventListener('click', e => {
    const link = e.target instanceof Element && e.target.closest('a[href]');
    if (link && !link.getAttribute('href').startsWith('#')) e.preventDefault();
  });
  window.pageClock = {
    clear() { timers.clear(); now = 0; next = 1; },
    advance(ms) {
      const end = now + ms;
      for (let n = 0; n < 10000; n++) {
        let first = null;
        for (const [id, one] of timers)
          if (one.at <= end && (first === null || one.at < first[1].at)) first = [id, one];
        if (first === null) break;
        const [id, one] = first;
        now = Math.max(now, one.at);
        if (one.every) one.at = now + one.every; else timers.delete(id);
        try { one.run(); } catch (error) { console.error(error); }
      }
      now = end;
    },
  };
})();
"""
"""Runs in every page before its own scripts."""

MODIFIERS = {"ctrl": 2, "shift": 8}
KEY_CODES: Mapping[str, tuple[str, str, int, str]] = {
    "enter": ("Enter", "Enter", 13, "\r"), "tab": ("Tab", "Tab", 9, ""), "escape": ("Escape", "Escape", 27, ""),
    "backspace": ("Backspace", "Backspace", 8, ""), "delete": ("Delete", "Delete", 46, ""),
    "space": (" ", "Space", 32, " "), "up": ("ArrowUp", "ArrowUp", 38, ""), "down": ("ArrowDown", "ArrowDown", 40, ""),
    "left": ("ArrowLeft", "ArrowLeft", 37, ""), "right": ("ArrowRight", "ArrowRight", 39, ""),
    "home": ("Home", "Home", 36, ""), "end": ("End", "End", 35, ""), "pageup": ("PageUp", "PageUp", 33, ""),
    "pagedown": ("PageDown", "PageDown", 34, ""), "a": ("a", "KeyA", 65, ""),
}  # fmt: skip
"""Name of the key, of its place on the keyboard, its Windows number and what it types."""


class BrowserError(RuntimeError):
    """A browser died, hangs or refuses a command."""


def find_chromium() -> str:
    """The browser's program: ``MINIWOB_CHROME_BINARY``, or the first of ``BINARIES`` on the path.

    Raises:
        ConfigError: there is none.
    """
    named = os.environ.get("MINIWOB_CHROME_BINARY")
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, BINARIES)), None)
    if found is None:
        where = f"MINIWOB_CHROME_BINARY names {named!r}, which" if named else f"none of {', '.join(BINARIES)}"
        raise ConfigError(f"the browser cannot be found: {where} is a program (Debian, Ubuntu: apt install chromium)")
    return found


class Browser:
    """One Chromium process. Threads may send at the same time; answers are told apart by their number."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="saccade-browser-"))
        self._errors = self._folder / "stderr.txt"
        command = [find_chromium(), *FLAGS, f"--user-data-dir={self._folder}", f"--window-size={WINDOW[0]},{WINDOW[1]}"]
        with self._errors.open("wb") as errors:
            # The browser reads commands from descriptor 3 and answers on 4.
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", 'exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>/dev/null', *command, "about:blank"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
                env={**os.environ, "TZ": "UTC"},
            )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        self._commands, self._answers = self._process.stdin, self._process.stdout
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._number = 0
        self._broken = ""
        self._reader = threading.Thread(target=self._read, name="saccade-browser", daemon=True)
        self._reader.start()
        try:
            self.call("Browser.getVersion", timeout=START_S)
        except BrowserError as error:
            said = self._errors.read_text(errors="replace")[-500:]
            self.close()
            raise BrowserError(f"the browser does not start: {error}; it said: {said.strip() or 'nothing'}") from None

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, method: str, *, session: str = "", **parameters: Any) -> Future[dict[str, Any]]:
        """Give a command without waiting for its answer."""
        answer: Future[dict[str, Any]] = Future()
        message: dict[str, Any] = {"method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        with self._lock:
            if self._broken:
                raise BrowserError(self._broken)
            self._number += 1
            self._waiting[self._number] = answer
            data = json.dumps({"id": self._number, **message}).encode() + b"\0"
            try:
                while data:
                    data = data[os.write(self._commands.fileno(), data) :]
            except OSError:
                raise BrowserError("the browser has died") from None
        return answer

    def call(self, method: str, *, timeout: float, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Give a command and wait for its answer."""
        return wait([self.send(method, session=session, **parameters)], timeout)[0]

    def abandon(self) -> None:
        """In a forked child: let go of the parent's browser without ending it."""
        self._process.returncode = 0
        self._commands.close()
        self._answers.close()

    def close(self) -> None:
        """End all processes of the browser and remove its folder; once more does nothing."""
        self._break("the browser was closed")
        if self._process.returncode is None:  # its number may be another process's once it has been waited for
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._reader.join()
        with self._lock:
            self._commands.close()
            self._answers.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _break(self, reason: str) -> None:
        with self._lock:
            self._broken = self._broken or reason
            waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            answer.set_exception(BrowserError(self._broken))

    def _read(self) -> None:
        kept: list[bytes] = []
        while data := os.read(self._answers.fileno(), 1 << 20):
            *whole, rest = data.split(b"\0")
            for part in whole:
                self._answered(json.loads(b"".join([*kept, part])))
                kept = []
            kept.append(rest)
        self._break("the browser has died")

    def _answered(self, message: dict[str, Any]) -> None:
        if message.get("method") in ("Target.targetCrashed", "Inspector.targetCrashed"):
            self._break("a page has crashed")
        with self._lock:
            answer = self._waiting.pop(message.get("id", 0), None)
        if answer is None:
            return
        if "error" in message:
            answer.set_exception(BrowserError(f"the browser refuses: {message['error'].get('message')}"))
        else:
            answer.set_result(message["result"])


def wait(answers: Sequence[Future[dict[str, Any]]], timeout: float) -> list[dict[str, Any]]:
    """The answers to commands, each within ``timeout`` seconds."""
    try:
        return [answer.result(timeout) for answer in answers]
    except Late:
        raise BrowserError(f"the page did not answer within {timeout:g} s") from None


class Tab:
    """One page of a browser, in a window of its own (pages behind others are drawn once a second)."""

    def __init__(self, browser: Browser, timeout: float) -> None:
        self.browser = browser
        self.timeout = timeout
        self.url = ""
        target = browser.call("Target.createTarget", timeout=START_S, url="about:blank", newWindow=True)["targetId"]
        attached = browser.call("Target.attachToTarget", timeout=START_S, targetId=target, flatten=True)
        self._session = attached["sessionId"]
        size = {"width": WINDOW[0], "height": WINDOW[1]}
        self._all(
            ("Page.enable", {}),
            ("Inspector.enable", {}),
            ("Emulation.setFocusEmulationEnabled", {"enabled": True}),
            ("Emulation.setDeviceMetricsOverride", {**size, "deviceScaleFactor": 1, "mobile": False}),
            ("Page.addScriptToEvaluateOnNewDocument", {"source": CLOCK}),
        )

    def _all(self, *commands: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """Give several commands at once and wait for all answers."""
        answers = [self.browser.send(method, session=self._session, **values) for method, values in commands]
        return wait(answers, self.timeout)

    def open(self, url: str) -> None:
        """Load a page anew and wait until it is complete."""
        self.url = ""
        self._all(("Page.navigate", {"url": url}))
        loaded = (
            "document.readyState === 'complete' || new Promise(r => window.addEventListener('load', () => r(true)))"
        )
        if self.evaluate(loaded) is not True or self.evaluate("location.href") != url:
            raise BrowserError(f"the page {url} cannot be loaded")
        self.url = url

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript, as plain data; of a promise, what it promised."""
        values = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        (answer,) = self._all(("Runtime.evaluate", values))
        if "exceptionDetails" in answer:
            thrown = answer["exceptionDetails"]
            raise BrowserError(f"a script failed: {thrown.get('exception', {}).get('description', thrown['text'])}")
        return answer["result"].get("value")

    def screenshot(self, width: int, height: int) -> np.ndarray:
        """The top left part of the page: uint8 RGB ``[height, width, 3]``."""
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        values = {"format": "png", "optimizeForSpeed": True, "captureBeyondViewport": False, "clip": clip}
        (answer,) = self._all(("Page.captureScreenshot", values))
        return np.array(Picture.open(io.BytesIO(base64.b64decode(answer["data"]))).convert("RGB"))

    def point(self, x: float, y: float) -> None:
        """Move the pointer."""
        self._all(_mouse("mouseMoved", x, y))

    def click(self, x: float, y: float) -> None:
        """Move there, press and release the left button."""
        self._all(_mouse("mouseMoved", x, y), _mouse("mousePressed", x, y), _mouse("mouseReleased", x, y))

    def drag(self, x1: float, y1: float, x2: float, y2: float, moves: int = 8) -> None:
        """Press, move in a straight line, release."""
        way = [(x1 + (x2 - x1) * i / moves, y1 + (y2 - y1) * i / moves) for i in range(1, moves + 1)]
        path = [_mouse("mouseMoved", x, y, held=True) for x, y in way]
        start = (_mouse("mouseMoved", x1, y1), _mouse("mousePressed", x1, y1))
        self._all(*start, *path, _mouse("mouseReleased", x2, y2))

    def scroll(self, x: float, y: float, dx: float, dy: float) -> None:
        """Turn the wheel by so many pixels, the pointer at x, y."""
        place = {"x": x, "y": y, "deltaX": dx, "deltaY": dy}
        self._all(_mouse("mouseMoved", x, y), ("Input.dispatchMouseEvent", {"type": "mouseWheel", **place}))

    def type(self, text: str) -> None:
        """Press and release the key of every character."""
        keys: list[tuple[str, dict[str, Any]]] = []
        for sign in text:
            number = ord(sign.upper()) if sign.isascii() and sign.isalnum() else 0
            values = {"key": sign, "windowsVirtualKeyCode": number}
            keys.append(("Input.dispatchKeyEvent", {"type": "keyDown", "text": sign, **values}))
            keys.append(("Input.dispatchKeyEvent", {"type": "keyUp", **values}))
        self._all(*keys)

    def press(self, keys: str) -> None:
        """Press and release a key of ``KEY_CODES``, with modifiers before a ``+`` each."""
        *held, name = keys.split("+")
        key, code, number, text = KEY_CODES[name]
        values = {
            "key": key,
            "code": code,
            "windowsVirtualKeyCode": number,
            "modifiers": sum(MODIFIERS[one] for one in held),
        }
        down = {"type": "keyDown", **values, **({"text": text} if text else {})}
        # The browser's own meaning of a combination has to be named.
        down |= {"commands": ["selectAll"]} if keys == "ctrl+a" else {}
        self._all(("Input.dispatchKeyEvent", down), ("Input.dispatchKeyEvent", {"type": "keyUp", **values}))


def _mouse(kind: str, x: float, y: float, held: bool = False) -> tuple[str, dict[str, Any]]:
    pressed = (kind == "mouseMoved" and held) or kind == "mousePressed"
    button = "left" if kind != "mouseMoved" or held else "none"
    values = {"type": kind, "x": x, "y": y, "button": button, "buttons": int(pressed)}
    return "Input.dispatchMouseEvent", {**values, "clickCount": int(kind != "mouseMoved")}


# --- the pool ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Browsers:
    """Settings of a process's browsers; equal settings share them."""

    count: int = 2
    """Browser processes, each with one process that runs its pages."""
    tabs: int = 4
    """Pages open at a time in each, of about 15 MB. More episodes than that are possible: they take turns, and one
    whose page was given to another repeats its actions, which doubles its time and more."""
    timeout_s: float = 30.0
    """Seconds after which a page that does not answer counts as hung."""
    retries: int = 2
    """Restarts of a browser within one step of an episode before the failure is raised."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"browsers.count must be >= 1, got {self.count}")
        if not 1 <= self.tabs <= 64:
            raise ConfigError(f"browsers.tabs must be in [1, 64], got {self.tabs}")
        if not self.timeout_s > 0:
            raise ConfigError(f"browsers.timeout_s must be > 0, got {self.timeout_s}")
        if self.retries < 0:
            raise ConfigError(f"browsers.retries must be >= 0, got {self.retries}")

    def pool(self) -> BrowserPool:
        """This process's browsers with these settings. They start when the first page is needed."""
        with _guard:
            if self not in _pools:
                _pools[self] = BrowserPool(self)
            return _pools[self]


@dataclass(eq=False)
class _Process:
    lock: threading.Lock = field(default_factory=threading.Lock)
    browser: Browser | None = None


@dataclass(eq=False)
class Slot:
    """Room for one tab; belongs to the episode that used it last."""

    process: _Process
    tab: Tab | None = None
    owner: weakref.ref[Any] | None = None
    busy: bool = False
    used: int = 0

    def owned_by(self, someone: object) -> bool:
        return self.owner is not None and self.owner() is someone

    @property
    def free(self) -> bool:
        return self.owner is None or self.owner() is None


class BrowserPool:
    """Lends tabs to episodes. Browsers stay open until ``close`` or the end of the process."""

    def __init__(self, settings: Browsers) -> None:
        self.settings = settings
        self.size = settings.count * settings.tabs
        """Tabs there can be at a time."""
        self.workers = ThreadPoolExecutor(self.size, thread_name_prefix="saccade-tab")
        self._processes = [_Process() for _ in range(settings.count)]
        self._slots = [Slot(process) for _ in range(settings.tabs) for process in self._processes]
        self._change = threading.Condition()
        self._uses = 0

    def browsers(self) -> list[Browser]:
        """Those that run."""
        return [process.browser for process in self._processes if process.browser is not None]

    @contextmanager
    def lend(self, owner: object, url: str) -> Iterator[tuple[Tab, bool]]:
        """A tab for the owner's next steps, and whether it is still as the owner left it.

        Otherwise it may show any page; ``url`` is the one it preferably shows.
        """
        slot = self._take(owner, url)
        try:
            kept = slot.owned_by(owner) and slot.tab is not None and slot.tab.browser is slot.process.browser
            # While a step is under way the tab is nobody's: if it fails, nothing is known of the page.
            slot.owner = None
            tab = self._tab(slot)
            yield tab, kept
            slot.owner = weakref.ref(owner)
        finally:
            with self._change:
                slot.busy = False
                self._change.notify()

    def release(self, owner: object) -> None:
        """The owner needs its tab no more."""
        with self._change:
            for slot in self._slots:
                if slot.owned_by(owner):
                    slot.owner = None

    def broke(self, browser: Browser) -> bool:
        """End a browser that failed. Whether this call did it, not another one's for the same failure."""
        for process in self._processes:
            with process.lock:
                if process.browser is browser:
                    process.browser = None
                    browser.close()
                    return True
        return False

    def close(self) -> None:
        """End all browsers; the next episode starts new ones."""
        for browser in self.browsers():
            self.broke(browser)

    def _take(self, owner: object, url: str) -> Slot:
        def preference(slot: Slot) -> tuple[bool, bool, bool, int]:
            shown = slot.tab is not None and slot.tab.url == url and slot.tab.browser is slot.process.browser
            # Of episodes in turns, the one that stepped last needs its page again last.
            return slot.owned_by(owner), slot.free, shown, slot.used

        with self._change:
            while not (idle := [slot for slot in self._slots if not slot.busy]):
                self._change.wait()
            slot = max(idle, key=preference)
            self._uses += 1
            slot.busy, slot.used = True, self._uses
            return slot

    def _tab(self, slot: Slot) -> Tab:
        process = slot.process
        with process.lock:
            if process.browser is None:
                process.browser = Browser()
            browser = process.browser
        if slot.tab is None or slot.tab.browser is not browser:
            slot.tab = None
            try:
                slot.tab = Tab(browser, self.settings.timeout_s)
            except BrowserError:
                self.broke(browser)
                raise
        return slot.tab


_pools: dict[Browsers, BrowserPool] = {}
_guard = threading.Lock()


@atexit.register
def close_browsers() -> None:
    """End all browsers of this process."""
    for pool in list(_pools.values()):
        pool.close()


def _forked() -> None:
    # A child has the parent's descriptors but none of its threads.
    global _guard
    _guard = threading.Lock()
    for pool in _pools.values():
        for browser in pool.browsers():
            browser.abandon()
    _pools.clear()


os.register_at_fork(after_in_child=_forked)
