"""Screens: what is asked for is what pays, targets are exact, apps have a short way and a long one."""

import pickle

import numpy as np
import pytest

from saccade.core.content import Image, Text
from saccade.core.errors import ConfigError
from saccade.envs.screens import CLICK, COLOURS, KINDS, SCROLL, TYPE, Apps, AppTasks, Look, Screens, ScreenTasks
from saccade.testing import check_environment

SMALL = Look(size=256, icon=3)


def say(action: str):
    return (Text(f"<answer>{action}</answer>"),)


@pytest.mark.parametrize(
    "spec",
    [
        Screens(),
        Screens(ScreenTasks(look=SMALL, words=0, typing=0, scrolling=0), template="Task: {prompt}."),
        Apps(),
        Apps(AppTasks(pages=3, detour=6, shortcut=False), max_turns=6, keep=None),
        Apps(AppTasks(pages=6, detour=7, look=Look(size=128, icons=5))),
    ],
)
def test_environment_keeps_its_contract(spec):
    check_environment(spec, n=12)


@pytest.mark.parametrize("look", [Look(), Look(icon=3), SMALL, Look(size=192, icon=42, icons=5)])
def test_widgets_lie_on_the_screen_two_pixels_apart(look):
    program = Screens(ScreenTasks(look=look, buttons=1)).make_vector()
    program.reset_arrays(np.arange(200))
    boxes = program.boxes(slice(None))
    assert boxes.min() >= 1 and boxes.max() <= look.size - 1
    x1, y1, x2, y2 = np.moveaxis(boxes, -1, 0)
    apart = (x2[:, :, None] + 2 <= x1[:, None]) | (y2[:, :, None] + 2 <= y1[:, None])
    apart |= apart.transpose(0, 2, 1) | np.eye(boxes.shape[1], dtype=bool)
    assert apart.all()


@pytest.mark.parametrize("look", [Look(), Look(icon=3), SMALL])
def test_the_box_holds_the_pixels_of_the_target_and_only_those(look):
    """A square fills its box; pixels around it are background."""
    spec = Screens(ScreenTasks(look=look, words=0, typing=0, scrolling=0))
    found = 0
    for task in spec.tasks[:60]:
        if not task.info["instruction"].endswith("square"):
            continue
        colour = COLOURS[task.info["instruction"].split()[2]]
        (picture,) = spec.make().reset(task, 0).content
        x1, y1, x2, y2 = map(int, task.target["box"])
        assert (x2 - x1, y2 - y1) == (look.icon, look.icon)
        is_colour = (picture.pixels == colour).all(axis=-1)
        assert is_colour[y1:y2, x1:x2].all()
        assert not is_colour[y1 - 1 : y2 + 1, x1 - 1 : x2 + 1].sum() > look.icon**2
        found += 1
    assert found > 5


def test_shapes_differ_at_three_pixels():
    program = Screens(ScreenTasks(look=Look(icon=3))).make_vector()
    program.reset_arrays(np.arange(1))
    from saccade.envs.screens import SHAPES, _shape

    assert len({_shape(name, 3).tobytes() for name in SHAPES}) == len(SHAPES)
    assert all(_shape(name, side).any() for name in SHAPES for side in range(3, 20))


def test_no_two_icons_and_no_two_words_of_a_screen_are_alike():
    program = Screens().make_vector()
    program.reset_arrays(np.arange(500))
    looks = np.sort(program.state["look"][:, 0, :4], axis=1)
    assert (np.diff(looks) > 0).all()
    words = program.state["look"][:, 0, 4:6]
    assert (words[:, 0] != words[:, 1]).all() and words.min() >= 2


def test_a_typed_word_stands_on_no_button():
    program = Screens(ScreenTasks(typing=1, words=0, scrolling=0)).make_vector()
    program.reset_arrays(np.arange(300))
    assert (program.state["asked"][:, None] != program.state["look"][:, 0, 4:6]).all()


def test_shares_decide_the_kinds_of_instruction():
    """2,000 tasks; the standard error of a share of 0.1 is 0.0067."""
    tasks = ScreenTasks(words=0.1, typing=0.3, scrolling=0.0)
    kinds = tasks.kinds(np.arange(2000, dtype=np.uint64))
    shares = np.bincount(kinds, minlength=4) / 2000
    np.testing.assert_allclose(shares, [0.6, 0.1, 0.3, 0.0], atol=0.04)
    assert shares[3] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_instruction_pays_its_gold_and_nothing_else(kind):
    shares = {"words": 0.0, "typing": 0.0, "scrolling": 0.0}
    if kind != "icon":
        shares[{"word": "words", "type": "typing", "scroll": "scrolling"}[kind]] = 1.0
    spec = Screens(ScreenTasks(**shares))
    environment = spec.make()
    for task in spec.tasks[:20]:
        assert task.info["kind"] == kind
        for output, right in [(task.gold[0], True), (say("click 0 0"), False), (say("type nothing"), False)]:
            environment.reset(task, 0)
            step = environment.step(output)
            assert (step.reward, step.terminated, step.info["success"]) == (float(right), True, right)
        environment.reset(task, 0)
        step = environment.step((Text("<answer>jump</answer>"),))
        assert step.terminated and step.info["valid"] is False and step.info["action"] is None


def test_a_click_hits_from_the_left_upper_edge_up_to_the_right_lower_one():
    spec = Screens(ScreenTasks(words=0, typing=0, scrolling=0))
    task = spec.tasks[0]
    x1, y1, x2, y2 = task.target["box"]
    environment = spec.make()
    for x, y, hit in [(x1, y1, 1), (x2 - 0.01, y2 - 0.01, 1), (x2, y1, 0), (x1, y2, 0), (x1 - 0.01, y1, 0)]:
        environment.reset(task, 0)
        assert environment.step(say(f"click {x} {y}")).reward == hit


def test_the_action_is_noted_for_rewards():
    environment = Screens().make()
    environment.reset(Screens().tasks[0], 0)
    step = environment.step(say("click 3 4.5"))
    assert step.info["action"] == {"type": "click", "point": (3.0, 4.5), "text": None, "direction": None}
    assert step.info["valid"] is True


def test_words_are_compared_without_case_and_outer_blanks():
    spec = Screens(ScreenTasks(typing=1, words=0, scrolling=0))
    task = spec.tasks[0]
    environment = spec.make()
    environment.reset(task, 0)
    assert environment.step(say(f"type  {task.target['text'].upper()} ")).reward == 1


def walk(spec: Apps, index: int, way):
    environment = spec.make()
    environment.reset(spec.tasks[index], 0)
    return [environment.step(output) for output in way]


def long_way(tasks: AppTasks, index: int):
    """Page by page: the gold of the same app without its shortcut differs in layout, so it is put together here."""
    program = Apps(tasks).make_vector()
    program.reset([tasks[index]], [0])
    icons = tasks.look.icons
    for page in range(tasks.pages - 1):
        program.state["page"][:] = page
        if page < tasks.scrolls:
            yield say("scroll down")
        x1, y1, x2, y2 = program.boxes(slice(None))[0, icons]
        yield say(f"click {(x1 + x2) // 2} {(y1 + y2) // 2}")
    yield tasks[index].gold[-2]
    yield say("done")


@pytest.mark.parametrize("index", range(5))
def test_the_goal_is_reached_in_three_steps_or_in_eight(index):
    spec = Apps()
    short = walk(spec, index, spec.tasks[index].gold)
    assert [step.reward for step in short] == [0, 0, 1] and short[-1].info["success"] and short[-1].terminated
    long = walk(spec, index, long_way(spec.tasks, index))
    assert [step.reward for step in long] == [0] * 7 + [1]
    assert [step.info["milestones"] for step in long] == [0, 1, 1, 2, 3, 4, 5, 6] and long[0].info["total"] == 6
    events = [step.info["event"] for step in long]
    assert events == ["scrolled", "page 1", "scrolled", "page 2", "page 3", "page 4", "selected", "done"]
    assert [step.info["shortest"] for step in long] == [3] * 8 and long[-1].info["path"] == 8


def test_without_shortcut_the_gold_takes_the_detour():
    tasks = AppTasks(pages=4, detour=7, shortcut=False)
    assert [len(task.gold) for task in tasks[:10]] == [7] * 10
    steps = walk(Apps(tasks), 0, tasks[0].gold)
    assert steps[-1].info["success"] and steps[-1].info["milestones"] == steps[-1].info["total"] == 5


def test_the_next_page_cannot_be_reached_before_scrolling():
    spec = Apps(AppTasks(pages=3, detour=6))
    way = list(long_way(spec.tasks, 0))
    steps = walk(spec, 0, [way[1], way[0], say("scroll up"), way[1], way[0], way[1]])
    assert [step.info["page"] for step in steps] == [0, 0, 0, 0, 0, 1]
    assert [step.info["event"] for step in steps][:5] == ["nothing", "scrolled", "scrolled", "nothing", "scrolled"]


def test_finishing_at_once_ends_the_episode_without_success():
    (step,) = walk(Apps(), 0, [say("done")])
    assert step.terminated and not step.info["success"] and step.reward == 0 and step.info["milestones"] == 0


def test_a_malformed_output_shows_the_same_page_again():
    spec = Apps()
    environment = spec.make()
    first = environment.reset(spec.tasks[0], 0)
    step = environment.step((Text("<answer>"),))
    assert step.info["valid"] is False and not step.terminated
    np.testing.assert_array_equal(step.observation.content[0].pixels, first.content[0].pixels)


def test_the_selected_icon_is_framed_and_a_wrong_one_does_not_succeed():
    spec = Apps()
    task = spec.tasks[0]
    program = spec.make_vector()
    program.reset([task], [0])
    before = program.step([0], [task.gold[0]])[0]
    place = int(program.state["place"][0])
    wrong = (place + 1) % 4
    x1, y1, x2, y2 = program.boxes(slice(None))[0, wrong]
    step = program.step([0], [say(f"click {x1 + 3} {y1 + 3}")])[0]
    assert step.info["event"] == "selected other"
    changed = (before.observation.content[0].pixels != step.observation.content[0].pixels).any(axis=-1)
    ys, xs = np.nonzero(changed)
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == (x1 - 1, y1 - 1, x2, y2)
    end = program.step([0], [say("done")])[0]
    assert end.terminated and not end.info["success"]


def test_milestones_do_not_fall_on_the_way_back():
    spec = Apps(AppTasks(pages=3, detour=4))
    program = spec.make_vector()
    program.reset([spec.tasks[0]], [0])
    x1, y1, *_ = program.boxes(slice(None))[0, 4]
    there = program.step([0], [say(f"click {x1} {y1}")])[0]
    x1, y1, *_ = program.boxes(slice(None))[0, 5]
    back = program.step([0], [say(f"click {x1} {y1}")])[0]
    assert (there.info["page"], back.info["page"]) == (1, 0)
    assert there.info["milestones"] == back.info["milestones"] == 1


def test_array_actions_are_those_of_text():
    program = Screens().make_vector()
    rows = [program.read(say(text), 0)[0][0].tolist() for text in ("click 34 50", "type save", "type x", "scroll down")]
    assert rows == [[CLICK, 34, 50], [TYPE, 6, 0], [TYPE, -1, 0], [SCROLL, 1, 0]]


def test_pictures_are_pixels_and_states_in_range():
    for spec in (Screens(), Apps()):
        program = spec.make_vector()
        assert isinstance(program.reset(spec.tasks[:2], [0, 0])[0].content[0], Image)
        states = program.states(slice(None))
        assert states.dtype == np.float32 and states.min() >= 0 and states.max() <= 1


def test_splits_share_no_task():
    for tasks in (ScreenTasks(count=50), AppTasks(count=50)):
        held_out = tasks.split("test")
        assert not {t.id for t in tasks} & {t.id for t in held_out}
        assert not {t.info["seed"] for t in tasks} & {t.info["seed"] for t in held_out}


def test_tasks_can_be_pickled():
    task = pickle.loads(pickle.dumps(AppTasks()[3]))
    assert task.info == AppTasks()[3].info


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Look(size=100), "look.size must be 64, 128, 192 or 256, got 100"),
        (lambda: Look(icon=2), "look.icon must be in 3 .. 14"),
        (lambda: Look(icons=6), "look.icons must be in 1 .. 5"),
        (lambda: ScreenTasks(words=0.6, typing=0.6), "sum to 1 at most"),
        (lambda: ScreenTasks(buttons=3), "tasks.buttons must be in 1 .. 2"),
        (lambda: ScreenTasks(answer="x"), "tasks.answer must contain"),
        (lambda: AppTasks(pages=2), "tasks.pages must be in 3 .. 6"),
        (lambda: AppTasks(pages=3), "tasks.detour must be in 4 .. 6 with 3 pages"),
        (lambda: Apps(max_turns=0), "env.max_turns must be >= 1"),
        (lambda: Screens(max_turns=2), "env.max_turns must be 1"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
