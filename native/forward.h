// The forward sweep of one thread's rows: all T steps, without a barrier where the rows are its own.
//
// The input's product is taken some steps ahead, few enough for it to stay in cache.
#pragma once

#include "gemm.h"

namespace TT_ISA {

template <class F, class Cell> struct Forward : Sweep<F> {
    using Base = Sweep<F>;
    using Base::S; using Base::in; using Base::out; using Base::panels;
    using Base::share; using Base::sizes; using Base::state_row; using Base::unit_row; using Base::w;

    const Panels panels_x;
    const tt::Layout layout;
    Gemm<F> gemm;
    int64_t until = 0, since = 0;  // the pre-activations of steps since … until - 1 are there
    int side = 0;                  // where they are

    Forward(const tt::Share &s, const tt::Layout &l)
        : Base(s, false), panels_x(Panels::input(w, false, Simd<F>::lanes)), layout(l),
          gemm(s, l.waiting_row) {}

    // The tape's s_t.
    F *state(int64_t t, int64_t b) const { return (F *)w.s + (t * w.B + b) * S; }
    F *last_h(int64_t b) const { return (F *)w.h_T + b * w.final_stride_b; }
    F *last_c(int64_t b) const {
        return Cell::facts.states == 2 ? (F *)w.c_T + b * w.final_stride_b : nullptr;
    }

    // h and c of a state, or 0 where there is none.
    void put(const F *s, F *h, F *c) const {
        const size_t bytes = w.H * sizeof(F);
        s ? (void)memcpy(h, s, bytes) : (void)memset(h, 0, bytes);
        if (c) s ? (void)memcpy(c, s + w.H, bytes) : (void)memset(c, 0, bytes);
    }
    const F *first(int64_t b) const { return w.s_0 ? (const F *)w.s_0 + b * S : nullptr; }

    // Look ahead from step t over as many steps as may wait; return how many rows take them.
    int64_t look(int64_t t, bool write) {
        const int64_t n = share.n_rows;
        tt::Waiting &list = share.waiting[side * share.groups + share.group];
        int64_t count = 0;
        since = until = t;
        while (until < w.T && count + n <= layout.waiting_rows &&
               (until - t + 1) * n <= tt::places * layout.waiting_rows) {
            for (int64_t p = 0; p < n; ++p) {
                const int32_t id = share.rows[p];
                if (until < share.lo[id] || until >= share.hi[id]) continue;
                if (write) {
                    share.place[side][(until - t) * n + p] = (int32_t)count;
                    list.at[count] = until * w.B + id;
                    list.x_at[count] = until * w.x_stride_t + id * w.x_stride_b;
                }
                ++count;
            }
            ++until;
        }
        return count;
    }

    // Take the input's product for the steps from t on, all threads of the group together.
    void drive(int64_t t) {
        const int64_t count = look(t, share.member == 0);
        this->meet();
        int64_t first, last;
        part_of(count, share.member, share.team, first, last);
        gemm.drive(panels_x, first, last);
        this->meet();
    }

    // The pre-activations of step t are wanted next.
    void want(int64_t t) {
        if (!share.ahead || t == 0) return drive(t);
        this->meet();
        turn_side();
        look(t, false);
    }

    void turn_side() {
        side = 1 - side;
        gemm.lists = share.waiting + side * share.groups;
    }

    F *cell_state(int64_t p) const { return (F *)share.carry_c + p * unit_row; }

    // Put s_0 of the row at position p, or 0, where the step `at` will look for it.
    void enter(int64_t p, F *slot, int64_t at) const {
        const int64_t b = share.rows[p], u = this->first_unit(), n = this->last_unit() - u;
        const bool cleared = !w.s_0 || this->reset(at, b);
        const F *s_0 = (const F *)w.s_0 + b * S;
        for (int64_t i = u; i < u + n; ++i) slot[i] = cleared ? F(0) : s_0[i];
        if (Cell::facts.states == 2)
            for (int64_t i = u; i < u + n; ++i) cell_state(p)[i] = cleared ? F(0) : s_0[w.H + i];
    }

    // Decide which rows take step t + 1, and in which slots; return how many of them stay on.
    int64_t plan(int64_t t, int64_t n, int64_t &n_next) const {
        int64_t stay = 0;
        for (int64_t i = 0; i < n; ++i) {
            const int32_t p = share.current[i];
            const bool on = t + 1 < share.hi[share.rows[p]];
            share.out[i] = on ? (int32_t)stay : -1;
            if (on) share.next[stay++] = p;
        }
        n_next = stay;
        for (int32_t p = 0; p < share.n_rows; ++p)
            if (share.lo[share.rows[p]] == t + 1 && t + 1 < share.hi[share.rows[p]])
                share.next[n_next++] = p;
        return stay;
    }

    Row<F> row(int64_t t, int64_t slot) const {
        const int64_t p = share.current[slot], b = share.rows[p], at = t * w.B + b;
        Row<F> r{};
        for (int i = 0; w.keep && i < Cell::facts.kept; ++i) r.kept[i] = this->kept(i, at);
        r.drive = (const F *)gemm.lists[share.group].rows +
                  share.place[side][(t - since) * share.n_rows + p] * layout.waiting_row;
        if (w.keep) {
            r.s = state(t + 1, b);
            r.s_c = r.s + w.H;
        } else if (t + 1 == share.hi[b]) {
            r.s = last_h(b);
            r.s_c = last_c(b);
        }
        r.h = w.h ? (F *)w.h + at * w.H : nullptr;
        r.h_prev = in + slot * state_row;
        r.out = share.out[slot] < 0 ? nullptr : out + share.out[slot] * state_row;
        r.c = cell_state(p);
        r.cleared = this->reset(t + 1, b);
        return r;
    }

    void step(int64_t t, int64_t first, int64_t rows) const {
        constexpr int L = Simd<F>::lanes;
        Row<F> taken[chunk_rows];
        for (int64_t i = 0; i < rows; ++i) taken[i] = row(t, first + i);
        if constexpr (Cell::facts.whole_rows) {
            this->row_products(first, rows, t);
            for (int64_t i = 0; i < rows; ++i) Cell::forward_row(sizes, taken[i], this->whole(i));
            return;
        } else {
            for (int64_t j = this->first_panel; j < this->last_panel; ++j) {
                const int64_t panel = this->in_turn(j, t);
                const F *tile = this->tile_product(panel, first, rows);
                for (int64_t i = 0; i < rows; ++i)
                    point(taken[i], panel, tile + i * panels.width(panel) * L);
            }
        }
    }

    // One row and one panel, after the product.
    void point(const Row<F> &r, int64_t panel, const F *tile) const {
        constexpr int L = Simd<F>::lanes;
        int64_t u = panels.first_unit(panel);
        for (int j = 0; j < panels.unit_vectors(panel); ++j, u += L, tile += L * Cell::facts.gates) {
            // Prefetch where the next state is written; a gated cell gains nothing by it.
            if (w.keep && Cell::facts.gates == 1) ask_to_write(r.s + w.B * S + u);
            if (w.H - u >= L)
                Cell::forward(sizes, r, tile, u, L);
            else
                Cell::forward(sizes, r, tile, u, (int)(w.H - u));
        }
    }

    // Steps that a row does not take: its state stays, and its output and what would be kept are 0.
    // The backward pass reads nothing of what would be kept.
    void fill() const {
        for (int64_t p = share.member; p < share.n_rows; p += share.members) {
            const int64_t b = share.rows[p], lo = share.lo[b], hi = share.hi[b];
            if (!w.keep && lo >= hi) put(first(b), last_h(b), last_c(b));
            for (int64_t t = 0; t < w.T; ++t) {
                if (t >= lo && t < hi) continue;
                const int64_t at = t * w.B + b;
                if (w.h) memset((F *)w.h + at * w.H, 0, w.H * sizeof(F));
                if (w.keep != 1) continue;
                memcpy(state(t + 1, b), state(t, b), S * sizeof(F));
                for (int i = 0; i < Cell::facts.kept; ++i)
                    memset(this->kept(i, at), 0, this->kept_size[i] * sizeof(F));
            }
        }
    }

    // A thread that takes no steps shares the products, or takes them while the other takes steps.
    void assist() {
        drive(0);
        while (until < w.T) {
            if (!share.ahead) {
                drive(until);
                continue;
            }
            turn_side();
            gemm.drive(panels_x, 0, look(until, true));
            this->meet();
        }
    }

    void run() {
        if (!this->sweeps()) return assist();
        int64_t n = 0;
        for (int32_t p = 0; p < share.n_rows; ++p)
            if (share.lo[share.rows[p]] == 0 && share.hi[share.rows[p]] > 0) {
                enter(p, out + n * state_row, 0);
                share.current[n] = p;
                share.out[n] = (int32_t)n;
                ++n;
            }
        tt::Share &slots = const_cast<tt::Share &>(share);
        this->turn();
        for (int64_t t = 0; t < w.T; ++t) {
            int64_t n_next = n;
            if (t == until) want(t);
            if (share.ragged) {
                const int64_t stay = plan(t, n, n_next);
                for (int64_t i = stay; i < n_next; ++i) enter(share.next[i], out + i * state_row, t + 1);
            }
            for (int64_t i = 0; i < n; i += chunk_rows)
                step(t, i, n - i < chunk_rows ? n - i : chunk_rows);
            if (share.ragged) {
                int32_t *was = slots.current;
                slots.current = slots.next;
                slots.next = was;
                n = n_next;
            }
            this->turn();
        }
        if (sizes.past) end_stream();
        if (w.keep) begin_tape();
        if (share.ragged) fill();
        if (w.keep) give_last();
    }

    // What each row's first step began from, also where the steps before it are not written.
    void begin_tape() const {
        for (int64_t p = share.member; p < share.n_rows; p += share.members) {
            const int64_t b = share.rows[p], lo = share.lo[b];
            begin_at(0, b);
            if (lo) begin_at(lo, b);
        }
    }
    void begin_at(int64_t t, int64_t b) const {
        put(first(b), state(t, b), Cell::facts.states == 2 ? state(t, b) + w.H : nullptr);
    }

    void give_last() const {
        for (int64_t p = share.member; p < share.n_rows; p += share.members) {
            const int64_t b = share.rows[p], hi = share.lo[b] < share.hi[b] ? share.hi[b] : 0;
            put(state(hi, b), last_h(b), last_c(b));
        }
    }
};

}  // namespace TT_ISA
