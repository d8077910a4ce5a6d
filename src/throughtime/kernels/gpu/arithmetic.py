"""What every Triton kernel here computes of one step, on tiles (H, B): state first, rows second.

The states are transposed, because W_h·hᵀ runs on the tensor cores at a tile of 16 rows, and h·W_hᵀ
only at 64. Values are float32; what is stored has the tensors' own dtype.
"""

# pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false

from __future__ import annotations

from .triton_language import part, tl

__all__ = [
    "advance",
    "arriving",
    "direct_part",
    "drive_of",
    "load_tile",
    "masks_at",
    "product",
    "put",
    "store_gates",
    "store_kept",
    "tile_norm",
    "vjp_pointwise",
]


@part
def tanh(x):
    """Return tanh, to a few units in the last place near 0 too, where 1 − e^(−2x) cancels."""
    far = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - far) / (1.0 + far)
    y = x * x
    near = -1382.0 / 155925.0 * y + 62.0 / 2835.0
    near = ((near * y - 17.0 / 315.0) * y + 2.0 / 15.0) * y - 1.0 / 3.0
    near = x + x * y * near
    return tl.where(tl.abs(x) < 0.3, near, tl.where(x < 0, -far, far))


@part
def sigmoid(x):
    """Return 1 / (1 + e^(−x))."""
    return 1.0 / (1.0 + tl.exp(-x))


@part
def load_tile(at, inside):
    """Return a tile in float32, 0 outside."""
    return tl.load(at, mask=inside, other=0.0).to(tl.float32)


@part
def put(at, value, inside):
    """Store a tile in the tensor's own dtype."""
    tl.store(at, value.to(at.dtype.element_ty), mask=inside)


@part
def product(w, x, sum, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    """Return ``sum`` + w·x with x rounded to the weights' dtype, in float32.

    The interpreter's product of bfloat16 is wrong (triton#11584), so it multiplies in float32.
    """
    x = x.to(w.dtype)
    if INTERPRETED:
        return sum + tl.dot(w.to(tl.float32), x.to(tl.float32), input_precision="ieee")
    else:
        return tl.dot(w, x, sum, input_precision=PRECISION)


@part
def drive_of(a, at, H, inside, GATES: tl.constexpr):
    """Return what the input gives to each gate, as many tiles as any cell has."""
    a0 = load_tile(a + at, inside)
    a1, a2, a3 = a0, a0, a0
    if GATES > 1:
        a1 = load_tile(a + at + H, inside)
        a2 = load_tile(a + at + 2 * H, inside)
    if GATES > 3:
        a3 = load_tile(a + at + 3 * H, inside)
    return a0, a1, a2, a3


@part
def advance(a0, a1, a2, a3, p0, p1, p2, p3, bias, h, c, CELL: tl.constexpr):
    """Take one step (eq. 1) from the drive a, the products p and the state.

    Returns:
        h, c, and what is kept: the gates, and last the GRU's q.
    """
    if CELL == "lstm":
        i, f, g, o = sigmoid(a0 + p0), sigmoid(a1 + p1), tanh(a2 + p2), sigmoid(a3 + p3)
        c = f * c + i * g
        return o * tanh(c), c, i, f, g, o, o
    elif CELL == "gru":
        r, z, q = sigmoid(a0 + p0), sigmoid(a1 + p1), p2 + bias
        n = tanh(a2 + r * q)
        h = n + z * (h - n)
        return h, h, r, z, n, n, q
    else:
        u = a0 + p0
        if CELL == "tanh":
            h = tanh(u)
        elif CELL == "sigmoid":
            h = sigmoid(u)
        elif CELL == "relu":
            h = tl.where(u <= 0, 0.0, u)  # NaN stays NaN, as in torch
        else:
            h = u
        return h, h, h, h, h, h, h


@part
def store_kept(gates, q, at, at_q, H, inside, k0, k1, k2, k3, k4, CELL: tl.constexpr):
    """Store what the backward pass needs of a step besides the states."""
    if CELL == "lstm" or CELL == "gru":
        put(gates + at, k0, inside)
        put(gates + at + H, k1, inside)
        put(gates + at + 2 * H, k2, inside)
        if CELL == "lstm":
            put(gates + at + 3 * H, k3, inside)
        else:
            put(q + at_q, k4, inside)


@part
def store_gates(to, H, inside, counts, a0, a1, a2, a3, GATES: tl.constexpr):
    """Store an adjoint by gates, 0 where it does not count."""
    put(to, tl.where(counts, a0, 0.0), inside)
    if GATES > 1:
        put(to + H, tl.where(counts, a1, 0.0), inside)
        put(to + 2 * H, tl.where(counts, a2, 0.0), inside)
    if GATES > 3:
        put(to + 3 * H, tl.where(counts, a3, 0.0), inside)


@part
def masks_at(reset, active, at, exists, RESETS: tl.constexpr, RAGGED: tl.constexpr):
    """Return whose state was not zeroed before a step, and who takes it, (1, rows).

    Args:
        reset: in bytes, read where there are ``RESETS``.
        active: in bytes, read where the batch is ``RAGGED``.
        at: the places of the step's rows in both.
        exists: which rows there are.
        RESETS: whether some states are zeroed.
        RAGGED: whether some rows do not take some steps.
    """
    kept, takes = exists[None, :], exists[None, :]
    if RESETS:
        kept = kept & (tl.load(reset + at, mask=exists, other=0)[None, :] == 0)
    if RAGGED:
        takes = tl.load(active + at, mask=exists, other=0)[None, :] != 0
    return kept, takes


@part
def arriving(g, at, H, G, col, inside, CELL: tl.constexpr):
    """Return the direct gradient into h_t and c_t, of which only the first G entries exist."""
    g_h = load_tile(g + at, inside & (col < G))
    g_c = tl.zeros_like(g_h)
    if CELL == "lstm":
        g_c = load_tile(g + at + H, inside & (col + H < G))
    return g_h, g_c


@part
def vjp_pointwise(
    delta_h, delta_c, s_prev, s, gates, q, at_s, at, at_q, H, inside, kept, CELL: tl.constexpr
):
    """Go one step back (eq. 9), but for the product with W_hᵀ.

    Args:
        delta_h: dE/dh_t.
        delta_c: dE/dc_t.
        s_prev: where s_{t-1} begins; ``kept`` is False where a reset has zeroed it.
        s: where s_t begins.
        gates: where the step's gates begin.
        q: where the GRU's q begins.
        at_s: the tile's place in a state.
        at: in the gates.
        at_q: in q.
        H: the width of h.
        inside: where the tile is within the tensors.
        kept: where the state before the step was not zeroed.
        CELL: which recurrence.

    Returns:
        The adjoint by gates, what goes into the product in place of the third of them, and the
        parts of delta_{t-1} for h and c that no weight leads to.
    """
    none = tl.zeros_like(delta_h)
    if CELL == "lstm":
        i, f = load_tile(gates + at, inside), load_tile(gates + at + H, inside)
        u, o = load_tile(gates + at + 2 * H, inside), load_tile(gates + at + 3 * H, inside)
        c_prev, tanh_c = (
            load_tile(s_prev + at_s + H, inside & kept),
            tanh(load_tile(s + at_s + H, inside)),
        )
        d = delta_c + delta_h * (o * (1.0 - tanh_c * tanh_c))
        third = d * (i * (1.0 - u * u))
        fourth = delta_h * (tanh_c * o * (1.0 - o))
        first, second = d * (u * i * (1.0 - i)), d * (c_prev * f * (1.0 - f))
        return first, second, third, fourth, third, none, d * f
    elif CELL == "gru":
        r, z = load_tile(gates + at, inside), load_tile(gates + at + H, inside)
        n, hidden = load_tile(gates + at + 2 * H, inside), load_tile(q + at_q, inside)
        h_prev = load_tile(s_prev + at_s, inside & kept)
        a_n = delta_h * ((1.0 - z) * (1.0 - n * n))
        a_r = a_n * (hidden * r * (1.0 - r))
        a_z = delta_h * ((h_prev - n) * z * (1.0 - z))
        return a_r, a_z, a_n, a_n, a_n * r, delta_h * z, none
    else:
        h = load_tile(s + at_s, inside)
        if CELL == "tanh":
            d = delta_h * (1.0 - h * h)
        elif CELL == "sigmoid":
            d = delta_h * (h * (1.0 - h))
        elif CELL == "relu":
            d = tl.where(h <= 0, 0.0, delta_h)
        else:
            d = delta_h
        return d, d, d, d, d, none, none


@part
def direct_part(direct, delta, takes, kept):
    """Return what reaches s_{t-1} without a weight: nothing after a reset, all where no step is."""
    return tl.where(takes, tl.where(kept, direct, 0.0), delta)


@part
def tile_norm(h, c, CELL: tl.constexpr):
    """Return the 2-norm of every row's vector, scaled by its largest entry first (eq. 10)."""
    largest = tl.max(tl.abs(h), 0)
    if CELL == "lstm":
        largest = tl.maximum(largest, tl.max(tl.abs(c), 0))
    scale = tl.where((largest > 0) & (largest < float("inf")), largest, 1.0)  # pyright: ignore[reportOperatorIssue]
    squares = tl.sum((h / scale[None, :]) * (h / scale[None, :]), 0)
    if CELL == "lstm":
        squares += tl.sum((c / scale[None, :]) * (c / scale[None, :]), 0)
    return tl.sqrt(squares) * scale
