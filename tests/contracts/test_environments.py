"""Every environment keeps its contract, and the check that says so finds environments that do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from saccade.core.content import Image, Text
from saccade.core.environment import Environment, EnvironmentSpec, Split, Step, Tasks
from saccade.core.errors import ContractError
from saccade.core.trajectory import Observation, Task
from saccade.envs.datasets.digits import DigitScenes
from saccade.envs.datasets.jsonl import JsonlTasks
from saccade.envs.single import SingleTurn
from saccade.envs.tools import ActionCalls, Crop, DrawBox, DrawLine, JSONCalls, ToolEnvironment, Zoom
from saccade.testing import check_environment


@dataclass(frozen=True)
class LookFirst(Tasks):
    """DigitScenes in which the solution looks at the digit before it reads it."""

    call: str = "<box>{box}</box>"
    """How the look is written; ``{box}`` is replaced by four numbers."""
    view: int = 64
    """Pixels a side of the scene as the policy sees it."""
    scenes: DigitScenes = field(default_factory=lambda: DigitScenes(count=16, kinds=("locate", "read"), digits=(1, 1)))

    def __len__(self) -> int:
        return len(self.scenes)

    def task(self, index: int) -> Task:
        task = self.scenes.task(index)
        (one,) = task.target["digits"]
        box = ",".join(str(x * self.view / 64) for x in one["box"])
        look = (Text("<think>I look.</think>" + self.call.replace("{box}", box)),)
        return Task(task.id, task.prompt, task.target, (look, *task.gold), task.info)

    def split(self, name: Split) -> LookFirst:
        return replace(self, scenes=self.scenes.split(name))


ACTION = 'Action: Object Mapper\n```json\n[{"bbox_2d": [{box}], "label": "digit"}]\n```'
CALL = '<tool>{"name": "zoom", "arguments": {"box": [{box}]}}</tool>'

SPECS: dict[str, EnvironmentSpec] = {
    "one turn": SingleTurn(DigitScenes(count=70)),
    "one turn, held out, with instruction": SingleTurn(
        DigitScenes(count=70, part="test"), template="Look. {prompt} Answer in <answer></answer>."
    ),
    "crop": ToolEnvironment(LookFirst(view=16), tools={"box": Crop(size=16)}, view=16, patience=1),
    "drawing": ToolEnvironment(
        LookFirst(ACTION),
        tools={"Object Mapper": DrawBox(), "Path Tracer": DrawLine()},
        calls=ActionCalls(),
        max_turns=10,
        caption="drawn",
    ),
    "zoom": ToolEnvironment(LookFirst(CALL), tools={"zoom": Zoom()}, calls=JSONCalls(), explanation="invalid"),
    "tools, not used": ToolEnvironment(DigitScenes(count=70), max_turns=2),
}


@pytest.mark.parametrize("name", SPECS)
def test_environment_keeps_its_contract(name):
    check_environment(SPECS[name])


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_environment_over_a_users_file_keeps_its_contract(tmp_path, suffix):
    rows = [
        {
            "messages": [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"gold {i}"}],
            "answer": i,
        }
        for i in range(12)
    ]
    path = tmp_path / f"data{suffix}"
    path.write_text(json.dumps(rows) if suffix == ".json" else "\n".join(map(json.dumps, rows)))
    check_environment(SingleTurn(JsonlTasks(str(path))))


# --- environments that break it ---


@dataclass(frozen=True)
class Two(Tasks):
    make_task: Callable[[int], Task]
    size: int = 2

    def __len__(self) -> int:
        return self.size

    def task(self, index: int) -> Task:
        return self.make_task(index)

    def split(self, name: Split) -> Two:
        return self


def plain(index: int) -> Task:
    return Task(str(index), (Text("say the secret"),), "the long secret", ((Text("the long secret"),),))


def same_id(index: int) -> Task:
    return replace(plain(index), id="one")


def leaking(index: int) -> Task:
    return replace(plain(index), prompt=(Text("it is the long secret"),))


def wordless(index: int) -> Task:
    return replace(plain(index), prompt=())


def restless(index: int) -> Task:
    return replace(plain(index), prompt=(Image(np.random.default_rng().integers(0, 255, (4, 4, 3), dtype=np.uint8)),))


def two_golds(index: int) -> Task:
    return replace(plain(index), gold=plain(index).gold * 2)


def goldless(index: int) -> Task:
    return replace(plain(index), gold=())


def goal_picture(index: int) -> Task:
    return replace(plain(index), target=Image(np.full((4, 4, 3), 7, np.uint8)), gold=())


class Scripted(Environment):
    """An environment that says ``wait`` once, then ends; subclasses break one thing."""

    def __init__(self) -> None:
        self.turns = 0

    def reset(self, task: Task, seed: int) -> Observation | None:
        self.turns, self.task = 0, task
        return None

    def step(self, output: tuple) -> Step:
        self.turns += 1
        return Step(Observation((Text("wait"),))) if self.turns == 1 else Step(terminated=True)


class Raising(Scripted):
    def step(self, output):
        return Step(terminated=int(output[0].text) > 0)


class NoReset(Scripted):
    def reset(self, task, seed):
        return None


class Unseeded(Scripted):
    def reset(self, task, seed):
        super().reset(task, seed)
        return Observation((Text(str(np.random.default_rng().integers(10**9))),))


class PaidByChance(Scripted):
    def step(self, output):
        return Step(reward=float(np.random.default_rng().random()), terminated=True)


class Telling(Scripted):
    def step(self, output):
        super().step(output)
        return Step(Observation((Text(f"no, {self.task.target}"),)))


class Showing(Scripted):
    def step(self, output):
        return Step(Observation((Image(self.task.target.pixels.copy()),)))


class Silent(Scripted):
    def step(self, output):
        return Step()


class Unpaid(Scripted):
    def step(self, output):
        return Step(reward=float("nan"), terminated=True)


class WrongType(Scripted):
    def step(self, output):
        return None


class BareText(Scripted):
    def step(self, output):
        observation = Observation(())
        object.__setattr__(observation, "content", "wait")
        return Step(observation)


class Refusing(Scripted):
    def step(self, output):
        return Step(terminated=True, info={"valid": False})


class Endless(Scripted):
    def step(self, output):
        return Step(Observation((Text("wait"),)))


class Hasty(Scripted):
    def step(self, output):
        return Step(terminated=True)


@dataclass(frozen=True)
class Spec(EnvironmentSpec):
    build: type[Environment] = Hasty

    def make(self) -> Environment:
        return self.build()


@dataclass(frozen=True)
class Counting(Spec):
    """The prompt depends on how often it was asked for."""

    def prompt(self, task):
        counted.append(task)
        return (Text(f"{len(counted)}"),)


counted: list[Task] = []

BROKEN = {
    "no tasks": (Spec(Two(plain, size=0)), "the task set is empty"),
    "no turns": (Spec(Two(plain), max_turns=0), "max_turns must be >= 1"),
    "equal ids": (Spec(Two(same_id)), "two tasks have this id"),
    "tasks by chance": (Spec(Two(restless)), "is another one when it is drawn again"),
    "prompts by chance": (Counting(Two(plain)), "the prompt is another one"),
    "empty prompt": (Spec(Two(wordless)), "the prompt is empty"),
    "target in the prompt": (Spec(Two(leaking)), "prompt: holds a text of the target"),
    "target in an observation": (Spec(Two(plain), 3, Telling), "observation of turn 0: holds a text of the target"),
    "target picture shown": (Spec(Two(goal_picture), 3, Showing), "holds a picture or array of the target"),
    "gold too long": (Spec(Two(two_golds)), "gold has 2 turns, max_turns is 1"),
    "gold refused": (Spec(Two(plain), 1, Refusing), "gold turn 0 is not valid"),
    "gold does not end": (Spec(Two(plain), 3, Endless), "the episode did not end, gold has 1 turns"),
    "gold ends early": (Spec(Two(two_golds), 3, Hasty), "the episode ended after turn 0, gold has 2 turns"),
    "raises": (Spec(Two(goldless), 3, Raising), r"the output '' raises \w+Error"),
    "no reset": (Spec(Two(two_golds), 3, NoReset), "equal seeds give other episodes on another instance"),
    "unseeded": (Spec(Two(two_golds), 3, Unseeded), "equal seeds give other episodes"),
    "chance rewards": (Spec(Two(plain), 3, PaidByChance), "equal seeds give other episodes"),
    "no observation": (Spec(Two(goal_picture), 3, Silent), "gave neither an observation nor an end"),
    "reward not finite": (Spec(Two(plain), 3, Unpaid), "turn 0 pays nan"),
    "no step": (Spec(Two(plain), 3, WrongType), "turn 0 gave NoneType, expected Step"),
    "no content": (Spec(Two(plain), 3, BareText), "expected a tuple of content parts"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_contract_is_found(case):
    spec, message = BROKEN[case]
    with pytest.raises(ContractError, match=message):
        check_environment(spec)


def test_the_scripted_environment_itself_is_sound():
    check_environment(Spec(Two(two_golds), 3, Scripted))
