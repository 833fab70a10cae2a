"""What the general methods are run on: DigitScenes with a small model, or the user's model, data and reward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from saccade.core.environment import EnvironmentSpec
from saccade.core.metric import Metric
from saccade.core.policy import CriticSpec, PolicySpec, Sampling
from saccade.core.reward import Reward
from saccade.core.schedule import Cosine
from saccade.envs.datasets.digits import DigitScenes
from saccade.envs.datasets.jsonl import JsonlTasks
from saccade.envs.single import SingleTurn
from saccade.evaluate.samples import Mean
from saccade.evaluate.states import KLDrift
from saccade.feeds.demonstrations import Demonstrations, Gold, Script
from saccade.objectives.regression import NLL
from saccade.policies.critic import TokenCritic
from saccade.policies.token.hf import HFVisionLanguage
from saccade.policies.token.hf_critic import HFTokenCritic
from saccade.policies.token.tiny import TinyVLM
from saccade.recipe import Ablation, Evaluation, Size, Stage, Train
from saccade.rewards.combine import Dispatch
from saccade.rewards.format import Tags
from saccade.rewards.geometry import BoxIoU
from saccade.rewards.user import UserFunction
from saccade.rewards.verify import ExactMatch

KINDS = ("read", "locate", "count")
CHECKPOINT = "Qwen/Qwen2.5-VL-3B-Instruct"


@dataclass(frozen=True)
class Setting:
    policy: PolicySpec
    env: EnvironmentSpec
    rewards: Mapping[str, Reward]
    metrics: Mapping[str, Metric]
    stages: Mapping[str, Stage]
    sampling: Sampling
    lr: float
    critic: CriticSpec
    headline: str
    """The metric that ablations look at."""

    @property
    def evaluation(self) -> Evaluation:
        """Held-out tasks, answered as in training: sampled at temperature 1, so that the policy itself is judged."""
        return Evaluation(sampling=self.sampling, metrics=self.metrics, limit=900)

    def ablation(self, without: Mapping[str, object], *, margin: float = 0.0, note: str = "") -> Ablation:
        """The claim that switching ``without`` on costs held-out reward."""
        return Ablation(metric=self.headline, without=without, margin=margin, note=note)


def sight(steps: int = 200) -> Stage:
    """A first look at digits: every part of the picture shows the same one, so that nothing has to be found.

    A pretrained model brings this along; without it a fresh network stays blind for thousands of steps, because where
    to look and what to see there cannot be learned one without the other.
    """
    return warm_up(steps, env=SingleTurn(DigitScenes(kinds=("crowd",), count=65536)))


def warm_up(steps: int = 500, *, env: EnvironmentSpec | None = None, script: Script = Gold()) -> Stage:
    """Supervised start on demonstrations, so that a randomly initialised model has something to say."""
    train = Train(steps=steps, groups=32, group_size=1, lr=2.5e-3, lr_schedule=Cosine(end=0.1, warmup=20))
    feed = Demonstrations(script=script)
    # Each answer counts once: the many tokens of a box would drown the one of a number.
    return Stage(feed=feed, objective={"nll": NLL()}, train=train, average="trajectory", rewards={}, env=env)


def setting(size: Size, model: str = "", data: str = "", reward: str = "") -> Setting:
    """Policy, tasks, rewards and metrics for a general method.

    Args:
        size: "tiny" is DigitScenes on a CPU; "base" is ``model`` (default Qwen2.5-VL-3B) on the user's ``data``.
        model: hub id or folder of a transformers image-text-to-text model; any value makes the policy that model.
        data: JSONL, JSON or parquet file; empty means DigitScenes (tiny) or ``train.jsonl`` (base).
        reward: ``FILE.py:function``; empty asks for the answer in ``<answer>`` tags and compares it with the data's.
    """
    real = bool(model) or size == "base"
    precision = "bfloat16" if size == "base" else "float32"
    policy = HFVisionLanguage(model or CHECKPOINT, dtype=precision) if real else TinyVLM()
    if data or real:
        tasks = JsonlTasks(data or "train.jsonl")
        path, _, name = reward.rpartition(":")
        scorer = UserFunction(path=path, name=name) if reward else ExactMatch()
        rewards, metrics = {"reward": scorer}, {"reward": Mean(scorer)}
        sampling = Sampling(max_actions=512 if real else 24)
        critic = HFTokenCritic() if real else TokenCritic()
        template = "{prompt}" if reward else "{prompt}\nGive the final answer inside <answer></answer>."
        env = SingleTurn(tasks, template=template)
        return Setting(policy, env, rewards, metrics, {}, sampling, 1e-6, critic, "reward")
    located, named = {"locate": BoxIoU(tag="box", field="box")}, {"read": ExactMatch(), "count": ExactMatch()}
    rewards = {
        "iou": Dispatch(by=located, otherwise=0.0),
        "exact": Dispatch(by=named, otherwise=0.0),
        "format": Tags(tags=("answer",), weight=0.2),
    }
    metrics = {"iou": Mean(Dispatch(by=located)), "accuracy": Mean(Dispatch(by=named)), "kl": KLDrift()}
    env = SingleTurn(DigitScenes(kinds=KINDS, digits=(1, 2), count=65536))
    stages = {"sight": sight(), "warm_up": warm_up()}
    return Setting(policy, env, rewards, metrics, stages, Sampling(max_actions=12), 5e-4, TokenCritic(), "accuracy")
