"""All of a step back but its product, for any cell whose step back has the form of `Factors`."""

# pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

from .triton_language import jit, tl

__all__ = ["step_back"]


@jit(do_not_specialize=["t", "T", "B", "G", "g_v", "g_t", "g_b", "begin"])
def step_back(
    by_gate, carry, through, hidden, active, reset, g, delta_T, enters, floors, product, kept, sent,
    adjoints, deltas, norms, s_0, t, T, B, H, G, g_v, g_t, g_b, begin,
    GATES: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
    PRODUCT: tl.constexpr, CARRY: tl.constexpr, HIDDEN: tl.constexpr, STOPS: tl.constexpr,
    RAGGED: tl.constexpr, RESETS: tl.constexpr, BEGUN: tl.constexpr, BOUNDED: tl.constexpr,
    LONE: tl.constexpr, ADJOINTS: tl.constexpr, DELTAS: tl.constexpr, NORMS: tl.constexpr,
):  # fmt: skip
    """Complete delta_t of one row of one loss, and go through step t up to the product with W_h.

    A program takes row b of loss ``begin`` + v. product (V, B, H) is what step t+1 sent through
    W_h, and kept (V, B, S) what it sent past it, in the precision of the sums (float64 where WIDE);
    sent (V, B, GATES·H) is what this step sends to W_h. At t = 0 delta_0 alone is completed.
    """
    rows = B.to(tl.int64)
    b = tl.program_id(0).to(tl.int64) % rows  # one axis, since the others end at 65535
    v = tl.program_id(0).to(tl.int64) // rows + begin
    at_row, A, S = v * rows + b, GATES * H, PARTS * H
    last, floor = T, 0
    if BOUNDED:
        last, floor = tl.load(enters + v).to(tl.int32), tl.load(floors + v).to(tl.int32)
    one = tl.zeros((1,), tl.int32)
    now = one + t  # as a block of one, since the interpreter's masks are blocks
    above = now < last
    took, stays, takes, keeps = one == 0, one == 0, one == 0, one == 0
    if RAGGED:  # whether the row took step t+1, and takes step t
        took = tl.load(active + now * rows + b, mask=above, other=1) != 0
        takes = tl.load(active + (now - 1) * rows + b, mask=now > 0, other=1) != 0
    if RESETS:
        stays = tl.load(reset + now * rows + b, mask=above, other=0) == 0
        keeps = tl.load(reset + (now - 1) * rows + b, mask=now > 0, other=0) == 0
    kind = kept.dtype.element_ty
    largest = tl.zeros((1,), tl.float64)
    squares = tl.zeros((1,), tl.float64)
    if t <= last:  # noqa: SIM102 - Triton evaluates both sides of an `and`
        if t >= floor:
            for first in range(0, H, BLOCK):
                j = first + tl.arange(0, BLOCK)
                inside = j < H
                came = inside & above
                h = tl.load(kept + at_row * S + j, mask=came, other=0.0)
                c = h
                if PRODUCT:
                    sum_ = tl.load(product + at_row * H + j, mask=came, other=0.0).to(kind)
                    h = tl.where(took & stays, h + sum_, h)
                if PARTS > 1:
                    c = tl.load(kept + at_row * S + H + j, mask=came, other=0.0)
                if BEGUN and t == T:
                    h = tl.load(delta_T + at_row * S + j, mask=inside, other=0.0).to(kind)
                    if PARTS > 1:
                        at_c = at_row * S + H + j
                        c = tl.load(delta_T + at_c, mask=inside, other=0.0).to(kind)
                if t > 0:
                    enters_here = now <= last
                    if LONE:
                        enters_here = now == last
                    at_g = v * g_v + (t - 1).to(tl.int64) * g_t + b * g_b
                    there = inside & (j < G) & enters_here
                    h += tl.load(g + at_g + j, mask=there, other=0.0).to(kind)
                    if PARTS > 1:
                        there = inside & (j + H < G) & enters_here
                        c += tl.load(g + at_g + H + j, mask=there, other=0.0).to(kind)
                if DELTAS:
                    at = ((v * (T + 1) + t) * rows + b) * S + j
                    tl.store(deltas + at, h.to(deltas.dtype.element_ty), mask=inside)
                    if PARTS > 1:
                        tl.store(deltas + at + H, c.to(deltas.dtype.element_ty), mask=inside)
                if NORMS:
                    if WIDE:  # scaled by the largest so far, since squares may leave float64
                        size = tl.where(inside, tl.abs(h), 0.0)
                        if PARTS > 1:
                            size = tl.maximum(size, tl.where(inside, tl.abs(c), 0.0))
                        most = tl.max(tl.where(size < float("inf"), size, 0.0), 0)
                        more = tl.maximum(largest, most)
                        unit = tl.where(more > 0, more, 1.0)
                        ratio = largest / unit
                        squares = squares * ratio * ratio
                        h_u = tl.where(inside, h / unit, 0.0)
                        squares += tl.sum(h_u * h_u, 0)
                        if PARTS > 1:
                            c_u = tl.where(inside, c / unit, 0.0)
                            squares += tl.sum(c_u * c_u, 0)
                        largest = more
                    else:
                        h_u = tl.where(inside, h, 0.0).to(tl.float64)
                        squares += tl.sum(h_u * h_u, 0)
                        if PARTS > 1:
                            c_u = tl.where(inside, c, 0.0).to(tl.float64)
                            squares += tl.sum(c_u * c_u, 0)
                if t == 0:
                    tl.store(s_0 + at_row * S + j, h.to(s_0.dtype.element_ty), mask=inside)
                    if PARTS > 1:
                        at_c_0 = at_row * S + H + j
                        tl.store(s_0 + at_c_0, c.to(s_0.dtype.element_ty), mask=inside)
                else:
                    step = (t - 1).to(tl.int64) * rows + b
                    d = h
                    if PARTS > 1:
                        d = c + h * tl.load(through + step * H + j, mask=inside, other=0.0).to(kind)
                    for gate in tl.static_range(GATES):
                        column = gate * H + j
                        of = tl.load(by_gate + step * A + column, mask=inside, other=0.0).to(kind)
                        source = d
                        if gate == GATES - 1:
                            source = h  # of two parts, the last gate is the output's
                        alpha = source * of
                        if STOPS:
                            alpha = tl.where(of == 0, 0.0, alpha)
                        if ADJOINTS:
                            to = adjoints + ((v * T + t - 1) * rows + b) * A + column
                            value = tl.where(takes, alpha, 0.0)
                            tl.store(to, value.to(adjoints.dtype.element_ty), mask=inside)
                        if HIDDEN and gate == GATES - 1:
                            side = tl.load(hidden + step * H + j, mask=inside, other=0.0)
                            alpha = alpha * side.to(kind)
                        if PRODUCT:
                            to = sent + at_row * A + column
                            tl.store(to, alpha.to(sent.dtype.element_ty), mask=inside)
                    past = tl.zeros((BLOCK,), kind)
                    if CARRY:
                        past = d * tl.load(carry + step * H + j, mask=inside, other=0.0).to(kind)
                    past_h = past
                    if PARTS > 1:
                        past_h = tl.zeros((BLOCK,), kind)
                        past_c = tl.where(takes, tl.where(keeps, past, 0.0), c)
                        tl.store(kept + at_row * S + H + j, past_c, mask=inside)
                    past_h = tl.where(takes, tl.where(keeps, past_h, 0.0), h)
                    tl.store(kept + at_row * S + j, past_h, mask=inside)
            if NORMS:
                norm = tl.sqrt(squares)
                if WIDE:
                    norm = norm * tl.where(largest > 0, largest, 1.0)
                else:
                    norm = norm.to(tl.float32)  # from float64 the interpreter makes no bfloat16
                to = norms + (v * (T + 1) + t) * rows + b + tl.arange(0, 1)
                tl.store(to, norm.to(norms.dtype.element_ty))
