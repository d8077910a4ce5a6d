// The step of src/throughtime/cells/layernorm_lstm.py, whose docstring states the equations.
//
// A norm needs its whole row, so the step takes whole rows. Forward it makes three passes over the
// pre-activations (two for mean and variance, one for the gates) and two over c. Back it makes one
// over the units for N' at c, one for the gates' adjoints, and one for N' at u and w.
#pragma once

#include "cell.h"

namespace TT_ISA {

// The first n lanes; the others are 0.
template <class F> TT_INLINE Vec<F> only(Vec<F> v, int n) {
    if (n >= Simd<F>::lanes) return v;
    F lanes[Simd<F>::lanes];
    store(lanes, v);
    return load(lanes, n);
}

template <class F> TT_INLINE F total(Vec<F> v) {
    F lanes[Simd<F>::lanes], sum = 0;
    store(lanes, v);
    for (int i = 0; i < Simd<F>::lanes; ++i) sum += lanes[i];
    return sum;
}

// Call act(u, n) for each vector of units, n of them within the row.
template <class F, class Act> TT_INLINE void each_vector(int64_t H, const Act &act) {
    constexpr int L = Simd<F>::lanes;
    int64_t u = 0;
    for (; u + L <= H; u += L) act(u, L);
    if (u < H) act(u, (int)(H - u));
}

template <class F> struct LayerNormLstm {
    // Kept: the gates (i, f, g, o), u_hat, w_hat, c_hat, and rho of u, w and c.
    static constexpr tt_facts facts = {4, 2, 0, 9, 14, 1, 5, {4, 4, 4, 1, 0}, {0, 0, 0, 0, 3}};
    static constexpr bool carries = false;
    static constexpr int G = 4;

    // None: the biases stand outside N.
    static F input_bias(const tt_sweep &, int64_t) { return 0; }

    // The sums of alpha * u_hat, alpha * w_hat and alpha by gate, then of mu * c_hat and mu.
    static Gradients<F> sums_of(const tt_sweep &w, int k) {
        const auto part = [&](void *grad, int gate) { return grad ? (F *)grad + gate * w.H : nullptr; };
        if (k < 4) return {{part(w.grad_gain_ih, k), nullptr}};
        if (k < 8) return {{part(w.grad_gain_hh, k - 4), nullptr}};
        if (k < 12) return {{part(w.grad_bias_ih, k - 8), part(w.grad_bias_hh, k - 8)}};
        return {{part(k == 12 ? w.grad_gain_c : w.grad_bias_c, 0), nullptr}};
    }

    struct Norm {
        F mean, rho;
        TT_INLINE Vec<F> operator()(Vec<F> v) const { return (v - mean) * rho; }
    };

    // Mean and 1 / sqrt(var + eps) of the G gates of a row; gate k of the units from u on lies at
    // k * gate_step + u * unit_step.
    static TT_INLINE Norm norm_of(const Sizes<F> &z, const F *v, int64_t gate_step, int64_t unit_step) {
        Vec<F> sum[G] = {};
        each_vector<F>(z.H, [&](int64_t u, int n) TT_ALWAYS {
#pragma GCC unroll 4
            for (int k = 0; k < G; ++k) sum[k] += load(v + k * gate_step + u * unit_step, n);
        });
        const F count = (F)(G * z.H), mean = total<F>((sum[0] + sum[1]) + (sum[2] + sum[3])) / count;
        for (Vec<F> &s : sum) s = Vec<F>{};
        each_vector<F>(z.H, [&](int64_t u, int n) TT_ALWAYS {
#pragma GCC unroll 4
            for (int k = 0; k < G; ++k) {
                const Vec<F> d = only<F>(load(v + k * gate_step + u * unit_step, n) - mean, n);
                sum[k] += d * d;
            }
        });
        const F var = total<F>((sum[0] + sum[1]) + (sum[2] + sum[3])) / count;
        return {mean, rho_of(z, var)};
    }

    static TT_INLINE F rho_of(const Sizes<F> &z, F var) {
        const F inside = var + (F)z.sweep->eps;
        return F(1) / (sizeof(F) == 4 ? (F)__builtin_sqrtf((float)inside) : (F)__builtin_sqrt(inside));
    }

    // The same for c, whose vectors lie L * G apart in the row's work.
    static TT_INLINE Norm norm_of_c(const Sizes<F> &z, const F *work, Vec<F> sum) {
        const F mean = total<F>(sum) / (F)z.H;
        Vec<F> squares = {};
        each_vector<F>(z.H, [&](int64_t u, int n) TT_ALWAYS {
            const Vec<F> d = only<F>(load(work + u * G) - mean, n);
            squares += d * d;
        });
        return {mean, rho_of(z, total<F>(squares) / (F)z.H)};
    }

    static TT_INLINE Vec<F> tanh_m(const Sizes<F> &z, Vec<F> c_hat, int64_t u, int n) {
        Vec<F> m = load((const F *)z.sweep->gain_c + u, n) * c_hat;
        if (z.sweep->bias_c) m += load((const F *)z.sweep->bias_c + u, n);
        return tanh<F>(m);
    }

    // w: W_h h of the row, one vector of units after another, the gates of each side by side.
    static void forward_row(const Sizes<F> &z, const Row<F> &r, F *w) {
        constexpr int L = Simd<F>::lanes;
        const int64_t H = z.H;
        const tt_sweep &sweep = *z.sweep;
        const F *gain_ih = (const F *)sweep.gain_ih, *gain_hh = (const F *)sweep.gain_hh;
        const F *bias_ih = (const F *)sweep.bias_ih, *bias_hh = (const F *)sweep.bias_hh;
        const Norm of_u = norm_of(z, r.drive, H, 1), of_w = norm_of(z, w, L, G);
        Vec<F> sum_c = {};
        each_vector<F>(H, [&](int64_t u, int n) TT_ALWAYS {
            Vec<F> a[G];
#pragma GCC unroll 4
            for (int k = 0; k < G; ++k) {
                const int64_t at = k * H + u;
                const Vec<F> u_hat = of_u(load(r.drive + at, n)), w_hat = of_w(load(w + u * G + k * L, n));
                a[k] = load(gain_ih + at, n) * u_hat + load(gain_hh + at, n) * w_hat;
                if (bias_ih) a[k] += load(bias_ih + at, n) + load(bias_hh + at, n);
                if (!z.keep) continue;
                record(z, r.kept[1] + at, u_hat, n);
                record(z, r.kept[2] + at, w_hat, n);
            }
            const Vec<F> i = sigmoid<F>(a[0]), f = sigmoid<F>(a[1]), g = tanh<F>(a[2]), o = sigmoid<F>(a[3]);
            const Vec<F> c = f * load(r.c + u, n) + i * g;
            if (z.keep) {
                record(z, r.kept[0] + u, i, n);
                record(z, r.kept[0] + H + u, f, n);
                record(z, r.kept[0] + 2 * H + u, g, n);
                record(z, r.kept[0] + 3 * H + u, o, n);
            }
            sum_c += only<F>(c, n);
            store(w + u * G, c);
            store(w + u * G + L, o);
        });
        const Norm of_c = norm_of_c(z, w, sum_c);
        each_vector<F>(H, [&](int64_t u, int n) TT_ALWAYS {
            const Vec<F> c = load(w + u * G), c_hat = of_c(c);
            const Vec<F> h = load(w + u * G + L) * tanh_m(z, c_hat, u, n);
            if (z.keep) record(z, r.kept[3] + u, c_hat, n);
            if (r.s) {
                record(z, r.s + u, h, n);
                record(z, r.s_c + u, c, n);
            }
            put(r, h, u, n);
            store(r.c + u, r.cleared ? Vec<F>{} : c);
        });
        if (z.keep) r.kept[4][0] = of_u.rho, r.kept[4][1] = of_w.rho, r.kept[4][2] = of_c.rho;
    }

    // N'(v) y = rho * (y - mean(y) - v_hat * mean(y * v_hat)), from the sums behind those means.
    struct Back {
        F rho, mean, along;
        Back(F rho_, Vec<F> y, Vec<F> y_hat, int64_t n)
            : rho(rho_), mean(total<F>(y) / (F)n), along(total<F>(y_hat) / (F)n) {}
        TT_INLINE Vec<F> operator()(Vec<F> y, Vec<F> hat) const { return (y - mean - hat * along) * rho; }
    };

    static TT_INLINE void add(const Row<F> &r, const Sizes<F> &z, int k, int64_t u, Vec<F> v) {
        F *to = r.sums + k * z.unit_row + u;
        store(to, load(to) + v);
    }

    // work: delta_h, then, unit_row apart, what one pass hands to the next: gamma_c * mu and the
    // gates' adjoints.
    static void backward_row(const Sizes<F> &z, const Row<F> &r, F *work) {
        const int64_t H = z.H, row = z.unit_row;
        const F one = 1;
        const tt_sweep &sweep = *z.sweep;
        const F *gates = r.kept[0], *u_hat = r.kept[1], *w_hat = r.kept[2], *c_hat = r.kept[3];
        const F *rho = r.kept[4];
        const F *gain_ih = (const F *)sweep.gain_ih, *gain_hh = (const F *)sweep.gain_hh;
        const F *gain_c = (const F *)sweep.gain_c;
        const bool all = z.all && r.adjoint;

        Vec<F> sum = {}, sum_hat = {};
        each_vector<F>(H, [&](int64_t u, int n) TT_ALWAYS {
            Vec<F> delta_h = load(work + u, n);
            if (r.g) delta_h += load(r.g + u, n);
            if (r.delta) store(r.delta + u, delta_h, n);
            const Vec<F> o = load(gates + 3 * H + u, n), hat = load(c_hat + u, n);
            const Vec<F> tanh = tanh_m(z, hat, u, n);
            const Vec<F> mu = delta_h * (o * (one - tanh * tanh));
            const Vec<F> y = mu * load(gain_c + u, n);
            sum += y;
            sum_hat += y * hat;
            store(work + u, y);
            store(work + 3 * row + u, delta_h * (tanh * o * (one - o)));
            if (r.sums) {
                add(r, z, 12, u, mu * hat);
                add(r, z, 13, u, mu);
            }
            if (all) store(r.adjoint + 8 * H + u, mu, n);
        });

        const Back to_c(rho[2], sum, sum_hat, H);
        Vec<F> sum_u = {}, sum_u_hat = {}, sum_w = {}, sum_w_hat = {};
        each_vector<F>(H, [&](int64_t u, int n) TT_ALWAYS {
            Vec<F> delta_c = load(r.carry_c + u, n);
            if (r.g && z.G > H) delta_c += load(r.g + H + u, n);
            if (r.delta) store(r.delta + H + u, delta_c, n);
            delta_c += only<F>(to_c(load(work + u), load(c_hat + u, n)), n);
            const Vec<F> i = load(gates + u, n), f = load(gates + H + u, n), g = load(gates + 2 * H + u, n);
            const Vec<F> c_prev = r.cleared ? Vec<F>{} : load(r.s_prev + H + u, n);
            const Vec<F> alpha[G] = {delta_c * (g * i * (one - i)), delta_c * (c_prev * f * (one - f)),
                                       delta_c * (i * (one - g * g)), load(work + 3 * row + u)};
            store(r.carry_c + u, r.cleared ? Vec<F>{} : delta_c * f);
#pragma GCC unroll 4
            for (int k = 0; k < G; ++k) {
                const int64_t at = k * H + u;
                const Vec<F> of_u = load(u_hat + at, n), of_w = load(w_hat + at, n);
                const Vec<F> y_u = alpha[k] * load(gain_ih + at, n);
                const Vec<F> y_w = alpha[k] * load(gain_hh + at, n);
                sum_u += y_u;
                sum_u_hat += y_u * of_u;
                sum_w += y_w;
                sum_w_hat += y_w * of_w;
                store(work + k * row + u, alpha[k]);
                if (all) store(r.adjoint + 4 * H + at, alpha[k], n);
                if (!r.sums) continue;
                add(r, z, k, u, alpha[k] * of_u);
                add(r, z, 4 + k, u, alpha[k] * of_w);
                add(r, z, 8 + k, u, alpha[k]);
            }
        });

        const Back to_u(rho[0], sum_u, sum_u_hat, G * H), to_w(rho[1], sum_w, sum_w_hat, G * H);
        each_vector<F>(H, [&](int64_t u, int n) TT_ALWAYS {
#pragma GCC unroll 4
            for (int k = 0; k < G; ++k) {
                const int64_t at = k * H + u;
                const Vec<F> alpha = load(work + k * row + u);
                const Vec<F> omega = to_w(alpha * load(gain_hh + at, n), load(w_hat + at, n));
                if (r.adjoint)
                    store(r.adjoint + at, to_u(alpha * load(gain_ih + at, n), load(u_hat + at, n)), n);
                if (z.products) store(r.adjoint + 4 * H + at, omega, n);
                if (r.out) store(r.out + k * row + u, r.cleared ? Vec<F>{} : omega);
            }
        });
    }
};

}  // namespace TT_ISA
