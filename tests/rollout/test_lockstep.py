from dataclasses import replace

import pytest
import torch

from letters import LetterGame, Letters, LetterTasks, RightLetters
from saccade.core.errors import ContractError
from saccade.core.policy import LocalActor, Sampling
from saccade.core.reward import Reward, Score
from saccade.rollout.lockstep import rollout
from saccade.rollout.score import score

TASKS = LetterTasks()


def roll(env: LetterGame, *, tasks: int = 2, group_size: int = 3, seed: int = 0, actor: LocalActor | None = None):
    actor = actor or LocalActor(Letters().build(torch.device("cpu")), version=7)
    seeds = [seed + i for i in range(tasks)]
    chosen = [TASKS[i] for i in range(tasks)]
    return rollout(actor, env, chosen, group_size=group_size, sampling=Sampling(), seeds=seeds)


def texts(groups) -> list[list[str]]:
    return [[turn.output[0].text for turn in t.turns] for group in groups for t in group]


def test_group_members_share_one_prompt_and_differ_in_seed():
    groups = roll(LetterGame(TASKS))
    for group in groups:
        assert len({id(t.prompt) for t in group}) == 1
        assert len({t.seed for t in group}) == 3


def test_equal_seeds_give_equal_trajectories_whatever_else_is_in_the_batch():
    env = LetterGame(TASKS, max_turns=3)
    assert texts(roll(env, tasks=1)) == texts(roll(env, tasks=2))[:3]
    assert texts(roll(env)) == texts(roll(env))
    assert texts(roll(env)) != texts(roll(env, seed=5))


def test_episode_ends_when_the_task_is_over_or_after_the_last_turn():
    env = LetterGame(TASKS, max_turns=4)
    groups = roll(env, group_size=40)
    stops = {t.stop for group in groups for t in group}
    assert stops == {"done", "truncated"}
    for group in groups:
        for t in group:
            solved = t.text == t.task.target * 3
            assert t.stop == ("done" if solved else "truncated")
            assert t.num_turns == 4 or solved
            assert all(turn.observation is not None for turn in t.turns[:-1])
            assert t.turns[-1].observation is None
            assert t.final is not None


def test_turns_keep_what_the_environment_paid_and_noted_and_who_acted():
    (group,) = roll(LetterGame(TASKS), tasks=1)
    for t in group:
        (turn,) = t.turns
        assert turn.reward == turn.info["right"] == turn.output[0].text.count("a")
        assert turn.version == 7


def test_observation_that_keeps_turns_shortens_the_context():
    trajectory = roll(LetterGame(TASKS, max_turns=4, keep=1), tasks=1, group_size=40)[0]
    long = next(t for t in trajectory if t.num_turns == 4)
    assert [long.context(k).index for k in range(5)] == [0, 1, 1, 1, 1]
    assert not long.grows
    grown = next(t for t in roll(LetterGame(TASKS, max_turns=4), tasks=1, group_size=40)[0] if t.num_turns == 4)
    assert [grown.context(k).index for k in range(4)] == [0, 1, 2, 3]
    assert grown.grows


def test_first_turn_of_all_groups_is_one_call():
    policy = Letters().build(torch.device("cpu"))
    roll(LetterGame(TASKS), actor=LocalActor(policy))
    assert policy.calls == 1


class Breaks(LetterGame):
    def make(self):
        game = super().make()
        game.step = lambda output: (_ for _ in ()).throw(RuntimeError("the game is broken"))
        return game


def test_exception_of_the_environment_stops_the_run_and_names_the_task():
    with pytest.raises(RuntimeError, match="broken") as caught:
        roll(Breaks(TASKS))
    assert "letters-0" in caught.value.__notes__[0]


def test_scores_are_filled_and_group_scope_sees_one_group_at_a_time():
    seen: list[int] = []

    class Ranks(Reward):
        scope = "group"

        def __call__(self, trajectories):
            seen.append(len(trajectories))
            return [Score(float(i), note="rank") for i in range(len(trajectories))]

    groups = roll(LetterGame(TASKS))
    score(groups, {"right": RightLetters(), "rank": Ranks()})
    assert seen == [3, 3]
    assert [t.scores["rank"].value for t in groups[1]] == [0.0, 1.0, 2.0]
    assert all(0 <= t.scores["right"].value <= 1 for t in groups[0])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda ts: [1.0], "returned 1 scores for 6"),
        (lambda ts: ["x"] * len(ts), "expected a number, a Score or None, got str"),
        (lambda ts: [float("nan")] * len(ts), "expected a finite number, got nan"),
    ],
)
def test_reward_that_breaks_its_contract_is_named(answer, message):
    class Bad(Reward):
        def __call__(self, trajectories):
            return answer(trajectories)

    with pytest.raises(ContractError, match=message):
        score(roll(LetterGame(TASKS)), {"bad": Bad()})


def test_none_stays_unscored():
    class Silent(Reward):
        def __call__(self, trajectories):
            return [None] * len(trajectories)

    groups = roll(LetterGame(TASKS))
    score(groups, {"silent": Silent()})
    assert groups[0][0].scores["silent"].value is None


def test_spec_prompt_precedes_the_first_observation():
    class Shows(LetterGame):
        def make(self):
            game = super().make()
            inner = game.reset

            def reset(task, seed):
                from saccade.core.content import Text
                from saccade.core.trajectory import Observation

                inner(task, seed)
                return Observation((Text(f"state {seed}"),))

            game.reset = reset
            return game

    group = roll(Shows(TASKS), tasks=1)[0]
    first, second = group[0].prompt.content
    assert first.text == "say a"
    assert second.text.startswith("state ")


def test_contexts_of_a_shortened_trajectory_do_not_share_turns_with_replaced_ones():
    env = replace(LetterGame(TASKS, max_turns=3), keep=0)
    group = roll(env, tasks=1, group_size=40)[0]
    long = next(t for t in group if t.num_turns == 3)
    assert long.context(2).turns == ()
