"""Films of episodes and marks of clicks: what is shown, where exactly, and what is not."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import PIL.Image
import pytest

from saccade.core.content import Array, Image, Text
from saccade.core.errors import DataError
from saccade.core.trajectory import Observation, Prompt, Task, Trajectory, forced_turn
from saccade.report import film as films
from saccade.report.cards import FILMED_TASKS, FILMS, Section
from saccade.report.film import AFTERWARDS, HIT, LARGEST, LARGEST_FILM, MISS, MOST_FRAMES, SAID, SIDE, film, scale_of
from saccade.report.gallery import write_gallery
from saccade.report.snapshot import Pictures, snapshot, told

GREY = (120, 120, 120)


def picture(shade: int = 120, height: int = 64, width: int = 64) -> Image:
    return Image(np.full((height, width, 3), shade, np.uint8))


def noise(seed: int, side: int) -> Image:
    return Image(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def episode(turns, *, shown=None, final=None, task=None, keep=None) -> Trajectory:
    """``turns``: (output, info) pairs; ``shown``: what is seen at each of them."""
    shown = [picture(100 + i) for i in range(len(turns))] if shown is None else shown
    task = task or Task("t", (Text("go <there>"),))
    first = () if shown[0] is None else (shown[0],)
    trajectory = Trajectory(Prompt(task, (*task.prompt, *first)))
    for k, (output, info) in enumerate(turns):
        turn = forced_turn((Text(output),) if isinstance(output, str) else output, None, 1)
        turn.info = info
        if k + 1 < len(turns):
            turn.observation = Observation(() if shown[k + 1] is None else (shown[k + 1],), keep)
        trajectory.turns.append(turn)
    trajectory.final = Observation((final,)) if final is not None else None
    return trajectory


def plain(tmp_path, *group):
    """As it is read back from a run's folder."""
    return json.loads(json.dumps(snapshot(list(group), Pictures(tmp_path), {})))


def filmed(tmp_path, trajectory) -> bytes | None:
    group = plain(tmp_path, trajectory)
    return film(group["rollouts"][0], group, tmp_path / "images")


def frames(data: bytes) -> list[np.ndarray]:
    found = []
    with PIL.Image.open(io.BytesIO(data)) as gif:
        for i in range(gif.n_frames):
            gif.seek(i)
            found.append(np.asarray(gif.convert("RGB")))
    return found


def click(x: float, y: float, **info):
    return f"click {x:g} {y:g}", {"valid": True, "action": {"type": "click", "point": (x, y)}, **info}


# --- films ------------------------------------------------------------------------------------------------------------


def test_a_film_has_a_frame_for_each_turn_and_one_for_what_came_afterwards(tmp_path):
    turns = [(name, {"success": k == 2}) for k, name in enumerate(("left", "right", "forward"))]
    data = filmed(tmp_path, episode(turns, final=picture(200)))
    shown = frames(data)
    assert len(shown) == 4
    # 64 pixels are enlarged by the least whole number that makes 224 of them: 4. The middle of the picture stays plain.
    assert [tuple(frame[150, 128]) for frame in shown] == [(shade,) * 3 for shade in (100, 101, 102, 200)]
    with PIL.Image.open(io.BytesIO(data)) as gif:
        assert gif.info["loop"] == 0 and gif.info["duration"] == films.TURN_MS
        gif.seek(3)
        assert gif.info["duration"] == films.END_MS


def test_a_film_shows_what_the_policy_saw_then(tmp_path):
    """Turns without a picture leave the last one in sight, unless the context has dropped it."""
    turns = [("a", {}), ("b", {}), ("c", {})]
    shown = [picture(50), None, picture(90)]
    group = plain(tmp_path, episode(turns, shown=shown), episode(turns, shown=shown, keep=1))
    names = [[turn["seen"] and turn["seen"]["image"] for turn in one["turns"]] for one in group["rollouts"]]
    first, _, last = (Pictures(tmp_path).put(p.pixels)["image"] for p in (picture(50), picture(70), picture(90)))
    assert names == [[first, first, last], [first, first, last]]
    # With no turn kept the policy never sees more than the prompt.
    blind = plain(tmp_path, episode(turns, shown=shown, keep=0))["rollouts"][0]
    assert [turn["seen"]["image"] for turn in blind["turns"]] == [first] * 3


def test_only_the_frame_after_the_last_turn_says_that_it_was_not_seen(tmp_path):
    group = plain(tmp_path, episode([("a", {"success": False}), ("b", {"success": True})], final=picture(200)))
    made = films.shots(group["rollouts"][0], group)
    assert [shot.seen for shot in made] == [True, True, False]
    assert [shot.action for shot in made] == ["turn 1 of 2:  a", "turn 2 of 2:  b", AFTERWARDS]
    assert [(shot.outcome, shot.good) for shot in made] == [("", None), ("success", True), ("success", True)]
    drawn = [films.draw(shot, "go", tmp_path / "images") for shot in made]
    assert [one.getpixel((0, 0)) for one in drawn] == [films.PAPER, films.PAPER, films.UNSEEN]


@pytest.mark.parametrize(
    ("info", "reward", "stop", "outcome"),
    [
        ({"success": False}, 0.0, "truncated", ("no success, truncated", False)),
        ({"success": True}, 1.0, "done", ("success · reward 1", True)),
        ({}, 0.25, "done", ("done · reward 0.25", None)),
        ({"valid": False, "problem": "no tag"}, 0.0, "invalid", ("invalid · not valid: no tag", None)),
        ({"valid": False, "success": False}, 0.0, "invalid", ("no success, invalid · not valid", False)),
    ],
)
def test_the_last_frame_says_how_the_episode_ended(tmp_path, info, reward, stop, outcome):
    trajectory = episode([("a", {}), ("b", info)])
    trajectory.turns[-1].reward, trajectory.stop = reward, stop
    group = plain(tmp_path, trajectory)
    last = films.shots(group["rollouts"][0], group)[-1]
    assert (last.outcome, last.good) == outcome


@pytest.mark.parametrize(
    "trajectory",
    [
        episode([("a", {}), ("b", {})], shown=[None, None]),
        episode([("a", {}), ("b", {})], shown=[None, picture()]),
        episode([("zoom", {}), ("b", {})], shown=[picture(), picture(90, 20, 30)]),
        episode([("a", {})], shown=[picture()]),
        episode([("a", {})], shown=[picture()], final=picture()),
        Trajectory(Prompt(Task("t", ()), (picture(),))),
    ],
    ids=["no pictures", "none at first", "a part cut out", "one turn", "one turn that changed nothing", "no turn"],
)
def test_there_is_no_film_where_nothing_moves(tmp_path, trajectory):
    assert filmed(tmp_path, trajectory) is None


def test_equal_episodes_give_equal_bytes(tmp_path):
    made = [
        filmed(tmp_path / name, episode([click(3, 4), ("b", {})], shown=[noise(0, 64), noise(1, 64)])) for name in "ab"
    ]
    assert made[0] == made[1] and made[0].startswith(b"GIF89a")


def test_long_episodes_are_thinned_evenly_with_both_ends(tmp_path):
    """100 turns on 48 frames: the i-th shows turn 1 + round(99 i / 47)."""
    turns = [("a", {}) for _ in range(100)]
    data = filmed(tmp_path, episode(turns, shown=[picture(50 + i, 32, 32) for i in range(100)]))
    shades = [int(frame[120, 112, 0]) for frame in frames(data)]
    assert shades == [50 + round(99 * i / 47) for i in range(48)] and MOST_FRAMES == 48
    assert shades[0] == 50 and shades[-1] == 149


def test_films_are_bounded_in_bytes_and_pixels(tmp_path):
    turns = [("a", {}) for _ in range(5)]
    data = filmed(tmp_path, episode(turns, shown=[noise(i, 400) for i in range(5)]))
    assert len(data) <= LARGEST_FILM
    shown = frames(data)
    assert 2 <= len(shown) < 5 and shown[0].shape[1] == LARGEST


@pytest.mark.parametrize(
    ("width", "height", "scale"),
    [
        (56, 56, 4),
        (32, 32, 7),
        (160, 210, 2),
        (224, 10, 1),
        (300, 200, 1),
        (384, 384, 1),
        (768, 100, 0.5),
        (1, 1, SIDE),
    ],
)
def test_small_pictures_are_enlarged_by_whole_numbers(width, height, scale):
    assert scale_of(width, height) == scale


def test_enlarged_pixels_keep_their_colours(tmp_path):
    """4 x 2 pixels at scale 56: each becomes a block of its own colour."""
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
    group = plain(tmp_path, episode([("a", {}), ("b", {})], shown=[Image(pixels), Image(255 - pixels)]))
    drawn = np.asarray(films.draw(films.shots(group["rollouts"][0], group)[0], "", tmp_path / "images"))
    top = films._LINE + 2 * films._MARGIN
    assert np.array_equal(drawn[top : top + 112], pixels.repeat(56, 0).repeat(56, 1))


def test_captions_of_any_text_fit(tmp_path):
    long = "\udcff\x00\n" + "word " * 5000 + "x" * 5000
    task = Task("t", (Text(long),))
    trajectory = episode([(long, {"valid": False, "problem": long}), ("", {})], task=task, final=picture())
    assert len(frames(filmed(tmp_path, trajectory))) == 3
    assert films._lines("", 100, 2) == [""]
    for text in (long, "a" * 1000, "go to the green box " * 9):
        lines = films._lines(text, 100, 2)
        assert len(lines) <= 2 and lines[-1].endswith("…")
        assert all(films._font().getlength(line) <= 100 for line in lines)


def test_a_picture_that_is_gone_is_named(tmp_path):
    group = plain(tmp_path, episode([("a", {}), ("b", {})]))
    (tmp_path / "images" / f"{group['rollouts'][0]['turns'][1]['seen']['image']}.png").unlink()
    with pytest.raises(DataError, match=r"\.png is missing"):
        film(group["rollouts"][0], group, tmp_path / "images")


def test_rollouts_of_earlier_versions_have_no_film(tmp_path):
    group = plain(tmp_path, episode([("a", {}), ("b", {})]))
    for turn in group["rollouts"][0]["turns"]:
        for key in ("seen", "told", "mark", "success", "refused", "command"):
            del turn[key]
    assert film(group["rollouts"][0], group, tmp_path / "images") is None
    assert page(tmp_path, group).text


# --- marks ------------------------------------------------------------------------------------------------------------


def boxed(box=(10, 20, 30, 40)) -> Task:
    return Task("t", (Text("click it"),), target={"type": "click", "box": box})


@pytest.mark.parametrize(
    ("turn", "hit"),
    [
        (click(10, 20), True),
        (click(30, 40), True),
        (click(30.5, 40), False),
        # The environment's word counts where it judges every turn: here the right edge belongs to the neighbour.
        (click(30, 40, success=False, type_right=True), False),
        (click(5, 5, success=True, type_right=True), True),
        (("drag 10 20 30 40", {"action": {"type": "drag", "point": (10, 20), "to": (30, 40)}}), None),
        (("scroll", {"action": {"type": "scroll", "point": (10, 20), "direction": "up"}}), None),
        (("(12, 22)", {}), True),
        (("it is at 2 3.", {}), False),
    ],
)
def test_a_click_is_judged_by_the_environment_or_else_by_the_box(tmp_path, turn, hit):
    made = plain(tmp_path, episode([turn], task=boxed()))["rollouts"][0]["turns"][0]
    assert made["mark"]["hit"] is hit and made["boxes"] == []


@pytest.mark.parametrize(
    "turn",
    [
        ("click 5 5", {"action": None, "valid": False}),
        ("type hello", {"action": {"type": "type", "text": "hello", "point": None}}),
        ("x", {"action": {"type": "click", "point": (float("nan"), 3)}}),
        ("x", {"action": {"type": "click", "point": "here"}}),
        ("x", {"action": {"type": "click", "point": (1e9, 1)}}),
        ("x", {"action": "click"}),
        ("x", {"action": np.zeros(2)}),
        ("1 2, and 3 4", {}),
        ("1 2 3 4", {}),
        ("red", {}),
    ],
)
def test_what_points_nowhere_has_no_mark(tmp_path, turn):
    made = plain(tmp_path, episode([turn], task=boxed()))["rollouts"][0]["turns"][0]
    assert made["mark"] is None


def test_two_numbers_are_no_click_where_no_box_is_asked_for(tmp_path):
    made = plain(tmp_path, episode([("3 4", {})], task=Task("t", (Text("how many?"),), target="7")))
    assert made["rollouts"][0]["turns"][0]["mark"] is None


@pytest.mark.parametrize(
    ("turn", "task", "colour"),
    [(click(12, 25), boxed(), HIT), (click(50, 9), boxed(), MISS), (click(50, 9), None, SAID)],
    ids=["hit", "miss", "no verdict"],
)
def test_a_click_is_drawn_at_its_point_in_its_colour(tmp_path, turn, task, colour):
    """At scale 4 the pixel of (x, y) is (4 x, 4 y), below a title of one line."""
    trajectory = episode([turn, ("b", {})], shown=[picture(120), picture(120)], task=task)
    shown = frames(filmed(tmp_path, trajectory))[0]
    top = films._LINE + 2 * films._MARGIN
    x, y = (int(4 * v) for v in turn[1]["action"]["point"])
    assert tuple(shown[top + y, x]) == colour
    assert tuple(shown[top + y, x - films.RADIUS]) == colour and tuple(shown[top + y - films.RADIUS, x]) == colour
    # The cross ends at the circle, and between the two the picture can be seen.
    assert tuple(shown[top + y, x - films.RADIUS - 4]) == GREY and tuple(shown[top + y - 3, x - 3]) == GREY


def test_the_targets_box_is_around_its_pixels_and_only_on_the_picture_it_belongs_to(tmp_path):
    """Box 10 20 30 40 at scale 4 covers 40 <= x < 120, 80 <= y < 160; the frame is the two pixels around that."""
    trajectory = episode([("a", {}), ("b", {})], shown=[picture(120), picture(121)], task=boxed())
    first, second = frames(filmed(tmp_path, trajectory))
    top = films._LINE + 2 * films._MARGIN
    green = (first[top : top + 256] == HIT).all(-1)
    ys, xs = np.nonzero(green)
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (38, 121, 78, 161)
    assert not green[80:160, 40:120].any() and green.sum() == 84 * 84 - 80 * 80
    assert not (second == HIT).all(-1).any()


def test_a_point_outside_the_picture_is_not_drawn_and_its_far_edge_is_inside(tmp_path):
    turns = [click(64, 64), click(64.5, 10), click(-1, 5)]
    shown = frames(filmed(tmp_path, episode(turns, shown=[picture(120)] * 3)))
    top = films._LINE + 2 * films._MARGIN
    assert tuple(shown[0][top + 255, 255]) == SAID
    for frame in shown[1:]:
        assert (frame[top : top + 256] == GREY).all()


def test_a_drag_is_drawn_to_its_end(tmp_path):
    drag = ("drag", {"action": {"type": "drag", "point": (10, 10), "to": (40, 10)}})
    frame = frames(filmed(tmp_path, episode([drag, ("b", {})], shown=[picture(120)] * 2)))[0]
    top = films._LINE + 2 * films._MARGIN
    assert (frame[top + 40, 40:160] == SAID).all() and tuple(frame[top + 40, 170]) == GREY


@pytest.mark.parametrize(
    ("output", "info", "line"),
    [
        ((Array("command", np.array([[0.123, -0.004, 1]], np.float32)),), {}, "0.12 0 1"),
        ((Array("command", np.array([[2], [0]], np.float32)),), {}, "2 | 0"),
        (
            (Array("command", np.zeros((6, 10), np.float32)),),
            {},
            " | ".join(["0 0 0 0 0 0 0 0 …"] * 3) + " | … 6 in all",
        ),
        ((Array("command", np.array([[np.nan, np.inf]], np.float32)),), {}, "nan inf"),
        ((Array("command", np.array([[2]], np.float32)),), {"actions": "forward"}, "forward"),
        ((Text("<a>\n b"),), {}, "<a> b"),
        ((Text("?"),), {"action": {"type": "type", "text": "hello"}}, "type hello"),
        ((Text("?"),), {"action": {"type": "scroll", "direction": "up", "point": (1.5, 2)}}, "scroll up 1.5 2"),
        ((Text("?"),), {"action": {"type": "key", "keys": "enter"}}, "key enter"),
        ((Text("?"),), {"action": {"type": "drag", "point": (1, 2), "to": (3, 4)}}, "drag 1 2 3 4"),
        ((Text("??"),), {"action": None}, "??"),
        ((), {}, ""),
    ],
)
def test_what_was_done_is_said_in_a_line(output, info, line):
    turn = forced_turn(output, None, 1)
    turn.info = info
    assert told(turn) == line


# --- in the gallery ---------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str, kind: str | None = None) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag and kind in (None, attrs.get("class"))]


def page(folder, *groups, columns=("",)) -> Page:
    section = Section("s", dict.fromkeys(columns, groups))
    write_gallery(folder / "gallery.html", [section], title="run", pictures=folder / "images")
    return Page((folder / "gallery.html").read_text())


def test_the_gallery_holds_the_film_and_folds_the_turns_away(tmp_path):
    task = Task("t", (Text('<script>alert(1)</script> "quoted"'),))
    turns = [('<img src="x">', {"note": "<b>"}), ("b", {"success": True})]
    group = plain(tmp_path, episode(turns, task=task, final=picture(200)))
    found = page(tmp_path, group)
    (image,) = found.all("img")
    assert image["alt"] == 'film of an episode: <script>alert(1)</script> "quoted"' and not found.all("script")
    kind, _, data = image["src"].partition(",")
    assert kind == "data:image/gif;base64"
    assert base64.b64decode(data) == film(group["rollouts"][0], group, tmp_path / "images")
    assert "2 turns" in found.text and len(found.all("details")) == 1
    raw = (tmp_path / "gallery.html").read_text()
    assert not re.search(r"(?:src|href)=[\"'](?!data:|#)|@import|url\(", raw.replace("&lt;img src=&quot;x", ""))


def test_the_number_of_films_is_bounded(tmp_path):
    """Two of each moment for the first eight tasks: 2 x 8 x 2."""
    members = [episode([("a", {}), ("b", {})]) for _ in range(3)]
    groups = [{**plain(tmp_path, *members), "task": f"t{i}"} for i in range(10)]
    found = page(tmp_path, *groups, columns=("before", "after"))
    assert len(found.all("img")) == 2 * FILMED_TASKS * FILMS == 32


def test_clicks_of_one_turn_are_drawn_on_the_prompts_picture(tmp_path):
    """The mark of (12, 25) has a radius of 4 % of 64 pixels, 2.56."""
    hit, miss = (episode([turn], shown=[picture()], task=boxed()) for turn in (click(12, 25), click(50, 9)))
    found = page(tmp_path, plain(tmp_path, hit, miss))
    assert [path["d"].split("a")[0] for path in found.all("path", "click hit")] == [
        "M9.44 25h5.12M12 22.44v5.12M9.44 25"
    ]
    assert len(found.all("path", "click missed")) == 1 and len(found.all("rect", "gold")) == 3
    assert not found.all("img") and "hit, miss" in found.text and "no verdict" not in found.text
    outside = page(tmp_path, plain(tmp_path, episode([click(65, 3)], shown=[picture()], task=boxed())))
    assert not outside.all("path")


def test_later_clicks_are_drawn_on_the_picture_they_answer(tmp_path):
    turns = [("a", {}), click(12, 25), ("c", {})]
    found = page(tmp_path, plain(tmp_path, episode(turns)))
    svgs = (tmp_path / "gallery.html").read_text().split('<svg class="pic"')[1:]
    marked = [re.search(r'href="#i(\w+)"', svg)[1] for svg in svgs if "click said" in svg]
    assert marked == [Pictures(tmp_path).put(picture(101).pixels)["image"]]
    assert "no verdict" in found.text


def test_episodes_without_pictures_get_a_table_of_turns(tmp_path):
    command = (Array("command", np.array([[0.5, -1]], np.float32)),)
    state = Array("state", np.zeros(3, np.float32))
    trajectory = episode(
        [(command, {"distance": 0.123456, "x": "<b>"}), (command, {"distance": 2.0})], shown=[state] * 2
    )
    found = page(tmp_path, plain(tmp_path, trajectory))
    assert not found.all("img") and len(found.all("table", "turns")) == 1
    for words in ("0.50 -1", "0.1235", "distance", "<b>"):
        assert words in found.text
    assert not found.all("b", "") and len(found.all("tr")) == 3


def test_babyai_names_the_actions_it_carried_out(tmp_path):
    pytest.importorskip("minigrid", reason="BabyAI needs minigrid")
    from saccade.envs.babyai import BabyAI
    from saccade.envs.gym import command

    spec = BabyAI(chunk=2)
    world, task = spec.make(), spec.tasks[0]
    seen = world.reset(task, 0)
    trajectory = Trajectory(Prompt(task, (*spec.prompt(task), *seen.content)))
    for actions in ([0, 1, 2], [1, 0], [9]):
        turn = forced_turn(command(actions), None, 1)
        step = world.step(turn.output)
        turn.info, turn.observation = step.info, step.observation
        trajectory.turns.append(turn)
    group = plain(tmp_path, trajectory)
    said = [shot.action for shot in films.shots(group["rollouts"][0], group)]
    assert said == [f"turn {k + 1} of 3:  {words}" for k, words in enumerate(("left right", "right left", "9"))]
    assert group["instruction"] == trajectory.task.prompt[0].text
