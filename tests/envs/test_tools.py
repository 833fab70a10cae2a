import time
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.core.content import Image, Text, Video, frames_of, text_of
from saccade.core.environment import Environment, Step, Tasks
from saccade.core.errors import ConfigError
from saccade.core.trajectory import Task
from saccade.envs import drawing
from saccade.envs.tools import (
    ActionCalls,
    Call,
    Crop,
    DrawBox,
    DrawLine,
    DrawPoint,
    Final,
    JSONCalls,
    Malformed,
    Misplaced,
    TagCalls,
    Tool,
    ToolEnvironment,
    Unchanged,
    Zoom,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
PICTURE = Image(PIXELS)
FORMATS = (TagCalls(), ActionCalls(), JSONCalls(), JSONCalls(tag="tool_call"))
NAMES = {"box": 0, "Object Mapper": 1}.keys()  # as the environment passes them


@dataclass(frozen=True)
class OnePicture(Tasks):
    def __len__(self):
        return 1

    def task(self, index):
        return Task("t", (PICTURE, Text("what?")))

    def split(self, name):
        return self


def start(task=None, **settings):
    spec = ToolEnvironment(OnePicture(), **settings)
    environment = spec.make()
    environment.reset(task or spec.tasks[0], 0)
    return environment


def say(environment: Environment, text: str) -> Step:
    return environment.step((Text(text),))


def seen(step: Step) -> list[np.ndarray]:
    assert step.observation is not None
    return frames_of(step.observation.content)


def said(step: Step) -> str:
    assert step.observation is not None
    return text_of(step.observation.content)


def made(tool: Tool, **arguments) -> np.ndarray:
    """Pixels of what the tool made of the picture."""
    result = tool(PICTURE, arguments)
    assert result.image is not None, result.refused
    return result.image.pixels


# --- formats ---


@pytest.mark.parametrize(
    ("form", "text", "calls"),
    [
        (TagCalls(), "<think>a <box>[9,9]</box></think> <box>[1,2,3,4]</box>", (Call("box", (1, 2, 3, 4)),)),
        (TagCalls(), "<box> 1, 2 ,3.5 , -4 </box>", (Call("box", (1, 2, 3.5, -4)),)),
        (
            ActionCalls(),
            '<think>I look.</think>\nAction: Object Mapper\n```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "a"}]\n```',
            (Call("Object Mapper", {"bbox_2d": [1, 2, 3, 4], "label": "a"}),),
        ),
        (
            ActionCalls(),
            'action: object  mapper [{"box": [1,2,3,4]}, {"box": [5,6,7,8]}]',
            (Call("Object Mapper", {"box": [1, 2, 3, 4]}), Call("Object Mapper", {"box": [5, 6, 7, 8]})),
        ),
        (
            JSONCalls(),
            '<tool>{"name": "box", "arguments": {"box": [1,2,3,4]}}</tool> '
            '<tool> {"name": "Object Mapper", "arguments": {}} </tool>',
            (Call("box", {"box": [1, 2, 3, 4]}), Call("Object Mapper", {})),
        ),
    ],
)
def test_published_formats_are_read(form, text, calls):
    assert form(text, NAMES) == calls


@pytest.mark.parametrize("form", FORMATS)
def test_an_answer_ends_whatever_stands_beside_it(form):
    assert form("<box>[1,2,3,4]</box> <answer>7</answer>", NAMES) == Final(True)
    assert form("<answer>7", NAMES) == Final(False)
    assert form("</answer><answer>", NAMES) == Final(False)
    assert form("<answer>7</answer><answer>8</answer>", NAMES) == Final(False)


@pytest.mark.parametrize("form", FORMATS)
def test_an_answer_that_is_only_thought_of_does_not_end(form):
    assert isinstance(form("<think>maybe <answer>7</answer></think>", NAMES), Malformed)


@pytest.mark.parametrize(
    ("form", "text", "reason"),
    [
        (TagCalls(), "", "no call"),
        (TagCalls(), "<box>[1,2,3,4]", "once"),
        (TagCalls(), "<box>1,2,3,4</box><box>1,2,3,4</box>", "once"),
        (TagCalls(), "<box>1,2,3,4</box><Object Mapper>1</Object Mapper>", "more than one"),
        (TagCalls(), "<box>one</box>", "numbers"),
        (TagCalls(), "<box></box>", "numbers"),
        (ActionCalls(), "nothing", "no action"),
        (ActionCalls(), "Action: Path Tracer []", "there is no action 'path tracer'"),
        (ActionCalls(), "Action: Object Mapper", "JSON"),
        (ActionCalls(), "Action: Object Mapper []", "JSON"),
        (ActionCalls(), "Action: Object Mapper [1]", "JSON"),
        (ActionCalls(), "Action: Object Mapper [" + ",".join(["{}"] * 17) + "]", "more than 16"),
        (JSONCalls(), "<tool>{}</tool>", "expected"),
        (JSONCalls(), '<tool>{"name": "box", "arguments": {}}', "expected"),
        (JSONCalls(), '<tool>{"name": "crop", "arguments": {}}</tool>', "there is no tool 'crop'"),
        (JSONCalls(), '<tool>{"name": ["box"], "arguments": {}}</tool>', "there is no tool"),
        (JSONCalls(), '<tool>{"name": "box", "arguments": {}}</tool>' * 17, "more than 16"),
    ],
)
def test_what_is_malformed_is_told_why(form, text, reason):
    reading = form(text, NAMES)
    assert isinstance(reading, Malformed) and reason in reading.reason


@pytest.mark.parametrize("form", FORMATS)
@given(
    pieces=st.lists(
        st.sampled_from(
            ["<box>", "</box>", "<tool>", "</tool>", "<answer>", "</answer>", "</think>", "Action:", "Object Mapper",
             "[", "]", "{", "}", '"name"', '"arguments"', ":", ",", '"box"', "1", "1e999", "NaN", "-", "\\",
             "```json", "\x00"]
        )
        | st.text(max_size=5),
        max_size=30,
    )
)  # fmt: skip
def test_no_text_makes_a_format_raise(form, pieces):
    form("".join(pieces), NAMES)


@pytest.mark.parametrize(
    "piece", ["<tool>", "<tool>[", "[", "{", "Action:", "Action: Object Mapper", "<box>", "9", '{"a":']
)
@pytest.mark.parametrize("form", FORMATS)
def test_long_texts_are_read_in_bounded_time(form, piece):
    began = time.perf_counter()
    form(piece * (400_000 // len(piece)), NAMES)
    form("<tool>" + piece * (400_000 // len(piece)) + "</tool>", NAMES)
    assert time.perf_counter() - began < 5.0


# --- tools ---


def test_crop_shows_the_pixels_of_the_box():
    np.testing.assert_array_equal(made(Crop(min_side=1), box=(10.0, 5.0, 30.0, 35.0)), PIXELS[5:35, 10:30])


def test_small_crops_are_enlarged_until_the_shorter_side_is_large_enough():
    """A box of 7 x 14 becomes 28 x 56: factor 4."""
    assert made(Crop(), box=(0.0, 0.0, 7.0, 14.0)).shape == (56, 28, 3)


def test_crop_of_a_given_size_is_square():
    assert made(Crop(size=16), box=(0.0, 0.0, 40.0, 20.0)).shape == (16, 16, 3)


def test_zoom_shows_the_surroundings():
    """The box 20,10,40,20 grows by half to 15,7.5,45,22.5, rounded outward 15,7,45,23, and doubles."""
    shown = made(Zoom(factor=2, context=1.5), box=(20.0, 10.0, 40.0, 20.0))
    np.testing.assert_array_equal(shown, drawing.resize(PIXELS[7:23, 15:45], 60, 32))


@pytest.mark.parametrize("tool", [Crop(), Zoom(), DrawBox(), Unchanged(Crop()), Misplaced()])
@pytest.mark.parametrize("box", [(5.0, 5.0, 5.0, 9.0), (9.0, 5.0, 5.0, 9.0), (64.0, 0.0, 70.0, 9.0)])
def test_an_empty_box_is_refused(tool, box):
    result = tool(PICTURE, {"box": box})
    assert result.image is None and "empty or outside" in result.refused


def test_slivers_are_refused():
    wide = Image(np.zeros((4, 200, 3), np.uint8))
    assert "thin" in Crop()(wide, {"box": (0.0, 0.0, 101.0, 2.0)}).refused
    assert Crop()(wide, {"box": (0.0, 0.0, 100.0, 2.0)}).image


def test_drawing_tools_draw_what_they_are_told():
    box = (4.0, 4.0, 20.0, 20.0)
    plain = made(DrawBox(thickness=1), box=box)
    np.testing.assert_array_equal(plain, drawing.outline(PIXELS, box))
    assert (made(DrawBox(thickness=1), box=box, label="a") != plain).any()
    line = made(DrawLine(thickness=1), start=(0.0, 0.0), end=(64.0, 40.0))
    assert line[0, 0].tolist() == [255, 0, 0] and line[39, 63].tolist() == [0, 0, 255]
    assert (made(DrawPoint(radius=1), point=(8.0, 8.0)) != PIXELS).any(2).sum() == 4


@pytest.mark.parametrize(
    ("tool", "edits"),
    [(DrawBox(), True), (Unchanged(DrawBox()), True), (Crop(), False), (Zoom(), False), (Misplaced(), False)],
)
def test_drawings_take_the_place_of_the_picture_and_crops_do_not(tool, edits):
    result = tool(PICTURE, {"box": (4.0, 4.0, 20.0, 20.0)})
    assert result.edits == edits
    assert not edits or result.image.pixels.shape == PIXELS.shape


def test_lines_and_points_outside_are_refused():
    assert DrawLine()(PICTURE, {"start": (0.0, 0.0), "end": (65.0, 0.0)}).refused
    assert DrawPoint()(PICTURE, {"point": (-1.0, 3.0)}).refused


def test_unchanged_shows_the_picture_as_it_was():
    result = Unchanged(DrawBox())(PICTURE, {"box": (1.0, 1.0, 9.0, 9.0)})
    assert result.image is PICTURE and result.edits


def test_misplaced_shows_another_place_of_the_same_size_that_the_call_cannot_steer():
    tool = Misplaced(Crop(min_side=1))
    first = made(tool, box=(0.0, 0.0, 20.0, 10.0))
    assert first.shape == (10, 20, 3)
    np.testing.assert_array_equal(first, made(tool, box=(30.0, 20.0, 50.0, 30.0)))
    assert (first != PIXELS[0:10, 0:20]).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Crop(size=0), "crop.size"),
        (lambda: Crop(min_side=0), "crop.min_side"),
        (lambda: Zoom(factor=0.5), "zoom.factor"),
        (lambda: Zoom(context=0.5), "zoom.context"),
        (lambda: DrawBox(thickness=0), "draw.thickness"),
        (lambda: DrawLine(thickness=0), "draw.thickness"),
        (lambda: DrawPoint(radius=0), "draw.radius"),
        (lambda: Misplaced(DrawLine()), "misplaced.tool"),
        (lambda: ToolEnvironment(OnePicture(), tools={}), "env.tools"),
        (lambda: ToolEnvironment(OnePicture(), tools={"answer": Crop()}), "env.tools"),
        (lambda: ToolEnvironment(OnePicture(), view=0), "env.view"),
        (lambda: ToolEnvironment(OnePicture(), max_turns=0), "env.max_turns"),
        (lambda: ToolEnvironment(OnePicture(), patience=-1), "env.patience"),
        (lambda: ToolEnvironment(OnePicture(), template=""), "env.template"),
    ],
)
def test_settings_out_of_range_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


# --- episodes ---


def test_a_crop_comes_back_and_the_answer_ends():
    environment = start(tools={"box": Crop(min_side=1)}, caption="here")
    step = say(environment, "<think>there</think><box>[10,5,30,35]</box>")
    (pixels,) = seen(step)
    np.testing.assert_array_equal(pixels, PIXELS[5:35, 10:30])
    assert said(step) == "here" and not step.terminated and not step.truncated
    call = {"tool": "box", "box": (10.0, 5.0, 30.0, 35.0), "image": 0}
    assert step.info == {"valid": True, "tool": "box", "call": (call,), "original": (call,)}
    end = say(environment, "<answer>7</answer>")
    assert end.terminated and end.info["valid"] and end.info["tool"] is None


def test_coordinates_are_those_of_the_picture_the_policy_saw():
    """64 x 40 is shown as 16 x 10: the box 2,1,6,5 is 8,4,24,20 at full resolution, which is shown as 16 x 16."""
    environment = start(tools={"box": Crop(min_side=1)}, view=16)
    step = say(environment, "<box>2,1,6,5</box>")
    np.testing.assert_array_equal(seen(step)[0], drawing.resize(PIXELS[4:20, 8:24], 16, 16))
    assert step.info["call"][0]["box"] == (2, 1, 6, 5)
    assert step.info["original"][0]["box"] == (8, 4, 24, 20)


def test_the_prompt_is_shown_at_view_resolution_and_says_its_size():
    spec = ToolEnvironment(OnePicture(), view=16, template="{width} x {height}: {prompt}")
    content = spec.prompt(spec.tasks[0])
    (frame,) = frames_of(content)
    assert frame.shape == (10, 16, 3) and text_of(content) == "16 x 10: what?"


def test_drawings_stay_and_crops_do_not_replace_the_picture():
    environment = start(tools={"draw": DrawBox(thickness=1), "crop": Crop(min_side=1)})
    say(environment, "<crop>0,0,10,10</crop>")
    say(environment, "<draw>4,4,20,20</draw>")
    step = say(environment, "<crop>0,0,30,30</crop>")
    expected = drawing.outline(PIXELS, (4, 4, 20, 20))[0:30, 0:30]
    np.testing.assert_array_equal(seen(step)[0], expected)


def test_of_several_drawings_on_a_picture_the_last_state_is_shown():
    environment = start(tools={"Object Mapper": DrawBox(thickness=1)}, calls=ActionCalls())
    step = say(environment, 'Action: Object Mapper [{"bbox_2d": [1,1,9,9]}, {"bbox_2d": [20,20,30,30]}]')
    expected = drawing.outline(drawing.outline(PIXELS, (1, 1, 9, 9)), (20, 20, 30, 30))
    (pixels,) = seen(step)
    np.testing.assert_array_equal(pixels, expected)
    assert [call["box"] for call in step.info["call"]] == [(1, 1, 9, 9), (20, 20, 30, 30)]


def test_an_output_is_carried_out_whole_or_not_at_all():
    environment = start(tools={"Object Mapper": DrawBox(thickness=1), "crop": Crop(min_side=1)}, calls=ActionCalls())
    step = say(environment, 'Action: Object Mapper [{"bbox_2d": [1,1,9,9]}, {"bbox_2d": [99,1,100,9]}]')
    assert not step.info["valid"] and "outside" in said(step)
    after = say(environment, 'Action: crop [{"box": [0,0,30,30]}]')
    np.testing.assert_array_equal(seen(after)[0], PIXELS[0:30, 0:30])


def test_reset_forgets_drawings():
    environment = start(tools={"draw": DrawBox(thickness=1), "crop": Crop(min_side=1)})
    say(environment, "<draw>4,4,20,20</draw>")
    environment.reset(OnePicture()[0], 0)
    step = say(environment, "<crop>0,0,64,40</crop>")
    np.testing.assert_array_equal(seen(step)[0], PIXELS)


def test_a_call_names_the_picture_it_means():
    other = Image(255 - PIXELS)
    task = Task("t", (PICTURE, Video(np.stack([PIXELS, other.pixels])), Text("?")))
    environment = start(task, tools={"crop": Crop(min_side=1)}, calls=JSONCalls())
    step = say(environment, '<tool>{"name": "crop", "arguments": {"box": [0,0,9,9], "image": 2}}</tool>')
    np.testing.assert_array_equal(seen(step)[0], other.pixels[:9, :9])
    step = say(environment, '<tool>{"name": "crop", "arguments": {"box": [0,0,9,9], "image": 3}}</tool>')
    assert step.info["problem"] == "image takes the number of a picture, 0 to 2"


@pytest.mark.parametrize(
    "arguments",
    [
        "{}", '{"box": [1,2,3]}', '{"box": [1,2,3,"4"]}', '{"box": [1,2,3,true]}', '{"box": [1,2,3,NaN]}',
        '{"box": [1,2,3,1e999]}', '{"box": 7}', '{"box": {"x": 1}}', '{"box": [1,2,3,4], "image": 1.0}',
        '{"box": [1,2,3,4], "image": true}', '{"box": [1,2,3,4], "image": -1}', '{"box": [1,2,3,9999999]}',
        '{"box": [1,2,3,1' + "0" * 400 + "]}", '{"box": [1,2,3,1' + "0" * 5000 + "]}",
        '{"box": [1,2,3,4], "image": null}',
    ],
)  # fmt: skip
def test_unusable_arguments_are_explained(arguments):
    environment = start(tools={"crop": Crop()}, calls=JSONCalls())
    step = say(environment, f'<tool>{{"name": "crop", "arguments": {arguments}}}</tool>')
    assert not step.info["valid"] and step.info["problem"] in said(step)


def test_a_task_without_pictures_has_nothing_to_look_at():
    step = say(start(Task("t", (Text("?"),))), "<box>1,2,3,4</box>")
    assert step.info["problem"] == "there is no picture"


def test_patience_counts_malformed_outputs():
    environment = start(patience=1, explanation="no")
    first = say(environment, "what?")
    assert said(first) == "no" and not first.terminated
    say(environment, "<box>0,0,9,9</box>")
    second = say(environment, "what?")
    assert second.terminated and second.info["stop"] == "invalid" and not second.info["valid"]
