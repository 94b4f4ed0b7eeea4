"""How well predicted classes agree with reference classes: confusion matrices and what is read from them."""

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
