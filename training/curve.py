"""The area under the ROC curve, for the trainer and the benchmark alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def auc(bad: ArrayLike, good: ArrayLike) -> float:
    """Probability that a good one scores above a bad one, ties half; NaN where either is missing."""
    ordered, wanted = np.sort(np.asarray(bad)), np.asarray(good)
    if not len(ordered) or not len(wanted):
        return float("nan")
    below, upto = (np.searchsorted(ordered, wanted, side) for side in ("left", "right"))
    return float(((below + upto) / 2).mean() / len(ordered))
