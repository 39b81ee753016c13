"""CRC-32C of what was put together: from those of its parts, without reading them again."""

from __future__ import annotations

from functools import cache

# Bits are reflected throughout: the highest one is x^0. See crc32_combine in zlib, which has another polynomial.
_POLYNOMIAL = 0x82F63B78
_ONE = 1 << 31


def combined(first: int, second: int, size: int) -> int:
    """Return the CRC-32C of some bytes and ``size`` others behind them, from that of the former and of the latter."""
    factor, power = _ONE, 3
    while size:
        if size & 1:
            factor = _product(_power(power), factor)
        size >>= 1
        power += 1
    return _product(factor, first) ^ second


@cache
def _power(exponent: int) -> int:
    """Return x^(2^exponent)."""
    if exponent == 0:
        return _ONE >> 1
    root = _power(exponent - 1)
    return _product(root, root)


def _product(a: int, b: int) -> int:
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = (a << 1) & 0xFFFFFFFF
        b = (b >> 1) ^ (_POLYNOMIAL if b & 1 else 0)
    return product
