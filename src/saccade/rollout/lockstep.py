"""Advance all live trajectories one turn at a time: one batched ``act``, then one ``step`` of all environments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saccade.core.environment import EnvironmentSpec, Step
from saccade.core.errors import ContractError
from saccade.core.policy import Act, Actor, Sampling
from saccade.core.random import fold_in
from saccade.core.trajectory import Context, Group, Prompt, Task, Trajectory, Turn


@dataclass
class _Live:
    trajectory: Trajectory
    lane: int


def rollout(
    actor: Actor,
    env: EnvironmentSpec,
    tasks: Sequence[Task],
    *,
    group_size: int,
    sampling: Sampling,
    seeds: Sequence[int],
) -> list[Group]:
    """One group of finished trajectories per task.

    The members of a group start from the same state: every environment of the group is reset with the group's seed.
    The first turn of a group is one context sampled ``group_size`` times; later turns differ and are one context each.

    Args:
        actor: who acts.
        env: makes the environments; ``env.max_turns`` truncates.
        tasks: P tasks.
        group_size: trajectories per task.
        sampling: how to draw actions.
        seeds: P seeds, from which the seed of every trajectory and turn is derived.
    """
    vector = env.make_vector()
    try:
        starts = [(task, fold_in(seed, "reset")) for task, seed in zip(tasks, seeds, strict=True)]
        lanes = [start for start in starts for _ in range(group_size)]
        first = vector.reset([task for task, _ in lanes], [seed for _, seed in lanes])
        groups: list[Group] = []
        for p, (task, seed) in enumerate(zip(tasks, seeds, strict=True)):
            shown = first[p * group_size]
            prompt = Prompt(task, (*env.prompt(task), *(shown.content if shown is not None else ())))
            groups.append([Trajectory(prompt, seed=fold_in(seed, "member", i)) for i in range(group_size)])
        everyone = [trajectory for group in groups for trajectory in group]
        live = [_Live(trajectory, lane) for lane, trajectory in enumerate(everyone)]
        for k in range(env.max_turns):
            if not live:
                break
            acts = _first(actor, groups, sampling) if k == 0 else _later(actor, live, k, sampling)
            try:
                steps = vector.step([one.lane for one in live], [act.output for act in acts])
            except Exception as error:
                error.add_note(f"at turn {k}")
                raise
            played = zip(live, acts, steps, strict=True)
            live = [one for one, act, step in played if _advance(one.trajectory, act, step, k, env, actor.version)]
    finally:
        vector.close()
    return groups


def _first(actor: Actor, groups: Sequence[Group], sampling: Sampling) -> list[Act]:
    contexts = [Context(group[0].prompt) for group in groups]
    seeds = [fold_in(trajectory.seed, "turn", 0) for group in groups for trajectory in group]
    size = len(groups[0])
    answers = actor.act(contexts, n=size, sampling=sampling, seeds=seeds)
    if [len(acts) for acts in answers] != [size] * len(groups):
        raise ContractError(f"act returned {[len(acts) for acts in answers]} acts, expected {size} for each context")
    return [act for acts in answers for act in acts]


def _later(actor: Actor, live: Sequence[_Live], k: int, sampling: Sampling) -> list[Act]:
    contexts = [one.trajectory.context(k) for one in live]
    seeds = [fold_in(one.trajectory.seed, "turn", k) for one in live]
    return [acts[0] for acts in actor.act(contexts, n=1, sampling=sampling, seeds=seeds)]


def _advance(trajectory: Trajectory, act: Act, step: Step, k: int, env: EnvironmentSpec, version: int) -> bool:
    """Record one turn; whether the episode goes on."""
    turn = Turn(act.output, act.record, act.logp, act.mask, act.segment, version, None, step.reward, step.info)
    trajectory.turns.append(turn)
    over = step.terminated or step.truncated
    last = over or k + 1 == env.max_turns
    if not over and step.observation is None:
        raise ContractError(f"task {trajectory.task.id!r}, turn {k}: the environment gave no observation and no end")
    if not last:
        turn.observation = step.observation
        return True
    trajectory.final = step.observation
    if act.truncated:
        trajectory.stop = "budget"
    elif step.info.get("stop") == "invalid":
        trajectory.stop = "invalid"
    elif step.terminated:
        trajectory.stop = "done"
    else:
        trajectory.stop = "truncated"
    return False
