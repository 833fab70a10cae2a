import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from letters import LetterGame, Letters, LettersCritic, LetterTasks, RightLetters
from saccade.advantages.group import GroupNorm
from saccade.advantages.temporal import GAE
from saccade.core.errors import CapabilityError, CheckpointError, ConfigError
from saccade.core.reference import EMA, Adapters, Every, Initial
from saccade.core.schedule import Linear
from saccade.core.state import Progress
from saccade.feeds.demonstrations import Demonstrations
from saccade.feeds.on_policy import OnPolicy
from saccade.feeds.preferences import RankedPairs
from saccade.feeds.replay import Replay
from saccade.learn import checkpoint
from saccade.learn.loop import Run, train
from saccade.objectives.policy_gradient import GSPO, PPOClip
from saccade.objectives.preference import DPO
from saccade.objectives.regression import NLL
from saccade.objectives.regularise import EntropyBonus, KLToReference, ValueLoss
from saccade.recipe import Recipe, Stage, Train

GAE1 = GAE(discount=1.0, lam=0.95)


def recipe(**changes) -> Recipe:
    base = Recipe(
        policy=Letters(),
        env=LetterGame(LetterTasks(), max_turns=2),
        rewards={"right": RightLetters()},
        advantage=GroupNorm(),
        average="action",
        objective={"pg": PPOClip(), "kl": KLToReference(coef=0.1), "entropy": EntropyBonus(coef=0.01)},
        feed=OnPolicy(),
        train=Train(steps=8, groups=4, group_size=6, minibatches=2, epochs=2, lr=0.05),
    )
    return replace(base, **changes)


class Recorder:
    def __init__(self, stop_after: int | None = None) -> None:
        self.records: list[dict[str, float]] = []
        self.stop_after = stop_after

    def start(self, state, recipe) -> None:
        self.reference = state.reference

    def step(self, state, batch, record: Mapping[str, float], seconds) -> None:
        self.records.append(dict(record))
        if state.step == self.stop_after:
            raise KeyboardInterrupt

    def finish(self, state) -> None:
        self.finished = state.step


def weights(state) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in state.policy.named_parameters()}


KINDS = {
    "grpo": recipe(),
    "gspo": recipe(objective={"pg": GSPO()}),
    "ppo": recipe(
        advantage=GAE1,
        objective={"pg": PPOClip(), "value": ValueLoss(returns=GAE1)},
        critic=LettersCritic(),
    ),
    "replay": recipe(feed=Replay(OnPolicy(), capacity=8, fraction=0.5)),
    "dpo": recipe(objective={"dpo": DPO(beta=0.5)}, feed=RankedPairs(OnPolicy())),
    "sft": recipe(objective={"nll": NLL()}, feed=Demonstrations(), env=LetterGame(LetterTasks())),
    "ema": recipe(train=replace(recipe().train, reference=EMA(decay=0.5))),
    "every": recipe(train=replace(recipe().train, reference=Every(steps=3))),
    "adapters": recipe(train=replace(recipe().train, reference=Adapters())),
}


@pytest.mark.parametrize("name", KINDS)
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(name, tmp_path):
    chosen = KINDS[name]
    whole = Recorder()
    finished = train(chosen, Run(observers=[whole]))
    begun, rest = Recorder(stop_after=5), Recorder()
    with pytest.raises(KeyboardInterrupt):
        train(chosen, Run(tmp_path, save_every=3, observers=[begun]))
    resumed = train(chosen, Run(tmp_path, save_every=3, resume=True, observers=[rest]))
    assert len(rest.records) == 5, "resumed at the checkpoint of step 3"
    assert begun.records[:3] + rest.records == whole.records
    for key, value in weights(finished).items():
        assert torch.equal(value, weights(resumed)[key]), key
    assert finished.history == resumed.history


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_method_learns_the_letters(name):
    chosen = KINDS[name]
    chosen = replace(chosen, train=replace(chosen.train, steps=40))
    seen = Recorder()
    train(chosen, Run(observers=[seen]))
    rewards = [record["reward"] for record in seen.records]
    # Two letters are asked for in turn and prompts are not read: nobody can do better than 1/2 on average.
    if name != "sft":
        assert sum(rewards[-5:]) / 5 > sum(rewards[:2]) / 2 + 0.05
    else:
        assert seen.records[-1]["loss/nll"] < seen.records[0]["loss/nll"] - 0.3


@pytest.mark.parametrize("name", ["grpo", "gspo", "ppo", "dpo"])
def test_gradient_does_not_depend_on_micro_batch_split(name):
    chosen = KINDS[name]
    whole = train(chosen, Run())
    cut = train(replace(chosen, train=replace(chosen.train, micro_size=7)), Run())
    for key, value in weights(whole).items():
        torch.testing.assert_close(value, weights(cut)[key], rtol=1e-5, atol=1e-7)


def test_ratio_is_one_before_the_first_update():
    seen = Recorder()
    train(recipe(train=replace(recipe().train, steps=1, minibatches=1, epochs=1)), Run(observers=[seen]))
    assert abs(seen.records[0]["policy/actor_mismatch_k1"]) < 1e-7


def test_recipe_can_be_trained_twice_with_the_same_result():
    chosen = recipe()
    first, second = weights(train(chosen, Run())), weights(train(chosen, Run()))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_reference_is_made_only_when_something_compares_with_it():
    seen = Recorder()
    train(recipe(objective={"pg": PPOClip()}), Run(observers=[seen]))
    assert seen.reference is None


def test_recomputed_old_log_probabilities_equal_the_actors():
    plain, again = Recorder(), Recorder()
    train(recipe(), Run(observers=[plain]))
    train(recipe(train=replace(recipe().train, old_logp="recompute")), Run(observers=[again]))
    assert [r["loss/pg"] for r in plain.records] == pytest.approx([r["loss/pg"] for r in again.records], abs=1e-6)


def test_objective_that_the_policy_cannot_serve_is_refused_before_the_first_rollout():
    class Pathwise(NLL):
        @property
        def requires(self):
            return frozenset({"pathwise"})

    with pytest.raises(CapabilityError, match="LettersPolicy does not provide pathwise"):
        train(recipe(objective={"x": Pathwise()}), Run())


def test_a_critic_may_have_its_own_learning_rate_on_the_schedule_of_all():
    """The first Adam step is the learning rate for every weight with a gradient; half way down a line it is a half."""
    made = replace(KINDS["ppo"], critic=LettersCritic(lr=0.25))
    made = replace(made, train=replace(made.train, steps=1, minibatches=1, epochs=1, lr_schedule=Linear(start=0.5)))
    state = train(made, Run())
    assert state.critic is not None
    moved = state.critic.values.detach().abs()
    assert moved[moved > 0].tolist() == pytest.approx([0.125] * int((moved > 0).sum()), rel=1e-3)
    assert [group["lr"] for group in state.optimiser.param_groups] == pytest.approx([0.025, 0.125])
    with pytest.raises(ConfigError, match=r"critic\.lr must be > 0"):
        LettersCritic(lr=0.0)


def test_value_objective_without_critic_is_refused():
    with pytest.raises(CapabilityError, match="set the recipe's critic"):
        recipe(advantage=GAE1)


def test_checkpoint_of_another_recipe_is_refused(tmp_path):
    train(recipe(), Run(tmp_path))
    other = recipe(objective={"pg": PPOClip(low=0.1)})
    with pytest.raises(CheckpointError, match="another recipe"):
        train(other, Run(tmp_path, resume=True))


def test_damaged_checkpoint_is_named(tmp_path):
    train(recipe(), Run(tmp_path))
    newest = checkpoint.latest(tmp_path)
    (newest / "policy.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(CheckpointError, match="step-000008"):
        train(recipe(), Run(tmp_path, resume=True))


FULL_DISK = """
import resource, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from learn.test_loop import recipe, replace
from saccade.core.errors import CheckpointError
from saccade.learn.loop import Run, train

class Fills:
    def start(self, state, recipe): ...
    def finish(self, state): ...
    def step(self, state, batch, record, seconds):
        if state.step == 5:
            # From here on no file may grow: what a full disk looks like to a process.
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))

try:
    train(recipe(), Run(Path({folder!r}), save_every=2, observers=[Fills()]))
except CheckpointError as error:
    print(error)
"""


def test_full_disk_leaves_the_last_good_checkpoint(tmp_path):
    code = FULL_DISK.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert "step-000006: cannot be written" in done.stdout, done.stderr
    assert "the last good checkpoint is" in done.stdout
    assert "step-000004" in done.stdout
    assert not list(tmp_path.glob(".partial*"))
    resumed = train(recipe(), Run(tmp_path, resume=True))
    assert resumed.step == 8


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    train(recipe(), Run(tmp_path, save_every=1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000007", "step-000008"]


def test_stage_replaces_what_it_names():
    stage = Stage(feed=Demonstrations(), objective={"nll": NLL()}, train=Train(steps=3))
    staged = recipe(stages={"warm_up": stage}).staged("warm_up")
    assert isinstance(staged.feed, Demonstrations)
    assert staged.train.steps == 3
    assert staged.policy == Letters()
    assert staged.stages == {}


def test_train_settings_out_of_range_are_refused():
    for changes in ({"steps": 0}, {"lr": 0.0}, {"minibatches": 9, "groups": 8}):
        with pytest.raises(ConfigError, match=r"train\."):
            Train(**changes)


def test_records_are_plain_numbers():
    seen = Recorder()
    train(recipe(), Run(observers=[seen]))
    assert json.loads(json.dumps(seen.records[0])) == seen.records[0]
    for key in ("reward", "reward/right", "group/uniform", "loss/pg", "loss/total", "policy/grad_norm", "actions"):
        assert key in seen.records[0]


def test_initial_reference_stays(tmp_path):
    seen = Recorder()
    chosen = recipe(train=replace(recipe().train, reference=Initial()))
    state = train(chosen, Run(observers=[seen]))
    start = Letters().build(torch.device("cpu"))
    assert state.reference is not None
    assert not torch.equal(state.reference.logits, state.policy.logits)
    assert not any(p.requires_grad for p in state.reference.parameters())
    assert start.logits.shape == state.reference.logits.shape


def test_reward_weight_follows_its_schedule():
    fading = RightLetters(weight=2.0, weight_schedule=Linear(start=1.0, end=0.0))
    chosen = recipe(rewards={"right": fading})
    assert chosen.reward_weight(Progress(step=0, total=8)) == {"right": 2.0}
    assert chosen.reward_weight(Progress(step=6, total=8)) == {"right": 0.5}
    seen = Recorder()
    train(chosen, Run(observers=[seen]))
    first, last = seen.records[0], seen.records[-1]
    assert first["reward"] == pytest.approx(2.0 * first["reward/right"])
    assert last["reward"] == pytest.approx(2.0 / 8 * last["reward/right"])
