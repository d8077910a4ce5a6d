// One step of each cell on one row and one panel, forward and back, after the matrix product.
//
// The names and the grouping of factors are those of src/throughtime/cells/*.py, so that inf and
// NaN arise in the same places.
#pragma once

#include "product.h"

namespace TT_ISA {

// What one row reads and writes at step t. Pointers begin at unit 0.
template <class F> struct Row {
    const F *drive;      // forward: pre-activations
    F *a;                // gates: forward, where they go; back
    F *s, *s_c;          // s_{t+1}: this step's result, and its c; forward: or null
    F *h;                // forward: this step's output, or null
    const F *s_prev;     // back: s_t in the tape
    const F *h_prev;     // forward: h_t, or 0 after a reset, padded
    F *q;                // GRU
    F *out;              // forward: where h goes for the next step; back: where da goes; or null
    F *c;                // forward: c, padded, kept from step to step
    F *carry_h, *carry_c;  // back: what travels beside the product, padded
    const F *g;          // back: direct gradient, or null
    F *adjoint, *delta;  // back: what is written out, or null
    bool cleared;        // forward: the state is zeroed before the next step; back: before this one
    bool fresh;          // back: nothing came through the product, delta is in carry_h
};

template <class F> struct Sizes {
    int64_t H, unit_row, G;
    int kind;        // nonlinearity
    bool keep, wide;  // forward: gates are kept; back: adjoint has the GRU's fourth part
    bool past;        // forward: what is kept for the way back alone is written past the caches
    const F *bias_n;
};

// Write h where the layer above and the next step read it.
template <class F> TT_INLINE void put(const Row<F> &r, Vec<F> h, int64_t u, int n) {
    if (r.h) store(r.h + u, h, n);
    if (r.out) store(r.out + u, r.cleared ? Vec<F>{} : h);
}

// Write what the way back alone will read.
template <class F> TT_INLINE void record(const Sizes<F> &z, F *to, Vec<F> v, int n) {
    if (streams && z.past)
        stream(to, v);
    else
        store(to, v, n);
}

template <class F> struct Elman {
    static constexpr int gates = 1, states = 1;
    static constexpr bool carries = false;

    static TT_INLINE void forward(const Sizes<F> &z, const Row<F> &r, const F *tile, int64_t u, int n) {
        const Vec<F> h = nonlinear<F>(load(r.drive + u, n) + load(tile), z.kind);
        if (r.s) store(r.s + u, h, n);
        put(r, h, u, n);
    }

    static TT_INLINE void backward(const Sizes<F> &z, const Row<F> &r, Vec<F> delta, int64_t u, int n) {
        const Vec<F> da = through<F>(delta, load(r.s + u, n), z.kind);
        if (r.adjoint) store(r.adjoint + u, da, n);
        if (r.out) store(r.out + u, r.cleared ? Vec<F>{} : da);
    }
};

template <class F> struct Lstm {
    static constexpr int gates = 4, states = 2;
    static constexpr bool carries = false;

    static TT_INLINE void forward(const Sizes<F> &z, const Row<F> &r, const F *tile, int64_t u, int n) {
        constexpr int L = Simd<F>::lanes;
        F *a = r.a + u;
        const F *x = r.drive + u;
        const int64_t H = z.H;
        const Vec<F> i = sigmoid<F>(load(x, n) + load(tile));
        const Vec<F> f = sigmoid<F>(load(x + H, n) + load(tile + L));
        const Vec<F> g = tanh<F>(load(x + 2 * H, n) + load(tile + 2 * L));
        const Vec<F> o = sigmoid<F>(load(x + 3 * H, n) + load(tile + 3 * L));
        const Vec<F> c = f * load(r.c + u) + i * g;
        const Vec<F> h = o * tanh<F>(c);
        if (z.keep) {
            record(z, a, i, n);
            record(z, a + H, f, n);
            record(z, a + 2 * H, g, n);
            record(z, a + 3 * H, o, n);
        }
        if (r.s) {
            record(z, r.s + u, h, n);
            record(z, r.s_c + u, c, n);
        }
        put(r, h, u, n);
        store(r.c + u, r.cleared ? Vec<F>{} : c);
    }

    static TT_INLINE void backward(const Sizes<F> &z, const Row<F> &r, Vec<F> delta_h, int64_t u, int n) {
        const int64_t H = z.H;
        const F one = 1;
        const F *a = r.a + u;
        Vec<F> delta_c = load(r.carry_c + u);
        if (r.g && z.G > H) delta_c += load(r.g + H + u, n);
        if (r.delta) store(r.delta + H + u, delta_c, n);
        const Vec<F> i = load(a, n), f = load(a + H, n), g = load(a + 2 * H, n), o = load(a + 3 * H, n);
        const Vec<F> tanh_c = tanh<F>(load(r.s + H + u, n));
        const Vec<F> c_prev = r.cleared ? Vec<F>{} : load(r.s_prev + H + u, n);
        delta_c += delta_h * (o * (one - tanh_c * tanh_c));
        const Vec<F> da_i = delta_c * (g * i * (one - i)), da_f = delta_c * (c_prev * f * (one - f));
        const Vec<F> da_g = delta_c * (i * (one - g * g)), da_o = delta_h * (tanh_c * o * (one - o));
        store(r.carry_c + u, r.cleared ? Vec<F>{} : delta_c * f);
        if (r.adjoint) {
            store(r.adjoint + u, da_i, n);
            store(r.adjoint + H + u, da_f, n);
            store(r.adjoint + 2 * H + u, da_g, n);
            store(r.adjoint + 3 * H + u, da_o, n);
        }
        if (!r.out) return;
        F *out = r.out + u;
        store(out, r.cleared ? Vec<F>{} : da_i);
        store(out + z.unit_row, r.cleared ? Vec<F>{} : da_f);
        store(out + 2 * z.unit_row, r.cleared ? Vec<F>{} : da_g);
        store(out + 3 * z.unit_row, r.cleared ? Vec<F>{} : da_o);
    }
};

template <class F> struct Gru {
    static constexpr int gates = 3, states = 1;
    static constexpr bool carries = true;  // delta * z goes back beside the product

    static TT_INLINE void forward(const Sizes<F> &z, const Row<F> &r, const F *tile, int64_t u, int n) {
        constexpr int L = Simd<F>::lanes;
        F *a = r.a + u;
        const F *x = r.drive + u;
        const int64_t H = z.H;
        const Vec<F> reset = sigmoid<F>(load(x, n) + load(tile));
        const Vec<F> update = sigmoid<F>(load(x + H, n) + load(tile + L));
        Vec<F> q = load(tile + 2 * L);
        if (z.bias_n) q += load(z.bias_n + u, n);
        const Vec<F> fresh = tanh<F>(load(x + 2 * H, n) + reset * q);
        const Vec<F> h = fresh + update * (load(r.h_prev + u) - fresh);
        if (z.keep) {
            record(z, a, reset, n);
            record(z, a + H, update, n);
            record(z, a + 2 * H, fresh, n);
            record(z, r.q + u, q, n);
        }
        if (r.s) store(r.s + u, h, n);
        put(r, h, u, n);
    }

    static TT_INLINE void backward(const Sizes<F> &z, const Row<F> &r, Vec<F> delta, int64_t u, int n) {
        const int64_t H = z.H;
        const F one = 1;
        const F *a = r.a + u;
        const Vec<F> reset = load(a, n), update = load(a + H, n), fresh = load(a + 2 * H, n);
        const Vec<F> q = load(r.q + u, n);
        const Vec<F> h_prev = r.cleared ? Vec<F>{} : load(r.s_prev + u, n);
        const Vec<F> da_n = delta * ((one - update) * (one - fresh * fresh));
        const Vec<F> da_r = da_n * (q * reset * (one - reset));
        const Vec<F> da_z = delta * ((h_prev - fresh) * update * (one - update));
        const Vec<F> hidden_n = da_n * reset;
        store(r.carry_h + u, r.cleared ? Vec<F>{} : delta * update);
        if (r.adjoint) {
            store(r.adjoint + u, da_r, n);
            store(r.adjoint + H + u, da_z, n);
            store(r.adjoint + 2 * H + u, da_n, n);
            if (z.wide) store(r.adjoint + 3 * H + u, hidden_n, n);
        }
        if (!r.out) return;
        F *out = r.out + u;
        store(out, r.cleared ? Vec<F>{} : da_r);
        store(out + z.unit_row, r.cleared ? Vec<F>{} : da_z);
        store(out + 2 * z.unit_row, r.cleared ? Vec<F>{} : hidden_n);
    }
};

}  // namespace TT_ISA
