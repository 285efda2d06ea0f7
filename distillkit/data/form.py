"""What all images of a data set become: their size, channels and range of values, from what the images say."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from PIL import Image

from distillkit.data import decode
from distillkit.data.raw import RawSplit
from distillkit.errors import DataError
from distillkit.progress import Progress
from distillkit.settings import DatasetSettings

LARGEST_AUTO_SIZE = 128  # pixels; larger images are only used in full when --image-size says so
FEW = 0.05
"""Share of images that do not decide the size of all."""
ENOUGH = 4
"""Images beside which a single one is odd, however large a share it is."""
LOOKED_AT = 512
"""Images between two words on how far it is."""


@dataclass
class _Seen:
    """What the headers of all images say; of greys of more than 8 bits their values too."""

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: set[str] = field(default_factory=set)
    smallest: dict[int, str] = field(default_factory=dict)
    low: float = math.inf
    high: float = -math.inf
    whole: bool = True
    broken: str | None = None
    """The first that cannot be read."""

    def add(self, image: Image.Image, name: str) -> None:
        self.sizes[image.size] += 1
        self.modes.add(image.mode)
        self.smallest.setdefault(min(image.size), name)
        extremes = decode.deep_extremes(image)
        if extremes is not None:
            self.low, self.high = min(self.low, extremes[0]), max(self.high, extremes[1])
            self.whole = self.whole and image.mode != "F"

    def short_side(self, share: float) -> int:
        """The short side that a ``share`` of the images fall below."""
        sides = Counter[int]()
        for size, count in self.sizes.items():
            sides[min(size)] += count
        passed, total = 0, sides.total()
        few = max(share * total, 1 if total >= ENOUGH else 0)
        for side in sorted(sides):
            passed += sides[side]
            if passed > few:
                return side
        return 0


def form_of_all(
    train: RawSplit, wanted: int | None, settings: DatasetSettings, progress: Progress
) -> tuple[decode.ImageForm, list[str]]:
    """What all images become, from the headers of the training images, and notes on what was decided.

    Raises:
        DataError: the images are too small.
    """
    seen = _Seen()
    progress.stage("looking at images", len(train.labels))
    for row, cell in enumerate(train.cells()):
        if row % LOOKED_AT == LOOKED_AT - 1:
            progress.advance(LOOKED_AT)
        try:
            with decode.open_image(cell) as image:
                seen.add(image, decode.cell_name(cell, row))
        except decode.BROKEN:
            seen.broken = seen.broken or decode.cell_name(cell, row)  # decoding names them all
    gray = settings.color == "gray" or (
        settings.color == "auto" and bool(seen.modes) and seen.modes <= decode.GREY_MODES
    )
    notes, values = [], None
    if seen.low <= seen.high:
        values = decode.nominal_range(seen.low, seen.high, seen.whole)
        notes.append(f"greys from {values[0]:g} to {values[1]:g} become 8 bits (seen: {seen.low:g} to {seen.high:g})")
    if wanted is not None:
        return decode.ImageForm(wanted, gray, settings.resize, values), notes
    size, note = _size(seen)
    return decode.ImageForm(size, gray, settings.resize, values), [*notes, *note]


def beyond(part: RawSplit, form: decode.ImageForm) -> list[str]:
    """A note on images of ``part`` whose greys leave the range that the training images gave, where there is one."""
    if form.values is None:
        return []
    (low, high), found = form.values, list[tuple[float, float]]()
    for cell in part.cells():
        try:
            with decode.open_image(cell) as image:
                extremes = decode.deep_extremes(image)
        except decode.BROKEN:
            continue  # decoding names it
        if extremes is not None and (extremes[0] < low or extremes[1] > high):
            found.append(extremes)
    if not found:
        return []
    lowest, highest = min(one for one, _ in found), max(one for _, one in found)
    return [
        f"{len(found)} images of split {part.name!r} have greys beyond that range (seen: {lowest:g} to {highest:g}), "
        "which become black or white: are they of the same kind as the training images?"
    ]


def _size(seen: _Seen) -> tuple[int, list[str]]:
    """Pixels a side, which a few odd images do not decide."""
    if not seen.sizes:
        raise DataError(f"no image can be decoded, {seen.broken} for one: damaged files, or no images")
    side = seen.short_side(FEW)
    if side < 4:
        name = seen.smallest[side]
        raise DataError(f"images of fewer than 4 pixels ({name}); pass `dataset.image_size` to enlarge them")
    smaller = sorted(found for found in seen.smallest if found < side)
    count = sum(number for size, number in seen.sizes.items() if min(size) < side)
    enlarged = f"{count} smaller images are" if count > 1 else "1 smaller image is"
    odd = [f"{enlarged} enlarged, {seen.smallest[smaller[0]]} the smallest"] if smaller else []
    if len(seen.sizes) == 1 and len(set(next(iter(seen.sizes)))) == 1 and side <= LARGEST_AUTO_SIZE:
        return side, odd
    size = min(LARGEST_AUTO_SIZE, 2 ** (side.bit_length() - 1))
    return size, [f"images resized and centre-cropped to {size}x{size} (`dataset.image_size` changes it)", *odd]
