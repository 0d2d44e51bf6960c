"""How well a hypernetwork can be fitted, as plain numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Conditioning:
    """How well gradient descent can fit the hypernetwork of one layer: largest over smallest eigenvalue.

    Of the Gauss-Newton matrix of w = response * x + base over changes, with x = dh (centred) or h + dh (uncentred).
    """

    layer: str
    centred: float
    uncentred: float
