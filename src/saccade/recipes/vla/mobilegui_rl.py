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
which every group was left out learns from its last round as it is. The tiny size starts from demonstrations by a script
that sees the inside of the pages, the base size has 3 billion weights instead of 7.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from saccade.advantages.group import GroupNorm
from saccade.core.errors import ConfigError
from saccade.core.policy import Sampling
from saccade.core.reward import Reward, SampleReward
from saccade.core.trajectory import Group, Trajectory
from saccade.envs.miniwob import MiniWoB, MiniWoBExpert, MiniWoBTasks
from saccade.evaluate.episodes import EpisodeMetric, ParseFailureRate, Success
from saccade.evaluate.samples import Mean
from saccade.feeds.experts import ExpertDemonstrations, succeeded
from saccade.feeds.on_policy import OnPolicy, Select
from saccade.objectives.policy_gradient import PPOClip
from saccade.policies.token.hf import HFVisionLanguage
from saccade.policies.token.tiny import TinyVLM
from saccade.recipe import Ablation, Evaluation, Recipe, Size, Train, pick, recipe
from saccade.recipes.vla.screen import CHECKPOINT, GRID, THOUGHT, warm_up

PAGES = ("click-test-2", "click-button", "click-dialog")
LONGER = (*PAGES, "click-tab-2", "click-checkboxes", "enter-text", "login-user")
SPOKEN = (
    "click", "on", "the", "button", "submit", "okay", "ok", "cancel", "previous", "close", "dialog", "clicking", "x",
    "type", "done",
)  # fmt: skip
"""Words of the tiny size's pages and actions."""


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


@recipe(paper="2507.05720", pillar="vla")
def mobilegui_rl(size: Size = "tiny") -> Recipe:
    sampling = Sampling(max_actions=pick(size, tiny=8, base=512))
    limit = pick(size, tiny=5, base=12)
    if size == "tiny":
        policy = TinyVLM(width=64, patch=16, side=160, bins=160 // GRID, words=SPOKEN)
        env = MiniWoB(MiniWoBTasks(PAGES), limit, view="area", side=160, keep=1)
    else:
        policy = HFVisionLanguage(CHECKPOINT, dtype="bfloat16")
        template = THOUGHT.replace("256 x 256", "448 x 448")
        env = MiniWoB(MiniWoBTasks(LONGER), limit, side=448, keep=4, template=template)
    experts = ExpertDemonstrations(MiniWoBExpert(grid=float(GRID)), count=192, batch=32)
    reward = EfficientSuccess(gamma=0.7, limit=limit, premature=0.3)
    return Recipe(
        policy=policy,
        env=env,
        rewards={"outcome": reward},
        advantage=GroupNorm(eps=1e-6, ddof=1),
        average="group",
        objective={"pg": PPOClip(low=0.2, high=0.2)},
        feed=OnPolicy(sampling=sampling, select=SomeSucceed(), refill=1),
        train=Train(steps=pick(size, tiny=40, base=300), groups=6, group_size=8, lr=pick(size, tiny=2e-4, base=1e-6)),
        stages={name: replace(stage, feed=experts) for name, stage in warm_up(size, 300).items()},
        evaluation=Evaluation(
            sampling=sampling,
            limit=90,
            metrics={
                "success": Success(),
                "turns": TurnsToSuccess(),
                "worth": Mean(reward),
                "unreadable": ParseFailureRate(),
            },
        ),
        ablation=Ablation(
            metric="turns",
            without={"rewards.outcome.gamma": 1.0},
            higher=False,
            note="Turns are those of successes; success itself is the other half of the claim.",
        ),
    )
