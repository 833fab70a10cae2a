"""Features of a frozen encoder: encoded once, until its weights change or memory runs out."""

import copy

import torch

from saccade.policies.token.features import FeatureCache


class Encoder:
    """Features of a picture are its number; notes which pictures it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, pictures):
        self.asked.append(sorted(pictures.values()))
        return {key: torch.full((8,), float(number), requires_grad=True) for key, number in pictures.items()}


def features(cache, encoder, *numbers, stamp="weights"):
    found = cache({100 + n: n for n in numbers}, encoder, stamp)
    assert list(found) == [100 + n for n in numbers] and all(found[100 + n][0] == n for n in numbers)
    assert not any(x.requires_grad for x in found.values())


def test_only_new_pictures_are_encoded():
    cache, encoder = FeatureCache(10_000), Encoder()
    for numbers in ((1, 2), (2, 1), (3, 1)):
        features(cache, encoder, *numbers)
    assert encoder.asked == [[1, 2], [3]]


def test_new_weights_forget_everything():
    cache, encoder = FeatureCache(10_000), Encoder()
    for stamp in ("old", "new", "new", "old"):
        features(cache, encoder, 1, stamp=stamp)
    assert encoder.asked == [[1]] * 3


def test_the_oldest_go_when_memory_runs_out():
    """Features of 8 floats have 32 bytes: a limit of 64 holds two pictures."""
    cache, encoder = FeatureCache(64), Encoder()
    for number in (1, 2, 3, 2, 1):
        features(cache, encoder, number)
    assert encoder.asked == [[1], [2], [3], [1]] and cache.bytes == 64
    features(cache, encoder, 4, 5, 6)
    assert cache.bytes == 64


def test_copies_remember_nothing():
    cache, encoder = FeatureCache(64), Encoder()
    features(cache, encoder, 1)
    features(copy.deepcopy(cache), encoder, 1)
    assert encoder.asked == [[1], [1]]
