"""Metrics of sets of pictures: distances to a reference set, fidelity, coverage and diversity.

Each is taken in the features of a named network over exactly ``n`` pictures, and both stand in its name: nearly all of
these numbers move with n (a Fréchet distance falls as 1 / n, a Vendi score grows), and numbers of different networks
are on different scales. ``result.comparable`` refuses to put two of different identity side by side.

Standard errors are jackknives over ten blocks of consecutive pictures, so that pictures of one prompt are left out
together. A bootstrap would be wrong here: it draws some pictures twice, and duplicates shrink covariances, put
neighbours at distance zero and count as evidence of collapse, so that the resamples are centred elsewhere than the
value itself. Leaving pictures out makes no duplicates.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, ClassVar, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Bool, Float

from saccade.core import config
from saccade.core.content import Image, images_of
from saccade.core.environment import Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.metric import Estimate, Metric, Models
from saccade.core.random import numpy_generator
from saccade.core.trajectory import Group, Task
from saccade.rewards.features import ClassFeatures, CLIPFeatures, Features, Inception
from saccade.rewards.networks import chunks

BLOCKS = 10
"""Parts of the sets that are left out in turn to estimate the standard error."""


@dataclass(frozen=True, eq=False)
class FeatureRow:
    """What a network says of one generated picture: its features, or its logits."""

    task: str
    features: Float[np.ndarray, "D"]


@dataclass(frozen=True)
class Distributional(Metric):
    """A number about a set of ``n`` pictures as a whole: it is no mean over pictures.

    Raises:
        ConfigError: another number of generated pictures than n.
    """

    tier: ClassVar[Literal["set", "sample", "state"]] = "set"

    features: Features
    n: int = field(default=256, kw_only=True)
    """Pictures in each set: ``evaluation.limit * evaluation.n``."""

    def __post_init__(self) -> None:
        if self.n < 2 * BLOCKS:
            raise ConfigError(f"n must be >= {2 * BLOCKS}, got {self.n}")

    @property
    @abstractmethod
    def kind(self) -> str:
        """What the number is called in the features it is taken in."""

    @property
    def name(self) -> str:
        """What it may be called in a report: with its network and its n."""
        return f"{self.kind} [{self.features.name}], n={self.n}"

    @property
    def identity(self) -> dict[str, Any]:
        """All that two values must have in common to be compared; plain data, for reports to keep.

        Weights are loaded for their hash.
        """
        settings = {f.name: config.to_dict(getattr(self, f.name)) for f in fields(self) if f.name not in _NAMED}
        return {
            "metric": type(self).__name__,
            "extractor": self.features.name,
            "extractor hash": self.features.fingerprint,
            "n": self.n,
            **settings,
        }

    def look(self, images: Sequence[Image]) -> Float[np.ndarray, "N D"]:
        """What is kept of pictures."""
        return self.features(images)

    def rows(self, groups: Sequence[Group], models: Models) -> list[FeatureRow]:
        shown = [(t.task.id, t.image) for group in groups for t in group if t.image is not None]
        # Metrics in the same features share what the network said: it is by far the dearest part.
        key = (type(self).look, self.features)
        new = list(dict.fromkeys(image for _, image in shown if key not in _LOOKED.setdefault(image, {})))
        if new:
            for image, row in zip(new, self.look(new), strict=True):
                _LOOKED[image][key] = row
        return [FeatureRow(task, _LOOKED[image][key]) for task, image in shown]

    def compute(self, rows: Sequence[FeatureRow]) -> Estimate:
        return self.estimate(self._stacked(rows))

    @abstractmethod
    def estimate(self, generated: Float[np.ndarray, "n D"]) -> Estimate:
        """The number from what was kept of all n generated pictures."""

    def details(self, rows: Sequence[FeatureRow]) -> dict[str, float]:
        """Further numbers that are usually printed beside this one."""
        return {}

    def _stacked(self, rows: Sequence[FeatureRow]) -> Float[np.ndarray, "n D"]:
        if len(rows) != self.n:
            raise ConfigError(
                f"{self.name} is a number about {self.n} pictures, got {len(rows)}: values of different numbers cannot "
                "be compared; set n to evaluation.limit * evaluation.n"
            )
        return np.stack([row.features for row in rows])

    def _jackknife(self, statistic: Callable[[Bool[np.ndarray, "B"]], float]) -> Estimate:
        """The statistic of all blocks, with the error from the statistics without one block each.

        ``se^2 = (B - 1) / B * sum_b (x_b - mean x)^2``
        """
        parts = np.array([statistic(np.arange(BLOCKS) != b) for b in range(BLOCKS)])
        stderr = math.sqrt((BLOCKS - 1) / BLOCKS * float(((parts - parts.mean()) ** 2).sum()))
        return Estimate(statistic(np.ones(BLOCKS, dtype=bool)), stderr, self.n)

    def _rows(self, kept: Bool[np.ndarray, "B"]) -> Bool[np.ndarray, "n"]:
        """Which pictures the blocks that are kept hold."""
        return kept[np.arange(self.n) * BLOCKS // self.n]


_NAMED = ("features", "n", "reference")
_LOOKED: WeakKeyDictionary[Image, dict[Any, np.ndarray]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Comparison(Distributional):
    """A number about n generated pictures and n reference pictures.

    Raises:
        ConfigError: fewer than n reference tasks.
        DataError: a reference task has no gold picture.
    """

    reference: Tasks
    """Gold pictures of the first n tasks are what generated ones are compared with."""

    @property
    def identity(self) -> dict[str, Any]:
        digest = _reference(self.features, self.reference, self.n).digest
        return {**super().identity, "reference": type(self.reference).__name__, "reference hash": digest}

    def real(self) -> Float[np.ndarray, "n D"]:
        """Features of the reference pictures."""
        return _reference(self.features, self.reference, self.n).features


@dataclass(frozen=True, eq=False)
class _Reference:
    features: Float[np.ndarray, "n D"]
    digest: str
    """Hash of the pictures, their sizes included: of what was compared with, whatever made it."""


@lru_cache(maxsize=8)
def _reference(features: Features, tasks: Tasks, n: int) -> _Reference:
    if len(tasks) < n:
        raise ConfigError(f"reference must have at least n = {n} tasks, {type(tasks).__name__} has {len(tasks)}")
    digest, rows = hashlib.sha256(), []
    for part in chunks(range(n)):
        images = [_gold(tasks[i]) for i in part]
        for image in images:
            digest.update(repr(image.pixels.shape).encode())
            digest.update(image.pixels.tobytes())
        rows.append(features(images))
    return _Reference(np.concatenate(rows), digest.hexdigest()[:16])


def _gold(task: Task) -> Image:
    shown = images_of(task.gold[-1]) if task.gold else []
    if not shown:
        raise DataError(f"task {task.id!r}: a reference set is made of gold pictures, this task has none")
    return shown[-1]


# --- distances of Gaussians ---


@dataclass(frozen=True)
class FrechetDistance(Comparison):
    """Fréchet distance of two sets of pictures, in [0, inf), 0 for equal sets (arXiv:1706.08500).

    ``|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))`` with means m and (unbiased) covariances S. It is biased upward
    by about 1 / n, and it reads only two moments of the features.
    """

    @property
    def kind(self) -> str:
        """It is ``FID`` in Inception features only."""
        return "FID" if isinstance(self.features, Inception) else "Frechet distance"

    def estimate(self, generated: Float[np.ndarray, "n D"]) -> Estimate:
        real = self.real()
        return self._jackknife(lambda kept: frechet(real[self._rows(kept)], generated[self._rows(kept)]))


def fid(reference: Tasks, n: int = 256, batch: int = 16) -> FrechetDistance:
    """FID proper (arXiv:1706.08500): the Fréchet distance in the features of the original Inception-v3."""
    return FrechetDistance(Inception(batch), reference, n=n)


@dataclass(frozen=True)
class FrechetInfinity(Comparison):
    """What the Fréchet distance tends to for endless sets (FID infinity, arXiv:1911.07023).

    The distance is linear in 1 / N for N well above the number of features. It is taken at N = n, n / 2, n / 3 and
    n / 4, as the mean over the 1, 2, 3 and 4 disjoint parts of both sets, and the value is where the least-squares line
    through these four meets 1 / N = 0. Unlike the distance itself it may be negative, by chance.

    Raises:
        ConfigError: n / 4 is not above the number of features.
    """

    PARTS: ClassVar[tuple[int, ...]] = (1, 2, 3, 4)

    @property
    def kind(self) -> str:
        return "FID at infinity" if isinstance(self.features, Inception) else "Frechet distance at infinity"

    def estimate(self, generated: Float[np.ndarray, "n D"]) -> Estimate:
        most, columns = max(self.PARTS), generated.shape[1]
        if self.n // most <= columns:
            raise ConfigError(
                f"n must be >= {most * (columns + 1)} for {self.name}: the line in 1 / N is straight only for N above "
                f"the {columns} features"
            )
        real = self.real()
        return self._jackknife(lambda kept: self._intercept(real[self._rows(kept)], generated[self._rows(kept)]))

    def _intercept(self, real: Float[np.ndarray, "N D"], generated: Float[np.ndarray, "N D"]) -> float:
        inverse, means = [], []
        for parts in self.PARTS:
            size = len(real) // parts
            # Every parts-th picture, so that each part has all there is to see.
            shares = [slice(i, i + parts * size, parts) for i in range(parts)]
            inverse.append(1 / size)
            means.append(math.fsum(frechet(real[s][:size], generated[s][:size]) for s in shares) / parts)
        return float(np.polyfit(inverse, means, 1)[1])


def frechet(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "N D"]) -> float:
    """Squared Fréchet distance of the Gaussians with the means and covariances of two sets of as many rows.

    With fewer rows than columns the covariances are singular, and the square root's trace is had without them:
    ``tr (S_a S_b)^(1/2) = |A B^T|_* / (N - 1)``, the sum of singular values, for the centred rows A and B.

    Raises:
        ConfigError: the sets differ in size, or have fewer than two rows.
    """
    if a.shape != b.shape or len(a) < 2:
        raise ConfigError(f"a Frechet distance compares two sets of one size >= 2, got {len(a)} and {len(b)}")
    a, b = a.astype(np.float64), b.astype(np.float64)
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum()
    a, b = a - a.mean(0), b - b.mean(0)
    freedom = len(a) - 1
    spread = ((a**2).sum() + (b**2).sum()) / freedom
    if len(a) > a.shape[1]:
        # A = Q R with Q's columns orthonormal: A and R have one covariance, and R has fewer rows.
        a, b = np.asarray(np.linalg.qr(a, mode="r")), np.asarray(np.linalg.qr(b, mode="r"))
    common = np.linalg.svd(a @ b.T, compute_uv=False).sum() / freedom
    return float(shift + spread - 2 * common)


# --- distances of kernel means ---


@dataclass(frozen=True)
class KernelDistance(Comparison):
    """Squared maximum mean discrepancy under ``k(x, y) = (x . y / D + 1)^3``: KID in Inception features.

    ``sum_{i != j} [k(x_i, x_j) + k(y_i, y_j)] / (m (m - 1)) - 2 sum_{ij} k(x_i, y_j) / m^2``, the mean over random
    subsets of m pictures of each set (arXiv:1801.01401). It has no bias: 0 on average for equal distributions at every
    n, hence sometimes negative, and the distance to take where pictures are few.

    The error adds the jackknife's (over all n) and that of taking only so many subsets. ``details`` has the standard
    deviation over subsets that papers print: the spread of sets of m pictures, not the error of the value.
    """

    subsets: int = field(default=100, kw_only=True)
    subset_size: int = field(default=100, kw_only=True)
    """m; 1,000 where published numbers are of 50,000 pictures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.subsets < 1:
            raise ConfigError(f"subsets must be >= 1, got {self.subsets}")
        if not 2 <= self.subset_size <= self.n:
            raise ConfigError(f"subset_size must be in [2, n = {self.n}], got {self.subset_size}")

    @property
    def kind(self) -> str:
        return "KID" if isinstance(self.features, Inception) else "kernel distance"

    def estimate(self, generated: Float[np.ndarray, "n D"]) -> Estimate:
        values = self._values(generated)
        sums = _kernel_sums(_cubic, self.real(), generated, BLOCKS)
        whole = self._jackknife(sums.unbiased)
        return Estimate(float(values.mean()), math.hypot(whole.stderr, values.std() / math.sqrt(self.subsets)), self.n)

    def details(self, rows: Sequence[FeatureRow]) -> dict[str, float]:
        values = self._values(self._stacked(rows))
        return {"mean over subsets": float(values.mean()), "standard deviation over subsets": float(values.std())}

    def _values(self, generated: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "subsets"]:
        real, random = self.real(), numpy_generator(0, "subsets")
        values = []
        for _ in range(self.subsets):
            x, y = (rows[random.permutation(self.n)[: self.subset_size]] for rows in (real, generated))
            values.append(_kernel_sums(_cubic, x, y, 1).unbiased(np.array([True])))
        return np.array(values)


@dataclass(frozen=True)
class FeatureMMD(Comparison):
    """1,000 times the squared maximum mean discrepancy under a Gaussian kernel: CMMD in CLIP's (arXiv:2401.09603).

    ``k(x, y) = exp(-|x - y|^2 / (2 sigma^2))`` of features scaled to length 1, sigma = 10, and the estimator of the
    reference code: means over all pairs, each picture with itself included, so that it is never negative and biased
    upward by at most 1,000 * 2 / (n sigma^2). Assumes nothing of the distributions' shape.
    """

    SIGMA: ClassVar[float] = 10.0
    SCALE: ClassVar[float] = 1000.0

    @property
    def kind(self) -> str:
        return "CMMD" if isinstance(self.features, CLIPFeatures) else "Gaussian MMD"

    def estimate(self, generated: Float[np.ndarray, "n D"]) -> Estimate:
        sums = _kernel_sums(self._kernel, _unit(self.real()), _unit(generated), BLOCKS)
        return self._jackknife(lambda kept: self.SCALE * sums.biased(kept))

    def _kernel(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        squared = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
        return np.exp(-squared / (2 * self.SIGMA**2))


Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


@dataclass(frozen=True, eq=False)
class _KernelSums:
    """Sums of a kernel over pairs of rows, block by block."""

    xx: Float[np.ndarray, "B B"]
    yy: Float[np.ndarray, "B B"]
    xy: Float[np.ndarray, "B B"]
    own: Float[np.ndarray, "B"]
    """The part of xx and yy that is of rows with themselves."""
    sizes: Float[np.ndarray, "B"]

    def unbiased(self, kept: Bool[np.ndarray, "B"]) -> float:
        """Squared discrepancy of the rows of the blocks that are kept, without pairs of a row with itself."""
        m = self.sizes @ kept
        within = kept @ (self.xx + self.yy) @ kept - self.own @ kept
        return float(within / (m * (m - 1)) - 2 * (kept @ self.xy @ kept) / m**2)

    def biased(self, kept: Bool[np.ndarray, "B"]) -> float:
        """The same with such pairs: the squared distance of the two means in the kernel's space."""
        return float(kept @ (self.xx + self.yy - 2 * self.xy) @ kept / (self.sizes @ kept) ** 2)


def _kernel_sums(kernel: Kernel, x: np.ndarray, y: np.ndarray, blocks: int) -> _KernelSums:
    block = np.arange(len(x)) * blocks // len(x)
    xs, ys = ([rows[block == b] for b in range(blocks)] for rows in (x, y))

    def summed(left: list[np.ndarray], right: list[np.ndarray]) -> np.ndarray:
        # Block by block, so that memory grows as (n / B)^2.
        return np.array([[kernel(a, b).sum() for b in right] for a in left])

    own = np.array([kernel(a, a).trace() + kernel(b, b).trace() for a, b in zip(xs, ys, strict=True)])
    return _KernelSums(summed(xs, xs), summed(ys, ys), summed(xs, ys), own, np.array([float(len(a)) for a in xs]))


# --- neighbours ---


@dataclass(frozen=True)
class Neighbours(Comparison):
    """A number about which pictures lie in which balls.

    The ball of a picture reaches to its k-th nearest neighbour in its own set, itself not counted; balls are closed, so
    that copies of a picture are in its ball whatever its radius.
    """

    k: int = field(default=3, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.k <= self.n // 2:
            raise ConfigError(f"k must be in [1, n / 2 = {self.n // 2}], got {self.k}")

    def estimate(self, generated: Float[np.ndarray, "n D"]) -> Estimate:
        centres, points = self._roles(self.real(), generated)
        among, across = _distances(centres, centres), _distances(centres, points)

        def statistic(kept: Bool[np.ndarray, "B"]) -> float:
            rows = np.flatnonzero(self._rows(kept))
            own = among[np.ix_(rows, rows)]
            # The nearest of all is the picture itself, or a copy of it.
            radii = np.partition(own, self.k, axis=1)[:, self.k]
            return self.measure(across[np.ix_(rows, rows)] <= radii[:, None])

        return self._jackknife(statistic)

    def _roles(self, real: np.ndarray, generated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return real, generated

    @abstractmethod
    def measure(self, inside: Bool[np.ndarray, "N N"]) -> float:
        """The number from whether ball i holds picture j of the other set."""


@dataclass(frozen=True)
class Precision(Neighbours):
    """Share of generated pictures inside the ball of any reference picture: fidelity (arXiv:1904.06991)."""

    @property
    def kind(self) -> str:
        return "precision"

    def measure(self, inside: Bool[np.ndarray, "N N"]) -> float:
        return float(inside.any(0).mean())


@dataclass(frozen=True)
class Recall(Precision):
    """Share of reference pictures inside the ball of any generated picture (arXiv:1904.06991).

    It falls where a policy has collapsed, while rewards and precision rise.
    """

    @property
    def kind(self) -> str:
        return "recall"

    def _roles(self, real: np.ndarray, generated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return generated, real


@dataclass(frozen=True)
class Density(Neighbours):
    """Mean number of reference balls that hold a generated picture, over k (arXiv:2002.09797); 1 for equal sets.

    Above 1 where generated pictures crowd in the middle of the reference set. An outlier among the reference pictures,
    whose ball is wide, counts once only, which is what precision suffers from.
    """

    k: int = field(default=5, kw_only=True)

    @property
    def kind(self) -> str:
        return "density"

    def measure(self, inside: Bool[np.ndarray, "N N"]) -> float:
        return float(inside.sum() / (self.k * inside.shape[1]))


@dataclass(frozen=True)
class Coverage(Neighbours):
    """Share of reference pictures whose own ball holds a generated picture (arXiv:2002.09797).

    For two sets of one distribution it is ``1 - prod_{i=1}^{k} (n - i) / (2 n - i)`` on average, near 1 - 2^-k, and it
    falls where a policy has collapsed.
    """

    k: int = field(default=5, kw_only=True)

    @property
    def kind(self) -> str:
        return "coverage"

    def measure(self, inside: Bool[np.ndarray, "N N"]) -> float:
        return float(inside.any(1).mean())


def _distances(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "N M"]:
    # By differences: products would leave copies at a small distance, and not at 0.
    left, right = torch.from_numpy(a), torch.from_numpy(b)
    return torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist").numpy()


# --- sets by themselves ---


@dataclass(frozen=True)
class Vendi(Distributional):
    """Vendi score: the effective number of different pictures, in [1, n] (arXiv:2210.02410).

    ``exp(-sum_i l_i log l_i)`` with the eigenvalues l of K / n, ``K_ij`` the cosine of the features of pictures i and
    j; m equally frequent, mutually orthogonal modes have m. It grows with n, and features that are all positive leave
    every cosine near 1 and the score low: read it beside the reference policy's, at one n. Pictures whose features are
    all zero count as one mode of their own.
    """

    @property
    def kind(self) -> str:
        return "Vendi score"

    def estimate(self, generated: Float[np.ndarray, "n D"]) -> Estimate:
        rows = _unit(generated)
        rows = np.column_stack([rows, ~rows.any(1)])
        return self._jackknife(lambda kept: _effective_number(rows[self._rows(kept)]))


def _effective_number(rows: Float[np.ndarray, "N D"]) -> float:
    """Exponential of the entropy of the eigenvalues of ``rows rows^T / N``: squared singular values of rows over N."""
    values = np.linalg.svd(rows, compute_uv=False) ** 2 / len(rows)
    values = values[values > 0]
    return math.exp(-float((values * np.log(values)).sum()))


@dataclass(frozen=True)
class InceptionScore(Distributional):
    """``exp(mean_x KL(p(c | x) || p(c)))``, in [1, C]: pictures that are sure of their class, of all classes.

    The mean over disjoint splits in a fixed random order (arXiv:1606.03498), with the standard error of that mean;
    ``details`` has the standard deviation over splits that papers print. p(c) is the mean over one split, so that
    values of other n or splits cannot be compared, and small splits are low. It knows no reference set, cannot see a
    class of which there is one picture only, and says nothing of pictures unlike those the network was trained on. The
    published numbers are in Inception-v3's classes, whose logits no package has.

    Raises:
        ConfigError: the network has no classes.
    """

    features: ClassFeatures
    splits: int = field(default=10, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.features, ClassFeatures):
            raise ConfigError(
                f"features must be of a network that tells classes apart, which {type(self.features).__name__} has no "
                "logits for: take EfficientNet() or ClassifierFeatures(...)"
            )
        if not 2 <= self.splits <= self.n // 2:
            raise ConfigError(f"splits must be in [2, n / 2 = {self.n // 2}], got {self.splits}")

    @property
    def kind(self) -> str:
        return "Inception score"

    def look(self, images: Sequence[Image]) -> Float[np.ndarray, "N C"]:
        return self.features.logits(images)

    def estimate(self, generated: Float[np.ndarray, "n C"]) -> Estimate:
        values = self._values(generated)
        return Estimate(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(self.splits), self.n)

    def details(self, rows: Sequence[FeatureRow]) -> dict[str, float]:
        values = self._values(self._stacked(rows))
        return {"mean over splits": float(values.mean()), "standard deviation over splits": float(values.std(ddof=1))}

    def _values(self, generated: Float[np.ndarray, "n C"]) -> Float[np.ndarray, "splits"]:
        order = numpy_generator(0, "splits").permutation(self.n)
        log_p = torch.from_numpy(generated[order]).log_softmax(1).numpy()
        values = []
        for part in np.array_split(log_p, self.splits):
            p = np.exp(part)
            values.append(math.exp((p * (part - np.log(p.mean(0)))).sum(1).mean()))
        return np.array(values)


def _unit(rows: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Rows at length 1; those of zeros stay."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)


# --- all of them ---


def set_metrics(features: Features, n: int, reference: Tasks | None = None) -> dict[str, Distributional]:
    """All numbers about sets that these features allow, by names that carry the network.

    Args:
        features: the network.
        n: pictures in each set.
        reference: gold pictures to compare with; None: those numbers only that need none.
    """
    found: list[Distributional] = [Vendi(features, n=n)]
    if isinstance(features, ClassFeatures):
        found.append(InceptionScore(features, n=n))
    if reference is not None:
        kinds: list[type[Comparison]] = [FrechetDistance, Precision, Recall, Density, Coverage]
        if isinstance(features, CLIPFeatures):
            kinds.append(FeatureMMD)
        found.append(KernelDistance(features, reference, n=n, subset_size=min(100, n)))
        found += [kind(features, reference, n=n) for kind in kinds]
    return {f"{metric.kind} [{features.name}]": metric for metric in found}
