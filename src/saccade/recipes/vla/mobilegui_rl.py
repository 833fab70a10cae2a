"""MobileGUI-RL: whole episodes in a live interface, short ones worth more (arXiv:2507.05720).

Mechanism: MobGRPO. G episodes of one task are paid R = S gamma^(K / K_max) - c 1[stopped early and S = 0] with success
S and K turns. R, standardised within the group, is the advantage of every action of every turn, and losses are divided
by the number of actions of the group. Groups in which all fail are left out.

Without it: a success is worth 1 however long it took (gamma = 1); the penalty of a premature stop, groups and budget
are the same.

Differences: gamma = 0.7 and c = 0.3 are inferred, the paper keeps its constants to itself. Pages are those of MiniWoB++
in a real browser instead of apps on emulated phones; the page itself says whether it was solved, where the paper asks a
model of 72 billion weights. Tasks come page by page, without self-exploration and without a curriculum by length. A
premature stop is a ``done`` before success; pages that end by a wrong click are failures without the penalty. A step in
which every group was left out learns from its rollouts as they are. The tiny size starts from demonstrations by a
script that sees the inside of the pages but scrolls in about half of its turns, though nothing is hidden, and sometimes
gives up: there are longer ways to success than needed, and stops to be unlearned. The base size has 3 billion weights
instead of 7.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from saccade.advantages.group import GroupNorm
from saccade.core.content import Content
from saccade.core.environment import Environment
from saccade.core.errors import ConfigError, DataError
from saccade.core.policy import Sampling
from saccade.core.random import numpy_generator
from saccade.core.reward import Reward, SampleReward
from saccade.core.schedule import Constant, Linear
from saccade.core.trajectory import Group, Trajectory
from saccade.envs.actions import Action
from saccade.envs.browsers import Browsers
from saccade.envs.miniwob import MiniWoB, MiniWoBEnvironment, MiniWoBExpert, MiniWoBTasks
from saccade.evaluate.episodes import EpisodeMetric, ParseFailureRate, Success
from saccade.evaluate.samples import Mean
from saccade.feeds.experts import ExpertDemonstrations, succeeded
from saccade.feeds.on_policy import OnPolicy, Select
from saccade.objectives.policy_gradient import PPOClip
from saccade.policies.token.hf import HFVisionLanguage
from saccade.policies.token.tiny import TinyVLM
from saccade.recipe import Ablation, Evaluation, Recipe, Size, Stage, Train, pick, recipe
from saccade.recipes.vla.screen import CHECKPOINT, THOUGHT, warm_up, written

PAGES = ("click-collapsible", "click-test", "focus-text-2")
SIDE, GRID = 80, 2
"""Pixels of the tiny size's pictures, half as many as the page has, and between the places that it has words for."""
LONGER = ("click-button-sequence", "click-collapsible", "click-tab-2", "click-checkboxes", "enter-text", "login-user")
SPOKEN = (
    "click", "button", "expand", "section", "submit", "focus", "into", "input", "textbox", "st", "nd", "rd", "scroll",
    "down", "done",
)  # fmt: skip
"""Words of the tiny size's pages and actions."""


@dataclass(frozen=True)
class Hesitant:
    """Does what another expert does, but scrolls now and then, though nothing is hidden, and sometimes gives up."""

    expert: MiniWoBExpert
    scroll: float = 0.45
    """Probability of a turn that is spent on scrolling."""
    stop: float = 0.1
    """Probability of a turn that ends the episode too early."""

    def __post_init__(self) -> None:
        if not (self.scroll >= 0 and self.stop >= 0 and self.scroll + self.stop < 1):
            raise ConfigError(f"scroll and stop must be >= 0 and below 1 in all, got {self.scroll} and {self.stop}")

    def outputs(self, environment: Environment) -> Content:
        if not isinstance(environment, MiniWoBEnvironment) or environment.task is None:
            raise DataError(f"this expert acts on pages of MiniWoB, got {type(environment).__name__}")
        drawn = numpy_generator(environment.task.info["seed"], "hesitant", environment.turn).random()
        if drawn < self.scroll:
            return written(Action("scroll", direction="down"))
        if drawn < self.scroll + self.stop:
            return written(Action("done"))
        return self.expert.outputs(environment)


@dataclass(frozen=True, kw_only=True)
class EfficientSuccess(SampleReward):
    """R = S gamma^(K / limit) - premature 1[last action ``done``, S = 0], with K turns."""

    gamma: float = 0.7
    """In (0, 1]: worth of a success that took ``limit`` turns; 1 leaves length out."""
    limit: int
    """Turns after which episodes are cut off."""
    premature: float = 0.3
    """Cost of stopping without success."""

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise ConfigError(f"gamma must be in (0, 1], got {self.gamma}")
        if self.limit < 1:
            raise ConfigError(f"limit must be >= 1, got {self.limit}")
        if not self.premature >= 0:
            raise ConfigError(f"premature must be >= 0, got {self.premature}")

    def score(self, trajectory: Trajectory) -> float | None:
        if not trajectory.turns:
            return None
        if succeeded(trajectory):
            return self.gamma ** (trajectory.num_turns / self.limit)
        action = trajectory.turns[-1].info.get("action")
        return -self.premature if action is not None and action["type"] == "done" else 0.0


@dataclass(frozen=True)
class SomeSucceed(Select):
    """Leave out groups in which all fail (MobGRPO)."""

    def keep(self, group: Group, rewards: Mapping[str, Reward]) -> bool:
        return any(succeeded(trajectory) for trajectory in group)


@dataclass(frozen=True)
class TurnsToSuccess(EpisodeMetric):
    """Mean number of turns of successful episodes; others have no row."""

    def measure(self, trajectory: Trajectory) -> float | None:
        return float(trajectory.num_turns) if succeeded(trajectory) else None


@dataclass(frozen=True)
class TurnsOrLimit(EpisodeMetric):
    """Mean number of turns; a failure counts as ``limit``, however soon it came."""

    limit: int

    def measure(self, trajectory: Trajectory) -> float:
        return float(trajectory.num_turns if succeeded(trajectory) else self.limit)


def _cloned(size: Size) -> dict[str, Stage]:
    """First from an expert that wastes nothing, so that actions are well formed; then from a hesitant one."""
    expert = MiniWoBExpert(grid=float(GRID))
    hesitant = ExpertDemonstrations(Hesitant(expert), count=128, batch=32, only_success=False)
    stages = {}
    for name, stage in warm_up(size, 600, groups=8).items():
        train = replace(stage.train, steps=240, lr=1e-3)
        stages[name] = replace(stage, feed=ExpertDemonstrations(expert, count=192, batch=32))
        stages["hesitation"] = replace(stage, feed=hesitant, train=train)
    return stages


@recipe(paper="2507.05720", pillar="vla")
def mobilegui_rl(size: Size = "tiny") -> Recipe:
    sampling = Sampling(max_actions=pick(size, tiny=8, base=512))
    limit = pick(size, tiny=6, base=12)
    browsers = Browsers(count=2, tabs=32)
    if size == "tiny":
        policy = TinyVLM(width=64, patch=16, side=SIDE, bins=SIDE // GRID, words=SPOKEN)
        env = MiniWoB(MiniWoBTasks(PAGES), limit, view="area", side=SIDE, keep=2, browsers=browsers)
    else:
        policy = HFVisionLanguage(CHECKPOINT, dtype="bfloat16")
        template = THOUGHT.replace("256 x 256", "448 x 448")
        env = MiniWoB(MiniWoBTasks(LONGER), limit, side=448, keep=4, template=template, browsers=browsers)
    reward = EfficientSuccess(gamma=0.7, limit=limit, premature=0.3)
    return Recipe(
        policy=policy,
        env=env,
        rewards={"outcome": reward},
        advantage=GroupNorm(eps=1e-6, ddof=1),
        average="group",
        objective={"pg": PPOClip(low=0.2, high=0.2)},
        feed=OnPolicy(sampling=sampling, select=SomeSucceed()),
        train=Train(
            steps=pick(size, tiny=30, base=300),
            groups=8,
            group_size=8,
            lr=pick(size, tiny=2e-4, base=1e-6),
            lr_schedule=pick(size, tiny=Linear(), base=Constant()),
        ),
        stages=_cloned(size),
        evaluation=Evaluation(
            sampling=sampling,
            limit=192,
            metrics={
                "success": Success(),
                "turns": TurnsOrLimit(limit),
                "turns_of_successes": TurnsToSuccess(),
                "worth": Mean(reward),
                "unreadable": ParseFailureRate(),
            },
        ),
        ablation=Ablation(
            metric="turns",
            without={"rewards.outcome.gamma": 1.0},
            higher=False,
            note="Failures count as the limit; success and the turns of successes alone are beside it. Pages, limit "
            "and demonstrator were changed after pilots on seed 0: in two neither arm learned, in two more the start "
            "wrote many actions that could not be read, and both arms mostly learned to write.",
        ),
    )
