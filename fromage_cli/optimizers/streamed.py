"""The update that saved moments make of a tensor, in numpy: for states that are read piece by piece and never whole.

Beside the class that steps this is the only form of each rule; the tests hold one against the other. It is for
answers on a state alone, without a model and a gradient: how large its updates are, which of them rounding loses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fromage_cli.optimizers.rule import LION, Rule
from fromage_cli.optimizers.settings import MANY_STEPS, corrects_bias
from fromage_cli.theory.conversions import muon_factor

if TYPE_CHECKING:
    from numpy.typing import NDArray


def saved_update(
    rule: Rule, slot: Mapping[str, Any], weight: NDArray[Any], settings: Mapping[str, Any]
) -> NDArray[Any] | None:
    """The u of w - learning rate * u that the moments in a slot make, decoupled decay left out; None without moments.

    Adam, AdamW, AMSGrad: m^ / (sqrt(v^) + eps); LAMB: that and decay * w, at the norm of w. Momentum and LARS: the
    buffer. All these are what the last step took, if it looked ahead by no Nesterov momentum. Lion: sign(m), what a
    step without a gradient would take. Muon: the buffer with its singular values drawn near 1. Rules that keep no
    first moment, as Adafactor and Fromage, make no update without a gradient. `settings`: those of the tensor's group,
    by the names of the rule's class.
    """
    import numpy

    given = {**rule.defaults, **settings}
    if "exp_avg_sq" in slot and "step" in slot:
        steps = float(slot["step"]) if corrects_bias(settings) else MANY_STEPS
        beta1, beta2 = given["betas"]
        square = slot["max_exp_avg_sq"] if given.get("amsgrad") else slot["exp_avg_sq"]
        root = numpy.sqrt(square) / math.sqrt(1.0 - beta2**steps) + given["eps"]
        update: NDArray[Any] = slot["exp_avg"] / (1.0 - beta1**steps) / root
        if rule.decay != "rescaled":
            return update
        update = update + given["weight_decay"] * weight
        above, below = float(numpy.linalg.norm(weight)), float(numpy.linalg.norm(update))
        ratio = above / below if above > 0.0 and below > 0.0 else 1.0
        return (min(ratio, 1.0) if given["trust_clip"] else ratio) * update
    if rule is LION and "exp_avg" in slot:
        signs: NDArray[Any] = numpy.sign(slot["exp_avg"])
        return signs
    buffer: NDArray[Any] | None = slot.get("momentum_buffer")
    if buffer is None or not rule.matrices_only:
        return buffer
    orthogonal = orthogonalised(buffer, given["ns_coefficients"], given["ns_steps"], given["eps"])
    return muon_factor(buffer.shape[0], buffer.shape[1], given["adjust_lr_fn"]) * orthogonal


def orthogonalised(
    matrix: NDArray[Any], coefficients: tuple[float, float, float], steps: int, eps: float
) -> NDArray[Any]:
    """The matrix with its singular values drawn near 1 by Newton-Schulz iterations, X <- aX + (bA + cA^2) X.

    A = X X^T, from X = matrix / ||matrix||. In the matrix's own precision, where torch takes bfloat16, which differs by
    about 1 % of an entry's root mean square. Source: Jordan et al., *Muon*, 2024.
    """
    import numpy

    first, second, third = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / max(float(numpy.linalg.norm(x)), eps)
    for _ in range(steps):
        gram = x @ x.T
        x = first * x + (second * gram + third * gram @ gram) @ x
    return x.T if tall else x


def orthogonalised_norm(
    matrix: NDArray[Any], coefficients: tuple[float, float, float], steps: int, eps: float
) -> float:
    """The Frobenius norm of `orthogonalised`, from singular values alone; the matrix is finite.

    An iteration takes each singular value s to a s + b s^3 + c s^5. Their squares are the eigenvalues of X X^T,
    in float64. The smaller side of the matrix decides the cost.
    """
    import numpy

    first, second, third = coefficients
    wide = matrix.astype(numpy.float64)
    wide = wide.T if wide.shape[0] > wide.shape[1] else wide
    wide /= max(float(numpy.linalg.norm(wide)), eps)
    values = numpy.sqrt(numpy.maximum(numpy.linalg.eigvalsh(wide @ wide.T), 0.0))
    for _ in range(steps):
        squares = values * values
        values = values * (first + squares * (second + third * squares))
    return float(numpy.linalg.norm(values))
