// The products outside the steps: W_x x_t before them (eq. 1), dE/dx and dE/dW after them (eq. 5).
//
// They take whatever waits, from any rows and steps, so a ragged batch costs only the steps that it
// takes, and an input may lie anywhere. The threads of a group share dE/dx; all threads share dE/dW
// by columns.
#pragma once

#include "sweep.h"

namespace TT_ISA {

// What a product outside the steps reads repeatedly has to stay in a core's L2.
constexpr int64_t depth_at_once = 1024;          // of a panel
constexpr int64_t gathered_bytes = 256 << 10;    // of gathered inputs
constexpr int64_t adjoint_columns = 1024;        // of the adjoints that wait

// How many rows of the input are gathered at a time.
template <class F> int64_t rows_at_once(int64_t x_row) {
    const int64_t rows = gathered_bytes / (x_row * (int64_t)sizeof(F)) / chunk_rows * chunk_rows;
    return rows < chunk_rows ? chunk_rows : rows < 4 * chunk_rows ? rows : 4 * chunk_rows;
}

// A thread's part of n things.
inline void part_of(int64_t n, int64_t part, int64_t parts, int64_t &first, int64_t &last) {
    first = n * part / parts;
    last = n * (part + 1) / parts;
}

// out rows = from rows + x rows · panel, as many rows at a time as the registers hold.
template <class F>
void multiply_rows(const F *x, int64_t x_row, const F *panel, int NR, int64_t K, int64_t rows, F *out,
                   int64_t out_row, const F *from, int64_t from_row) {
    const int most = rows_for(NR);
    const Multiply<F> full = pick<F>(most, NR);
    int64_t i = 0;
    for (; i + most <= rows; i += most)
        full(x + i * x_row, x_row, panel, K, out + i * out_row, out_row,
             from ? from + i * from_row : nullptr, from_row);
    if (i < rows)
        pick<F>((int)(rows - i), NR)(x + i * x_row, x_row, panel, K, out + i * out_row, out_row,
                                     from ? from + i * from_row : nullptr, from_row);
}

template <class F> struct Gemm {
    const tt::Share &share;
    const tt_sweep &w;
    const int64_t row;   // elements of a row that waits
    const int64_t A, H;
    const int64_t bent;  // from this column on, gates have a separate adjoint for W_h
    F *gathered;
    const tt::Waiting *lists;  // what waits, by group

    explicit Gemm(const tt::Share &share_, int64_t row_)
        : share(share_), w(*share_.sweep), row(row_), A(gates_of(w) * w.H), H(w.H),
          bent(facts(w.cell)->shared * H), gathered((F *)share_.gathered), lists(share_.waiting) {}

    // Pre-activations of the rows first … last - 1 that wait: b + W_x x_t.
    void drive(const Panels &panels, int64_t first, int64_t last) const {
        constexpr int L = Simd<F>::lanes;
        const F *bias = (const F *)share.packed_x + panels.size();
        const int64_t depth = panels.K < depth_at_once ? panels.K : depth_at_once, x_row = depth + L;
        const int64_t at_once = rows_at_once<F>(x_row);
        for (int64_t i = first; i < last; i += at_once) {
            const int64_t rows = last - i < at_once ? last - i : at_once;
            for (int64_t k = 0; k < panels.K; k += depth) {
                const int64_t K = panels.K - k < depth ? panels.K - k : depth;
                for (int64_t r = 0; r < rows; ++r)
                    memcpy(gathered + r * x_row, (const F *)w.x + lists[share.group].x_at[i + r] + k, K * sizeof(F));
                for (int64_t p = 0; p < panels.count; ++p) {
                    const int NR = panels.width(p);
                    F *out = (F *)lists[share.group].rows + i * row + panels.first_unit(p);
                    multiply_rows<F>(gathered, x_row,
                                     (const F *)share.packed_x + panels.offset(p) + k * NR * L, NR, K,
                                     rows, out, row, k ? out : bias + panels.first_unit(p),
                                     k ? row : 0);
                }
            }
        }
    }

    // dE/dx of the rows first … last - 1 that wait: their adjoints times W_x.
    void input_grad(const Panels &panels, int64_t first, int64_t last) const {
        constexpr int L = Simd<F>::lanes;
        const int64_t rows = last - first;
        const F *adjoints = (const F *)lists[share.group].rows + first * row;
        for (int64_t p = 0; p < panels.count; ++p) {
            const int NR = panels.width(p);
            const int64_t u = panels.first_unit(p), tile_row = NR * L;
            const int64_t columns = w.I - u < tile_row ? w.I - u : tile_row;
            for (int64_t i = 0; i < rows; ++i)
                for (int64_t j = 0; j < columns; j += L) ask_to_write(input_grad_row(first + i) + u + j);
            const F *panel = (const F *)share.packed_x + panels.offset(p);
            for (int64_t k = 0; k < panels.K; k += depth_at_once) {
                const int64_t K = panels.K - k < depth_at_once ? panels.K - k : depth_at_once;
                multiply_rows<F>(adjoints + k, row, panel + k * NR * L, NR, K, rows, gathered, tile_row,
                                 k ? gathered : nullptr, tile_row);
            }
            for (int64_t i = 0; i < rows; ++i)
                memcpy(input_grad_row(first + i) + u, gathered + i * tile_row, columns * sizeof(F));
        }
    }
    F *input_grad_row(int64_t i) const { return (F *)w.grad_x + lists[share.group].at[i] * w.I; }

    // A worker's columns of both weight gradients: the adjoints of all groups times what each step
    // began from. `fresh`: nothing has been added to them yet.
    void weight_grads(bool fresh, int worker, int workers) const {
        constexpr int L = Simd<F>::lanes;
        const Panels x(w.grad_weight_ih ? w.I : 0, 0, L), h(w.grad_weight_hh ? H : 0, 0, L);
        const int64_t columns = x.count + h.count;
        if (!columns) return;
        // Where there are more workers than panels, several share one and split its rows.
        const int64_t across = columns < workers ? columns : workers;
        const int64_t down = workers / across, mine = worker % across;
        if (worker >= across * down) return;
        int64_t first, last, top, bottom;
        part_of(columns, mine, across, first, last);
        part_of(A, worker / across, down, top, bottom);
        for (int g = 0; g < share.groups; ++g) {
            const tt::Waiting &from = lists[g];
            if (!from.n) continue;
            for (int64_t i = top; i < bottom; i += adjoint_columns) {
                const int64_t end = bottom - i < adjoint_columns ? bottom : i + adjoint_columns;
                for (int64_t p = first; p < last; ++p) {
                    const Operand o = operand(from, x, h, p);
                    const Operand next = p + 1 < last ? operand(from, x, h, p + 1) : Operand{};
                    gather(o);
                    block(o, next, fresh, i, end);
                }
            }
            fresh = false;
        }
        for (int64_t p = first; p < last && fresh; ++p)  // no row took a step
            if (p < x.count)
                clear(x, p, (F *)w.grad_weight_ih, top, bottom);
            else
                clear(h, p - x.count, (F *)w.grad_weight_hh, top, bottom);
    }

    // What is multiplied with the adjoints that wait: a panel of columns of the inputs, or of the
    // states that the steps began from.
    struct Operand {
        const tt::Waiting *from;
        const F *rows;
        const int64_t *at;   // where each row begins, in units of
        int64_t stride;
        int64_t u, columns;  // the first column and how many
        int64_t out_row;     // columns of the weight
        int NR;
        bool of_x;

        const F *row(int64_t k) const { return rows + at[k] * stride + u; }
    };

    Operand operand(const tt::Waiting &from, const Panels &x, const Panels &h, int64_t p) const {
        constexpr int L = Simd<F>::lanes;
        const bool of_x = p < x.count;
        const Panels &panels = of_x ? x : h;
        if (!of_x) p -= x.count;
        const int NR = panels.width(p);
        const int64_t u = panels.first_unit(p), left = panels.units - u;
        const int64_t columns = left < NR * L ? left : NR * L;
        if (of_x) return {&from, (const F *)w.x, from.x_at, 1, u, columns, w.I, NR, true};
        return {&from, (const F *)w.s, from.at, facts(w.cell)->states * H, u, columns, H, NR, false};
    }

    // Some rows of a weight's gradient, in the operand's columns.
    void block(const Operand &o, const Operand &next, bool fresh, int64_t first, int64_t last) const {
        const int64_t own = o.of_x ? A : bent;
        const int64_t before = last < own ? last : own, after = first < own ? own : first;
        strips(o, next, first, before, 0, fresh);
        strips(o, next, after, last, A - bent, fresh);
    }

    // Gather an operand, padded with 0.
    void gather(const Operand &o) const {
        constexpr int L = Simd<F>::lanes;
        F *to = gathered;
        for (int64_t k = 0; k < o.from->n; ++k, to += o.NR * L) {
            const F *row = o.row(k);
            const bool cleared = !o.of_x && w.reset && w.reset[o.at[k]];
            for (int j = 0; j < o.NR; ++j) {
                const int64_t left = o.columns - j * L;
                store(to + j * L, cleared ? Vec<F>{} : load(row + j * L, left < L ? (int)left : L));
            }
        }
    }

    // Rows first … last - 1 of a weight's gradient; their adjoints stand `shift` columns further.
    // Meanwhile the next operand comes from memory, a share of it with each strip.
    void strips(const Operand &o, const Operand &next, int64_t first, int64_t last, int64_t shift,
                bool fresh) const {
        constexpr int L = Simd<F>::lanes;
        const int most = rows_for(o.NR);
        const int64_t width = o.NR * L, n = o.from->n, out_row = o.out_row;
        F *tile = (F *)share.tile, *out = (F *)(o.of_x ? w.grad_weight_ih : w.grad_weight_hh) + o.u;
        for (int64_t i = first; i < last; i += most) {
            const int rows = (int)(last - i < most ? last - i : most);
            const F *adjoints = (const F *)o.from->rows + i + shift;
            F *to = out + i * out_row;
            const Multiply<F> product = pick<F, true>(rows, o.NR);
            for (int r = rows; r < 2 * rows && i + r < last; ++r)  // the next strip's
                for (int64_t j = 0; j < o.columns; j += L) ask_to_write(to + r * out_row + j);
            if (next.from)
                ask_for(next, n * (i - first) / (last - first), n * (i + rows - first) / (last - first));
            if (o.columns == width) {
                product(adjoints, row, gathered, n, to, out_row, fresh ? nullptr : to, out_row);
                continue;
            }
            product(adjoints, row, gathered, n, tile, width, nullptr, 0);
            for (int r = 0; r < rows; ++r)
                for (int64_t j = 0; j < o.columns; ++j)
                    to[r * out_row + j] = tile[r * width + j] + (fresh ? F(0) : to[r * out_row + j]);
        }
    }

    void ask_for(const Operand &o, int64_t first, int64_t last) const {
        for (int64_t k = first; k < last; ++k)
            for (int64_t j = 0; j < o.columns; j += Simd<F>::lanes) ask(o.row(k) + j);
    }

    void clear(const Panels &panels, int64_t p, F *out, int64_t first, int64_t last) const {
        const int64_t u = panels.first_unit(p), end = panels.first_unit(p + 1);
        const int64_t columns = (end < panels.units ? end : panels.units) - u;
        for (int64_t i = first; i < last; ++i)
            memset(out + i * panels.units + u, 0, columns * sizeof(F));
    }

    // A worker's part of the biases' gradients: sums of adjoints.
    void bias_grads(bool fresh, int worker, int workers) const {
        constexpr int L = Simd<F>::lanes;
        const int64_t width = waiting_adjoint(w), vectors = (width + L - 1) / L;
        int64_t first, last;
        part_of(vectors, worker, workers, first, last);
        for (int64_t v = first; v < last; ++v) {
            const int64_t left = width - v * L;
            const int n = left < L ? (int)left : L;
            Vec<F> total = {};
            for (int g = 0; g < share.groups; ++g) {
                const tt::Waiting &from = lists[g];
                const F *column = (const F *)from.rows + v * L;
                for (int64_t k = 0; k < from.n; ++k) total += load(column + k * row);
            }
            F sums[Simd<F>::lanes];
            store(sums, total);
            for (int i = 0; i < n; ++i) add_bias(v * L + i, sums[i], fresh);
        }
    }

    void add_bias(int64_t column, F sum, bool fresh) const {
        F *ih = (F *)w.grad_bias_ih, *hh = (F *)w.grad_bias_hh;
        if (ih && column < A) ih[column] = sum + (fresh ? F(0) : ih[column]);
        if (hh && (column < bent || column >= A)) {
            F &to = hh[column < bent ? column : column - (A - bent)];
            to = sum + (fresh ? F(0) : to);
        }
    }
};

}  // namespace TT_ISA
