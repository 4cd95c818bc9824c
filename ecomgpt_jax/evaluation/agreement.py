"""Agreement of annotators beyond chance: Cohen's and Fleiss' kappa, Krippendorff's alpha, with bootstrap intervals.

A coefficient is 1 at full agreement and 0 at chance level; it is None if all judgements are of one category, or if
nothing can be compared.
"""

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 2000


def cohen_kappa(first: Sequence[int], second: Sequence[int]) -> float | None:
    """Returns Cohen's kappa (1960) of two annotators' categories of the same items.

    kappa = (p_o - p_e) / (1 - p_e): p_o is the share of items in agreement, p_e = sum_c p_c(first) * p_c(second).
    """
    first, second = np.asarray(first), np.asarray(second)
    if not len(first):
        return None
    categories = np.union1d(first, second)
    expected = sum(np.mean(first == category) * np.mean(second == category) for category in categories)
    return _beyond_chance(float(np.mean(first == second)), float(expected))


def fleiss_kappa(counts: np.ndarray) -> float | None:
    """Returns Fleiss' kappa (1971).

    With r judgements per item: p_o = mean_i sum_c n_ic (n_ic - 1) / (r (r - 1)), p_e = sum_c (share of c)^2.

    Args:
      counts: judgements by item and category, [items, categories]; the same number, at least 2, for each item.
    """
    counts = np.asarray(counts, float)
    if not len(counts):
        return None
    raters = counts[0].sum()
    if raters < 2 or (counts.sum(1) != raters).any():
        raise ValueError("Fleiss' kappa needs the same number of judgements, at least 2, for each item")
    observed = (counts * (counts - 1)).sum(1).mean() / (raters * (raters - 1))
    return _beyond_chance(float(observed), float(((counts.sum(0) / counts.sum()) ** 2).sum()))


def krippendorff_alpha(counts: np.ndarray) -> float | None:
    """Returns Krippendorff's alpha for nominal categories (Krippendorff 2011); judgements may be missing.

    Over the items with at least two judgements, n in all and n_c of category c:
    alpha = 1 - D_o / D_e, with D_o = 1 - sum_i sum_c n_ic (n_ic - 1) / (n_i - 1) / n and
    D_e = 1 - sum_c n_c (n_c - 1) / (n (n - 1)).

    Args:
      counts: judgements by item and category, [items, categories].
    """
    counts = np.asarray(counts, float)
    counts = counts[counts.sum(1) >= 2]
    if not len(counts):
        return None
    sizes, classes, total = counts.sum(1), counts.sum(0), counts.sum()
    observed = ((counts * (counts - 1)).sum(1) / (sizes - 1)).sum() / total
    return _beyond_chance(float(observed), float((classes * (classes - 1)).sum() / (total * (total - 1))))


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float | None], items: int, seed: int = 0
) -> tuple[float, float] | None:
    """Returns the 95 % percentile interval of a statistic over items drawn with replacement.

    Args:
      statistic: function of item indices [items]; resamples for which it returns None are left out.
      items: number of items.
      seed: of the resampling.

    Returns:
      (low, high), or None where no resample has a value.
    """
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(0, items, items)) for _ in range(RESAMPLES if items else 0)]
    found = [value for value in values if value is not None]
    if not found:
        return None
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def _beyond_chance(observed: float, expected: float) -> float | None:
    return None if expected >= 1 - 1e-12 else (observed - expected) / (1 - expected)
