"""Meta-World v3: a robot arm on a table, simulated by MuJoCo (Yu et al., arXiv:1910.10897; v3 in arXiv:2505.11289).

A command is four numbers in [-1, 1]: how the hand is to move along x, y and z (at most a centimetre), and how hard the
gripper closes. The state is Meta-World's own, 39 numbers: hand (3), gripper opening (1), objects (14: positions in
metres and quaternions, padded with zeros), the same 18 one step earlier, goal (3).

What differs between splits for generalisation (RL4VLA, arXiv:2505.19789) is set here: where objects and goals lie and
a push against the hand in the middle of the episode (execution), how the instruction is worded (language), and how the
picture looks (vision).
"""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from saccade.core.content import Array, Content, Image, Part, Text
from saccade.core.environment import Environment, EnvironmentSpec, Split, Step, Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.random import numpy_generator
from saccade.core.trajectory import Observation, Task
from saccade.envs.gym import STATE, check_limits, command, commands_of, level_seed, required

INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "reach-v3": (
        "reach the goal",
        "move the hand to the target point",
        "bring your gripper where the marker is",
        "go and touch the marked spot",
    ),
    "push-v3": (
        "push the puck to the goal",
        "slide the puck onto the target",
        "shove the disc over to the marker",
        "get the small cylinder across the table to the marked spot",
    ),
    "pick-place-v3": (
        "pick up the puck and place it at the goal",
        "lift the puck and carry it to the target",
        "grab the disc and hold it at the marker",
        "take the small cylinder to the marked spot in the air",
    ),
    "drawer-open-v3": (
        "open the drawer",
        "pull the drawer out",
        "draw the tray out by its handle",
        "get the compartment of the cabinet open",
    ),
    "door-open-v3": (
        "open the door",
        "pull the door open",
        "swing the safe wide by its handle",
        "get the cabinet unshut",
    ),
    "button-press-topdown-v3": (
        "press the button from above",
        "push the button down",
        "hit the red switch from the top",
        "get the knob on the box down",
    ),
}
"""Wordings of some tasks: the first for training, the others say the same. Other tasks are named by their words."""
WORDS = tuple(sorted({word for wordings in INSTRUCTIONS.values() for words in wordings for word in words.split()}))
"""Words of all of them."""
BOUNDS = ((-0.55, 0.55), (0.3, 1.05))
"""What a top view shows of the table, metres along x and y."""
HIGHEST = 0.5
"""Metres of the highest place of the hand."""
SHOVE_WINDOW = (10, 30)
"""Commands after which a shove comes, from and below."""


@dataclass(frozen=True)
class TopView:
    """A picture made from the state: the table from above as soft dots, red object, green goal, blue hand.

    It shows the state truthfully, not the scene: dots have sub-pixel positions, the higher the brighter (from 0.4 of
    full brightness at the table to 1 at 0.5 m), and the hand's dot is wider the more the gripper is open. It costs
    microseconds where a rendered picture of this scene costs tens of milliseconds.
    """

    size: int = 32
    """Pixels a side."""
    background: tuple[int, int, int] = (16, 16, 16)
    noise: float = 0.0
    """Standard deviation of pixel noise in grey levels, drawn anew for each picture from the task's seed."""

    def __post_init__(self) -> None:
        if self.size < 8:
            raise ConfigError(f"view.size must be >= 8, got {self.size}")
        if not all(0 <= level <= 255 for level in self.background):
            raise ConfigError(f"view.background must be in 0 .. 255, got {self.background}")
        if not self.noise >= 0:
            raise ConfigError(f"view.noise must be >= 0, got {self.noise}")

    def __call__(self, state: np.ndarray, random: np.random.Generator | None = None) -> Image:
        """The picture of a state of 39 numbers; noise needs ``random``."""
        canvas = np.empty((self.size, self.size, 3))
        canvas[:] = self.background
        wide = 0.6 + 0.6 * float(state[3])
        for channel, where, spread in ((1, state[36:39], 1.0), (0, state[4:7], 1.0), (2, state[0:3], wide)):
            dot = self._dot(where, spread)
            canvas[:, :, channel] += (255 - canvas[:, :, channel]) * dot
        if self.noise and random is not None:
            canvas += random.normal(0, self.noise, canvas.shape)
        return Image(np.clip(np.rint(canvas), 0, 255).astype(np.uint8))

    def _dot(self, where: np.ndarray, spread: float) -> np.ndarray:
        (left, right), (near, far) = BOUNDS
        x = (float(where[0]) - left) / (right - left) * self.size - 0.5
        y = (far - float(where[1])) / (far - near) * self.size - 0.5
        height = min(max(float(where[2]) / HIGHEST, 0.0), 1.0)
        width = spread * self.size / 32
        pixels = np.arange(self.size)
        across = np.exp(-0.5 * ((pixels - x) / width) ** 2)
        along = np.exp(-0.5 * ((pixels - y) / width) ** 2)
        return (0.4 + 0.6 * height) * np.outer(along, across)


@dataclass(frozen=True)
class Camera:
    """A rendered picture of the scene: tens of milliseconds each without a graphics card."""

    name: Literal["topview", "corner", "corner2", "corner3", "corner4", "behindGripper", "gripperPOV"] = "corner"
    size: int = 84
    """Pixels a side."""

    def __post_init__(self) -> None:
        if self.size < 8:
            raise ConfigError(f"view.size must be >= 8, got {self.size}")


@dataclass(frozen=True)
class ArmTasks(Tasks):
    """Task i is one start of task ``names[i % len(names)]``. Training starts have even seeds, test starts odd ones.

    ``Task.prompt`` is the instruction. ``Task.info``: ``name``, ``seed``, ``spread`` and ``shove``, from which the
    environment makes the start.
    """

    names: tuple[str, ...] = ("reach-v3",)
    count: int = 4096
    spread: tuple[float, float] = (0.0, 1.0)
    """Where objects and goals lie in the box Meta-World draws them from, by their distance from its centre: the
    greatest over the axes, in halves of the box's sides, is in this range. (0, 0.7) to train and (0.7, 1) to test puts
    about half of a two-dimensional box out of the training distribution."""
    shove: float = 0.0
    """Metres by which the hand is pushed aside once, in a random horizontal direction after 10 to 29 commands."""
    wording: Literal["plain", "other", "any"] = "plain"
    """The instruction as trained, a paraphrase of it, or one of all drawn by the task."""
    seed: int = 0
    part: Split = "train"

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError(f"tasks.count must be >= 0, got {self.count}")
        if not self.names:
            raise ConfigError("tasks.names must name at least one task")
        if not 0 <= self.spread[0] < self.spread[1] <= 1:
            raise ConfigError(f"tasks.spread must be 0 <= from < to <= 1, got {self.spread}")
        if not 0 <= self.shove <= 0.3:
            raise ConfigError(f"tasks.shove must be in [0, 0.3], got {self.shove}")

    def __len__(self) -> int:
        return self.count

    def task(self, index: int) -> Task:
        name = self.names[index % len(self.names)]
        seed = level_seed(self.seed, name, self.part, index)
        plain, *others = INSTRUCTIONS.get(name, (re.sub(r"-v\d+$", "", name).replace("-", " "),))
        choices = {"plain": [plain], "other": others or [plain], "any": [plain, *others]}[self.wording]
        words = choices[int(numpy_generator(seed, "wording").integers(len(choices)))]
        kind = "".join(
            [
                "" if self.spread == (0.0, 1.0) else f"-spread{self.spread[0]:g}to{self.spread[1]:g}",
                "" if self.shove == 0 else f"-shove{self.shove:g}",
                "" if self.wording == "plain" else f"-{self.wording}",
            ]
        )
        info = {"name": name, "seed": seed, "spread": self.spread, "shove": self.shove}
        return Task(f"{name}{kind}-{self.seed}-{self.part}-{index}", (Text(words),), info=info)

    def split(self, name: Split) -> ArmTasks:
        return replace(self, part=name)


@dataclass(frozen=True)
class MetaWorld(EnvironmentSpec):
    """An arm, an instruction and up to ``max_turns`` turns; 1 is paid at the first success, which ends the episode.

    ``Turn.info`` (see ``saccade.evaluate.episodes``): ``valid``, ``success`` (Meta-World's flag at any command so
    far), ``steps``, ``path`` (commands so far), ``distance`` (metres between object and goal, by the task's own rule;
    0 for door-open, which does not say), ``clipped``; and for dense pay and progress ``dense`` (Meta-World's reward in
    [0, 10], mean over the turn's commands), ``progress`` (its in-place term in [0, 1]), ``near`` and ``grasped``.
    """

    tasks: Tasks = field(default_factory=ArmTasks)
    max_turns: int = 100
    chunk: int = 1
    """Most commands of a turn that are carried out; those after them are dropped."""
    state: Literal["all", "hand", "none"] = "all"
    """Numbers that are shown: all 39; the hand's place and opening, 4; none."""
    view: TopView | Camera | None = None
    """Picture that is shown before the numbers."""
    keep: int | None = None
    """Turns that stay visible besides the prompt; None: all."""

    def __post_init__(self) -> None:
        check_limits(self.max_turns, self.chunk, self.keep)
        if self.state == "none" and self.view is None:
            raise ConfigError("env.state is none and env.view is None: there would be nothing to see")

    def make(self) -> MetaWorldEnvironment:
        return MetaWorldEnvironment(self)


_Key = tuple[str, Camera | None]
_IDLE: dict[_Key, list[Any]] = {}
"""Simulators that closed environments gave back: each rollout needs many."""
_FIRST: dict[str, Any] = {}
"""One untouched simulator of each task. Copying it takes a tenth of the time that reading its meshes again takes."""


class MetaWorldEnvironment(Environment):
    """Takes simulators from the pool of its process and gives them back when it is closed."""

    def __init__(self, spec: MetaWorld) -> None:
        required("metaworld", "manipulation")
        self._spec = spec
        self._camera = spec.view if isinstance(spec.view, Camera) else None
        self._arms: dict[str, Any] = {}
        self._arm: Any = None
        self._seen = np.zeros(39)
        self._turn = 0
        self._path = 0
        self._success = False
        self._push: tuple[int, np.ndarray] | None = None
        self._seed = 0
        self.name = ""
        """Which of Meta-World's tasks is being done."""

    def reset(self, task: Task, seed: int) -> Observation:
        """The start is the task's own; ``seed`` has nothing left to decide."""
        self.name, self._seed = str(task.info["name"]), int(task.info["seed"])
        if self.name not in self._arms:
            idle = _IDLE.get((self.name, self._camera))
            self._arms[self.name] = idle.pop() if idle else _another(self.name, self._camera)
        self._arm = self._arms[self.name]
        low, high = task.info.get("spread", (0.0, 1.0))
        self._seen = _start(self._arm, self._seed, float(low), float(high))
        self._turn = self._path = 0
        self._success = False
        self._push = None
        if shove := float(task.info.get("shove", 0.0)):
            random = numpy_generator(self._seed, "shove")
            angle = random.uniform(0, 2 * math.pi)
            self._push = int(random.integers(*SHOVE_WINDOW)), shove * np.array([math.cos(angle), math.sin(angle), 0])
        return self._observation()

    def step(self, output: Content) -> Step:
        self._turn += 1
        commands = commands_of(output, 4)
        info: dict[str, Any] = {"valid": commands is not None}
        steps, dense = 0, 0.0
        notes: dict[str, Any] = {}
        if commands is not None:
            commands = commands[: self._spec.chunk]
            clipped = np.clip(commands, -1, 1)
            info["clipped"] = bool((clipped != commands).any())
            for row in clipped:
                if self._push is not None and self._path == self._push[0]:
                    self._arm.data.mocap_pos[0] = np.clip(
                        self._arm.data.mocap_pos[0] + self._push[1], self._arm.mocap_low, self._arm.mocap_high
                    )
                self._seen, paid, _, _, notes = self._arm.step(row)
                steps += 1
                self._path += 1
                dense += float(paid)
                if notes["success"]:
                    self._success = True
                    break
        info |= {"success": self._success, "steps": steps, "path": self._path}
        if steps:
            info |= {
                "distance": float(notes["obj_to_target"]),
                "dense": dense / steps,
                "progress": float(notes["in_place_reward"]),
                "near": float(notes["near_object"]),
                "grasped": bool(notes["grasp_success"]),
            }
        truncated = not self._success and self._turn >= self._spec.max_turns
        return Step(self._observation(), float(self._success), self._success, truncated, info)

    @property
    def state(self) -> np.ndarray:
        """Meta-World's observation, float64 [39]."""
        return self._seen

    @property
    def moment(self) -> tuple[int, int]:
        """The task's seed and the commands so far: what an expert's own randomness hangs on."""
        return self._seed, self._path

    def rehearse(self, act: Callable[[np.ndarray], np.ndarray], count: int) -> np.ndarray:
        """The commands, float32 ``[count, 4]``, that ``act`` gives from here on; the simulator is put back after."""
        arm = self._arm
        rows = [np.clip(act(self._seen), -1, 1).astype(np.float32)]
        if count > 1:
            before = dict(vars(arm))
            arm.data = copy.copy(arm.data)
            while len(rows) < count:
                seen = arm.step(rows[-1])[0]
                rows.append(np.clip(act(seen), -1, 1).astype(np.float32))
            vars(arm).update(before)
        return np.stack(rows)

    def close(self) -> None:
        for name, arm in self._arms.items():
            _IDLE.setdefault((name, self._camera), []).append(arm)
        self._arms = {}

    def _observation(self) -> Observation:
        parts: list[Part] = []
        view = self._spec.view
        if isinstance(view, TopView):
            random = numpy_generator(self._seed, "pixels", self._turn) if view.noise else None
            parts.append(view(self._seen, random))
        elif view is not None:
            parts.append(Image(np.ascontiguousarray(self._arm.render())))
        if self._spec.state != "none":
            size = 39 if self._spec.state == "all" else 4
            parts.append(Array(STATE, self._seen[:size].astype(np.float32)))
        return Observation(tuple(parts), self._spec.keep)


@dataclass(frozen=True)
class ArmExpert:
    """Meta-World's scripted policy of the task.

    Chunks are rehearsed in the simulator, which is then put back. A shove is not foreseen.
    """

    chunk: int = 1
    """Commands a turn."""
    noise: float = 0.0
    """Standard deviation of noise added to commands, so that demonstrations also show how to come back."""

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ConfigError(f"expert.chunk must be >= 1, got {self.chunk}")
        if not self.noise >= 0:
            raise ConfigError(f"expert.noise must be >= 0, got {self.noise}")

    def outputs(self, environment: Environment) -> Content:
        """The next output in this environment's present state."""
        if not isinstance(environment, MetaWorldEnvironment):
            raise DataError(f"this expert acts in MetaWorld, got {type(environment).__name__}")
        policies = required("metaworld.policies", "manipulation").ENV_POLICY_MAP
        policy, random = policies[environment.name](), numpy_generator(environment.moment[0], environment.moment[1])

        def act(seen: np.ndarray) -> np.ndarray:
            wanted = np.asarray(policy.get_action(seen), np.float64)
            return wanted + random.normal(0, self.noise, 4) if self.noise else wanted

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the policies warn that they ask for more than a step can do
            return command(environment.rehearse(act, self.chunk))


def _another(name: str, camera: Camera | None) -> Any:
    if camera is not None:
        return _make(name, camera)
    if name not in _FIRST:
        _FIRST[name] = _make(name, None)
    first = _FIRST[name]
    model = copy.copy(first.model)
    data = required("mujoco", "manipulation").MjData(model)
    known = {id(first.model): model, id(first.data): data, id(first.mujoco_renderer): None}
    arm = object.__new__(type(first))  # copy.deepcopy(first) would build it from its arguments
    vars(arm).update(copy.deepcopy(vars(first), known))
    return arm


def _make(name: str, camera: Camera | None) -> Any:
    kinds = required("metaworld", "manipulation").ALL_V3_ENVIRONMENTS
    if name not in kinds:
        raise ConfigError(f"tasks.names: Meta-World has no task {name!r}; it has {', '.join(sorted(kinds))}")
    if camera is None:
        arm = kinds[name]()
    else:
        arm = kinds[name](render_mode="rgb_array", camera_name=camera.name, width=camera.size, height=camera.size)
        try:
            arm.render()
        except Exception as error:
            raise ConfigError(
                f"env.view: {camera.name} cannot be rendered ({' '.join(str(error).split())}); without a display set "
                "MUJOCO_GL=osmesa or MUJOCO_GL=egl before Python starts"
            ) from error
    arm._set_task_called = True
    arm._partially_observable = False
    vars(arm).pop("sawyer_observation_space", None)  # cached with the goal hidden
    arm.max_path_length = 2**31  # episodes are cut off by turns
    arm.init_tcp = arm.tcp_center
    arm.saccade_model = {part: getattr(arm.model, part).copy() for part in ("body_pos", "body_quat", "site_pos")}
    return arm


def _start(arm: Any, seed: int, low: float, high: float) -> np.ndarray:
    """Put the simulator into the start that belongs to the seed; what Meta-World observes there.

    Meta-World's own reset goes through the model twice, each time with fifty steps that bring the hand into place: the
    first pass puts fixtures where the second finds them. Here the first pass leaves the hand alone, which halves the
    time; and all that an earlier episode may have left behind in the model is put back before.
    """
    mujoco = required("mujoco", "manipulation")
    for part, values in arm.saccade_model.items():
        getattr(arm.model, part)[:] = values
    random = numpy_generator(seed, "start")
    box = arm._random_reset_space
    centre, half = (box.low + box.high) / 2, (box.high - box.low) / 2
    free = half > 0

    def draw() -> np.ndarray:
        while True:
            place = random.uniform(-1, 1, half.shape)
            if low <= np.abs(place[free]).max(initial=low) <= high:
                arm._last_rand_vec = centre + half * place
                return arm._last_rand_vec

    arm.curr_path_length = 0
    mujoco.mj_resetData(arm.model, arm.data)
    mujoco.mj_forward(arm.model, arm.data)
    arm._reset_hand, arm._get_state_rand_vec = lambda: None, draw
    try:
        arm.reset_model()
    finally:
        del arm._reset_hand, arm._get_state_rand_vec
    arm._freeze_rand_vec = True
    mujoco.mj_resetData(arm.model, arm.data)
    arm._did_see_sim_exception = False
    seen = arm.reset_model()
    arm._prev_obs = seen[:18].copy()
    seen[18:36] = arm._prev_obs
    return np.asarray(seen, np.float64)
