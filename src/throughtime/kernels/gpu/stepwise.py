"""Large H: one launch a step, whose programs share the columns of W_h, with everything fused."""

# pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportPossiblyUnboundVariable=false

from __future__ import annotations

from .arithmetic import (
    advance,
    arriving,
    direct_part,
    drive_of,
    load_tile,
    masks_at,
    product,
    put,
    store_gates,
    store_kept,
    vjp_pointwise,
)
from .triton_language import jit, part, tl

__all__ = ["backward_step", "forward_step"]


@part
def add_products(
    w, x, x_gate, x_row, row, col, out_size, in_size, w_out, w_in, w_gate, mask, p0, p1, p2, p3,
    GATES: tl.constexpr, INNER: tl.constexpr, SUMMED: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Add W·x, in pieces of ``INNER``, gate by gate or, with ``SUMMED``, all gates into the first.

    W's entry (out, in) of gate k is at out·w_out + in·w_in + k·w_gate; x's at row·x_row + in +
    k·x_gate, and 0 where ``mask`` (1, rows) is False.
    """
    for begin in range(0, in_size, INNER):
        k = begin + tl.arange(0, INNER)
        at = col * w_out + k[None, :] * w_in
        there = (col < out_size) & (k[None, :] < in_size)
        at_x, there_x = row[None, :] * x_row + k[:, None], mask & (k[:, None] < in_size)
        value = tl.load(x + at_x, mask=there_x, other=0.0)
        tile = tl.load(w + at, mask=there, other=0.0)
        p0 = product(tile, value, p0, PRECISION, INTERPRETED)
        if GATES > 1:
            if SUMMED:
                value = tl.load(x + at_x + x_gate, mask=there_x, other=0.0)
                tile = tl.load(w + at + w_gate, mask=there, other=0.0)
                p0 = product(tile, value, p0, PRECISION, INTERPRETED)
                value = tl.load(x + at_x + 2 * x_gate, mask=there_x, other=0.0)
                tile = tl.load(w + at + 2 * w_gate, mask=there, other=0.0)
                p0 = product(tile, value, p0, PRECISION, INTERPRETED)
            else:
                tile = tl.load(w + at + w_gate, mask=there, other=0.0)
                p1 = product(tile, value, p1, PRECISION, INTERPRETED)
                tile = tl.load(w + at + 2 * w_gate, mask=there, other=0.0)
                p2 = product(tile, value, p2, PRECISION, INTERPRETED)
        if GATES > 3:
            tile = tl.load(w + at + 3 * w_gate, mask=there, other=0.0)
            if SUMMED:
                value = tl.load(x + at_x + 3 * x_gate, mask=there_x, other=0.0)
                p0 = product(tile, value, p0, PRECISION, INTERPRETED)
            else:
                p3 = product(tile, value, p3, PRECISION, INTERPRETED)
    return p0, p1, p2, p3


@jit(do_not_specialize=["t", "B"])
def forward_step(
    a, w, bias, s, carry, gates, q, active, reset, t, B, H,
    CELL: tl.constexpr, GATES: tl.constexpr, PARTS: tl.constexpr,
    COLUMNS: tl.constexpr, INNER: tl.constexpr, ROWS: tl.constexpr, KEEP: tl.constexpr,
    RAGGED: tl.constexpr, RESETS: tl.constexpr, BIASED: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Take step t (from 1) for ``ROWS`` rows and ``COLUMNS`` columns (eq. 1).

    As in `forward_whole`; carry (B, PARTS·H) is the state in float32, of which a program reads and
    writes its own columns alone, while W_h meets the state as it was stored.
    """
    row = (tl.program_id(1) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    j = (tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS))[:, None]
    exists = row < B
    inside = (j < H) & exists[None, :]
    A, S, rows = GATES * H, PARTS * H, B.to(tl.int64)
    at, at_s, at_q = row[None, :] * A + j, row[None, :] * S + j, row[None, :] * H + j
    kept, takes = masks_at(reset, active, (t - 1) * rows + row, exists, RESETS, RAGGED)
    a0, a1, a2, a3 = drive_of(a + (t - 1) * rows * A, at, H, inside, GATES)
    h = load_tile(carry + at_s, inside & kept)
    c = h
    if PARTS > 1:
        c = load_tile(carry + at_s + H, inside & kept)
    b = tl.zeros((COLUMNS, 1), tl.float32)
    if BIASED:
        b = load_tile(bias + j, j < H)
    zero = tl.zeros((COLUMNS, ROWS), tl.float32)
    p0, p1, p2, p3 = add_products(
        w, s + (t - 1) * rows * S, 0, S, row, j, H, H, H, 1, H * H, kept, zero, zero, zero, zero,
        GATES, INNER, False, PRECISION, INTERPRETED,
    )  # fmt: skip
    new, new_c, k0, k1, k2, k3, k4 = advance(a0, a1, a2, a3, p0, p1, p2, p3, b, h, c, CELL)
    h = tl.where(takes, new, h)
    c = tl.where(takes, new_c, c)
    put(carry + at_s, h, inside)
    put(s + t * rows * S + at_s, h, inside)
    if PARTS > 1:
        put(carry + at_s + H, c, inside)
        put(s + t * rows * S + at_s + H, c, inside)
    if KEEP:
        to = (t - 1) * rows
        store_kept(gates + to * A, q + to * H, at, at_q, H, inside, k0, k1, k2, k3, k4, CELL)


@jit(do_not_specialize=["t", "T", "B", "G", "g_v", "g_t", "g_b"])
def backward_step(
    w, s, gates, q, active, reset, g, enters, floors, through, through_next, carry,
    adjoints, now, s_0, t, T, B, H, G, g_v, g_t, g_b,
    CELL: tl.constexpr, GATES: tl.constexpr, PARTS: tl.constexpr,
    COLUMNS: tl.constexpr, INNER: tl.constexpr, ROWS: tl.constexpr,
    RAGGED: tl.constexpr, RESETS: tl.constexpr, BOUNDED: tl.constexpr, LONE: tl.constexpr,
    ADJOINTS: tl.constexpr, SHOWN: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Complete delta_t by the product that step t+1 left, and go through step t up to the next one.

    As in `backward_whole`, for ``COLUMNS`` columns of ``ROWS`` rows of one loss; at t = 0 the
    product alone. through (V, B, GATES·H) is what step t+1 left for all columns, through_next what
    this one leaves, carry (V, B, PARTS·H) what goes on without a weight, in float32; now, of the
    same shape, is delta_t itself where it is ``SHOWN``.
    """
    v = tl.program_id(2).to(tl.int64)
    row = (tl.program_id(1) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    j = (tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS))[:, None]
    exists = row < B
    inside = (j < H) & exists[None, :]
    A, S, rows = GATES * H, PARTS * H, B.to(tl.int64)
    at, at_s, at_q = row[None, :] * A + j, row[None, :] * S + j, row[None, :] * H + j
    last, floor = T, 0
    if BOUNDED:
        last, floor = tl.load(enters + v).to(tl.int32), tl.load(floors + v).to(tl.int32)
    live = inside & (j * 0 + t <= last) & (j * 0 + t >= floor)
    own = v * rows * S + at_s
    h = load_tile(carry + own, live)
    c = tl.zeros((COLUMNS, ROWS), tl.float32)
    if PARTS > 1:
        c = load_tile(carry + own + H, live)
    if t < last:  # noqa: SIM102 - Triton evaluates both sides of an `and`
        if t >= floor:
            h, _, _, _ = add_products(
                w, through + v * rows * A, H, A, row, j, H, H, 1, H, H * H, exists[None, :],
                h, h, h, h, GATES, INNER, True, PRECISION, INTERPRETED,
            )  # fmt: skip
    if t > 0:
        at_g = v * g_v + (t - 1).to(tl.int64) * g_t + row[None, :] * g_b + j
        arrives = live
        if LONE:
            arrives = live & (j * 0 + t == last)
        g_h, g_c = arriving(g, at_g, H, G, j, arrives, CELL)
        h += g_h
        c += g_c
        kept, takes = masks_at(reset, active, (t - 1) * rows + row, exists, RESETS, RAGGED)
        a0, a1, a2, a3, b2, direct, direct_c = vjp_pointwise(
            h, c, s + (t - 1) * rows * S, s + t * rows * S, gates + (t - 1) * rows * A,
            q + (t - 1) * rows * H, at_s, at, at_q, H, live, kept, CELL,
        )  # fmt: skip
        takes = takes & live
        if ADJOINTS:
            to = adjoints + (v * T + t - 1) * rows * A + at
            store_gates(to, H, live, takes, a0, a1, a2, a3, GATES)
        store_gates(through_next + v * rows * A + at, H, live, takes & kept, a0, a1, b2, a3, GATES)
        put(carry + own, direct_part(direct, h, takes, kept), live)
        if PARTS > 1:
            put(carry + own + H, direct_part(direct_c, c, takes, kept), live)
    else:
        put(s_0 + own, h, live)
        if PARTS > 1:
            put(s_0 + own + H, c, live)
    if SHOWN:
        put(now + own, tl.where(live, h, 0.0), inside)
        if PARTS > 1:
            put(now + own + H, tl.where(live, c, 0.0), inside)
