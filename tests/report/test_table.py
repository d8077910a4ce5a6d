"""The terminal table, and how numbers are written."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from throughtime.report import table
from throughtime.report.number_text import number, percent, ratio
from throughtime.report.terminal_table import sparkline

from .conftest import REGIMES


def printed(flow, width=80, encoding="utf-8"):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=out, width=width, legacy_windows=False).print(table(flow))
    out.flush()
    return out.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("name", REGIMES)
def test_every_regime_fits_eighty_columns(flows, name):
    text = printed(flows(name))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for layer in flows(name):
        assert layer in text


def test_it_says_verdict_horizon_and_profile(flows):
    flow = flows("vanishing")
    text = printed(flow)
    assert "VANISHING" in text and f"{flow['l0'].horizon()} of 40" in text
    assert f"at 40: {number(float(flow['l0'].lag_profile()[-1]), 2)}" in text


def test_it_says_where_the_first_bad_number_stands(flows):
    text = printed(flows("overflow"))
    assert f"inf, step {flows('overflow')['l0'].first_nonfinite.step}" in text


def test_a_terminal_without_block_characters_gets_ascii_bars(flows):
    text = printed(flows("gated"), encoding="ascii")
    assert "#" in text


def test_a_sparkline_tells_zero_inf_and_unmeasured_apart():
    assert sparkline([1.0, 1e-3, 0.0, math.inf, math.nan, 1e-30, 100.0]) == "█▅0! ▁█"
    assert len(sparkline([1.0] * 500)) == 20


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (-0.0, "0"),
        (7.0, "7"),
        (1272.3, "1270"),
        (0.012345, "0.0123"),
        (3.2e-6, "3.2×10⁻⁶"),
        (1e-10, "10⁻¹⁰"),
        (123456.0, "1.23×10⁵"),
        (-2.5e-7, "−2.5×10⁻⁷"),
        (math.inf, "inf"),
        (-math.inf, "−inf"),
        (math.nan, "NaN"),
        (9.999e-5, "10⁻⁴"),
        (99.96, "100"),
    ],
)
def test_numbers_are_written_for_a_reader(value, shown):
    assert number(value) == shown


def test_shares_and_powers():
    assert percent(0.009) == "0.9 %" and percent(0.5) == "50 %" and percent(0) == "0"
    assert ratio(400.3) == "2.0×10⁴⁰⁰" and ratio(-math.inf) == "0"
