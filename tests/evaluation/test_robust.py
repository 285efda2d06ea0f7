"""DD-Ranking's scores: worked examples, bounds, and the unit that its code gets wrong."""

import math

import pytest

from distillkit.evaluation.robust import augmentation_robust_score, label_robust_score


def test_label_robust_score__worked_example():
    # improvement over random 0.36, hard-label recovery 0.30: a = 0.03
    found = label_robust_score(distilled=0.66, distilled_hard=0.55, random=0.30, full=0.85)
    assert found == pytest.approx((math.exp(0.03) - math.exp(-1)) / (math.e - math.exp(-1)))
    assert found == pytest.approx(0.282, abs=5e-4)


def test_scores__are_0_at_the_worst_and_1_at_the_best():
    assert label_robust_score(0, 0, 1, 1) == pytest.approx(0)
    assert label_robust_score(1, 1, 0, 0, weight=1) == pytest.approx(1)
    assert augmentation_robust_score(0, 1, 0, 1) == pytest.approx(0)
    assert augmentation_robust_score(1, 0, 1, 0) == pytest.approx(1)


def test_scores__weigh_their_two_parts():
    assert label_robust_score(0.6, 0.1, 0.4, 0.9, weight=1) == label_robust_score(0.6, 0.5, 0.4, 0.9, weight=1)
    assert label_robust_score(0.6, 0.1, 0.4, 0.9, weight=0) == label_robust_score(0.8, 0.1, 0.4, 0.9, weight=0)
    assert augmentation_robust_score(0.5, 0.4, 0.3, 0.3) > augmentation_robust_score(0.5, 0.4, 0.2, 0.3)


def test_scores__percentages_are_refused():
    with pytest.raises(ValueError, match="fractions from 0 to 1, got 66"):
        label_robust_score(66, 0.5, 0.3, 0.8)
    with pytest.raises(ValueError, match="divide percentages by 100"):
        augmentation_robust_score(0.5, 0.5, 0.5, 50)
