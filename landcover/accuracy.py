"""How well predicted classes agree with reference classes: confusion matrices, and estimates from random samples."""

from typing import NamedTuple

import numpy as np


def confusion(reference: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count pairs of classes, 1 to `classes`; a reference of 0 is not counted.

    Args:
        reference, predicted: integers, of one shape.
        classes: how many there are.

    Returns:
        int64 (classes, classes), a row for each reference class.
    """
    known = reference > 0
    pairs = (reference[known].astype(np.int64) - 1) * classes + predicted[known].astype(np.int64) - 1
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def overall_accuracy(counts: np.ndarray) -> float:
    """The share of pixels on which both agree; nan if there are none."""
    return float(counts.trace() / counts.sum()) if counts.sum() else float("nan")


def f1_scores(counts: np.ndarray) -> np.ndarray:
    """F1 of each class, float64 (classes,); nan for a class in neither."""
    with np.errstate(invalid="ignore"):
        return 2 * counts.diagonal() / (counts.sum(axis=0) + counts.sum(axis=1))


def macro_f1(counts: np.ndarray) -> float:
    """The mean F1 of the classes that occur; nan if none does."""
    f1 = f1_scores(counts)
    return float(np.nanmean(f1)) if np.isfinite(f1).any() else float("nan")


def figures(counts: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """Pixels, overall accuracy, macro-F1 and the F1 of each class that occurs, to three digits, for a model's card."""
    f1 = {f"f1_{name}": f for name, f in zip(names, f1_scores(counts), strict=True) if np.isfinite(f)}
    values = {"overall_accuracy": overall_accuracy(counts), "macro_f1": macro_f1(counts), **f1}
    return {"pixels": int(counts.sum()), **{k: round(float(v), 3) for k, v in values.items()}}


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """The expected calibration error: how far confidence and accuracy lie apart, weighted over bins of confidence.

    Args:
        confidence: of the class that was chosen, 0 to 1, (pixels,).
        right: bool (pixels,).
        bins: of equal width.

    References:
        Guo, Pleiss, Sun, Weinberger (2017), On Calibration of Modern Neural Networks, arXiv:1706.04599.
    """
    if not len(confidence):
        return float("nan")
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    apart = np.bincount(place, confidence - right, minlength=bins)
    return float(np.abs(apart).sum() / len(confidence))


class Estimate(NamedTuple):
    """A figure of a whole map, from a random sample of it, and its standard error; nan where they cannot be told."""

    value: float
    error: float


def estimated_ratio(
    strata: np.ndarray, sizes: np.ndarray, above: np.ndarray, below: np.ndarray, whole: np.ndarray | bool = False
) -> Estimate:
    """The ratio of two sums over all land, from points drawn at random within strata.

    It holds whether the strata are the classes of the map or those of another one; where they are, it is what Olofsson
    et al. estimate. With `below` one everywhere it is a share of the land. Nan where a stratum has no point, the error
    where one has a single point, unless there is no more of it.

    Args:
        strata: of each point, 0 to k - 1, (n,).
        sizes: area of each stratum, (k,).
        above, below: what is summed, at each point, (n,).
        whole: of each stratum, whether its points are all that there is of it, (k,).

    References:
        Stehman (2014), Estimating area and map accuracy for stratified random sampling when the strata are different
        from the map classes, International Journal of Remote Sensing 35(13).
        Olofsson, Foody, Herold, Stehman, Woodcock, Wulder (2014), Good practices for estimating area and assessing
        accuracy of land change, Remote Sensing of Environment 148.
    """
    points = np.bincount(strata, minlength=len(sizes))
    share = sizes / sizes.sum()

    def means(values: np.ndarray) -> np.ndarray:
        return np.bincount(strata, values, minlength=len(sizes)) / points

    with np.errstate(invalid="ignore", divide="ignore"):
        total = np.sum(share * means(below))
        value = np.sum(share * means(above)) / total
        rest = above - value * below
        squares = np.bincount(strata, (rest - means(rest)[strata]) ** 2, minlength=len(sizes))
        error = np.sqrt(np.sum(share**2 * squares / np.maximum(points - 1, whole) / points)) / total
    return Estimate(float(value), float(error))
