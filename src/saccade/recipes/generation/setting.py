"""What the methods of image generation are run on: shape scenes with a small generator, or a diffusers model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from saccade.core.content import Text
from saccade.core.environment import EnvironmentSpec, Split, Tasks
from saccade.core.errors import ConfigError
from saccade.core.metric import Metric
from saccade.core.optimiser import AdamW
from saccade.core.policy import PolicySpec
from saccade.core.schedule import WarmupStableDecay
from saccade.core.trajectory import Task
from saccade.envs.datasets import shapes
from saccade.envs.datasets.images import DigitImages
from saccade.envs.datasets.shapes import Kind, ShapeScenes
from saccade.envs.single import SingleTurn
from saccade.evaluate.images import FrechetDistance, PixelDiversity
from saccade.evaluate.samples import Mean
from saccade.feeds.demonstrations import Demonstrations
from saccade.objectives.regression import NLL
from saccade.policies.denoise.hub import Diffusers
from saccade.policies.denoise.noise import Diffusion
from saccade.policies.denoise.tiny import TinyDiffusion, TinyFlow
from saccade.policies.lora import LoRA
from saccade.recipe import Evaluation, Recipe, Size, Stage, Train
from saccade.rewards.classifier import Classifier, ClassifierConfidence, ClassReading
from saccade.rewards.combine import Sum
from saccade.rewards.features import ClassifierFeatures
from saccade.rewards.image import Brightness
from saccade.rewards.preference import Preference, PreferenceModel
from saccade.rewards.shapes import SceneSoft, SceneStrict

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SD35 = "stabilityai/stable-diffusion-3.5-medium"
COMPOSED: tuple[Kind, ...] = ("colour", "count", "two", "relation")
"""Kinds of caption that name a colour."""
DIFFUSION = TinyDiffusion(process=Diffusion(schedule="squaredcos_cap_v2", prediction="v"))
FLOW = TinyFlow()
Family = Literal["diffusion", "flow"]
DIGITS = 320
"""Test digits that are drawn and compared with."""


@dataclass(frozen=True)
class Captions(Tasks):
    """The different captions of shape scenes without their pictures, each one task: no one picture is the solution.

    Ids are stable, so that a task's history is its caption's. Kinds take turns as long as they last.
    """

    kinds: tuple[Kind, ...] = COMPOSED
    most: int = 12
    """Captions of each kind; 0: all."""
    part: Split | Literal["all"] = "train"

    def __post_init__(self) -> None:
        if self.most < 0:
            raise ConfigError(f"tasks.most must be >= 0, got {self.most}")
        ShapeScenes(kinds=self.kinds, part=self.part)

    def _chosen(self) -> list[shapes.Caption]:
        columns = [shapes.captions(kind, self.part) for kind in self.kinds]
        if self.most:
            columns = [column[:: max(1, len(column) // self.most)][: self.most] for column in columns]
        longest = max(map(len, columns))
        return [column[i] for i in range(longest) for column in columns if i < len(column)]

    def __len__(self) -> int:
        return len(self._chosen())

    def split(self, name: Split) -> Captions:
        return replace(self, part=name)

    def task(self, index: int) -> Task:
        caption = self._chosen()[index]
        info = {"kind": caption.kind, "caption": caption.text}
        return Task(f"caption/{caption.text}", (Text(caption.text),), caption.target, info=info)


def family(name: Family, size: Size, **settings: Any) -> PolicySpec:
    """The generator of this family, drawing and scored as the settings say; at base size with LoRA."""
    if size == "tiny":
        return replace(DIFFUSION if name == "diffusion" else FLOW, **settings)
    model, guidance = (SD15, 5.0) if name == "diffusion" else (SD35, 4.5)
    return Diffusers(**{"model": model, "lora": LoRA(rank=32, alpha=64.0), "guidance": guidance, **settings})


def pretrained(name: Family, size: Size, steps: int = 1400) -> Mapping[str, Stage]:
    """What stands in for a pretrained model at the tiny size: matching on drawn scenes of all captions.

    Held-out captions are held out of reinforcement learning only, as those of a pretrained model are. All recipes with
    the same family and seed share the result. It is weak on purpose: single objects mostly work, counting sometimes,
    relations seldom.
    """
    if size == "base":
        return {}
    policy = DIFFUSION if name == "diffusion" else FLOW
    train = Train(
        steps=steps,
        groups=64,
        group_size=1,
        micro_size=2**15,
        lr=2e-3,
        lr_schedule=WarmupStableDecay(decay=0.4, warmup=50),
        optimiser=AdamW(betas=(0.9, 0.99)),
    )
    stage = Stage(
        feed=Demonstrations(),
        objective={"nll": NLL()},
        train=train,
        average="action",
        env=SingleTurn(ShapeScenes(count=2**16, kinds=COMPOSED, part="all")),
        rewards={},
        policy=policy,
    )
    return {"pretraining": stage}


def scenes(kinds: tuple[Kind, ...] = COMPOSED) -> EnvironmentSpec:
    """Captions with drawn solutions; the test split's captions are never trained on."""
    return SingleTurn(ShapeScenes(kinds=kinds))


def captions(kinds: tuple[Kind, ...] = COMPOSED, most: int = 12) -> EnvironmentSpec:
    """Some captions again and again, without solutions."""
    return SingleTurn(Captions(kinds, most))


def evaluation(
    metrics: Mapping[str, Metric] | None = None,
    kinds: tuple[Kind, ...] = COMPOSED,
    *,
    part: Split | Literal["all"] = "test",
) -> Evaluation:
    """Held-out captions, two pictures each, drawn deterministically in more steps than training takes.

    ``accuracy`` is the strict verifier's, ``soft`` gives partial credit; ``diversity`` stands beside them because a
    policy that has collapsed can please any verifier.
    """
    own = {"accuracy": Mean(SceneStrict()), "soft": Mean(SceneSoft()), "diversity": PixelDiversity()}
    tasks = ShapeScenes(kinds=kinds, part=part)
    return Evaluation(tasks=tasks, limit=240, n=2, metrics={**own, **(metrics or {})})


def placed(recipe: Recipe, world: str) -> Recipe:
    """The tiny recipe as it is in the world of shapes, or on real handwriting ("digits").

    On handwriting the generator learns captions like ``a seven`` from scikit-learn's training digits, and a classifier
    of the same digits, of which the generator sees the confidence only, is the reward. Held out are a second classifier
    (``reading``), trained from another seed, and the Fréchet distance of its features to the test digits.

    Raises:
        ConfigError: another world, or digits at base size.
    """
    if world == "shapes":
        return recipe
    if world != "digits":
        raise ConfigError(f'world must be "shapes" or "digits", got {world!r}')
    if not recipe.stages:
        raise ConfigError('world "digits" is there for the tiny size only')
    digits, unseen = DigitImages(), DigitImages(part="test")
    confidence = ClassifierConfidence(classifier=Classifier(tasks=digits))
    second = Classifier(tasks=digits, seed=1)
    metrics = {
        "confidence": Mean(confidence),
        "reading": Mean(ClassReading(classifier=second)),
        "frechet": FrechetDistance(ClassifierFeatures(second), unseen, n=DIGITS),
        "diversity": PixelDiversity(),
    }
    pretraining = replace(recipe.stages["pretraining"], env=SingleTurn(DigitImages(count=2**16)))
    return replace(
        recipe,
        env=SingleTurn(digits),
        rewards={"confidence": confidence},
        stages={"pretraining": pretraining},
        evaluation=Evaluation(tasks=unseen, limit=DIGITS // 2, n=2, metrics=metrics),
        ablation=None if recipe.ablation is None else replace(recipe.ablation, metric="reading"),
    )


def taste() -> Sum:
    """What simulated annotators like: the right objects, and bright pictures besides. The verifier alone is gold."""
    return Sum(terms=(SceneSoft(), Brightness()))


def preference() -> Preference:
    """A reward model learned from comparisons by these annotators; what it gains by brightness alone is a hack."""
    return Preference(model=PreferenceModel(tasks=ShapeScenes(kinds=COMPOSED), taste=taste()))
