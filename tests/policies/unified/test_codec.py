"""What a codec keeps of pictures."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from saccade.core.content import Image, Text
from saccade.core.environment import Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.trajectory import Task
from saccade.envs.datasets.records import Records, scenes
from saccade.policies.unified.codec import PatchCodec
from saccade.rewards.templates import nearest

TRAINING = Records(kinds=("draw",), questions=("colour",))
ALL = Records(kinds=("draw",), questions=("colour",), part="all")


@dataclass(frozen=True)
class Noise(Tasks):
    """Pictures of noise, all different."""

    count: int = 24
    pictures: bool = True

    def __len__(self):
        return self.count

    def task(self, index):
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        return Task(str(index), (Image(pixels),) if self.pictures else (Text("none"),))

    def split(self, name):
        return self


def test_attributes_survive_encoding_and_decoding():
    """Of all 48 scenes, held-out ones included, by the exact verifier; the measured share is 1."""
    codebook = PatchCodec(TRAINING).build()
    kept = []
    for scene in scenes("all"):
        codes = codebook.encode(scene.image.pixels)
        assert codes.shape == (16,) and int(codes.min()) >= 0 and int(codes.max()) < 64
        seen = nearest(ALL, Image(codebook.decode(codes)))
        kept += [seen[name] == value for name, value in scene.attributes.items()]
    assert np.mean(kept) >= 0.98


def test_attributes_survive_noise_on_the_pixels():
    codebook = PatchCodec(TRAINING).build()
    random = np.random.default_rng(0)
    kept = []
    for scene in scenes("all"):
        noisy = scene.image.pixels + random.normal(0, 12, (16, 16, 3))
        seen = nearest(ALL, Image(codebook.decode(codebook.encode(noisy.clip(0, 255).astype(np.uint8)))))
        kept += [seen[name] == value for name, value in scene.attributes.items()]
    assert np.mean(kept) >= 0.98


def test_codes_are_the_nearest_centres_line_by_line():
    """By loops: patch (i, j) is rows 4i .. 4i + 3 and columns 4j .. 4j + 3, code 4i + j."""
    codebook = PatchCodec(Noise(), codes=10).build()
    pixels = Noise()[3].prompt[0].pixels
    centres = codebook.centres.double().numpy()
    expected = []
    for i in range(4):
        for j in range(4):
            patch = pixels[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].astype(float).reshape(-1)
            expected.append(int(((centres - patch) ** 2).sum(1).argmin()))
    codes = codebook.encode(pixels)
    assert codes.tolist() == expected
    decoded = codebook.decode(codes)
    np.testing.assert_array_equal(decoded[4:8, 12:16].reshape(-1), centres[expected[7]].round())


def test_centres_are_the_means_of_what_is_nearest_to_them():
    """Lloyd's algorithm has converged: every centre is the mean of its patches."""
    codebook = PatchCodec(Noise(), codes=6).build()
    patches = np.concatenate(
        [t.prompt[0].pixels.reshape(4, 4, 4, 4, 3).transpose(0, 2, 1, 3, 4).reshape(16, 48) for t in Noise()]
    ).astype(float)
    centres = codebook.centres.double().numpy()
    nearest_one = ((patches[:, None] - centres) ** 2).sum(2).argmin(1)
    for k in range(6):
        np.testing.assert_allclose(centres[k], patches[nearest_one == k].mean(0), atol=1e-3)


def test_nothing_is_lost_where_patches_are_fewer_than_codes():
    """40 training scenes have 49 different patches; the 15 codes that are left over are never used."""
    codebook = PatchCodec(TRAINING).build()
    used = set()
    for scene in scenes("all"):
        codes = codebook.encode(scene.image.pixels)
        used |= set(codes.tolist())
        np.testing.assert_array_equal(codebook.decode(codes), scene.image.pixels)
    assert len(used) == len(codebook.centres.unique(dim=0)) == 49


def test_equal_codecs_give_equal_codebooks_and_other_seeds_others():
    first, again = (PatchCodec(Noise(), codes=8).build().centres for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, PatchCodec(Noise(), codes=8, seed=1).build().centres)


def test_pictures_of_other_sizes_are_resized():
    codebook = PatchCodec(TRAINING).build()
    scene = scenes("train")[7]
    large = scene.image.pixels.repeat(4, 0).repeat(4, 1)
    assert nearest(ALL, Image(codebook.decode(codebook.encode(large)))) == scene.attributes


@pytest.mark.parametrize(
    ("fields", "name"),
    [({"codes": 0}, "codes"), ({"patch": 3}, "side"), ({"side": 0}, "side"), ({"limit": 0}, "limit")],
)
def test_settings_out_of_range_are_named(fields, name):
    with pytest.raises(ConfigError, match=f"codec.{name}"):
        PatchCodec(TRAINING, **fields)


def test_tasks_without_pictures_are_named():
    with pytest.raises(DataError, match="no picture in Noise"):
        PatchCodec(Noise(pictures=False)).build()
