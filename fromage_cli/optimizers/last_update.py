"""How large the last step was of optimizers that scale it by whole tensors, from norms that a state tells."""

import math


def lamb_update_norm(
    squares: tuple[float, float, float], rate: float, decay: float, *, trust_clip: bool = False
) -> float | None:
    """||u|| of LAMB's last step W - rate * u, from what its end holds; None where no step ends so.

    `squares`: w.w, w.a and a.a of the weights w after the step and Adam's part a of the update. The step began at
    W = (w + rate r a) / (1 - rate r decay), and r = ||W|| / ||a + decay W||. Both together are quadratic in r.
    """
    weights, product, adams = squares
    whole = adams + 2.0 * decay * product + decay**2 * weights  # of a + decay w
    if adams + decay * weights == 0.0:
        return 0.0
    began_at = weights + 2.0 * rate * product + rate**2 * adams  # squared, at a ratio of 1
    leading = whole - rate**2 * adams
    if began_at <= 1e-10 * weights:
        ratio = 1.0  # weights of 0 have no size to scale by
    elif leading > 0.0:
        ratio = (rate * product + math.sqrt((rate * product) ** 2 + leading * weights)) / leading
        ratio = min(ratio, 1.0) if trust_clip else ratio
    else:
        return None
    left = 1.0 - rate * ratio * decay
    return ratio * math.sqrt(max(whole, 0.0)) / left if left > 0.0 else None


def adafactor_bound(
    size: float, rate: float, *, clip: float, shrinkage: float = 0.0, least: float | None = None
) -> float | None:
    """The most that Adafactor's last step can be, over the weights of RMS `size` that it ended at; None without bound.

    The update is clipped at an RMS of `clip`. Its rate is multiplied by the RMS of the weights, by `least` where that
    is larger; None: it is not multiplied. `shrinkage`: the share of the weights that decay takes before.
    """
    step = rate * clip
    if size <= 0.0:
        return None
    if least is None:
        return step / size
    left = 1.0 - shrinkage - step
    return max(step * least / size, step / left) if left > 0.0 else None
