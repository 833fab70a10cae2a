"""Rows by hand: prompts are tokens 100+, observations 10+, actions 1 to 9."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saccade.core.batch import pack
from saccade.core.content import Text
from saccade.core.trajectory import Observation, Prompt, Task, Trajectory, Turn
from saccade.policies.token.record import TokenRecord
from saccade.policies.token.rows import Chunk, batch_rows, context_rows, padded, present


class NumberReader:
    """Text is a list of token ids; an observation's images are named after its ids."""

    def prompt(self, content):
        return Chunk(torch.tensor(numbers(content)))

    def observe(self, turn, observation):
        ids = numbers(observation.content) if observation is not None else []
        return Chunk(torch.tensor(ids, dtype=torch.int64), tuple(f"image {i}" for i in ids))


def numbers(content):
    return [int(word) for part in content for word in part.text.split()]


def show(*ids, keep=None):
    return Observation((Text(" ".join(map(str, ids))),), keep)


def start(*ids):
    content = (Text(" ".join(map(str, ids))),)
    return Prompt(Task(f"task-{ids}", content), content)


def turn(ids, answer=None, temperature=1.0):
    n = len(ids)
    record = TokenRecord(torch.tensor(ids, dtype=torch.int64), temperature)
    kind = torch.zeros(n, dtype=torch.int64)
    return Turn((), record, torch.zeros(n), torch.ones(n, dtype=torch.bool), kind, observation=answer)


def entries(rows):
    """(row, position that predicts, token) of each table entry."""
    names = (rows.trajectory, rows.column, rows.row, rows.at, rows.token)
    return {(n, t): (r, a, token) for n, t, r, a, token in zip(*(x.tolist() for x in names), strict=True)}


def test_a_growing_context_is_one_row_and_prompts_are_stored_once():
    """Row 0 is [1 2 | 10 11 | 3], row 1 is [4]: actions 1, 2 are predicted at the end of the prompt (-1) and at 0,
    action 3 at the observation's last position, 3."""
    a, b = start(100, 101), start(102)
    first = Trajectory(a, [turn([1, 2], show(10, 11)), turn([3])])
    second = Trajectory(a, [turn([4])])
    third = Trajectory(b, [turn([5, 6], temperature=0.5)])
    rows = batch_rows(pack([[first, second], [third]]), NumberReader(), pad=0)
    assert [chunk.ids.tolist() for chunk in rows.prefix] == [[100, 101], [102]]
    assert rows.prompt.tolist() == [0, 0, 1]
    assert rows.ids.tolist() == [[1, 2, 10, 11, 3], [4, 0, 0, 0, 0], [5, 6, 0, 0, 0]]
    assert rows.length.tolist() == [5, 1, 2]
    assert entries(rows) == {
        (0, 0): (0, -1, 1), (0, 1): (0, 0, 2), (0, 2): (0, 3, 3),
        (1, 0): (1, -1, 4), (2, 0): (2, -1, 5), (2, 1): (2, 0, 6),
    }  # fmt: skip
    assert rows.temperature.tolist() == [1, 1, 1, 1, 0.5, 0.5]
    assert rows.images == [("image 10", "image 11"), (), ()]
    assert rows.positions == 3 + 8


def test_a_context_cut_by_keep_starts_a_new_row():
    """keep=1 after turn 1: turn 2 sees the prompt and turn 1 alone. Turns 0 and 1 share a row (turn 1 saw turn 0)."""
    trajectory = Trajectory(start(100), [turn([1], show(10)), turn([2], show(11, keep=1)), turn([3, 4])])
    rows = batch_rows(pack([[trajectory]]), NumberReader())
    assert rows.ids.tolist() == [[1, 10, 2, 0], [2, 11, 3, 4]]
    assert rows.length.tolist() == [3, 4]
    assert entries(rows) == {(0, 0): (0, -1, 1), (0, 1): (0, 1, 2), (0, 2): (1, 1, 3), (0, 3): (1, 2, 4)}
    assert rows.images == [("image 10",), ("image 11",)]


def test_keep_that_cuts_nothing_off_does_not_start_a_new_row():
    """keep=1 after the first turn leaves that turn visible, so its context still grows."""
    trajectory = Trajectory(start(100), [turn([1], show(10, keep=1)), turn([2])])
    assert batch_rows(pack([[trajectory]]), NumberReader()).ids.tolist() == [[1, 10, 2]]


def test_keep_zero_shows_the_prompt_alone():
    trajectory = Trajectory(start(100), [turn([1], show(10, keep=0)), turn([2])])
    rows = batch_rows(pack([[trajectory]]), NumberReader())
    assert rows.ids.tolist() == [[1], [2]] and rows.at.tolist() == [-1, -1]


def test_the_final_state_is_after_the_last_action_or_what_was_shown_then():
    shown = Trajectory(start(100), [turn([1, 2])], final=show(10, 11))
    silent = Trajectory(start(101), [turn([3])])
    rows = batch_rows(pack([[shown], [silent]]), NumberReader(), final=True)
    assert rows.ids.tolist() == [[1, 2, 10, 11], [3, 0, 0, 0]]
    assert rows.final_row.tolist() == [0, 1] and rows.final_at.tolist() == [3, 0]
    assert entries(rows) == {(0, 0): (0, -1, 1), (0, 1): (0, 0, 2), (1, 0): (1, -1, 3)}


def test_the_final_observation_may_cut_the_context():
    trajectory = Trajectory(start(100), [turn([1], show(10)), turn([2])], final=show(11, keep=1))
    rows = batch_rows(pack([[trajectory]]), NumberReader(), final=True)
    assert rows.ids.tolist() == [[1, 10, 2], [2, 11, 0]]
    assert rows.final_row.tolist() == [1] and rows.final_at.tolist() == [1]


def test_turns_without_actions_take_no_column():
    trajectory = Trajectory(start(100), [turn([], show(10)), turn([1])])
    rows = batch_rows(pack([[trajectory]]), NumberReader())
    assert rows.ids.tolist() == [[10, 1]] and entries(rows) == {(0, 0): (0, 0, 1)}


def test_contexts_of_one_prompt_share_its_prefix():
    a, b = start(100), start(101)
    trajectory = Trajectory(a, [turn([1, 2], show(10)), turn([3])])
    rows = context_rows([trajectory.context(1), Trajectory(b).context(0), Trajectory(a).context(0)], NumberReader())
    assert [chunk.ids.tolist() for chunk in rows.prefix] == [[100], [101]]
    assert rows.prompt.tolist() == [0, 1, 0]
    assert rows.ids.tolist() == [[1, 2, 10], [0, 0, 0], [0, 0, 0]] and rows.length.tolist() == [3, 0, 0]
    assert len(rows.token) == 0


def test_contexts_without_turns_have_empty_suffixes():
    rows = context_rows([Trajectory(start(100)).context(0)], NumberReader())
    assert rows.ids.shape == (1, 0) and rows.positions == 1


def test_padding_is_on_the_right():
    table, length = padded([torch.tensor([1]), torch.tensor([2, 3])], pad=9)
    assert table.tolist() == [[1, 9], [2, 3]] and length.tolist() == [1, 2]
    assert present(length, 2).tolist() == [[True, False], [True, True]]


answers = st.one_of(st.none(), st.integers(0, 3))
episodes = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2), answers), min_size=1, max_size=5)


@given(st.lists(episodes, min_size=1, max_size=4), st.booleans())
def test_every_action_is_predicted_from_exactly_the_context_it_was_taken_in(plans, final):
    """Every token is unique, so that the tokens up to a position name the context; it must be what Trajectory.context
    says, written out turn by turn."""
    counter = iter(range(1, 10_000))
    trajectories = []
    for plan in plans:
        turns = [
            turn([next(counter) for _ in range(n)], show(*(next(counter) for _ in range(m)), keep=keep))
            for n, m, keep in plan
        ]
        turns[-1].observation = None
        trajectories.append(Trajectory(start(next(counter)), turns))
    batch = pack([[trajectory] for trajectory in trajectories])
    rows = batch_rows(batch, NumberReader(), final=final)
    found = entries(rows)
    assert len(found) == sum(trajectory.num_actions for trajectory in trajectories)
    for i, trajectory in enumerate(trajectories):
        column = 0
        for k, step in enumerate(trajectory.turns):
            visible = [
                token
                for before in trajectory.context(k).turns
                for token in before.record.ids.tolist() + numbers(before.observation.content)
            ]
            for j, token in enumerate(step.record.ids.tolist()):
                row, at, predicted = found[i, column]
                assert predicted == token and rows.prompt[row] == i
                assert rows.ids[row, : at + 1].tolist() == visible + step.record.ids[:j].tolist()
                column += 1


def test_rows_need_nothing_of_a_reader_but_its_two_methods():
    reader = SimpleNamespace(prompt=NumberReader().prompt, observe=NumberReader().observe)
    with pytest.raises(AttributeError):
        batch_rows(pack([[Trajectory(start(100), [turn([1])])]]), SimpleNamespace())
    assert batch_rows(pack([[Trajectory(start(100), [turn([1])])]]), reader).ids.tolist() == [[1]]
