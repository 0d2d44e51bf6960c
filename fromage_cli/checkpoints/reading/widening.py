"""Stored bytes as real numbers, for every dtype that checkpoints hold, without torch."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLOAT8 = {  # bits of the mantissa, bias of the exponent
    "float8_e4m3fn": (3, 7),
    "float8_e5m2": (2, 15),
    "float8_e4m3fnuz": (3, 8),
    "float8_e5m2fnuz": (2, 16),
}


class Widening:
    """Memory in which up to `size` elements at a time become real numbers, used again and again."""

    def __init__(self, size: int) -> None:
        import numpy

        self._narrow: NDArray[Any] = numpy.empty(size, numpy.uint32)

    def widened(self, stored: NDArray[Any], dtype: str) -> NDArray[Any]:
        """Return the elements in their order, complex ones by their absolute values: (elements,) float32 or float64.

        `stored`: (bytes,) uint8, little endian. What is returned is valid until the next call.
        """
        import numpy

        if dtype == "bfloat16":
            codes = stored.view("<u2")
            bits = self._narrow[: codes.size]
            numpy.copyto(bits, codes)
            numpy.left_shift(bits, 16, out=bits)  # the upper half of a float32
            return bits.view(numpy.float32)
        if dtype == "float16" or dtype.startswith("float8"):
            codes = stored.view("<u2") if dtype == "float16" else stored
            values = self._narrow[: codes.size].view(numpy.float32)
            return numpy.take(_table(dtype), codes, out=values, mode="clip")
        entries = stored.view(numpy.dtype(dtype).newbyteorder("<"))
        if dtype in ("float32", "float64"):
            return entries
        return numpy.abs(entries.astype(numpy.complex128)) if "complex" in dtype else entries.astype(numpy.float64)


def real_numbers(stored: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return the elements themselves in their own order, (elements,) float64; `dtype` is not complex.

    `stored`: (bytes,) uint8, little endian.
    """
    import numpy

    if dtype == "bfloat16":
        return (stored.view("<u2").astype(numpy.uint32) << 16).view(numpy.float32).astype(numpy.float64)
    if dtype == "float16" or dtype.startswith("float8"):
        wide: NDArray[Any] = _table(dtype)[stored.view("<u2") if dtype == "float16" else stored].astype(numpy.float64)
        return wide
    return stored.view(numpy.dtype(dtype).newbyteorder("<")).astype(numpy.float64)


@cache
def _table(dtype: str) -> NDArray[Any]:
    """Return every value of a narrow dtype, by its bits: (256,) or (65536,) float32."""
    import numpy

    if dtype == "float16":
        return numpy.arange(1 << 16, dtype=numpy.uint16).view(numpy.float16).astype(numpy.float32)
    return numpy.array([_float8(code, dtype) for code in range(256)], dtype=numpy.float32)


def _float8(code: int, dtype: str) -> float:
    """Return the value of eight bits: sign, exponent, mantissa; e8m0 is an exponent alone.

    Source: OCP 8-bit Floating Point Specification and Microscaling Formats (MX) Specification; the fnuz types of
    Noune et al., *8-bit numerical formats for deep neural networks*, 2022.
    """
    if dtype == "float8_e8m0fnu":
        return math.nan if code == 255 else math.ldexp(1.0, code - 127)
    mantissa_bits, bias = FLOAT8[dtype]
    sign = -1.0 if code & 0x80 else 1.0
    exponent, mantissa = divmod(code & 0x7F, 1 << mantissa_bits)
    if dtype.endswith("fnuz") and code == 0x80:
        return math.nan
    if dtype == "float8_e4m3fn" and code & 0x7F == 0x7F:
        return math.nan
    if dtype == "float8_e5m2" and exponent == 31:
        return math.nan if mantissa else sign * math.inf
    fraction = mantissa + ((1 << mantissa_bits) if exponent else 0)
    return sign * math.ldexp(fraction, max(exponent, 1) - bias - mantissa_bits)
