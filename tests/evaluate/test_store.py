"""Rollouts on disk: what comes back is what was put there, and only for exactly the same question."""

import json
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from letters import LetterGame, Letters, LetterTasks
from saccade.core.content import Array, Image, Text
from saccade.core.policy import LocalActor, Sampling
from saccade.core.trajectory import Task
from saccade.evaluate import store as module
from saccade.evaluate.store import Played, RolloutStore, Unstorable, decode, encode, weights_hash
from saccade.rollout.lockstep import rollout

CPU = torch.device("cpu")
SAMPLING = Sampling(max_actions=3)


@dataclass(frozen=True)
class Note:
    words: tuple[str, ...]
    inner: Any = None
    made: int = field(default=0, init=True)


@dataclass
class Counted:
    total: int = field(default=0, init=False)


def same(a: Any, b: Any) -> bool:
    """Equal in type, shape and bits; NaN equals NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a.nan_to_num(7.5), b.nan_to_num(7.5))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Image | Array | Note):
        return all(same(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


VALUES = {
    "nothing": None,
    "numbers": [True, 3, -0.1, 1e300, float("inf"), float("nan")],
    "text": ("", "ä\n\u2028 {}", "tensor"),
    "nested": {"a": [(), [], {}], 3: {"b": None}, (1, 2): "tuple"},
    "tensors": [torch.arange(6).view(2, 3).T, torch.tensor(1.5), torch.zeros(0, 3), torch.tensor([True, False])],
    "precisions": [torch.randn(3, dtype=d) for d in (torch.bfloat16, torch.float16, torch.float64)],
    "arrays": [np.arange(12, dtype=np.uint8)[::-2].reshape(2, 3), np.zeros((0, 4)), np.array(7, np.int64)],
    "numpy numbers": [np.float32(0.1), np.int64(-3), np.bool_(True)],
    "bytes": b"\x00\xff",
    "objects": (Text("hi"), Image(np.full((2, 3, 3), 9, np.uint8)), Array("command", np.ones((2, 2), np.float32))),
    "own objects": Note(("a",), Note((), torch.ones(2), 4)),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_come_back_with_types_and_bits(name):
    assert same(decode(encode(VALUES[name])), VALUES[name])
    assert encode(VALUES[name]) == encode(VALUES[name])


def test_one_object_in_two_places_is_one_object_again():
    image = Image(np.zeros((2, 2, 3), np.uint8))
    first, second, tensor, again = decode(encode([image, Note((), image), torch.ones(3), image]))
    assert first is second.inner is again
    assert tensor.equal(torch.ones(3))


def test_equal_objects_that_die_during_writing_are_not_mixed_up():
    """The ids of short-lived objects are used again by Python."""

    @dataclass(frozen=True)
    class Fresh:
        pass

    class Making(dict):
        def items(self):
            return ((i, Text(str(i))) for i in range(200))

    found = decode(encode(Making()))
    assert [found[i].text for i in range(200)] == [str(i) for i in range(200)]
    with pytest.raises(Unstorable, match="cannot be built from its fields"):
        encode(Fresh())


@pytest.mark.parametrize(
    "value",
    [
        object(), {1, 2}, lambda: None, Counted(), np.array(["a"]), np.array([object()]), np.str_("a"),
        torch.ones(2).to_sparse(), 3j, range(3), np.array([1], ">i4"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_has_no_form_is_refused(value):
    with pytest.raises(Unstorable):
        encode([value])


def forged(tree: Any) -> bytes:
    return save({"tree": torch.frombuffer(bytearray(json.dumps(tree).encode()), dtype=torch.uint8)})


@pytest.mark.parametrize(
    "tree",
    [
        ["object", "os:system", ["command", "true"]],
        ["object", "subprocess:Popen", ["args", ["list", "true"]]],
        ["object", "builtins:eval", ["x", "1"]],
        ["object", "saccade.core.content:np.load", ["x", "1"]],
        ["object", "saccade.nowhere:Thing"],
        ["object", "this_module_is_not_imported:Thing"],
        ["call", "os.system"],
    ],
)
def test_a_forged_file_builds_nothing_but_dataclasses(tree):
    with pytest.raises(ValueError):
        decode(forged(tree))


def test_weights_hash_sees_names_types_shapes_and_bits():
    def module(**tensors):
        made = torch.nn.Module()
        for name, value in tensors.items():
            made.register_buffer(name, value)
        return made

    base = torch.arange(4.0)
    found = [
        weights_hash(module(a=base)), weights_hash(module(b=base)), weights_hash(module(a=base.double())),
        weights_hash(module(a=base.view(2, 2))), weights_hash(module(a=torch.tensor([0.0, 1, 2, 3 + 1e-6]))),
        weights_hash(module(a=base, b=base[:0])),
    ]  # fmt: skip
    assert len(set(found)) == len(found)
    assert weights_hash(module(a=base, b=base)) == weights_hash(module(b=base.clone(), a=base.clone()))
    assert weights_hash(module(a=base.bfloat16())) == weights_hash(module(a=base.bfloat16()))


def played(env=None, n=2, count=3, **settings):
    env = env or LetterGame(LetterTasks(), max_turns=2)
    policy = Letters(**settings).build(CPU, seed=1)
    tasks = [env.tasks[i] for i in range(count)]
    seeds = list(range(count))
    groups = rollout(LocalActor(policy), env, tasks, group_size=n, sampling=SAMPLING, seeds=seeds)
    store = RolloutStore.of(policy, weights_hash(policy), env, SAMPLING, n)
    assert store is not None
    return store, tasks, seeds, Played(groups, 1.25)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path))
    return tmp_path / "evaluations"


def test_rollouts_come_back_with_turns_prompts_and_tasks(cache):
    store, tasks, seeds, made = played()
    assert store.load(tasks, seeds) is None
    assert store.save(tasks, seeds, made)
    assert [path.suffix for path in cache.rglob("*.*")] == [".safetensors"]
    found = store.load(tasks, seeds)
    assert found is not None and found.seconds == 1.25
    for old, new, task in zip(made.groups, found.groups, tasks, strict=True):
        assert all(t.prompt is new[0].prompt and t.task is task for t in new)
        for a, b in zip(old, new, strict=True):
            assert (a.stop, a.seed, a.text, a.num_turns) == (b.stop, b.seed, b.text, b.num_turns)
            assert same(a.prompt.content, b.prompt.content) and b.scores == {}
            for x, y in zip(a.turns, b.turns, strict=True):
                assert same(x.record, y.record) and same(x.logp, y.logp) and same(x.mask, y.mask)
                assert (x.reward, x.version, dict(x.info)) == (y.reward, y.version, dict(y.info))
            assert (a.final is None) == (b.final is None)


def test_another_question_is_not_answered_from_the_store():
    store, tasks, seeds, made = played()
    store.save(tasks, seeds, made)
    assert store.load(tasks, seeds) is not None
    assert store.load(tasks, [7, 8, 9]) is None
    assert store.load(tasks[:2], seeds[:2]) is None, "rounding may depend on what else was in the batch"
    longer = replace(tasks[0], prompt=(Text("say b, please"),))
    assert store.load([longer, *tasks[1:]], seeds) is None, "a data file was changed"
    target = replace(tasks[0], target="z")
    assert store.load([target, *tasks[1:]], seeds) is None


def test_every_setting_that_rollouts_depend_on_has_its_own_store(monkeypatch):
    env, policy = LetterGame(LetterTasks()), Letters().build(CPU, seed=1)
    hashes = weights_hash(policy)

    def setting(policy=policy, weights=hashes, env=env, sampling=SAMPLING, n=1):
        found = RolloutStore.of(policy, weights, env, sampling, n)
        assert found is not None
        return found.setting

    other = Letters().build(CPU, seed=2)
    newer = Letters().build(CPU, seed=1)
    newer.version = 3
    found = [
        setting(), setting(weights=weights_hash(other)), setting(policy=newer), setting(n=2),
        setting(env=replace(env, max_turns=3)), setting(sampling=replace(SAMPLING, temperature=0.5)),
    ]  # fmt: skip
    assert len(set(found)) == len(found)
    assert setting() == setting(env=LetterGame(LetterTasks()))
    monkeypatch.setattr(module.torch, "__version__", "99")
    assert setting() != found[0]


def test_what_has_no_description_in_plain_data_is_not_stored():
    env = LetterGame(LetterTasks())
    policy = Letters().build(CPU)
    policy.spec = replace(policy.spec, length=object())
    assert RolloutStore.of(policy, "", env, SAMPLING, 1) is None
    store, tasks, seeds, made = played()
    odd = Task("odd", (Text("x"),), target=object())
    assert not store.save([odd], [1], Played(made.groups[:1], 0.0)) and store.load([odd], [1]) is None
    made.groups[0][0].turns[0].record = object()
    assert not store.save(tasks, seeds, made) and store.load(tasks, seeds) is None


@pytest.mark.parametrize("case", ["half", "empty", "no tree", "another layout"])
def test_a_damaged_file_counts_as_none_and_is_written_anew(cache, case):
    store, tasks, seeds, made = played()
    store.save(tasks, seeds, made)
    (path,) = cache.rglob("*.safetensors")
    data = path.read_bytes()
    if case == "half":
        path.write_bytes(data[: len(data) // 2])
    elif case == "empty":
        path.write_bytes(b"")
    elif case == "no tree":
        tensors = load(data)
        tensors.pop("tree")
        path.write_bytes(save(tensors))
    else:
        path.write_bytes(forged(["dict", ["groups", ["list"]], ["s", 0.0]]))
    assert store.load(tasks, seeds) is None
    store.save(tasks, seeds, made)
    assert store.load(tasks, seeds) is not None


def test_a_write_that_fails_leaves_nothing_half_written(cache, monkeypatch):
    store, tasks, seeds, made = played()

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        store.save(tasks, seeds, made)
    assert not [path for path in cache.rglob("*") if path.is_file()]
