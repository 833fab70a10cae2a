"""Groups drawn by the reference policy."""

import torch

from saccade.cli.catalogue import catalogue
from saccade.core import config
from saccade.core.policy import LocalActor
from saccade.feeds.on_policy import OnPolicy
from saccade.feeds.preferences import RankedPairs
from saccade.feeds.reference import ByReference
from saccade.feeds.replay import Replay
from saccade.feeds.shared_turn import SharedTurn
from saccade.learn.loop import fresh_state

SMALL = {"policy.net.channels": (8, 8, 8), "train.groups": 2, "train.group_size": 2}


def pictures(groups):
    return [one.image.pixels for group in groups for one in group]


def test_the_reference_draws_and_the_policy_does_not():
    recipe = config.overlay(catalogue()["diffusion_nft"].make("tiny"), SMALL)
    policy = recipe.policy.build(torch.device("cpu"), 0)
    state = fresh_state(recipe, policy, torch.device("cpu"))
    actor = LocalActor(policy)
    before = pictures(next(OnPolicy().stream(recipe.problem, actor, state)))
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.5)
    drawn = pictures(next(ByReference().stream(recipe.problem, actor, state)))
    assert all((a == b).all() for a, b in zip(before, drawn, strict=True))
    own = pictures(next(OnPolicy().stream(recipe.problem, actor, state)))
    assert any((a != b).any() for a, b in zip(before, own, strict=True))


def test_feeds_say_that_they_need_a_reference_through_every_wrapper():
    for wrap in (RankedPairs, Replay, SharedTurn, ByReference):
        assert wrap(ByReference()).needs_reference
    for feed in (OnPolicy(), RankedPairs(), Replay(), SharedTurn()):
        assert not feed.needs_reference


def test_a_recipe_has_a_reference_where_only_its_feed_asks_for_one():
    recipe = catalogue()["diffusion_kto"].make("tiny")
    off = config.overlay(recipe, {**recipe.ablation.without, **SMALL})
    assert not off.needs & {"ref_logp", "kl"}
    policy = off.policy.build(torch.device("cpu"), 0)
    assert fresh_state(off, policy, torch.device("cpu")).reference is not None


def test_position_is_the_inner_feeds():
    feed = ByReference()
    feed.load_state_dict({"drawn": 6})
    assert feed.state_dict() == {"drawn": 6} == feed.inner.state_dict()
