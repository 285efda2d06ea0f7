"""DD-Ranking's scores (Li et al., arXiv:2505.13300): how much of a set's accuracy its images are worth.

All accuracies are fractions in [0, 1] of freshly trained networks. The released code feeds percentages into the
exponential, which makes every score about -0.16; here the unit is checked.
"""

from __future__ import annotations

import math


def label_robust_score(
    distilled: float, distilled_hard: float, random: float, full: float, weight: float = 0.5
) -> float:
    """LRS in [0, 1], larger is better: what is left of a set's lead without its labels.

    a = w (distilled - random) - (1 - w) (full - distilled_hard), the improvement over random less the hard-label
    recovery; LRS = (e^a - e^-1) / (e - e^-1).

    Args:
        distilled: the set by its own recipe.
        distilled_hard: its images with hard labels.
        random: as many random real images by the set's own recipe.
        full: all training data with hard labels.
        weight: w.

    Raises:
        ValueError: an accuracy is no fraction.
    """
    _check(distilled, distilled_hard, random, full)
    return _scaled(weight * (distilled - random) - (1 - weight) * (full - distilled_hard))


def augmentation_robust_score(
    augmented: float, random_augmented: float, plain: float, random_plain: float, weight: float = 0.5
) -> float:
    """ARS in [0, 1], larger is better: what is left of a set's lead over random images without augmentation.

    b = γ (augmented - random_augmented) + (1 - γ) (plain - random_plain), scaled as the label-robust score.

    Args:
        augmented: the set by its own recipe.
        random_augmented: as many random real images by that recipe.
        plain: the set without augmentation.
        random_plain: the random images without it.
        weight: γ.

    Raises:
        ValueError: an accuracy is no fraction.
    """
    _check(augmented, random_augmented, plain, random_plain)
    return _scaled(weight * (augmented - random_augmented) + (1 - weight) * (plain - random_plain))


def _check(*accuracies: float) -> None:
    for value in accuracies:
        if not 0 <= value <= 1:
            raise ValueError(f"accuracies are fractions from 0 to 1, got {value}; divide percentages by 100")


def _scaled(difference: float) -> float:
    return (math.exp(difference) - math.exp(-1)) / (math.e - math.exp(-1))
