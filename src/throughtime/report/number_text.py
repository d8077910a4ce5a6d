"""How numbers are written for a reader: 3.2×10⁻⁶, 12 steps, 0.4 %."""

from __future__ import annotations

import math
import re

__all__ = ["number", "percent", "power", "ratio", "steps", "symbols"]

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power(exponent: int) -> str:
    """Return a power of ten: ``power(-6)`` is 10⁻⁶."""
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def number(value: float, digits: int = 3) -> str:
    """Return a number with so many digits: 0.0123, 4.57, 3.2×10⁻⁶, inf, NaN.

    Example:
        >>> number(3.2e-6), number(0.5), number(float("inf"))
        ('3.2×10⁻⁶', '0.5', 'inf')
    """
    value = float(value)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "inf" if value > 0 else "−inf"
    if value == int(value) and abs(value) < 1e5:
        return str(int(value)).replace("-", "−")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if -4 < int(exponent) < 5:
        places = digits - 1 - int(exponent)
        shown = f"{round(value, places):.{max(places, 0)}f}"
        if "." in shown:
            shown = shown.rstrip("0").rstrip(".")
        return shown.replace("-", "−")
    mantissa = mantissa.rstrip("0").rstrip(".").replace("-", "−")
    return power(int(exponent)) if mantissa == "1" else f"{mantissa}×{power(int(exponent))}"


def ratio(log10: float, digits: int = 2) -> str:
    """Return 10 to a real power, also where that overflows a float: ``ratio(400.3)`` is 2×10⁴⁰⁰."""
    if not math.isfinite(log10):
        return number(math.inf if log10 > 0 else 0) if not math.isnan(log10) else "NaN"
    if -300 < log10 < 300:
        return number(10.0**log10, digits)
    whole = math.floor(log10)
    return f"{10 ** (log10 - whole):.1f}×{power(whole)}"


def percent(fraction: float) -> str:
    """Return a share in percent; tiny ones as a power of ten, large ones as a multiple.

    Example:
        >>> percent(0.1234), percent(2e-9), percent(30.0)
        ('12 %', '2×10⁻⁹', '30 times')
    """
    if not math.isfinite(fraction) or abs(fraction) < 1e-4:
        return number(fraction, 2)
    if abs(fraction) >= 10:
        return f"{number(fraction, 2)} times"
    shown = 100 * fraction
    return f"{number(round(shown) if abs(shown) >= 10 else shown, 2 if abs(shown) < 10 else 3)} %"


def steps(count: int) -> str:
    """Return "1 step" or "12 steps"."""
    return f"{count} step" if count == 1 else f"{count} steps"


_SYMBOL = re.compile(r"(?<!\w)(β|W|s|h|E|J)_(W|f|h|x|t|k)(?!\w)")


def symbols(html: str) -> str:
    """Return text, already escaped, with its indices set low and its powers high, for HTML.

    Example:
        >>> symbols("(β_W·β_f)^lag"), symbols("weight_hh")
        ('(β<sub>W</sub>·β<sub>f</sub>)<sup>lag</sup>', 'weight_hh')
    """
    return _SYMBOL.sub(r"\1<sub>\2</sub>", html).replace(")^lag", ")<sup>lag</sup>")
