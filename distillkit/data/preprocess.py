"""From pixels to network inputs and back: standardisation or whitening, fitted on training images only."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from distillkit.errors import ArtifactError, ConfigError, DataError
from distillkit.records import Pixels

CHUNK = 2048  # images converted at a time, so that a large uint8 set is never held as floats twice


@dataclass(frozen=True)
class Standardise:
    """``(x - mean) / std`` per channel; ``mean``, ``std`` float64 [C] of pixels in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels [B, C, H, W] in [0, 1], float, to network inputs."""
        return (pixels - self.mean.to(pixels).view(-1, 1, 1)) / self.std.to(pixels).view(-1, 1, 1)

    def invert(self, inputs: Tensor) -> Tensor:
        """Network inputs back to pixels; may leave [0, 1]."""
        return inputs * self.std.to(inputs).view(-1, 1, 1) + self.mean.to(inputs).view(-1, 1, 1)

    def from_view(self, pixels: Tensor) -> Tensor:
        """The inverse of ``invert``."""
        return self(pixels)

    def to_tensors(self) -> dict[str, Tensor]:
        """What preprocess.safetensors holds: ``mean`` [C] and ``std`` [C], float32."""
        return {"mean": self.mean.float(), "std": self.std.float()}


@dataclass(frozen=True)
class Whiten:
    """ZCA (as MTT calls kornia's ``ZCAWhitening``): ``(x.flatten() - mean) @ matrix``, D = C*H*W.

    ``matrix`` = U (Λ + eps)^(-1/2) Uᵀ of the n-1 covariance of pixels in [0, 1], symmetric; no mean/std step before it.
    """

    mean: Tensor
    matrix: Tensor

    @cached_property
    def inverse(self) -> Tensor:
        """U (Λ + eps)^(1/2) Uᵀ, float64 [D, D]."""
        inverse: Tensor = torch.linalg.inv(self.matrix.double())
        return inverse

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels [B, C, H, W] in [0, 1], float, to whitened inputs."""
        flat = pixels.flatten(1) - self.mean.to(pixels)
        return (flat @ self.matrix.to(pixels)).view_as(pixels)

    def invert(self, inputs: Tensor) -> Tensor:
        """Whitened inputs back to pixels; may leave [0, 1]."""
        flat = inputs.flatten(1) @ self.inverse.to(inputs) + self.mean.to(inputs)
        return flat.view_as(inputs)

    def from_view(self, pixels: Tensor) -> Tensor:
        """The inverse of ``invert``."""
        return self(pixels)

    def to_tensors(self) -> dict[str, Tensor]:
        """What preprocess.safetensors holds: ``zca_mean`` [D] and ``zca_matrix`` [D, D], float32."""
        return {"zca_mean": self.mean.float(), "zca_matrix": self.matrix.float()}


class UnitLength(ABC):
    """Whitening of images of zero mean and unit length, as RaT-BPTT has it: each image minus its own mean over all
    D = C*H*W values, divided by its L2 norm; then a linear map, which whitens such images.

    What mean and norm an image had is lost: ``invert`` gives every image those of a natural one.
    """

    @abstractmethod
    def whiten(self, unit: Tensor) -> Tensor:
        """Images [B, C, H, W] of zero mean and unit length to inputs: the linear map."""

    @abstractmethod
    def unwhiten(self, inputs: Tensor) -> Tensor:
        """The inverse of ``whiten``."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels [B, C, H, W], float, of any unit, to whitened inputs; images of one value become zeros."""
        return self.whiten(unit_images(pixels).view_as(pixels))

    def invert(self, inputs: Tensor) -> Tensor:
        """Whitened inputs to pixels; real ones get mean ``NATURAL_MEAN`` and standard deviation ``NATURAL_STD``."""
        return NATURAL_MEAN + _natural_length(inputs) * self.unwhiten(inputs)

    def from_view(self, pixels: Tensor) -> Tensor:
        """The inverse of ``invert``: a learned image's own mean and length are part of it, and stay."""
        return self.whiten((pixels - NATURAL_MEAN) / _natural_length(pixels))


@dataclass(frozen=True)
class UnitWhiten(UnitLength):
    """RaT-BPTT's: ``x.flatten() @ matrix``, ``matrix`` = V (Λ + e mean(Λ))^(-1/2) Vᵀ of Σ = V Λ Vᵀ = XᵀX / n."""

    matrix: Tensor

    @cached_property
    def inverse(self) -> Tensor:
        """V (Λ + e mean(Λ))^(1/2) Vᵀ, float64 [D, D]."""
        inverse: Tensor = torch.linalg.inv(self.matrix.double())
        return inverse

    def whiten(self, unit: Tensor) -> Tensor:
        """``unit`` [B, C, H, W] times the matrix."""
        return (unit.flatten(1) @ self.matrix.to(unit)).view_as(unit)

    def unwhiten(self, inputs: Tensor) -> Tensor:
        """``inputs`` [B, C, H, W] times the inverse."""
        return (inputs.flatten(1) @ self.inverse.to(inputs)).view_as(inputs)

    def to_tensors(self) -> dict[str, Tensor]:
        """What preprocess.safetensors holds: ``unit_zca_matrix`` [D, D], float32."""
        return {"unit_zca_matrix": self.matrix.float()}


@dataclass(frozen=True)
class UnitDct(UnitLength):
    """``UnitWhiten`` of a covariance that is taken to couple no two spatial frequencies: H*W matrices of C x C instead
    of one of D x D, a thousandth of the bytes at 32 x 32 pixels, and no limit to the size of images.

    The cosine transform nearly diagonalises the covariance of natural images (Ahmed, Natarajan and Rao, Discrete Cosine
    Transform, IEEE Trans. Computers 1974), so this is nearly the same map. ``matrices`` [H, W, C, C], symmetric: at
    each frequency V (Λ + e m)^(-1/2) Vᵀ of Σ = V Λ Vᵀ, the second moment of the C coefficients over unit images; m is
    the mean of Λ over all frequencies, 1 / D.
    """

    matrices: Tensor

    @cached_property
    def inverses(self) -> Tensor:
        """Those of ``matrices``, float64 [H, W, C, C]."""
        inverses: Tensor = torch.linalg.inv(self.matrices.double())
        return inverses

    def whiten(self, unit: Tensor) -> Tensor:
        """``unit`` [B, C, H, W] with each frequency's channels multiplied by its matrix."""
        return _by_frequency(unit, self.matrices)

    def unwhiten(self, inputs: Tensor) -> Tensor:
        """``inputs`` [B, C, H, W] likewise, by the inverses."""
        return _by_frequency(inputs, self.inverses)

    def to_tensors(self) -> dict[str, Tensor]:
        """What preprocess.safetensors holds: ``unit_dct_matrices`` [H, W, C, C], float32."""
        return {"unit_dct_matrices": self.matrices.float()}


def dct_matrix(size: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II), float64 [size, size]: row k holds
    √(2 / size) cos(π k (i + ½) / size), row 0 divided by √2.
    """
    k, i = torch.arange(size).double()[:, None], torch.arange(size).double()[None]
    matrix: Tensor = (torch.pi * k * (i + 0.5) / size).cos() * (2 / size) ** 0.5
    matrix[0] /= 2**0.5
    return matrix


def frequencies(images: Tensor) -> Tensor:
    """Cosine coefficients [B, C, H, W] of images [B, C, H, W], of each channel over rows and columns."""
    down, right = (dct_matrix(size).to(images) for size in images.shape[-2:])
    return down @ images @ right.T


def _by_frequency(images: Tensor, matrices: Tensor) -> Tensor:
    """Images [B, C, H, W], the channels of each of their frequencies multiplied by its matrix of [H, W, C, C]."""
    down, right = (dct_matrix(size).to(images) for size in images.shape[-2:])
    mixed = torch.einsum("bchw,hwcd->bdhw", frequencies(images), matrices.to(images))
    found: Tensor = down.T @ mixed @ right
    return found


def _natural_length(images: Tensor) -> float:
    """L2 norm of an image [C, H, W] of standard deviation ``NATURAL_STD``."""
    return NATURAL_STD * math.sqrt(math.prod(images.shape[1:]))


NATURAL_MEAN, NATURAL_STD = 0.5, 0.25
EVEN = 1e-5
"""Images whose values differ by less than this share of their length are of one value."""


def unit_images(images: Tensor) -> Tensor:
    """Flat [B, D], each image minus its mean, divided by its L2 norm."""
    flat = images.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    lengths: Tensor = centred.norm(dim=1, keepdim=True)
    even = lengths <= EVEN * flat.norm(dim=1, keepdim=True)  # what is left is rounding
    unit: Tensor = centred / lengths.clamp_min(torch.finfo(flat.dtype).tiny)
    return torch.where(even, torch.zeros_like(unit), unit)


Preprocess = Standardise | Whiten | UnitWhiten | UnitDct
WHITENED = ("zca", "unit-zca", "unit-dct")
"""Kinds of preprocessing whose inputs depend on the whole image."""
COUNTED = 256
"""Images whose values are counted at a time."""


def _chunks(images: Pixels) -> Iterator[Tensor]:
    for chunk in images.split(CHUNK):
        yield chunk.double() / 255


def _histogram(images: Pixels) -> Tensor:
    """How often each channel has each of the 256 values, int64 [C, 256]."""
    found = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for part in images.split(COUNTED):
        found += torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in part.unbind(1)])
    return found


def fit_standardise(images: Tensor | Pixels) -> Standardise:
    """Channel mean and standard deviation over all pixels of uint8 ``images`` [n, C, H, W], in float64.

    From counts of values: the same to the last bit, however many threads there are.
    """
    counts = _histogram(_as_pixels(images)).double()
    values, total = torch.arange(256, dtype=torch.float64) / 255, counts[0].sum()
    mean = (counts * values).sum(1) / total
    std = ((counts * (values - mean[:, None]) ** 2).sum(1) / total).sqrt()
    return Standardise(mean, std.clamp_min(1e-3))  # a constant channel carries nothing; do not divide by zero


def _as_pixels(images: Tensor | Pixels) -> Pixels:
    return images if isinstance(images, Pixels) else Pixels(images)


def fit_whiten(images: Tensor | Pixels, eps: float) -> Whiten:
    """ZCA of uint8 ``images`` [n, C, H, W], in float64; D = C*H*W at most 12,288 (64 x 64 colour).

    Raises:
        ConfigError: images so large that the D x D matrix is not worth having.
    """
    images = _as_pixels(images)
    size = _check_matrix(images)
    mean = torch.stack([chunk.flatten(1).sum(0) for chunk in _chunks(images)]).sum(0) / len(images)
    covariance = torch.zeros(size, size, dtype=torch.float64)
    for chunk in _chunks(images):
        centred = chunk.flatten(1) - mean
        covariance.addmm_(centred.T, centred)
    eigenvalues, vectors = torch.linalg.eigh(covariance / (len(images) - 1))
    matrix = (vectors * (eigenvalues.clamp_min(0) + eps).rsqrt()) @ vectors.T
    return Whiten(mean, matrix)


def _check_matrix(images: Pixels) -> int:
    size = math.prod(images.shape[1:])
    if size > 12288:
        side = f"{images.shape[-2]}x{images.shape[-1]}"
        raise ConfigError(f"ZCA of {side} images needs a {size} x {size} matrix; use dataset.preprocessing=unit-dct")
    return size


def fit_unit_whiten(images: Tensor | Pixels, relative_eps: float) -> UnitWhiten:
    """ZCA of uint8 ``images`` [n, C, H, W], each of zero mean and unit length, in float64; D at most 12,288.

    Raises:
        ConfigError: images so large that the D x D matrix is not worth having.
    """
    images = _as_pixels(images)
    size = _check_matrix(images)
    second_moment = torch.zeros(size, size, dtype=torch.float64)
    for chunk in _chunks(images):
        flat = unit_images(chunk)
        second_moment.addmm_(flat.T, flat)
    eigenvalues, vectors = torch.linalg.eigh(second_moment / len(images))
    eigenvalues = eigenvalues.clamp_min(0)
    _check_contrast(eigenvalues)
    return UnitWhiten((vectors * (eigenvalues + relative_eps * eigenvalues.mean()).rsqrt()) @ vectors.T)


def _check_contrast(eigenvalues: Tensor) -> None:
    """Is there anything to whiten?

    Raises:
        DataError: no.
    """
    if not bool(eigenvalues.mean() > 0):
        raise DataError(
            "each training image is of one grey throughout, which leaves nothing to whiten; "
            "`dataset.preprocessing=standardise`"
        )


def fit_unit_dct(images: Tensor | Pixels, relative_eps: float) -> UnitDct:
    """Whitening by frequency of uint8 ``images`` [n, C, H, W], each of zero mean and unit length, in float64."""
    images = _as_pixels(images)
    channels, height, width = images.shape[1:]
    second_moment = torch.zeros(height, width, channels, channels, dtype=torch.float64)
    for chunk in _chunks(images):
        found = frequencies(unit_images(chunk).view_as(chunk)).permute(2, 3, 1, 0).contiguous()
        second_moment += found @ found.mT
    eigenvalues, vectors = torch.linalg.eigh(second_moment / len(images))
    eigenvalues = eigenvalues.clamp_min(0)
    _check_contrast(eigenvalues)
    scales = (eigenvalues + relative_eps * eigenvalues.mean()).rsqrt()
    return UnitDct((vectors * scales[..., None, :]) @ vectors.mT)


def fit(kind: str, images: Tensor | Pixels, zca_eps: float) -> Preprocess:
    """Fit ``standardise``, ``zca``, ``unit-zca``, ``unit-dct`` or ``none`` (mean 0, std 1) on uint8 training images
    [n, C, H, W].
    """
    if kind == "zca":
        return fit_whiten(images, zca_eps)
    if kind == "unit-zca":
        return fit_unit_whiten(images, zca_eps)
    if kind == "unit-dct":
        return fit_unit_dct(images, zca_eps)
    if kind == "none":
        channels = images.shape[1]
        return Standardise(torch.zeros(channels, dtype=torch.float64), torch.ones(channels, dtype=torch.float64))
    return fit_standardise(images)


def from_tensors(tensors: dict[str, Tensor], image_shape: tuple[int, int, int]) -> Preprocess:
    """Read what ``to_tensors`` wrote.

    Raises:
        ArtifactError: names or shapes are not those of a preprocessing of C, H, W images.
    """
    channels, height, width = image_shape
    size = channels * height * width
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes == {"mean": (channels,), "std": (channels,)}:
        return Standardise(tensors["mean"].double(), tensors["std"].double())
    if shapes == {"zca_mean": (size,), "zca_matrix": (size, size)}:
        return Whiten(tensors["zca_mean"].double(), tensors["zca_matrix"].double())
    if shapes == {"unit_zca_matrix": (size, size)}:
        return UnitWhiten(tensors["unit_zca_matrix"].double())
    if shapes == {"unit_dct_matrices": (height, width, channels, channels)}:
        return UnitDct(tensors["unit_dct_matrices"].double())
    raise ArtifactError(f"preprocess.safetensors holds {shapes}, which fits no {image_shape} images")


def to_inputs(preprocess: Preprocess, images: Tensor | Pixels, device: torch.device | str = "cpu") -> Tensor:
    """uint8 images [n, C, H, W] to float32 network inputs on ``device``."""
    if len(images) <= CHUNK:
        return preprocess(images[:].to(device).float() / 255)
    inputs = torch.empty(images.shape, dtype=torch.float32, device=device)
    for start in range(0, len(images), CHUNK):
        inputs[start : start + CHUNK] = preprocess(images[start : start + CHUNK].to(device).float() / 255)
    return inputs
