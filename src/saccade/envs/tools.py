"""Looking again: the policy calls a tool on the picture, sees the result as a new observation, and goes on.

An episode alternates outputs with calls and observations with pictures until an output carries the final answer. Three
published ways to write a call are read here: a tag with numbers (Ground-R1, arXiv:2505.20272), ``Action:`` with JSON
(ViLaSR, arXiv:2506.09965) and JSON in a tag (Chain-of-Focus, arXiv:2505.15436).

Coordinates are in pixels of the pictures the policy saw in the prompt. Every call works on those pictures, at full
resolution, with all earlier drawings; a crop of a crop is a smaller crop of the original.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from saccade.core.content import Content, Image, Part, Text, Video, frames_of, text_of
from saccade.core.environment import Environment, EnvironmentSpec, Step
from saccade.core.errors import ConfigError
from saccade.core.random import numpy_generator
from saccade.core.trajectory import Observation, Task
from saccade.envs import drawing
from saccade.envs.drawing import BLUE, RED, Box, Colour
from saccade.envs.single import check_template, framed

MOST_CALLS = 16
"""Calls of one output; more are malformed."""
LONGEST_CALL = 8192
"""Characters of one call; longer ones are malformed."""
LONGEST_LABEL = 32
"""Characters of a label that are drawn; the rest is cut off."""
LARGEST = 1e6
"""Coordinates are smaller than this."""
OUTSIDE = "the box is empty or outside the picture"
STEEPEST = 50.0
"""Sides of a crop differ by less than this factor: image processors refuse slivers."""
ALIASES = {
    "bbox_2d": "box", "bbox": "box", "start_point_2d": "start", "end_point_2d": "end", "point_2d": "point",
}  # fmt: skip
"""Published names of arguments, and ours."""

NUMBER = re.compile(r"[+-]?\d{1,6}(?:\.\d{1,6})?")
ACTION = re.compile(r"action:[ \t]*([a-z][a-z _-]{0,40})", re.IGNORECASE)


# --- reading an output ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One call as the policy wrote it."""

    tool: str
    arguments: Mapping[str, Any] | tuple[float, ...]
    """By name, or bare numbers in the order of ``Tool.coordinates``."""


@dataclass(frozen=True)
class Final:
    """The output carries the answer: the episode is over."""

    well_formed: bool
    """One opening and one closing tag, in this order."""


@dataclass(frozen=True)
class Malformed:
    """Neither a call nor an answer."""

    reason: str


Reading = tuple[Call, ...] | Final | Malformed


@dataclass(frozen=True)
class CallFormat(ABC):
    """How calls are written. Never raises; time is linear in the length of the text.

    What the policy thinks, up to the last ``</think>``, is not read.
    """

    final: str = "answer"
    """Tag of the final answer; it ends the episode even if a call stands beside it."""

    def __call__(self, text: str, tools: Collection[str]) -> Reading:
        """What the output asks for.

        Args:
            text: all text of the output.
            tools: the names that can be called.
        """
        said = text.rpartition("</think>")[2]
        opening, closing = f"<{self.final}>", f"</{self.final}>"
        if opening in said:
            once = said.count(opening) == said.count(closing) == 1
            return Final(once and said.index(opening) < said.index(closing))
        return self.calls(said, tools)

    @abstractmethod
    def calls(self, text: str, tools: Collection[str]) -> tuple[Call, ...] | Malformed:
        """The calls in a text without an answer."""


@dataclass(frozen=True)
class TagCalls(CallFormat):
    """``<box>[x1,y1,x2,y2]</box>``: the tag is the tool's name, one call a turn; brackets and spaces are optional.

    Paper: Ground-R1, arXiv:2505.20272 (there with the one tool ``box``, a crop).
    """

    def calls(self, text: str, tools: Collection[str]) -> tuple[Call, ...] | Malformed:
        used = [name for name in tools if f"<{name}>" in text]
        if len(used) != 1:
            return Malformed("no call and no answer" if not used else "more than one call")
        (name,) = used
        _, _, rest = text.partition(f"<{name}>")
        body, closing, rest = rest.partition(f"</{name}>")
        if not closing or f"<{name}>" in rest:
            return Malformed(f"expected <{name}>...</{name}> once")
        numbers = _numbers(body)
        if numbers is None:
            return Malformed(f"expected numbers in <{name}>...</{name}>")
        return (Call(name, numbers),)


@dataclass(frozen=True)
class ActionCalls(CallFormat):
    """``Action: Object Mapper`` and a JSON list of objects, one call each, fenced or not; the last action counts.

    Tool names are compared without regard to case. Paper: ViLaSR, arXiv:2506.09965.
    """

    def calls(self, text: str, tools: Collection[str]) -> tuple[Call, ...] | Malformed:
        actions = list(ACTION.finditer(text))
        if not actions:
            return Malformed("no action and no answer")
        wanted = " ".join(actions[-1][1].split()).casefold()
        name = next((name for name in tools if name.casefold() == wanted), None)
        if name is None:
            return Malformed(f"there is no action {wanted!r}")
        items = _json(text[actions[-1].end() :])
        items = items if isinstance(items, list) else [items]
        if not items or not all(isinstance(item, dict) for item in items):
            return Malformed("expected a JSON list of objects after the action")
        if len(items) > MOST_CALLS:
            return Malformed(f"more than {MOST_CALLS} calls")
        return tuple(Call(name, item) for item in items)


@dataclass(frozen=True)
class JSONCalls(CallFormat):
    """``<tool>{"name": ..., "arguments": {...}}</tool>``, one or several.

    Paper: Chain-of-Focus, arXiv:2505.15436 (there with ``tag="tool_call"``), after the Hermes and Qwen chat templates.
    """

    tag: str = "tool"

    def calls(self, text: str, tools: Collection[str]) -> tuple[Call, ...] | Malformed:
        opening, closing = f"<{self.tag}>", f"</{self.tag}>"
        calls: list[Call] = []
        for piece in text.split(opening)[1 : MOST_CALLS + 2]:
            body, closed, _ = piece.partition(closing)
            found = _json(body)
            if not closed or not isinstance(found, dict) or not isinstance(found.get("arguments"), dict):
                return Malformed(f'expected {opening}{{"name": ..., "arguments": {{...}}}}{closing}')
            name = found.get("name")
            if not isinstance(name, str) or name not in tools:
                return Malformed(f"there is no tool {str(name)[:40]!r}")
            calls.append(Call(name, found["arguments"]))
        if not calls:
            return Malformed("no call and no answer")
        return tuple(calls) if len(calls) <= MOST_CALLS else Malformed(f"more than {MOST_CALLS} calls")


def _numbers(text: str) -> tuple[float, ...] | None:
    if len(text) > LONGEST_CALL:
        return None
    words = text.strip().removeprefix("[").removesuffix("]").replace(",", " ").split()
    if not words or not all(NUMBER.fullmatch(word) for word in words):
        return None
    return tuple(float(word) for word in words)


def _json(text: str) -> Any:
    """The first JSON list or object of the text; None if there is none."""
    start = min((i for i in (text.find("["), text.find("{")) if i >= 0), default=None)
    if start is None:
        return None
    try:
        return json.JSONDecoder().raw_decode(text[start : start + LONGEST_CALL])[0]
    except (ValueError, RecursionError):
        return None


# --- tools ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ToolResult:
    image: Image | None = None
    """What the policy is shown; None if the call was refused."""
    edits: bool = False
    """The picture takes the place of the one it was made from; it has the same size."""
    refused: str = ""
    """Why the call could not be run."""


@dataclass(frozen=True)
class Tool(ABC):
    """A pure function of one picture and checked arguments. What it cannot do it refuses; it does not raise."""

    coordinates: ClassVar[Mapping[str, int]] = {"box": 4}
    """Arguments that are places, and how many numbers each has. All are required; they come as tuples of finite floats,
    x and y alternating, in pixels of the full-resolution picture."""

    @abstractmethod
    def __call__(self, image: Image, arguments: Mapping[str, Any]) -> ToolResult: ...


def _cut(image: Image, box: Box) -> Image | str:
    """The part of the picture in the box, or why there is none."""
    whole = drawing.whole_box(box, image.width, image.height)
    if whole is None:
        return OUTSIDE
    x1, y1, x2, y2 = whole
    if max(x2 - x1, y2 - y1) > STEEPEST * min(x2 - x1, y2 - y1):
        return "the box is too thin"
    return Image(image.pixels[y1:y2, x1:x2].copy())


@dataclass(frozen=True)
class Crop(Tool):
    """Shows what is inside ``box``."""

    size: int | None = None
    """Resize the crop to exactly this many pixels a side; None keeps its resolution."""
    min_side: int = 28
    """Enlarge the crop, aspect kept, until its shorter side has this many pixels (28: one patch of Qwen2.5-VL, as in
    Ground-R1); without effect if ``size`` is given."""

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ConfigError(f"crop.size must be >= 1, got {self.size}")
        if self.min_side < 1:
            raise ConfigError(f"crop.min_side must be >= 1, got {self.min_side}")

    def __call__(self, image: Image, arguments: Mapping[str, Any]) -> ToolResult:
        part = _cut(image, arguments["box"])
        if isinstance(part, str):
            return ToolResult(refused=part)
        if self.size is not None:
            return ToolResult(Image(drawing.resize(part.pixels, self.size, self.size)))
        scale = max(1.0, self.min_side / min(part.width, part.height))
        return ToolResult(Image(drawing.resize(part.pixels, round(part.width * scale), round(part.height * scale))))


@dataclass(frozen=True)
class Zoom(Tool):
    """Shows ``box`` with some of its surroundings, enlarged."""

    factor: float = 2.0
    """Pixels shown for each pixel of the picture, along a side."""
    context: float = 1.5
    """Sides of what is shown over sides of the box, about its centre."""

    def __post_init__(self) -> None:
        if not 1 <= self.factor <= 16:
            raise ConfigError(f"zoom.factor must be in [1, 16], got {self.factor}")
        if not self.context >= 1:
            raise ConfigError(f"zoom.context must be >= 1, got {self.context}")

    def __call__(self, image: Image, arguments: Mapping[str, Any]) -> ToolResult:
        box: Box = arguments["box"]
        if drawing.whole_box(box, image.width, image.height) is None:
            return ToolResult(refused=OUTSIDE)
        x1, y1, x2, y2 = box
        dx, dy = (x2 - x1) * (self.context - 1) / 2, (y2 - y1) * (self.context - 1) / 2
        part = _cut(image, (x1 - dx, y1 - dy, x2 + dx, y2 + dy))
        if isinstance(part, str):
            return ToolResult(refused=part)
        width, height = round(part.width * self.factor), round(part.height * self.factor)
        return ToolResult(Image(drawing.resize(part.pixels, width, height)))


@dataclass(frozen=True)
class DrawBox(Tool):
    """Draws ``box`` as a frame, with ``label`` in its corner if the call has one."""

    colour: Colour = RED
    thickness: int = 4
    """Pixels, as in ViLaSR."""

    def __post_init__(self) -> None:
        if self.thickness < 1:
            raise ConfigError(f"draw.thickness must be >= 1, got {self.thickness}")

    def __call__(self, image: Image, arguments: Mapping[str, Any]) -> ToolResult:
        box: Box = arguments["box"]
        if drawing.whole_box(box, image.width, image.height) is None:
            return ToolResult(refused=OUTSIDE)
        pixels = drawing.outline(image.pixels, box, self.colour, self.thickness)
        if label := arguments.get("label"):
            corner = (max(0.0, box[0]) + self.thickness, max(0.0, box[1]) + self.thickness)
            pixels = drawing.write(pixels, label, corner, self.colour)
        return ToolResult(Image(pixels), edits=True)


@dataclass(frozen=True)
class DrawLine(Tool):
    """Draws a line from ``start`` to ``end``, red where it begins and blue where it ends, as in ViLaSR."""

    coordinates: ClassVar[Mapping[str, int]] = {"start": 2, "end": 2}
    colours: tuple[Colour, Colour] = (RED, BLUE)
    thickness: int = 4

    def __post_init__(self) -> None:
        if self.thickness < 1:
            raise ConfigError(f"draw.thickness must be >= 1, got {self.thickness}")

    def __call__(self, image: Image, arguments: Mapping[str, Any]) -> ToolResult:
        start, end = arguments["start"], arguments["end"]
        if not (_inside(image, start) and _inside(image, end)):
            return ToolResult(refused="the line leaves the picture")
        return ToolResult(Image(drawing.line(image.pixels, start, end, self.colours, self.thickness)), edits=True)


@dataclass(frozen=True)
class DrawPoint(Tool):
    """Draws a filled disc at ``point``."""

    coordinates: ClassVar[Mapping[str, int]] = {"point": 2}
    colour: Colour = RED
    radius: float = 3.0

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise ConfigError(f"draw.radius must be > 0, got {self.radius}")

    def __call__(self, image: Image, arguments: Mapping[str, Any]) -> ToolResult:
        if not _inside(image, arguments["point"]):
            return ToolResult(refused="the point is outside the picture")
        return ToolResult(Image(drawing.disc(image.pixels, arguments["point"], self.radius, self.colour)), edits=True)


def _inside(image: Image, point: Sequence[float]) -> bool:
    return 0 <= point[0] <= image.width and 0 <= point[1] <= image.height


@dataclass(frozen=True)
class Unchanged(Tool):
    """For ablations: refuses what ``tool`` refuses, and shows the picture as it was."""

    tool: Tool = field(default_factory=DrawLine)

    @property
    def coordinates(self) -> Mapping[str, int]:  # type: ignore[override]
        return self.tool.coordinates

    def __call__(self, image: Image, arguments: Mapping[str, Any]) -> ToolResult:
        result = self.tool(image, arguments)
        return result if result.refused else ToolResult(image, edits=result.edits)


@dataclass(frozen=True)
class Misplaced(Tool):
    """For ablations: ``tool`` works on a box of the same size at a place that does not depend on where the box is."""

    tool: Tool = field(default_factory=Crop)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tool.coordinates != {"box": 4}:
            raise ConfigError(f"misplaced.tool must be a tool that takes a box, got {type(self.tool).__name__}")

    def __call__(self, image: Image, arguments: Mapping[str, Any]) -> ToolResult:
        whole = drawing.whole_box(arguments["box"], image.width, image.height)
        if whole is None:
            return self.tool(image, arguments)
        width, height = whole[2] - whole[0], whole[3] - whole[1]
        # Seeded by the picture: equal calls of a group see equal places, and no call can steer them.
        random = numpy_generator(self.seed, "misplaced", image.pixels[::7, ::5].tobytes().hex())
        u, v = random.random(2)
        x, y = round(u * (image.width - width)), round(v * (image.height - height))
        return self.tool(image, {**arguments, "box": (float(x), float(y), float(x + width), float(y + height))})


# --- the environment --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ToolEnvironment(EnvironmentSpec):
    """Tasks whose pictures may be looked at again through tools.

    Every step notes in ``Step.info``: ``valid`` (a call that was run, or a well-formed answer), ``tool`` (name of the
    first call, None without one), ``call`` (the calls' arguments with their tool, in pixels the policy saw),
    ``original`` (the same in pixels of the task's own pictures) and, when refused, ``problem``.
    """

    max_turns: int = 5
    tools: Mapping[str, Tool] = field(default_factory=lambda: {"box": Crop()})
    """By the name the policy calls them."""
    calls: CallFormat = TagCalls()
    """How a call is written."""
    view: int | None = None
    """Longer side, in pixels, to which pictures are resized for the policy; None shows them as they are. Tools always
    work at full resolution."""
    template: str = "{prompt}"
    """Text around the prompt's; ``{width}`` and ``{height}`` are those of the first picture, as the policy sees it."""
    caption: str = ""
    """Text after the pictures of an observation."""
    explanation: str = "That was not a valid call: {problem}."
    """Answer to a malformed output."""
    patience: int | None = None
    """Malformed outputs answered in an episode; the next one ends it. None answers all."""

    def __post_init__(self) -> None:
        check_template(self.template)
        if self.max_turns < 1:
            raise ConfigError(f"env.max_turns must be >= 1, got {self.max_turns}")
        if not self.tools or not all(isinstance(tool, Tool) for tool in self.tools.values()):
            raise ConfigError(f"env.tools must name at least one Tool, got {self.tools!r}")
        if self.calls.final in self.tools:
            raise ConfigError(f"env.tools must not have the name of the answer's tag, {self.calls.final!r}")
        if self.view is not None and self.view < 1:
            raise ConfigError(f"env.view must be >= 1, got {self.view}")
        if self.patience is not None and self.patience < 0:
            raise ConfigError(f"env.patience must be >= 0, got {self.patience}")

    def prompt(self, task: Task) -> Content:
        content = tuple(self.shown(part) for part in task.prompt)
        height, width = next((frame.shape[:2] for frame in frames_of(content)), (0, 0))
        template = self.template.replace("{width}", str(width)).replace("{height}", str(height))
        return framed(content, template)

    def shown(self, part: Part) -> Part:
        """The part as the policy sees it."""
        if self.view is None:
            return part
        if isinstance(part, Image):
            return Image(drawing.fit(part.pixels, self.view))
        if isinstance(part, Video):
            frames = [drawing.fit(frame, self.view) for frame in part.frames]
            return Video(np.stack(frames), part.fps)
        return part

    def make(self) -> ToolUse:
        return ToolUse(self)


class ToolUse(Environment):
    """One episode after another of a ``ToolEnvironment``."""

    def __init__(self, spec: ToolEnvironment) -> None:
        self._spec = spec
        self._pictures: list[Image] = []
        self._malformed = 0

    def reset(self, task: Task, seed: int) -> None:
        self._pictures = [Image(frame) for frame in frames_of(task.prompt)]
        self._malformed = 0

    def step(self, output: Content) -> Step:
        reading = self._spec.calls(text_of(output), self._spec.tools.keys())
        if isinstance(reading, Final):
            return Step(terminated=True, info=_notes(reading.well_formed))
        if isinstance(reading, Malformed):
            return self._refused(reading.reason)
        pictures = list(self._pictures)
        shown: dict[tuple[str, int], Image] = {}
        written: list[Mapping[str, Any]] = []
        original: list[Mapping[str, Any]] = []
        for i, call in enumerate(reading):
            tool = self._spec.tools[call.tool]
            arguments = _arguments(tool, call, len(pictures))
            if isinstance(arguments, str):
                return self._refused(arguments)
            which: int = arguments["image"]
            full = self._full(tool, arguments, pictures[which])
            result = tool(pictures[which], full)
            if result.image is None:
                return self._refused(result.refused)
            if result.edits:
                pictures[which] = result.image
            # Of a picture that is drawn on several times only the last state is shown.
            shown["edited" if result.edits else "made", which if result.edits else i] = result.image
            written.append({"tool": call.tool, **arguments})
            original.append({"tool": call.tool, **full})
        # Only now: an output is carried out whole or not at all.
        self._pictures = pictures
        caption = (Text(self._spec.caption),) if self._spec.caption else ()
        content = (*(self._spec.shown(image) for image in shown.values()), *caption)
        return Step(Observation(content), info=_notes(True, tuple(written), tuple(original)))

    def _full(self, tool: Tool, arguments: Mapping[str, Any], picture: Image) -> dict[str, Any]:
        """The arguments with places in pixels of the full-resolution picture."""
        view = self._spec.view
        width, height = drawing.fitted(picture.width, picture.height, view) if view else (picture.width, picture.height)
        scale = (picture.width / width, picture.height / height)
        places = {name: tuple(x * scale[i % 2] for i, x in enumerate(arguments[name])) for name in tool.coordinates}
        return {**arguments, **places}

    def _refused(self, problem: str) -> Step:
        self._malformed += 1
        patience = self._spec.patience
        if patience is not None and self._malformed > patience:
            return Step(terminated=True, info={**_notes(False), "problem": problem, "stop": "invalid"})
        text = self._spec.explanation.replace("{problem}", problem)
        return Step(Observation((Text(text),)), info={**_notes(False), "problem": problem})


def _notes(
    valid: bool, call: tuple[Mapping[str, Any], ...] = (), original: tuple[Mapping[str, Any], ...] = ()
) -> dict[str, Any]:
    return {"valid": valid, "tool": call[0]["tool"] if call else None, "call": call, "original": original}


def _arguments(tool: Tool, call: Call, pictures: int) -> dict[str, Any] | str:
    """The call's arguments under our names, places as tuples of floats, or why they cannot be used."""
    if isinstance(call.arguments, tuple):
        if len(call.arguments) != sum(tool.coordinates.values()):
            return f"{call.tool} takes {sum(tool.coordinates.values())} numbers"
        numbers = iter(call.arguments)
        given: dict[str, Any] = {name: [next(numbers) for _ in range(n)] for name, n in tool.coordinates.items()}
    else:
        given = {ALIASES.get(name, name): value for name, value in call.arguments.items()}
    for name, n in tool.coordinates.items():
        place = given.get(name)
        if not isinstance(place, list) or len(place) != n or not all(_is_coordinate(x) for x in place):
            return f"{name} takes {n} numbers"
        given[name] = tuple(float(x) for x in place)
    which = given.setdefault("image", 0)
    if not isinstance(which, int) or isinstance(which, bool) or not 0 <= which < pictures:
        return f"image takes the number of a picture, 0 to {pictures - 1}" if pictures else "there is no picture"
    if "label" in given:
        given["label"] = str(given["label"])[:LONGEST_LABEL]
    return given


def _is_coordinate(x: object) -> bool:
    # False for NaN, too; an int may be too large to become a float.
    return isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < LARGEST
