// The backward sweep of one thread's rows; a row is one loss v of one batch row b.
//
// At step t the product of alpha_{t+1} with W_h yields delta_t (eq. 9) panel by panel, and the
// cell's step back turns it into alpha_t at once. A row begins at the last step that its loss
// reaches, and costs nothing above it. With one loss the adjoints of some steps wait in cache until
// their products are taken.
#pragma once

#include "sums.h"

namespace TT_ISA {

template <class F, class Cell> struct Backward : Sweep<F> {
    using Base = Sweep<F>;
    using Base::A; using Base::S; using Base::in; using Base::out; using Base::panels;
    using Base::share; using Base::sizes; using Base::state_row; using Base::unit_row; using Base::w;

    const Panels panels_x;
    const tt::Layout layout;
    Gemm<F> gemm;
    const Sums<F> sums;
    int64_t waiting = 0;   // steps whose adjoints wait
    int side = 0;          // where they do
    bool fresh = true;     // nothing has been added to the weights' gradients

    Backward(const tt::Share &s, const tt::Layout &l)
        : Base(s, true), panels_x(Panels::input(w, true, Simd<F>::lanes)), layout(l),
          gemm(s, l.waiting_row), sums(*this, Cell::facts.sums) {}

    F *carry_h(int64_t p) const { return (F *)share.carry_h + p * unit_row; }
    F *carry_c(int64_t p) const { return (F *)share.carry_c + p * unit_row; }
    int64_t enters(int64_t v) const { return w.enters ? w.enters[v] : w.T - 1; }
    int64_t floor(int64_t v) const { return w.floors ? w.floors[v] : 0; }

    const F *direct(int64_t v, int64_t t, int64_t b) const {
        if (!w.g || (w.g_sparse && t != enters(v))) return nullptr;
        return (const F *)w.g + v * w.g_stride_v + t * w.g_stride_t + b * w.g_stride_b;
    }
    F *adjoint(int64_t v, int64_t t, int64_t b) const {
        return w.adjoints ? (F *)w.adjoints + ((v * w.T + t) * w.B + b) * adjoint_size() : nullptr;
    }
    int64_t adjoint_size() const { return sizes.all ? w.adjoint_size : A; }
    tt::Waiting &list() const { return share.waiting[side * share.groups + share.group]; }

    // Where the adjoint of a step that is taken goes.
    F *taken_adjoint(int64_t v, int64_t t, int64_t b) {
        if (!w.grads) return adjoint(v, t, b);
        if (share.member == 0) {
            list().at[waiting] = t * w.B + b;
            list().x_at[waiting] = t * w.x_stride_t + b * w.x_stride_b;
        }
        return (F *)list().rows + waiting++ * layout.waiting_row;
    }

    // Hand the waiting adjoints over to their products; return whether any group has more to come.
    // A thread that takes steps ahead of the products shares only the last ones.
    bool round(bool last) {
        if (share.member == 0) {
            list().n = waiting;
            list().last = last;
        }
        waiting = 0;
        sums.add_recent();
        share.wait(share.all_barrier);
        bool more = false;
        for (int g = 0; g < share.groups; ++g) more |= !gemm.lists[g].last;
        if (!share.ahead || !more)
            products(share.thread, share.threads, share.member, share.team);
        else if (share.member)
            products(share.group, share.groups, 0, 1);
        fresh = false;
        if (share.ahead) {
            side = 1 - side;
            gemm.lists = share.waiting + side * share.groups;
        } else {
            share.wait(share.all_barrier);
        }
        return more;
    }

    void products(int worker, int workers, int part, int parts) const {
        if (w.grad_x) {
            int64_t begin, end;
            part_of(list().n, part, parts, begin, end);
            gemm.input_grad(panels_x, begin, end);
        }
        gemm.weight_grads(fresh, worker, workers);
        if (!Cell::facts.sums && (w.grad_bias_ih || w.grad_bias_hh))
            gemm.bias_grads(fresh, worker, workers);
    }

    // Where delta at s_k is written: the caller's array, or this chunk's scratch space for its norm.
    F *delta(int64_t v, int64_t k, int64_t b, int64_t i) const {
        if (w.deltas) return (F *)w.deltas + ((v * (w.T + 1) + k) * w.B + b) * S;
        return w.norms ? (F *)share.delta + i * S : nullptr;
    }
    void write_norm(int64_t v, int64_t k, int64_t b, const F *d) const {
        if (w.norms) ((F *)w.norms)[(v * (w.T + 1) + k) * w.B + b] = norm(d, S);
    }

    // Write delta at s_k from the carries, for a step that the row does not take.
    void write_carried(int64_t p, int64_t k) const {
        const int64_t id = share.rows[p], v = id / w.B, b = id % w.B;
        const int64_t u = this->first_unit(), end = this->last_unit();
        if (k < floor(v)) return clear(v, k, b);
        F *d = delta(v, k, b, 0);
        if (!d) return;
        for (int64_t i = u; i < end; ++i) d[i] = carry_h(p)[i];
        if (Cell::facts.states == 2)
            for (int64_t i = u; i < end; ++i) d[w.H + i] = carry_c(p)[i];
        write_norm(v, k, b, d);
    }

    // At a step that the row does not take the layer's output is 0, so nothing enters there.
    void add_direct(int64_t p, int64_t t) const {
        if (w.grads) return;
        const int64_t id = share.rows[p], u = this->first_unit(), end = this->last_unit();
        const F *g = direct(id / w.B, t, id % w.B);
        if (!g) return;
        for (int64_t i = u; i < end; ++i) carry_h(p)[i] += g[i];
        if (Cell::facts.states == 2 && w.G > w.H)
            for (int64_t i = u; i < end; ++i) carry_c(p)[i] += g[w.H + i];
    }

    // Before the row's first step back: what arrives at s_T, and at the steps it does not take.
    void begin(int64_t p) const {
        const int64_t id = share.rows[p], v = id / w.B, b = id % w.B;
        const int64_t u = this->first_unit(), n = this->last_unit() - u, H = w.H;
        const F *d = w.delta_T ? (const F *)w.delta_T + id * S : nullptr;
        for (int64_t i = u; i < u + n; ++i) carry_h(p)[i] = d ? d[i] : F(0);
        if (Cell::facts.states == 2)
            for (int64_t i = u; i < u + n; ++i) carry_c(p)[i] = d ? d[H + i] : F(0);
        const int64_t top = d ? w.T - 1 : enters(v);  // nothing but zeros above it
        for (int64_t t = w.T - 1; t >= share.hi[id]; --t) {
            if (t > top) {
                clear(v, t + 1, b);
            } else {
                add_direct(p, t);
                write_carried(p, t + 1);
            }
            clear_adjoint(v, t, b);
        }
    }

    // After its last step back: delta_{lo} is in the carries; go on to s_0.
    void end(int64_t p) const {
        const int64_t id = share.rows[p], v = id / w.B, b = id % w.B;
        const int64_t u = this->first_unit(), n = this->last_unit() - u, H = w.H;
        const int64_t lo = share.lo[id] < share.hi[id] ? share.lo[id] : share.hi[id];
        for (int64_t t = lo - 1; t >= 0; --t) {
            add_direct(p, t);
            write_carried(p, t + 1);
            clear_adjoint(v, t, b);
        }
        write_carried(p, 0);
        const bool cut = floor(v) > 0;  // not followed to s_0
        F *d = (F *)w.delta_0 + id * S;
        for (int64_t i = u; i < u + n; ++i) d[i] = cut ? F(0) : carry_h(p)[i];
        if (Cell::facts.states == 2)
            for (int64_t i = u; i < u + n; ++i) d[H + i] = cut ? F(0) : carry_c(p)[i];
    }

    void clear(int64_t v, int64_t k, int64_t b) const {
        const int64_t u = this->first_unit(), n = this->last_unit() - u;
        for (int64_t part = 0; w.deltas && part < S; part += w.H)
            memset(delta(v, k, b, 0) + part + u, 0, n * sizeof(F));
        if (w.norms) ((F *)w.norms)[(v * (w.T + 1) + k) * w.B + b] = 0;
    }

    void clear_adjoint(int64_t v, int64_t t, int64_t b) const {
        F *row = adjoint(v, t, b);
        const int64_t u = this->first_unit(), n = this->last_unit() - u;
        for (int64_t part = 0; row && part < adjoint_size(); part += w.H)
            memset(row + part + u, 0, n * sizeof(F));
        if (w.grad_x && share.member == 0) memset((F *)w.grad_x + (t * w.B + b) * w.I, 0, w.I * sizeof(F));
    }

    // Decide which rows take step t, and in which slots; return how many of them took step t + 1.
    int64_t plan(int64_t t, int64_t n, int64_t &n_next) const {
        int64_t stay = 0;
        for (int64_t i = 0; i < n; ++i) {
            const int32_t p = share.current[i];
            const bool on = t >= share.lo[share.rows[p]];
            share.out[i] = on ? (int32_t)stay : -1;
            if (on) share.next[stay++] = p;
        }
        n_next = stay;
        for (int32_t p = 0; t >= 0 && p < share.n_rows; ++p) {
            const int64_t id = share.rows[p];
            if (share.hi[id] == t + 1 && share.lo[id] <= t) share.next[n_next++] = p;
        }
        return stay;
    }

    Row<F> row(int64_t t, int64_t p, int64_t to, int64_t i) {
        const int64_t id = share.rows[p], v = id / w.B, b = id % w.B, at = t * w.B + b;
        Row<F> r{};
        for (int j = 0; j < Cell::facts.kept; ++j) r.kept[j] = this->kept(j, at);
        r.s_prev = (const F *)w.s + at * S;
        r.s = (F *)w.s + (at + w.B) * S;
        r.out = out + to * state_row;
        r.carry_h = carry_h(p);
        r.carry_c = carry_c(p);
        r.g = direct(v, t, b);
        r.adjoint = taken_adjoint(v, t, b);
        r.delta = delta(v, t + 1, b, i);
        r.sums = sums.recent();
        r.cleared = this->reset(t, b);
        return r;
    }

    // One row and one panel of step t. tile is null where the row begins here.
    void point(const Row<F> &r, int64_t panel, const F *tile) const {
        constexpr int L = Simd<F>::lanes;
        int64_t u = panels.first_unit(panel);
        for (int j = 0; j < panels.unit_vectors(panel); ++j, u += L) {
            if (w.H - u >= L)
                vector(r, tile ? tile + j * L : nullptr, u, L);
            else
                vector(r, tile ? tile + j * L : nullptr, u, (int)(w.H - u));
        }
    }

    TT_INLINE void vector(const Row<F> &r, const F *tile, int64_t u, int n) const {
        Vec<F> d = tile ? load(tile) : load(r.carry_h + u);
        if (Cell::carries && tile) d += load(r.carry_h + u);
        if (r.g) d += load(r.g + u, n);
        if (r.delta) store(r.delta + u, d, n);
        if (w.grads) ask_ahead(r, u);
        Cell::backward(sizes, r, d, u, n);
    }

    // Prefetch what the row reads one step further back, while the next product is taken.
    TT_INLINE void ask_ahead(const Row<F> &r, int64_t u) const {
        ask(r.s_prev + u);
        if (Cell::facts.states == 2) ask(r.s_prev + w.H + u);
        for (int j = 0; j < Cell::facts.kept; ++j)
            for (int unit = 0; unit < Cell::facts.kept_units[j]; ++unit)
                ask(r.kept[j] - w.B * this->kept_size[j] + unit * w.H + u);
        if (r.g) ask(r.g - w.g_stride_t + u);
    }

    // The same for a cell that takes whole rows: delta_t is in `work`, which it may write over.
    void whole_row(const Row<F> &r, F *work) const {
        constexpr int64_t line = 64 / sizeof(F);
        for (int64_t u = 0; w.grads && u < w.H; u += line) ask_ahead(r, u);
        Cell::backward_row(sizes, r, work);
    }

    // The row's first step: delta_t is in the carry.
    void start(const Row<F> &r) const {
        if constexpr (Cell::facts.whole_rows) {
            memcpy(this->whole(0), r.carry_h, w.H * sizeof(F));
            whole_row(r, this->whole(0));
        } else {
            for (int64_t panel = this->first_panel; panel < this->last_panel; ++panel)
                point(r, panel, nullptr);
        }
    }

    // The row does not take step t: what came through the product stays in the carry.
    void leave(int64_t p, int64_t panel, const F *tile) const {
        constexpr int L = Simd<F>::lanes;
        const int64_t u = panels.first_unit(panel);
        for (int64_t j = 0; j < panels.unit_vectors(panel) * L; ++j)
            carry_h(p)[u + j] = tile[j] + (Cell::carries ? carry_h(p)[u + j] : F(0));
    }

    // Rows in the slots first … first + rows - 1 of step t + 1 go through the product.
    void step(int64_t t, int64_t first, int64_t rows) {
        constexpr int L = Simd<F>::lanes;
        Row<F> taken[chunk_rows];
        for (int64_t i = 0; i < rows; ++i)
            if (share.out[first + i] >= 0)
                taken[i] = row(t, share.current[first + i], share.out[first + i], i);
        if constexpr (Cell::facts.whole_rows) {
            this->row_products(first, rows, t);
            for (int64_t i = 0; i < rows; ++i)
                if (share.out[first + i] >= 0)
                    whole_row(taken[i], this->whole(i));
                else
                    memcpy(carry_h(share.current[first + i]), this->whole(i), w.H * sizeof(F));
        } else {
            for (int64_t j = this->first_panel; j < this->last_panel; ++j) {
                const int64_t panel = this->in_turn(j, t);
                const F *product = this->tile_product(panel, first, rows);
                for (int64_t i = 0; i < rows; ++i) {
                    const F *tile = product + i * panels.width(panel) * L;
                    if (share.out[first + i] >= 0)
                        point(taken[i], panel, tile);
                    else
                        leave(share.current[first + i], panel, tile);
                }
            }
        }
        for (int64_t i = 0; w.norms && i < rows; ++i)
            if (share.out[first + i] >= 0) finish_norm(t, share.current[first + i], taken[i]);
    }

    void finish_norm(int64_t t, int64_t p, const Row<F> &r) const {
        const int64_t id = share.rows[p];
        write_norm(id / w.B, t + 1, id % w.B, r.delta);
    }

    void run() {
        sums.clear();
        if (this->sweeps()) sweep();
        while (w.grads && round(true)) {}
        if constexpr (Cell::facts.sums > 0)
            if (w.grads) sums.template write<Cell>();
    }

    void sweep() {
        int64_t n = 0;
        for (int32_t p = 0; p < share.n_rows; ++p) {
            begin(p);
            if (share.lo[share.rows[p]] >= share.hi[share.rows[p]]) end(p);
        }
        tt::Share &slots = const_cast<tt::Share &>(share);
        for (int64_t t = w.T - 1; t >= -1; --t) {
            int64_t n_next;
            const int64_t stay = plan(t, n, n_next);
            if (w.grads && waiting + n_next > layout.waiting_rows) round(false);
            for (int64_t i = 0; i < n; i += chunk_rows)
                step(t, i, n - i < chunk_rows ? n - i : chunk_rows);
            for (int64_t i = 0; i < n; ++i)
                if (share.out[i] < 0) end(share.current[i]);
            for (int64_t i = stay; i < n_next; ++i) {
                const Row<F> r = row(t, share.next[i], i, 0);
                start(r);
                if (w.norms) finish_norm(t, share.next[i], r);
            }
            int32_t *was = slots.current;
            slots.current = slots.next;
            slots.next = was;
            n = n_next;
            this->turn();
        }
    }
};

}  // namespace TT_ISA
