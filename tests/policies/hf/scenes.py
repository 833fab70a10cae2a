"""Small contexts and trajectories: pictures of noise, prompts of different lengths, turns answered with a picture."""

import numpy as np

from saccade.core.batch import Batch, pack
from saccade.core.content import Image, Text, Video
from saccade.core.policy import Act, Sampling
from saccade.core.trajectory import Context, Observation, Prompt, Task, Trajectory, Turn
from saccade.policies.token.hf_policy import HFVisionLanguagePolicy


def picture(seed: int, height: int = 40, width: int = 56) -> Image:
    return Image(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def prompts() -> list[Prompt]:
    """One picture, no picture, two pictures of different shapes, a clip: four lengths."""
    clip = Video(np.random.default_rng(9).integers(0, 256, (3, 24, 24, 3), dtype=np.uint8))
    contents = {
        "one": (Text("which digit is in"), picture(0), Text("?")),
        "none": (Text("answer with one number ."),),
        "two": (picture(1, 30, 30), Text("or"), picture(2, 70, 40), Text("which is the larger number ?")),
        "clip": (clip, Text("how many ?")),
    }
    return [Prompt(Task(name, ()), content) for name, content in contents.items()]


def drawn(
    policy: HFVisionLanguagePolicy, contexts: list[Context], n: int, sampling: Sampling, seed: int
) -> list[list[Act]]:
    """Samples without image tokens, which the plain forward pass would take for pictures."""
    image_token = policy.base.config.image_token_id
    while True:
        seeds = range(seed, seed + n * len(contexts))
        acts = policy.act(contexts, n=n, sampling=sampling, seeds=seeds)
        if not any((act.record.ids == image_token).any() for some in acts for act in some):
            return acts
        seed += 1000


def turn(act: Act, observation: Observation | None = None) -> Turn:
    return Turn(act.output, act.record, act.logp, act.mask, act.segment, observation=observation)


def rolled_out(
    policy: HFVisionLanguagePolicy,
    *,
    sizes: tuple[int, ...] = (3, 1, 2, 2),
    sampling: Sampling = Sampling(max_actions=6),
) -> Batch:
    """One turn for each prompt; groups of these sizes."""
    groups = []
    for p, (prompt, size) in enumerate(zip(prompts(), sizes, strict=True)):
        acts = drawn(policy, [Context(prompt)], size, sampling, 10 * p)[0]
        groups.append([Trajectory(prompt, [turn(act)]) for act in acts])
    return pack(groups)


def episodes(policy: HFVisionLanguagePolicy, *, turns: int = 3, keep: int | None = None, shown: bool = True) -> Batch:
    """Two groups of episodes; a picture and a word, or a word alone, answer each turn but the last."""
    groups = [[Trajectory(prompt) for _ in range(2)] for prompt in prompts()[::2]]
    everyone = [trajectory for group in groups for trajectory in group]
    for k in range(turns):
        contexts = [trajectory.context(k) for trajectory in everyone]
        for i, acts in enumerate(drawn(policy, contexts, 1, Sampling(max_actions=4), 100 * k)):
            content = (Text("now"), picture(50 * k + i, 24 + 8 * i, 32)) if shown and i != 1 else (Text("no picture"),)
            last = k + 1 == turns
            everyone[i].turns.append(turn(acts[0], None if last else Observation(content, keep)))
    return pack(groups)
