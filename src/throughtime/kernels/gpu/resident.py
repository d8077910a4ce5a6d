"""Large H: programs that share the columns of W_h, each keeping its own, meet after every step.

One launch takes all steps. Programs of a group take the same rows of the batch, and only they meet.
"""

# pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportAssignmentType=false

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
from .meeting import arrive, wait
from .triton_language import jit, part, tl

__all__ = ["backward_resident", "forward_resident"]


@part
def own_weights(
    w, first, H, w_out, w_in,
    GATES: tl.constexpr, SPREAD: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Return a program's share of W_h, (COLUMNS·SPREAD, WIDE), the gates of a column together.

    W_h's entry (out, in) of gate k is at out·w_out + in·w_in + k·H·H, where out is the program's
    column; three gates are padded to four, since a tile has a power of two of rows.
    """
    m = tl.arange(0, COLUMNS * SPREAD)[:, None]
    k = tl.arange(0, WIDE)[None, :]
    gate, j = m // COLUMNS, first + m % COLUMNS
    there = (gate < GATES) & (j < H) & (k < H)
    return tl.load(w + gate * H * H + j * w_out + k * w_in, mask=there, other=0.0)


@part
def by_gates(p, COLUMNS: tl.constexpr, ROWS: tl.constexpr, SPREAD: tl.constexpr):
    """Return the products (COLUMNS·SPREAD, ROWS) gate by gate."""
    if SPREAD == 1:
        return p, p, p, p
    else:
        p = tl.permute(tl.reshape(p, (2, 2, COLUMNS, ROWS)), (2, 3, 0, 1))
        even, odd = tl.split(p)
        p0, p2 = tl.split(even)
        p1, p3 = tl.split(odd)
        return p0, p1, p2, p3


@jit(do_not_specialize=["T", "B"])
def forward_resident(
    a, w, bias, s, carry, gates, q, active, reset, counters, T, B, H,
    CELL: tl.constexpr, GATES: tl.constexpr, PARTS: tl.constexpr, SPREAD: tl.constexpr,
    COLUMNS: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, KEEP: tl.constexpr,
    RAGGED: tl.constexpr, RESETS: tl.constexpr, BIASED: tl.constexpr, PATIENCE: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Take a group's rows through all T steps (eq. 1), ``COLUMNS`` columns to a program.

    As in `forward_step`, with ``counters``, one for each group of programs, 0 at first. A program
    reads the whole state that the step before left, and writes its own columns.
    """
    first, group, groups = tl.program_id(0) * COLUMNS, tl.program_id(1), tl.num_programs(1)
    j = (first + tl.arange(0, COLUMNS))[:, None]
    k = tl.arange(0, WIDE)[:, None]
    A, S, rows = GATES * H, PARTS * H, B.to(tl.int64)
    share = own_weights(w, first, H, H, 1, GATES, SPREAD, COLUMNS, WIDE)
    b = tl.zeros((COLUMNS, 1), tl.float32)
    if BIASED:
        b = load_tile(bias + j, j < H)
    for t in tl.range(1, T + 1, num_stages=1):
        for tile in tl.range(group, tl.cdiv(B, ROWS), groups, num_stages=1):
            row = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
            exists = row < B
            inside = (j < H) & exists[None, :]
            at, at_s, at_q = row[None, :] * A + j, row[None, :] * S + j, row[None, :] * H + j
            before = (t - 1) * rows
            kept, takes = masks_at(reset, active, before + row, exists, RESETS, RAGGED)
            a0, a1, a2, a3 = drive_of(a + before * A, at, H, inside, GATES)
            h = load_tile(carry + at_s, inside & kept)
            c = h
            if PARTS > 1:
                c = load_tile(carry + at_s + H, inside & kept)
            # Only now, so that what no other program writes is on its way meanwhile.
            if (tile == group) & (t > 1):
                wait(counters + group, (t - 1) * tl.num_programs(0), PATIENCE, INTERPRETED)
            at_k = row[None, :] * S + k
            # Past the first cache, which does not see what other programs have written.
            state = tl.load(
                s + before * S + at_k, mask=kept & (k < H), other=0.0, cache_modifier=".cg"
            )
            p = tl.zeros((COLUMNS * SPREAD, ROWS), tl.float32)
            p = product(share, state, p, PRECISION, INTERPRETED)
            p0, p1, p2, p3 = by_gates(p, COLUMNS, ROWS, SPREAD)
            new, new_c, k0, k1, k2, k3, k4 = advance(a0, a1, a2, a3, p0, p1, p2, p3, b, h, c, CELL)
            h = tl.where(takes, new, h)
            c = tl.where(takes, new_c, c)
            put(carry + at_s, h, inside)
            put(s + t * rows * S + at_s, h, inside)
            if PARTS > 1:
                put(carry + at_s + H, c, inside)
                put(s + t * rows * S + at_s + H, c, inside)
            if KEEP:
                to, to_q = gates + before * A, q + before * H
                store_kept(to, to_q, at, at_q, H, inside, k0, k1, k2, k3, k4, CELL)
        arrive(counters + group)


@part
def back_through(
    share, through, top, k, B, H, total,
    GATES: tl.constexpr, SPREAD: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Return ``total`` (COLUMNS, ROWS) + W_hᵀ·through, summed over the gates.

    The tensor cores take 64 rows at a time, which a program's 16 columns fill with four gates each.
    So the share meets one gate of ``through`` or two at a time, and of the product only the blocks
    count in which both are of the same gate.
    """
    A = GATES * H
    if SPREAD == 1:
        row = (top + tl.arange(0, ROWS))[None, :]
        mask = (row < B) & (k < H)
        value = tl.load(through + row * A + k, mask=mask, other=0.0, cache_modifier=".cg")
        return product(share, value, total, PRECISION, INTERPRETED)
    else:
        # Two gates at once as long as registers hold what is loaded of them.
        TOGETHER: tl.constexpr = 2 if WIDE <= 512 else 1
        n = tl.arange(0, TOGETHER * ROWS)[None, :]
        row = top + n // TOGETHER
        mine = tl.arange(0, COLUMNS * SPREAD)[:, None] // COLUMNS
        both = tl.zeros((COLUMNS * SPREAD, TOGETHER * ROWS), tl.float32)
        for half in tl.range(4 // TOGETHER, num_stages=1):
            gate = TOGETHER * half + n % TOGETHER
            at, mask = row * A + gate * H + k, (row < B) & (gate < GATES) & (k < H)
            value = tl.load(through + at, mask=mask, other=0.0, cache_modifier=".cg")
            none = tl.zeros((COLUMNS * SPREAD, TOGETHER * ROWS), tl.float32)
            found = product(share, value, none, PRECISION, INTERPRETED)
            both += tl.where(mine == gate, found, 0.0)
        both = tl.sum(tl.reshape(both, (SPREAD, COLUMNS, ROWS, TOGETHER)), 3)
        return total + tl.sum(both, 0)


@jit(do_not_specialize=["T", "B", "V", "G", "g_v", "g_t", "g_b"])
def backward_resident(
    w, s, gates, q, active, reset, g, enters, floors, through, carry,
    adjoints, deltas, norms, s_0, counters, T, B, V, H, G, g_v, g_t, g_b,
    CELL: tl.constexpr, GATES: tl.constexpr, PARTS: tl.constexpr, SPREAD: tl.constexpr,
    COLUMNS: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
    RAGGED: tl.constexpr, RESETS: tl.constexpr, BOUNDED: tl.constexpr, LONE: tl.constexpr,
    ADJOINTS: tl.constexpr, DELTAS: tl.constexpr, NORMS: tl.constexpr, PATIENCE: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Send V losses back through all steps, each from its entry to its floor (eq. 9).

    As in `backward_step`; what a step leaves for all columns of the next stands in one half of
    through (2, V, B, GATES·H), by turns, so that nobody writes what another still reads.
    norms (V, T+1, B, programs) are those of a program's own columns.
    """
    first, group, groups = tl.program_id(0) * COLUMNS, tl.program_id(1), tl.num_programs(1)
    j = (first + tl.arange(0, COLUMNS))[:, None]
    k = tl.arange(0, WIDE)[:, None]
    A, S, rows = GATES * H, PARTS * H, B.to(tl.int64)
    share = own_weights(w, first, H, 1, H, GATES, SPREAD, COLUMNS, WIDE)
    tiles = tl.cdiv(B, ROWS)
    for back in tl.range(0, T + 1, num_stages=1):
        t = (T - back).to(tl.int64)
        if back > 0:
            wait(counters + group, back * tl.num_programs(0), PATIENCE, INTERPRETED)
        half = V * rows * A
        left, leaves = through + (t % 2) * half, through + (1 - t % 2) * half
        for tile in tl.range(group, V * tiles, groups, num_stages=1):
            v = (tile // tiles).to(tl.int64)
            last, floor = T, 0
            if BOUNDED:
                last, floor = tl.load(enters + v).to(tl.int32), tl.load(floors + v).to(tl.int32)
            if (t <= last) & (t >= floor):
                top = ((tile % tiles) * ROWS).to(tl.int64)
                row = top + tl.arange(0, ROWS)
                exists = row < B
                inside = (j < H) & exists[None, :]
                at, at_s, at_q = row[None, :] * A + j, row[None, :] * S + j, row[None, :] * H + j
                own = v * rows * S + at_s
                h = load_tile(carry + own, inside)
                c = tl.zeros((COLUMNS, ROWS), tl.float32)
                if PARTS > 1:
                    c = load_tile(carry + own + H, inside)
                if t < last:
                    h = back_through(
                        share, left + v * rows * A, top, k, B, H, h, GATES, SPREAD, COLUMNS, WIDE,
                        ROWS, PRECISION, INTERPRETED,
                    )  # fmt: skip
                if t > 0:
                    arrives = inside
                    if LONE:
                        arrives = inside & (j * 0 + t == last)
                    at_g = v * g_v + (t - 1) * g_t + row[None, :] * g_b + j
                    g_h, g_c = arriving(g, at_g, H, G, j, arrives, CELL)
                    h += g_h
                    c += g_c
                if DELTAS:
                    to = deltas + (v * (T + 1) + t) * rows * S + at_s
                    put(to, h, inside)
                    if PARTS > 1:
                        put(to + H, c, inside)
                if NORMS:
                    norm = tile_norm(tl.where(inside, h, 0.0), c, CELL)
                    own_norm = ((v * (T + 1) + t) * rows + row) * tl.num_programs(0)
                    put(norms + own_norm + tl.program_id(0), norm, exists)
                if t > 0:
                    before = (t - 1) * rows
                    kept, takes = masks_at(reset, active, before + row, exists, RESETS, RAGGED)
                    a0, a1, a2, a3, b2, direct, direct_c = vjp_pointwise(
                        h, c, s + before * S, s + t * rows * S, gates + before * A,
                        q + before * H, at_s, at, at_q, H, inside, kept, CELL,
                    )  # fmt: skip
                    takes = takes & inside
                    if ADJOINTS:
                        to = adjoints + (v * T + t - 1) * rows * A + at
                        store_gates(to, H, inside, takes, a0, a1, a2, a3, GATES)
                    to = leaves + v * rows * A + at
                    store_gates(to, H, inside, takes & kept, a0, a1, b2, a3, GATES)
                    put(carry + own, direct_part(direct, h, takes, kept), inside)
                    if PARTS > 1:
                        put(carry + own + H, direct_part(direct_c, c, takes, kept), inside)
                else:
                    put(s_0 + own, h, inside)
                    if PARTS > 1:
                        put(s_0 + own + H, c, inside)
        arrive(counters + group)
