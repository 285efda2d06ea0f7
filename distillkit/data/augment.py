"""Differentiable Siamese augmentation (DSA) as the field's released code runs it (``ParamDiffAug``, mode "S").

One call augments one batch: one operation is drawn for the batch, and every image draws its own parameters. Drawing and
applying are separate, so an augmentation can be replayed exactly: ``apply`` is a pure function of images and ``Draw``.
Coordinates, laws and clipping follow mtt-distillation@50dccea (``rand_*`` functions).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit.errors import ConfigError

CROP_RATIO = 0.125
CUTOUT_RATIO = 0.5
SCALE_RATIO = 1.2
ROTATE_DEGREES = 15.0


@dataclass(frozen=True)
class Draw:
    """The random part of one augmented batch: an operation and, per image, its numbers [B, v] (float64 or int64)."""

    operation: str
    values: Tensor

    def __getitem__(self, images: slice) -> Draw:
        """The draw of some of the images."""
        return Draw(self.operation, self.values[images])


def _uniform(batch: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(batch, count, generator=generator, dtype=torch.float64)


def _draw_color(batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    return _uniform(batch, 3, generator)


def _draw_crop(batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    reach_h, reach_w = int(height * CROP_RATIO + 0.5), int(width * CROP_RATIO + 0.5)
    rows = torch.randint(-reach_h, reach_h + 1, (batch,), generator=generator)
    columns = torch.randint(-reach_w, reach_w + 1, (batch,), generator=generator)
    return torch.stack([rows, columns], 1)


def _draw_cutout(batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    side_h, side_w = int(height * CUTOUT_RATIO + 0.5), int(width * CUTOUT_RATIO + 0.5)
    rows = torch.randint(0, height + (1 - side_h % 2), (batch,), generator=generator)
    columns = torch.randint(0, width + (1 - side_w % 2), (batch,), generator=generator)
    return torch.stack([rows, columns], 1)


def _draw_one(batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    return _uniform(batch, 1, generator)


def _draw_two(batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    return _uniform(batch, 2, generator)


def _color(images: Tensor, values: Tensor) -> Tensor:
    brightness, saturation, contrast = values.to(images).view(-1, 3, 1, 1, 1).unbind(1)
    x = images + (brightness - 0.5)
    channel_mean = x.mean(1, keepdim=True)
    x = (x - channel_mean) * (2 * saturation) + channel_mean
    image_mean = x.mean((1, 2, 3), keepdim=True)
    return (x - image_mean) * (contrast + 0.5) + image_mean


def _crop(images: Tensor, values: Tensor) -> Tensor:
    batch, _, height, width = images.shape
    pad_h, pad_w = int(height * CROP_RATIO + 0.5), int(width * CROP_RATIO + 0.5)
    padded = F.pad(images, (pad_w, pad_w, pad_h, pad_h))
    shifts = values.to(images.device)
    rows = shifts[:, :1] + pad_h + torch.arange(height, device=images.device)  # [B, H]
    columns = shifts[:, 1:] + pad_w + torch.arange(width, device=images.device)  # [B, W]
    index = torch.arange(batch, device=images.device)
    # out[b, :, i, j] = padded[b, :, rows[b, i], columns[b, j]]
    channels_last = padded.permute(0, 2, 3, 1)[index[:, None, None], rows[:, :, None], columns[:, None, :]]
    return channels_last.permute(0, 3, 1, 2).contiguous()


def _cutout(images: Tensor, values: Tensor) -> Tensor:
    _, _, height, width = images.shape
    side_h, side_w = int(height * CUTOUT_RATIO + 0.5), int(width * CUTOUT_RATIO + 0.5)
    rows, columns = values.to(images.device).unbind(1)
    top, left = rows - side_h // 2, columns - side_w // 2
    i = torch.arange(height, device=images.device)
    j = torch.arange(width, device=images.device)
    inside_rows = (i >= top[:, None]) & (i < top[:, None] + side_h)  # [B, H]
    inside_columns = (j >= left[:, None]) & (j < left[:, None] + side_w)  # [B, W]
    hole = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return images * (~hole).to(images.dtype)


def _flip(images: Tensor, values: Tensor) -> Tensor:
    flipped = (values < 0.5).to(images.device).view(-1, 1, 1, 1)  # compared where they are: Mac's GPU has no float64
    return torch.where(flipped, images.flip(3), images)


def _warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Sample at input coordinates ``matrices`` [B, 2, 3] @ (x, y, 1); bilinear, corners aligned, zeros outside."""
    grid = F.affine_grid(matrices.to(images), list(images.shape), align_corners=True)
    if images.is_cuda and torch.are_deterministic_algorithms_enabled():
        return sample_by_gathers(images, grid)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def sample_by_gathers(images: Tensor, grid: Tensor) -> Tensor:
    """``grid_sample`` (bilinear, zeros outside, corners aligned) of ``images`` [B, C, H, W] at ``grid`` [B, H, W, 2].

    By sums of gathers, whose derivatives have a fixed order on a GPU; those of cuDNN's sampler have not.
    """
    batch, channels, height, width = images.shape
    x, y = (grid[..., 0] + 1) / 2 * (width - 1), (grid[..., 1] + 1) / 2 * (height - 1)
    left, top = x.detach().floor(), y.detach().floor()
    flat, total = images.reshape(batch, channels, height * width), torch.zeros_like(images)
    for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        weight = (1 - (x - column).abs()) * (1 - (y - row).abs())
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long().view(batch, 1, -1)
        found = flat.gather(2, index.expand(-1, channels, -1)).view(batch, channels, *grid.shape[1:3])
        total = total + found * (weight * inside).unsqueeze(1)
    return total


def _scale(images: Tensor, values: Tensor) -> Tensor:
    low = 1 / SCALE_RATIO
    factors = low + values * (SCALE_RATIO - low)
    matrices = torch.zeros(len(values), 2, 3, dtype=values.dtype, device=values.device)
    matrices[:, 0, 0], matrices[:, 1, 1] = factors[:, 0], factors[:, 1]
    return _warp(images, matrices)


def _rotate(images: Tensor, values: Tensor) -> Tensor:
    angle = torch.deg2rad((2 * values[:, 0] - 1) * ROTATE_DEGREES)
    zero = torch.zeros_like(angle)
    first_row = torch.stack([angle.cos(), -angle.sin(), zero], 1)
    second_row = torch.stack([angle.sin(), angle.cos(), zero], 1)
    return _warp(images, torch.stack([first_row, second_row], 1))


_Drawer = Callable[[int, int, int, torch.Generator], Tensor]
_Applier = Callable[[Tensor, Tensor], Tensor]
_OPERATIONS: dict[str, tuple[_Drawer, _Applier]] = {
    "color": (_draw_color, _color),
    "crop": (_draw_crop, _crop),
    "cutout": (_draw_cutout, _cutout),
    "flip": (_draw_one, _flip),
    "scale": (_draw_two, _scale),
    "rotate": (_draw_one, _rotate),
}
OPERATIONS = tuple(_OPERATIONS)


def apply(images: Tensor, draw: Draw) -> Tensor:
    """Augment ``images`` [B, C, H, W] by ``draw``; differentiable in the images, no randomness of its own."""
    return _OPERATIONS[draw.operation][1](images, draw.values)


@dataclass(frozen=True)
class ComposedAugmentation:
    """Operations that are all applied, in order, each with its own draw: ``crop+flip`` is the usual augmentation."""

    operations: tuple[str, ...]

    @staticmethod
    def parse(strategy: str) -> ComposedAugmentation:
        """Read ``"crop+flip"``.

        Raises:
            ConfigError: an operation is unknown.
        """
        names = tuple(strategy.split("+"))
        for name in names:
            if name not in _OPERATIONS:
                raise ConfigError(f"augmentation {name!r} is unknown; join any of {', '.join(OPERATIONS)} with '+'")
        return ComposedAugmentation(names)

    def draws(self, batch: int, height: int, width: int, generator: torch.Generator) -> tuple[Draw, ...]:
        """The random part for a batch of ``batch`` images of ``height`` x ``width`` pixels, one draw an operation."""
        return tuple(Draw(name, _OPERATIONS[name][0](batch, height, width, generator)) for name in self.operations)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Draw and apply each to ``images`` [B, C, H, W]."""
        batch, _, height, width = images.shape
        for draw in self.draws(batch, height, width, generator):
            images = apply(images, draw)
        return images


def parse_augmentation(strategy: str) -> Augmentation | ComposedAugmentation | None:
    """Of a recipe: ``none``, a DSA strategy (one operation a batch, ``crop_flip``), or all of some (``crop+flip``).

    Raises:
        ConfigError: an operation is unknown.
    """
    return ComposedAugmentation.parse(strategy) if "+" in strategy else Augmentation.parse(strategy)


@dataclass(frozen=True)
class Mix:
    """The random part of CutMix: ``partner`` int64 [B], whose box each image gets; the box: first and end of its rows
    and columns.
    """

    partner: Tensor
    rows: tuple[int, int]
    columns: tuple[int, int]


@dataclass(frozen=True)
class CutMix:
    """CutMix (Yun et al., ICCV 2019): a box of another image of the batch, and as much of its label.

    One share λ ~ Beta(1, 1) and one box a batch, as timm has it; the share of the label is that of the pixels.
    """

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> Mix:
        """The random part for a batch of ``batch`` images of ``height`` x ``width`` pixels."""
        partner = torch.randperm(batch, generator=generator)
        share, row, column = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        side = (1 - share) ** 0.5
        rows, columns = int(height * side), int(width * side)
        top, left = int(row * (height - rows + 1)), int(column * (width - columns + 1))
        return Mix(partner, (top, top + rows), (left, left + columns))

    @staticmethod
    def mixed(images: Tensor, targets: Tensor, mix: Mix) -> tuple[Tensor, Tensor]:
        """``images`` [B, C, H, W] and label probabilities ``targets`` [B, K], mixed as ``mix`` says."""
        partner, mixed = mix.partner.to(images.device), images.clone()
        box = (..., slice(*mix.rows), slice(*mix.columns))
        mixed[box] = images[partner][box]
        pixels = (mix.rows[1] - mix.rows[0]) * (mix.columns[1] - mix.columns[0])
        kept = 1 - pixels / (images.shape[2] * images.shape[3])
        return mixed, kept * targets + (1 - kept) * targets[partner]

    def __call__(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw and mix ``images`` [B, C, H, W] and label probabilities ``targets`` [B, K]."""
        batch, _, height, width = images.shape
        return self.mixed(images, targets, self.draw(batch, height, width, generator))


@dataclass(frozen=True)
class Augmentation:
    """A DSA strategy: the operations one of which is drawn, uniformly, for each batch."""

    operations: tuple[str, ...]

    @staticmethod
    def parse(strategy: str) -> Augmentation | None:
        """Read ``"color_crop_flip"``; ``"none"`` gives None.

        Raises:
            ConfigError: an operation is unknown.
        """
        if strategy in ("none", ""):
            return None
        names = tuple(strategy.split("_"))
        for name in names:
            if name not in _OPERATIONS:
                known = ", ".join(OPERATIONS)
                raise ConfigError(f"augmentation {name!r} is unknown; join any of {known} with '_', or say 'none'")
        return Augmentation(names)

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> Draw:
        """The random part for a batch of ``batch`` images of ``height`` x ``width`` pixels."""
        choice = int(torch.randint(len(self.operations), (1,), generator=generator))
        operation = self.operations[choice]
        return Draw(operation, _OPERATIONS[operation][0](batch, height, width, generator))

    def draws(self, batch: int, height: int, width: int, generator: torch.Generator) -> tuple[Draw, ...]:
        """The same, as one of the draws that are applied one after the other."""
        return (self.draw(batch, height, width, generator),)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Draw and apply."""
        batch, _, height, width = images.shape
        return apply(images, self.draw(batch, height, width, generator))
