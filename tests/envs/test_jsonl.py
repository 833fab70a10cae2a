import base64
import io
import json
import pickle

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image as Picture

from saccade.core.config import from_dict, to_dict
from saccade.core.content import Image, Text, Video, frames_of
from saccade.core.errors import ConfigError, DataError
from saccade.envs.datasets.jsonl import JsonlTasks

RED, GREEN = (250, 0, 0), (0, 250, 0)


def encoded(colour=RED, kind="PNG", size=(6, 4)):
    buffer = io.BytesIO()
    Picture.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "red.png").write_bytes(encoded(RED))
    (tmp_path / "images" / "green.png").write_bytes(encoded(GREEN))
    return tmp_path


def write(folder, rows, name="data.jsonl"):
    path = folder / name
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return JsonlTasks(str(path), held_out=0)


def only(folder, row, name="data.jsonl"):
    (task,) = write(folder, [row], name)
    return task


def shape(content):
    """Text as it is, pictures as the colours of their first pixel."""
    told = []
    for part in content:
        if isinstance(part, Text):
            told.append(part.text)
        elif isinstance(part, Image):
            told.append(tuple(part.pixels[0, 0].tolist()))
        else:
            assert isinstance(part, Video)
            told.append([tuple(frame[0, 0].tolist()) for frame in part.frames])
    return told


RED_FILE, GREEN_FILE = "images/red.png", "images/green.png"
STORED = {"bytes": encoded(RED), "path": "anything.png"}
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "<image>What colour?"}]


@pytest.mark.parametrize("name", ["data.jsonl", "data.json", "data.parquet"])
def test_native_rows_are_read_from_every_kind_of_file(folder, name):
    task = only(folder, {"image": RED_FILE, "prompt": "What colour?", "answer": "red", "level": 3}, name)
    assert shape(task.prompt) == [RED, "What colour?"]
    assert task.target == {"answer": "red"} and task.gold == ()
    assert task.info == {"columns": {"level": 3}}
    assert task.id == f"{name}/1"
    assert [frame.shape for frame in frames_of(task.prompt)] == [(4, 6, 3)]


LAYOUTS = {
    "TRL": ({"prompt": "What colour?", "image": STORED, "solution": "red"}, [RED, "What colour?"]),
    "TRL chat": (
        {
            "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What colour?"}]}],
            "images": [STORED],
            "answer": "red",
        },
        [RED, "What colour?"],
    ),
    "EasyR1": ({"problem": "<image>What colour?", "images": [STORED], "answer": "red"}, [RED, "What colour?"]),
    "verl": (
        {
            "prompt": CHAT,
            "images": [STORED],
            "reward_model": {"style": "rule", "ground_truth": "red"},
            "data_source": "colours",
        },
        ["Be brief.\n", RED, "What colour?"],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_of_other_trainers_are_read_unchanged(folder, layout):
    row, expected = LAYOUTS[layout]
    task = only(folder, row, "data.parquet")
    assert shape(task.prompt) == expected
    assert task.target == {"answer": "red"}


def test_other_columns_are_kept(folder):
    row, _ = LAYOUTS["verl"]
    assert only(folder, row, "data.parquet").info["columns"] == {"data_source": "colours"}
    task = only(folder, {"prompt": "?", "answer": 1, "kind": "locate", "extra": None})
    assert task.info == {"kind": "locate", "columns": {"kind": "locate", "extra": None}}


@pytest.mark.parametrize(
    "source",
    [
        RED_FILE,
        {"path": RED_FILE, "bytes": None},
        {"path": None, "bytes": encoded()},
        encoded(kind="BMP"),
        "data:image/png;base64," + base64.b64encode(encoded()).decode(),
    ],
)
def test_pictures_come_in_many_forms(folder, source):
    name = "data.parquet" if isinstance(source, bytes | dict) else "data.jsonl"
    assert shape(only(folder, {"prompt": "?", "image": source}, name).prompt) == [RED, "?"]


def test_pictures_stand_where_the_text_says(folder):
    row = {"prompt": "from <image> to <image>?", "images": [RED_FILE, GREEN_FILE]}
    assert shape(only(folder, row).prompt) == ["from ", RED, " to ", GREEN, "?"]


def test_paths_are_relative_to_the_image_root(folder):
    path = str(folder / "data.jsonl")
    (folder / "data.jsonl").write_text(json.dumps({"prompt": "?", "image": "red.png"}))
    tasks = JsonlTasks(path, held_out=0, image_root=str(folder / "images"))
    assert shape(tasks[0].prompt) == [RED, "?"]


def test_videos_are_frames_or_animations(folder):
    frames = only(folder, {"prompt": "<video>?", "videos": [[RED_FILE, GREEN_FILE]]})
    assert shape(frames.prompt) == [[RED, GREEN], "?"]
    first, second = (Picture.new("RGB", (6, 4), colour) for colour in (RED, GREEN))
    first.save(folder / "clip.gif", save_all=True, append_images=[second], duration=250)
    video, _ = only(folder, {"prompt": "?", "video": "clip.gif"}).prompt
    assert isinstance(video, Video) and video.frames.shape == (2, 4, 6, 3) and video.fps == 4.0


def test_transparency_palettes_and_orientation_become_upright_rgb(folder):
    Picture.new("RGBA", (6, 4), (*RED, 10)).save(folder / "rgba.png")
    Picture.new("P", (6, 4)).save(folder / "p.png")
    exif = Picture.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    Picture.new("RGB", (6, 4), RED).save(folder / "turned.jpg", exif=exif)
    task = only(folder, {"prompt": "?", "images": ["rgba.png", "p.png", "turned.jpg"]})
    assert [frame.shape for frame in frames_of(task.prompt)] == [(4, 6, 3), (4, 6, 3), (6, 4, 3)]


def test_of_a_chat_the_last_turn_is_asked_and_the_assistants_reply_is_gold(folder):
    row = {
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "<image>first"},
            {"role": "assistant", "content": "over"},
            {"role": "user", "content": "second"},
            {"role": "user", "content": "third <image>"},
            {"role": "assistant", "content": "reply"},
        ],
        "images": [RED_FILE, GREEN_FILE],
    }
    task = only(folder, row)
    assert shape(task.prompt) == [RED, "S\nsecond\nthird ", GREEN]
    assert task.gold == ((Text("reply"),),) and task.target == {"answer": "reply"}
    assert only(folder, {**row, "answer": 4}).target == {"answer": 4}


def test_a_message_may_hold_its_own_picture(folder):
    parts = [{"type": "text", "text": "what? "}, {"type": "image", "image": GREEN_FILE}]
    assert shape(only(folder, {"messages": [{"role": "user", "content": parts}]}).prompt) == ["what? ", GREEN]


def test_completions_are_gold(folder):
    task = only(folder, {"prompt": "?", "completion": [{"role": "assistant", "content": "so"}], "answer": "s"})
    assert task.gold == ((Text("so"),),) and task.target == {"answer": "s"} and task.info == {"columns": {}}


def test_sides_of_a_preference_are_texts(folder):
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "good"}]
    task = only(folder, {"prompt": "?", "chosen": chat, "rejected": "bad"})
    assert task.info["chosen"] == "good" and task.info["rejected"] == "bad" and task.target is None


@pytest.mark.parametrize("answer", ["a", 3, 2.5, True, [1, 2, 3, 4], [[1, 2, 3, 4], [5, 6, 7, 8]], []])
def test_answers_keep_their_type(folder, answer):
    target = only(folder, {"prompt": "?", "answer": answer}).target
    assert target == {"answer": answer} and type(target["answer"]) is type(answer)


def test_pictures_are_decoded_when_a_task_is_drawn(folder):
    (folder / "broken.png").write_bytes(encoded()[:40])
    tasks = write(folder, [{"prompt": "?", "image": RED_FILE}, {"prompt": "?", "image": "broken.png"}])
    assert len(tasks) == 2 and shape(tasks[0].prompt) == [RED, "?"]
    with pytest.raises(DataError, match=r"data.jsonl: row 2: image: found 'broken.png', which cannot be read"):
        tasks[1]


def test_the_parts_are_disjoint_complete_and_stable(folder):
    path = str(folder / "data.jsonl")
    write(folder, [{"prompt": str(i)} for i in range(40)])
    train, test = JsonlTasks(path), JsonlTasks(path).split("test")
    ids = [{task.id for task in part} for part in (train, test)]
    assert len(test) == 2 and len(train) == 38 and not ids[0] & ids[1]
    assert {task.id for task in JsonlTasks(path, part="test", held_out=0.5)} > ids[1]
    numbers = [int(task.id.rpartition("/")[2]) for task in train]
    assert numbers == sorted(numbers)


def test_a_file_of_two_rows_can_be_evaluated(folder):
    write(folder, [{"prompt": "a"}, {"prompt": "b"}])
    tasks = JsonlTasks(str(folder / "data.jsonl"))
    assert len(tasks) == len(tasks.split("test")) == 1


def test_making_pickling_and_writing_the_task_set_do_not_touch_the_file():
    tasks = JsonlTasks("nowhere.jsonl")
    assert pickle.loads(pickle.dumps(tasks)) == tasks and from_dict(to_dict(tasks)) == tasks


def test_a_file_that_changes_is_read_again(folder):
    assert len(write(folder, [{"prompt": "a"}])) == 1
    assert len(write(folder, [{"prompt": "a"}, {"prompt": "b"}])) == 2


def test_blank_lines_are_skipped_and_counted(folder):
    (folder / "data.jsonl").write_text('\ufeff{"prompt": "a"}\n\n \n{"prompt": "b\u2028c"}\n', encoding="utf-8")
    tasks = JsonlTasks(str(folder / "data.jsonl"), held_out=0)
    assert [task.id for task in tasks] == ["data.jsonl/1", "data.jsonl/4"]


NO_TEXT = {"question": "?", "answer": 1}
WRONG = {
    "no text": (NO_TEXT, "row 2: prompt: found the columns question, answer, expected one of prompt, messages, prob"),
    "no object": ([1], r"row 2: row: found \[1\], expected an object"),
    "empty text": ({"prompt": " "}, "row 2: prompt: found empty text, expected a question"),
    "text of another type": ({"prompt": 7}, "row 2: prompt: found 7, expected text or a list of chat messages"),
    "missing image": ({"prompt": "?", "image": "no.png"}, "row 2: image: found no file '.*no.png', expected a picture"),
    "a folder": ({"prompt": "?", "image": "images"}, "row 2: image: found no file"),
    "a name that is none": ({"prompt": "?", "image": "x" * 5000}, "row 2: image: found no file"),
    "a null in a name": ({"prompt": "?", "image": "a\x00b"}, "row 2: image: found no file"),
    "missing image in a list": (
        {"prompt": "?", "images": [RED_FILE, "no.png"]}, r"row 2: images\[1\]: found no file",
    ),
    "missing frame": ({"prompt": "?", "video": [RED_FILE, "no.png"]}, "row 2: video: found no file"),
    "no frames": ({"prompt": "?", "video": []}, "row 2: video: found an empty list, expected at least one frame"),
    "an address": ({"prompt": "?", "image": "https://x.org/a.png"}, "row 2: image: found .*, expected a local file"),
    "number for an image": ({"prompt": "?", "image": 5}, "row 2: image: found 5, expected an image"),
    "mapping without picture": ({"prompt": "?", "image": {"url": "a"}}, "row 2: image: found null, expected an image"),
    "one image where a list is due": ({"prompt": "?", "images": "a.png"}, "row 2: images: found 'a.png', expected"),
    "bad base64": ({"prompt": "?", "image": "data:image/png;base64,@@"}, "row 2: image: found a data URI that is not"),
    "no base64": ({"prompt": "?", "image": "data:image/png,abc"}, "row 2: image: found 'data:image/png,abc', expected"),
    "more marks than images": (
        {"prompt": "<image><image>", "images": [RED_FILE]}, r"row 2: prompt: found 2 <image> and 1 image\(s\)",
    ),
    "a mark without image": ({"prompt": "<image>?"}, r"row 2: prompt: found 1 <image> and 0 image\(s\)"),
    "answer null": ({"prompt": "?", "answer": None}, "row 2: answer: found null, expected text, a number"),
    "answer mapping": ({"prompt": "?", "answer": {"a": 1}}, "row 2: answer: found {'a': 1}, expected text, a number"),
    "solution": ({"prompt": "?", "solution": [None]}, r"row 2: solution: found \[None\], expected"),
    "no ground truth": ({"prompt": "?", "reward_model": {}}, "row 2: reward_model: found {}, expected .* ground_truth"),
    "ground truth": (
        {"prompt": "?", "reward_model": {"ground_truth": None}}, "row 2: reward_model.ground_truth: found null",
    ),
    "empty chat": ({"messages": []}, r"row 2: messages: found \[\], expected"),
    "no role": ({"messages": [{"content": "a"}]}, r"row 2: messages\[0\]: found .*, expected a chat message"),
    "no content": ({"messages": [{"role": "user"}]}, r"row 2: messages\[0\].content: found null, expected text"),
    "no user": ({"messages": [{"role": "assistant", "content": "a"}]}, "row 2: messages: found no message by the user"),
    "unknown part": (
        {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
        r"row 2: messages\[0\].content\[0\]: found .*audio.*, expected a part of type",
    ),
    "own image missing": (
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "no.png"}]}]},
        r"row 2: messages\[0\].content\[0\].image: found no file",
    ),
    "completion": ({"prompt": "?", "completion": 4}, "row 2: completion: found 4, expected text or"),
    "chosen": (
        {"prompt": "?", "chosen": [{"role": "user", "content": "a"}], "rejected": "b"},
        "row 2: chosen: found .*, expected .*assistant",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_errors_name_file_row_field_found_and_expected_on_one_line(folder, case):
    row, message = WRONG[case]
    with pytest.raises(DataError, match=message) as caught:
        len(write(folder, [{"prompt": "fine"}, row]))
    assert "\n" not in str(caught.value) and "data.jsonl" in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.jsonl", b"", "found no rows, expected at least one"),
        ("data.jsonl", b"\n\n", "found no rows"),
        ("data.json", b"[]", "found no rows"),
        ("data.jsonl", b'{"prompt": "a"}\n{"prompt": \n', "row 2: found bad JSON .*, expected one JSON object"),
        ("data.jsonl", b"[" * 100_000, "row 1: found bad JSON"),
        ("data.jsonl", b'{"prompt": "\xff"}', "found bytes that are no text at offset 12, expected UTF-8"),
        ("data.json", b'{"prompt": "a"}', "found {'prompt': 'a'}, expected a list of rows"),
        ("data.json", b"[", "found bad JSON .*, expected a list of rows"),
        ("data.parquet", b"PAR1", "found a file that cannot be read .*, expected parquet data"),
    ],
)
def test_files_that_hold_no_rows_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        len(JsonlTasks(str(tmp_path / name)))
    assert str(caught.value).startswith(str(tmp_path / name)) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone.jsonl: found no such file, expected"):
        len(JsonlTasks(str(tmp_path / "gone.jsonl")))


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "data.jsonl").mkdir()
    with pytest.raises(DataError, match=r"data.jsonl: found a file that cannot be read"):
        len(JsonlTasks(str(tmp_path / "data.jsonl")))


def test_an_empty_part_is_an_error(folder):
    tasks = write(folder, [{"prompt": "a"}])
    with pytest.raises(DataError, match=r"found 1 row\(s\) and held_out=0, expected at least one row in the test part"):
        len(tasks.split("test"))


def test_frames_of_different_sizes_are_no_video(folder):
    (folder / "wide.png").write_bytes(encoded(size=(9, 4)))
    tasks = write(folder, [{"prompt": "?", "video": [RED_FILE, "wide.png"]}])
    with pytest.raises(
        DataError, match="row 1: video: found frames of sizes 6 x 4, 9 x 4, expected frames of one size"
    ):
        tasks[0]


@pytest.mark.parametrize("content", [b"no picture", encoded()[:-30], b""], ids=["text", "cut off", "empty"])
def test_unreadable_pictures_are_named(folder, content):
    (folder / "bad.png").write_bytes(content)
    with pytest.raises(
        DataError, match=r"row 1: image: found 'bad.png', which cannot be read .*, expected an image that"
    ):
        write(folder, [{"prompt": "?", "image": "bad.png"}])[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "a.csv"}, "tasks.path"),
        ({"path": "a.json", "held_out": 1.0}, "held_out"),
        ({"path": ""}, "tasks.path"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        JsonlTasks(**settings)


def test_pixels_survive_unchanged(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Picture.fromarray(pixels).save(folder / "noise.png")
    (read,) = frames_of(only(folder, {"prompt": "?", "image": "noise.png"}).prompt)
    np.testing.assert_array_equal(read, pixels)
