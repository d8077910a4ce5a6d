"""Small H: a program keeps W_h and takes its rows of the batch through all steps by itself."""

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
    tile_norm,
    vjp_pointwise,
)
from .triton_language import jit, part, tl

__all__ = ["backward_whole", "forward_whole"]


@part
def weights_of(w, row, col, H, GATES: tl.constexpr):
    """Return W_h by gates, from the places of the first gate's entries; 0 outside."""
    inside = (row < H) & (col < H)
    at = row * H + col
    w0 = tl.load(w + at, mask=inside, other=0.0)
    w1, w2, w3 = w0, w0, w0
    if GATES > 1:
        w1 = tl.load(w + H * H + at, mask=inside, other=0.0)
        w2 = tl.load(w + 2 * H * H + at, mask=inside, other=0.0)
    if GATES > 3:
        w3 = tl.load(w + 3 * H * H + at, mask=inside, other=0.0)
    return w0, w1, w2, w3


@jit(do_not_specialize=["T", "B"])
def forward_whole(
    a, w, bias, s, gates, q, active, reset, T, B, H,
    CELL: tl.constexpr, GATES: tl.constexpr, PARTS: tl.constexpr,
    WIDE: tl.constexpr, ROWS: tl.constexpr, KEEP: tl.constexpr,
    RAGGED: tl.constexpr, RESETS: tl.constexpr, BIASED: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Take ``ROWS`` rows through all T steps (eq. 1).

    a (T, B, GATES·H) is what the input gives, s (T+1, B, PARTS·H) the states, of which the first is
    there already; gates and q are what the backward pass needs.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.arange(0, WIDE)[:, None]
    exists = row < B
    inside = (j < H) & exists[None, :]
    w0, w1, w2, w3 = weights_of(w, j, tl.arange(0, WIDE)[None, :], H, GATES)
    b = tl.zeros((WIDE, 1), tl.float32)
    if BIASED:
        b = load_tile(bias + j, j < H)
    row = row.to(tl.int64)
    A, S, rows = GATES * H, PARTS * H, B.to(tl.int64)
    at, at_s, at_q = row[None, :] * A + j, row[None, :] * S + j, row[None, :] * H + j
    h = load_tile(s + at_s, inside)
    c = h
    if PARTS > 1:
        c = load_tile(s + at_s + H, inside)
    a0, a1, a2, a3 = drive_of(a, at, H, inside, GATES)
    for t in range(0, T):
        s += rows * S
        a += rows * A
        # The next step's drive is on its way while this step computes.
        n0, n1, n2, n3 = drive_of(a, at, H, inside & (j * 0 + t + 1 < T), GATES)
        if RESETS:
            kept = tl.load(reset + row, mask=exists, other=0)[None, :] == 0
            h, c = tl.where(kept, h, 0.0), tl.where(kept, c, 0.0)
            reset += B
        zero = tl.zeros((WIDE, ROWS), tl.float32)
        p0 = product(w0, h, zero, PRECISION, INTERPRETED)
        p1, p2, p3 = p0, p0, p0
        if GATES > 1:
            p1 = product(w1, h, zero, PRECISION, INTERPRETED)
            p2 = product(w2, h, zero, PRECISION, INTERPRETED)
        if GATES > 3:
            p3 = product(w3, h, zero, PRECISION, INTERPRETED)
        new, new_c, k0, k1, k2, k3, k4 = advance(a0, a1, a2, a3, p0, p1, p2, p3, b, h, c, CELL)
        if RAGGED:
            takes = tl.load(active + row, mask=exists, other=0)[None, :] != 0
            new, new_c = tl.where(takes, new, h), tl.where(takes, new_c, c)
            active += B
        # Beyond H a state that is not finite would give 0·inf in the next product.
        h, c = tl.where(inside, new, 0.0), tl.where(inside, new_c, 0.0)
        put(s + at_s, h, inside)
        if PARTS > 1:
            put(s + at_s + H, c, inside)
        if KEEP:
            store_kept(gates, q, at, at_q, H, inside, k0, k1, k2, k3, k4, CELL)
            gates += rows * A
            q += rows * H
        a0, a1, a2, a3 = n0, n1, n2, n3


@jit(do_not_specialize=["T", "B", "G", "g_v", "g_t", "g_b"])
def backward_whole(
    w, s, gates, q, active, reset, g, delta_T, enters, floors,
    adjoints, deltas, norms, s_0, T, B, H, G, g_v, g_t, g_b,
    CELL: tl.constexpr, GATES: tl.constexpr, PARTS: tl.constexpr,
    WIDE: tl.constexpr, ROWS: tl.constexpr, RAGGED: tl.constexpr, RESETS: tl.constexpr,
    BEGUN: tl.constexpr, BOUNDED: tl.constexpr, LONE: tl.constexpr,
    ADJOINTS: tl.constexpr, DELTAS: tl.constexpr, NORMS: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Send one loss of ``ROWS`` rows back through the steps from its entry to its floor (eq. 9).

    g is strided, (V, T, B, G); with ``LONE`` a loss has that of the step alone at which it enters.
    adjoints (V, T, B, GATES·H), deltas (V, T+1, B, S), norms (V, T+1, B), s_0 (V, B, S) with
    S = PARTS·H.
    """
    v = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.arange(0, WIDE)[:, None]
    exists = row < B
    inside = (j < H) & exists[None, :]
    w0, w1, w2, w3 = weights_of(w, tl.arange(0, WIDE)[None, :], j, H, GATES)
    row = row.to(tl.int64)
    A, S = GATES * H, PARTS * H
    at, at_s, at_q = row[None, :] * A + j, row[None, :] * S + j, row[None, :] * H + j
    rows = B.to(tl.int64)
    last, floor = T, 0
    if BOUNDED:
        last, floor = tl.load(enters + v).to(tl.int32), tl.load(floors + v).to(tl.int32)
    h = tl.zeros((WIDE, ROWS), tl.float32)
    c = tl.zeros((WIDE, ROWS), tl.float32)
    if BEGUN:
        h = load_tile(delta_T + v * rows * S + at_s, inside)
        if PARTS > 1:
            c = load_tile(delta_T + v * rows * S + at_s + H, inside)
    end = tl.maximum(floor, 1)
    for back in range(0, last - end + 1):
        t = (last - back).to(tl.int64)
        arrives = inside
        if LONE:
            arrives = inside & (j * 0 + t == last)
        at_g = v * g_v + (t - 1) * g_t + row[None, :] * g_b + j
        g_h, g_c = arriving(g, at_g, H, G, j, arrives, CELL)
        h += g_h
        c += g_c
        if NORMS:
            put(norms + (v * (T + 1) + t) * rows + row, tile_norm(h, c, CELL), exists)
        if DELTAS:
            put(deltas + (v * (T + 1) + t) * rows * S + at_s, h, inside)
            if PARTS > 1:
                put(deltas + (v * (T + 1) + t) * rows * S + at_s + H, c, inside)
        kept, takes = masks_at(reset, active, (t - 1) * rows + row, exists, RESETS, RAGGED)
        a0, a1, a2, a3, b2, direct, direct_c = vjp_pointwise(
            h, c, s + (t - 1) * rows * S, s + t * rows * S, gates + (t - 1) * rows * A,
            q + (t - 1) * rows * H, at_s, at, at_q, H, inside, kept, CELL,
        )  # fmt: skip
        takes = takes & inside
        if ADJOINTS:
            to = adjoints + (v * T + t - 1) * rows * A + at
            store_gates(to, H, inside, takes, a0, a1, a2, a3, GATES)
        through = takes & kept
        h = direct_part(direct, h, takes, kept)
        c = direct_part(direct_c, c, takes, kept)
        h = product(w0, tl.where(through, a0, 0.0), h, PRECISION, INTERPRETED)
        if GATES > 1:
            h = product(w1, tl.where(through, a1, 0.0), h, PRECISION, INTERPRETED)
            h = product(w2, tl.where(through, b2, 0.0), h, PRECISION, INTERPRETED)
        if GATES > 3:
            h = product(w3, tl.where(through, a3, 0.0), h, PRECISION, INTERPRETED)
        h = tl.where(inside, h, 0.0)
    if floor < 1:
        put(s_0 + v * rows * S + at_s, h, inside)
        if PARTS > 1:
            put(s_0 + v * rows * S + at_s + H, c, inside)
        if NORMS:
            put(norms + v * (T + 1) * rows + row, tile_norm(h, c, CELL), exists)
        if DELTAS:
            put(deltas + v * (T + 1) * rows * S + at_s, h, inside)
            if PARTS > 1:
                put(deltas + v * (T + 1) * rows * S + at_s + H, c, inside)
