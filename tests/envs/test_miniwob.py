"""MiniWoB++ in a real browser, and the pool of browsers behind it."""

import importlib.util
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from saccade.core.config import from_dict, to_dict
from saccade.core.content import Text
from saccade.core.errors import ConfigError
from saccade.envs.browsers import Browsers, Tab, find_chromium
from saccade.envs.miniwob import CLEAN, MiniWoB, MiniWoBExpert, MiniWoBTasks
from saccade.testing import check_environment

ONE = Browsers(count=1, tabs=1)


def browser_missing():
    if importlib.util.find_spec("miniwob") is None:
        return "miniwob is not installed (pip install 'saccade[gui]')"
    try:
        find_chromium()
    except ConfigError as error:
        return str(error)
    return ""


browser = pytest.mark.skipif(bool(browser_missing()), reason=browser_missing() or "a browser is there")


@pytest.fixture(scope="module", autouse=True)
def no_browser_left():
    yield
    for settings in (ONE, Browsers(), Browsers(count=1, tabs=2)):
        settings.pool().close()
        assert settings.pool().browsers() == []


def say(text):
    return (Text(text),)


def spec(*names, count=8, browsers=ONE, **settings):
    return MiniWoB(MiniWoBTasks(names, count=count), browsers=browsers, **settings)


def played(environment, task, outputs):
    """Screenshots and ends of an episode."""
    pictures, ends = [environment.reset(task, 0).content[0].pixels], []
    for output in outputs:
        step = environment.step(output)
        pictures.append(step.observation.content[0].pixels)
        ends.append((step.reward, step.terminated))
        if step.terminated:
            break
    return pictures, ends


def solved(environment, task, expert):
    """Outputs with which the expert solves the task, the screenshots, and the last step."""
    pictures, outputs = [environment.reset(task, 0).content[0].pixels], []
    for _ in range(10):
        outputs.append(expert.outputs(environment))
        step = environment.step(outputs[-1])
        pictures.append(step.observation.content[0].pixels)
        if step.terminated:
            break
    return outputs, pictures, step


# --- without a browser ------------------------------------------------------------------------------------------------


def test_training_and_test_share_no_task():
    tasks = MiniWoBTasks(("click-test", "click-tab"), count=200)
    train, test = list(tasks), list(tasks.split("test"))
    assert not {task.id for task in train} & {task.id for task in test}
    assert not {task.info["seed"] for task in train} & {task.info["seed"] for task in test}
    assert [task.info["page"] for task in train[:3]] == ["click-test", "click-tab", "click-test"]


def test_points_of_the_image_are_points_of_the_page():
    """Without the header 160 x 160 pixels become 64 x 64: (32, 16) is (80, 40 + 50) of the page."""
    small = MiniWoB(MiniWoBTasks(), view="area", side=64)
    assert small.on_page((32.0, 16.0)) == (80.0, 90.0)
    assert small.on_image((80.0, 90.0)) == (32.0, 16.0)
    assert small.on_page((64.0, 64.0)) == (159.5, 209.5)
    assert small.on_page((65.0, 1.0)) is None
    # Whole pages are padded on the right: 160 x 210 in a square of 105.
    whole = MiniWoB(MiniWoBTasks(), side=105)
    assert whole.on_page((40.0, 50.0)) == (80.0, 100.0)
    assert whole.on_page((81.0, 50.0)) is None
    picture = whole.picture(np.zeros((210, 160, 3), np.uint8)).pixels
    assert picture.shape == (105, 105, 3)
    assert (picture[:, :80] == 0).all() and (picture[:, 80:] == 255).all()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: MiniWoBTasks(()),
        lambda: MiniWoBTasks(("click-test", "click-test")),
        lambda: MiniWoBTasks(("copy-paste",)),
        lambda: MiniWoB(MiniWoBTasks(), view="dom"),  # type: ignore[arg-type]
        lambda: MiniWoB(MiniWoBTasks(), side=3),
        lambda: MiniWoB(MiniWoBTasks(), pass_mark=1.0),
        lambda: Browsers(count=0),
        lambda: Browsers(tabs=65),
        lambda: Browsers(timeout_s=0.0),
        lambda: MiniWoBExpert(grid=0.0),
    ],
)
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(ConfigError, match=r"\w+\.\w+ must"):
        wrong()


def test_settings_can_be_written_and_read():
    written = MiniWoB(MiniWoBTasks(("click-tab",)), side=64, view="area", browsers=Browsers(count=1))
    assert from_dict(to_dict(written)) == written == pickle.loads(pickle.dumps(written))


def test_a_browser_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("MINIWOB_CHROME_BINARY", "/nowhere/chromium")
    with pytest.raises(ConfigError, match="/nowhere/chromium"):
        find_chromium()


# --- with one ---------------------------------------------------------------------------------------------------------


@browser
def test_the_contract_is_kept():
    check_environment(spec("click-test-2", "enter-text"), n=2)


@browser
@pytest.mark.parametrize("page", MiniWoBExpert.pages)
def test_the_expert_solves_its_pages_and_episodes_repeat(page, monkeypatch):
    """Also after something else was done on the same page, which clean pages do not notice without being loaded."""
    env = spec(page)
    environment = env.make()
    with monkeypatch.context() as loaded:
        loaded.setattr("saccade.envs.miniwob.CLEAN", frozenset())
        outputs, pictures, last = solved(environment, env.tasks[0], MiniWoBExpert())
    assert (last.reward, last.terminated, last.info["success"], last.info["raw"]) == (1.0, True, True, 1.0)
    played(environment, env.tasks[1], [say(one) for one in ("click 60 90", "type abc", "key tab", "click 40 120")])
    again, ends = played(environment, env.tasks[0], outputs)
    assert ends[-1] == (1.0, True)
    assert len(again) == len(pictures)
    assert all(np.array_equal(a, b) for a, b in zip(pictures, again, strict=True))
    environment.close()


def test_clean_pages_are_among_those_compared():
    assert set(MiniWoBExpert.pages) >= CLEAN


@browser
def test_a_small_image_with_coarse_places_is_enough_for_large_buttons():
    env = spec("click-test", view="area", side=64)
    outputs, _, last = solved(env.make(), env.tasks[0], MiniWoBExpert(grid=4.0))
    assert last.reward == 1.0
    x, y = map(int, outputs[-1][0].text.removeprefix("<tool>click ").removesuffix("</tool>").split())
    assert x % 4 == y % 4 == 0


@browser
def test_malformed_outputs_are_answered_until_patience_ends():
    env = spec("click-test", patience=1)
    environment = env.make()
    first = environment.reset(env.tasks[0], 0)
    step = environment.step(say("click"))
    assert step.info["valid"] is False and not step.terminated
    assert np.array_equal(step.observation.content[0].pixels, first.content[0].pixels)
    assert "not a valid action" in step.observation.content[1].text
    step = environment.step(say("click 400 5"))
    assert step.terminated and step.info["stop"] == "invalid" and step.reward == 0
    assert environment.turn == 2


@browser
def test_done_and_wrong_clicks_pay_nothing():
    env = spec("click-tab")
    environment = env.make()
    environment.reset(env.tasks[0], 0)
    step = environment.step(say("done"))
    assert step.terminated and step.reward == 0 and step.info["success"] is False
    observation = environment.reset(env.tasks[0], 0)
    asked = int(observation.content[1].text.split("#")[1][0])
    # The three tabs begin at x = 10, 57 and 104.
    step = environment.step(say(f"click {25 + 47 * (asked % 3)} 65"))
    assert step.terminated and step.reward == 0 and step.info["raw"] == -1.0


@browser
def test_more_lanes_than_tabs_play_the_same_episodes():
    """Six lanes on one tab take turns: each page is restored by repeating the lane's actions."""
    env = spec("click-checkboxes", browsers=Browsers(count=1, tabs=1))
    tasks = [env.tasks[i // 2] for i in range(6)]
    alone, expert = env.make(), MiniWoBExpert()
    expected = [one for task in tasks[::2] for one in [solved(alone, task, expert)] * 2]
    lanes = env.make_vector()
    shown = lanes.reset(tasks, [0] * 6)
    assert np.array_equal(shown[0].content[0].pixels, shown[1].content[0].pixels)
    live, k = list(range(6)), 0
    while live:
        steps = lanes.step(live, [expected[lane][0][k] for lane in live])
        for lane, step in zip(live, steps, strict=True):
            assert step.terminated == (k + 1 == len(expected[lane][0]))
            if step.terminated:
                last = expected[lane][2]
                assert step.reward == last.reward == 1.0
                assert np.array_equal(step.observation.content[0].pixels, last.observation.content[0].pixels)
        live, k = [lane for lane, step in zip(live, steps, strict=True) if not step.terminated], k + 1
    lanes.close()


@browser
def test_lanes_that_take_turns_seldom_load_pages(monkeypatch):
    """Eight lanes on two pages, two tabs: each tab keeps to one, so that 16 turns load two to four, not 8 or more."""
    opened, load = [], Tab.open
    monkeypatch.setattr(Tab, "open", lambda tab, url: (opened.append(url), load(tab, url))[1])
    env = spec("click-test", "focus-text", browsers=Browsers(count=1, tabs=2))
    lanes = env.make_vector()
    lanes.reset([env.tasks[i] for i in range(8)], [0] * 8)
    steps = lanes.step(list(range(8)), [say("click 1 209")] * 8)
    lanes.close()
    assert not any(step.terminated for step in steps)
    assert 2 <= len(opened) <= 4


@browser
def test_a_killed_browser_is_replaced_and_the_episode_goes_on():
    env = spec("enter-text")
    environment, expert = env.make(), MiniWoBExpert()
    outputs, _, expected = solved(environment, env.tasks[0], expert)
    environment.reset(env.tasks[0], 0)
    for k, output in enumerate(outputs):
        (running,) = env.browsers.pool().browsers()
        if k:
            os.kill(running.pid, signal.SIGKILL)
        last = environment.step(output)
        (other,) = env.browsers.pool().browsers()
        assert (other.pid != running.pid) == (k > 0)
    assert last.reward == expected.reward == 1.0
    assert np.array_equal(last.observation.content[0].pixels, expected.observation.content[0].pixels)


@browser
def test_a_page_that_always_hangs_is_an_error_that_names_the_task():
    env = spec("click-test", browsers=Browsers(count=1, tabs=2, timeout_s=5.0, retries=0))
    lanes = env.make_vector()
    lanes.reset([env.tasks[0]], [0])
    (running,) = env.browsers.pool().browsers()
    os.killpg(running.pid, signal.SIGSTOP)
    with pytest.raises(RuntimeError, match="did not answer within 5 s") as caught:
        lanes.step([0], [say("click 1 60")])
    assert "miniwob/train/0/click-test/0" in caught.value.__notes__[0]
    # The browser was ended, stopped as it was; the next episode has another.
    lanes.reset([env.tasks[1]], [0])
    assert env.browsers.pool().browsers()[0].pid != running.pid
    lanes.close()
    env.browsers.pool().close()


@browser
def test_browsers_end_with_the_process_that_started_them():
    """Whether it returns or is killed."""
    script = """
import sys, time
from saccade.envs.miniwob import MiniWoB, MiniWoBTasks
env = MiniWoB(MiniWoBTasks(("click-test",)))
environment = env.make()
environment.reset(env.tasks[0], 0)
print(*[browser.pid for browser in env.browsers.pool().browsers()], flush=True)
sys.stdin.read()
"""
    with started(script) as returning, started(script) as killed:
        pids = [int(process.stdout.readline()) for process in (returning, killed)]
        returning.stdin.close()
        killed.send_signal(signal.SIGKILL)
        for process in (returning, killed):
            process.wait(30)
    for _ in range(300):
        if not any(os.path.exists(f"/proc/{pid}") for pid in pids):
            break
        time.sleep(0.1)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def started(script):
    return subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@browser
def test_a_page_that_does_not_exist_is_named():
    env = spec("click-nothing")
    with pytest.raises(ConfigError, match="click-nothing"):
        env.make().reset(env.tasks[0], 0)


@browser
def test_other_pages_are_refused_by_the_expert():
    env = spec("use-slider")
    environment = env.make()
    environment.reset(env.tasks[0], 0)
    with pytest.raises(ConfigError, match="use-slider"):
        MiniWoBExpert().outputs(environment)
