"""The same log-probabilities by the book: one trajectory at a time through the model's own forward, without a cache."""

import torch
from torch import Tensor

from saccade.core.batch import Batch
from saccade.core.trajectory import Trajectory
from saccade.policies.token.chat import IMAGE
from saccade.policies.token.hf_policy import HFVisionLanguagePolicy


def full_logits(policy: HFVisionLanguagePolicy, ids: Tensor, pictures: list) -> Tensor:
    """Logits ``[S, V]`` of one sequence, pictures given as the model's own processors would give them."""
    image_token = policy.base.config.image_token_id
    kind = policy.base.config.model_type
    inputs = {}
    if pictures:
        side = 1 if kind in ("idefics3", "smolvlm") else 0
        names = [name for name in pictures[0].tensors if name not in ("rows", "cols")]
        inputs = {name: torch.cat([picture.tensors[name] for picture in pictures], side) for name in names}
        inputs["pixel_values"] = inputs["pixel_values"].to(policy.base.dtype)
    if kind.startswith("qwen"):
        inputs["mm_token_type_ids"] = (ids == IMAGE).int()[None]
    policy.base.model.rope_deltas = None
    text = torch.where(ids == IMAGE, image_token, ids)[None]
    return policy.base(input_ids=text, attention_mask=torch.ones_like(text), **inputs).logits[0]


def plain_logp(policy: HFVisionLanguagePolicy, batch: Batch) -> Tensor:
    """``[N, T]`` log-probabilities, zero outside the mask."""
    rows = [trajectory_logp(policy, trajectory) for trajectory in batch.trajectories]
    table = torch.zeros(batch.mask.shape, dtype=rows[0].dtype)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return torch.where(batch.mask, table, 0.0)


def trajectory_logp(policy: HFVisionLanguagePolicy, trajectory: Trajectory) -> Tensor:
    parts = []
    for k, turn in enumerate(trajectory.turns):
        start = policy.reader.prompt(trajectory.prompt.content)
        ids, pictures = [start.ids], list(start.images)
        for earlier in trajectory.context(k).turns:
            answer = policy.reader.observe(earlier, earlier.observation)
            ids += [earlier.record.ids, answer.ids]
            pictures += answer.images
        length = sum(map(len, ids))
        logits = full_logits(policy, torch.cat([*ids, turn.record.ids]), pictures)[length - 1 : -1]
        logp = torch.log_softmax(logits / turn.record.temperature, -1)
        parts.append(logp.gather(1, turn.record.ids[:, None])[:, 0])
    return torch.cat(parts)
