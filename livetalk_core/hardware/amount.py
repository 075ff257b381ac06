"""Amounts of memory, as users write them."""

import math

from ..errors import InputError

UNITS = {"M": 2**20, "G": 2**30}


def parse_memory(text: str) -> int:
    """`16G`, `22.5G` or `512M` -> bytes."""
    text = text.strip()
    unit = text[-1:].upper()
    try:
        number = float(text[:-1])
    except ValueError:
        number = math.nan
    if unit not in UNITS or not 0 < number < math.inf:
        raise InputError(f"{text[:20]!r} is no amount of memory; write a number and a unit, such as 14G")
    return int(number * UNITS[unit])
