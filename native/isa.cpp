// Compiled once for every instruction set, with TT_ISA naming its namespace.
#include "backward.h"
#include "forward.h"

namespace TT_ISA {

// How many steps of one group may wait: few enough to stay in cache, and enough to make the weights'
// gradients, which each round reads and writes, a small part of the traffic.
template <class F> int64_t waiting_rows(const tt_sweep &w, int64_t row, int64_t rows, bool ahead) {
    constexpr int64_t bytes = 1 << 20, least = 256, most = 512;
    int64_t n = bytes / (row * (int64_t)sizeof(F));
    n = n < least ? least : n < most ? n : most;
    // Where steps are taken ahead of their products, in several parts, so that there is something ahead.
    if (ahead && w.T < 8 * n / rows) n = w.T * rows / 8 > 32 ? w.T * rows / 8 : 32;
    const int64_t all = w.T < (n + rows - 1) / rows ? w.T * rows : n;
    return all > rows ? all : rows;
}

template <class F> tt::Layout layout(const tt_sweep &w, bool back, int64_t rows, bool ahead) {
    constexpr int L = Simd<F>::lanes;
    const Panels panels = Panels::recurrent(w, back, L, rows), x = Panels::input(w, back, L);
    const int64_t units = panels.vectors * L, chunk = rows < chunk_rows ? rows : chunk_rows;
    const tt_facts &cell = *facts(w.cell);
    const int64_t width = back ? waiting_adjoint(w) : cell.gates * w.H;
    tt::Layout z{};
    z.packed = panels.size();
    z.packed_x = x.size() + x.vectors * L;
    z.panels = panels.count;
    z.panels_x = x.count;
    z.state_row = (back ? cell.gates : 1) * units + L;
    z.unit_row = units;
    const int64_t tile = (chunk > max_rows ? chunk : max_rows) * max_vectors * L;
    const int64_t whole = cell.whole_rows ? chunk * whole_row_size(w, units, L) : 0;
    z.tile = whole > tile ? whole : tile;
    z.sums = back ? 2 * cell.sums * units : 0;
    z.waiting_row = (width + L - 1) / L * L + L;
    z.waiting_rows = waiting_rows<F>(w, z.waiting_row, rows, ahead);
    const int64_t depth = w.I < depth_at_once ? w.I : depth_at_once;
    z.gathered = back ? z.waiting_rows * max_vectors * L : rows_at_once<F>(depth + L) * (depth + L);
    return z;
}

template <class F>
void pack(const tt_sweep &w, bool back, int64_t rows, void *packed, int64_t first, int64_t last) {
    const Panels panels = Panels::recurrent(w, back, Simd<F>::lanes, rows);
    for (int64_t p = first; p < last; ++p)
        (back ? pack_plain<F> : pack_transposed<F>)((const F *)w.weight_hh, panels, p,
                                                    (F *)packed + panels.offset(p));
}

template <class F>
void pack_x(const tt_sweep &w, bool back, void *packed, int64_t first, int64_t last) {
    const Panels panels = Panels::input(w, back, Simd<F>::lanes);
    for (int64_t p = first; p < last; ++p) {
        (back ? pack_plain<F> : pack_transposed<F>)((const F *)w.weight_ih, panels, p,
                                                    (F *)packed + panels.offset(p));
        // Behind the panels lies what is added to each column.
        F *bias = (F *)packed + panels.size();
        with_cell<F>(w.cell, [&](auto cell) {
            for (int64_t u = panels.first_unit(p); !back && u < panels.first_unit(p + 1); ++u)
                bias[u] = w.bias_ih && u < panels.units ? cell.input_bias(w, u) : F(0);
        });
    }
}

template <class F, template <class, class> class Direction>
void run(const tt::Share &share, const tt::Layout &layout) {
    with_cell<F>(share.sweep->cell,
                 [&](auto cell) { Direction<F, decltype(cell)>(share, layout).run(); });
}

bool is_float(const tt_sweep &w) { return w.dtype == TT_FLOAT32; }

tt::Layout any_layout(const tt_sweep &w, bool back, int64_t rows, bool ahead) {
    return is_float(w) ? layout<float>(w, back, rows, ahead) : layout<double>(w, back, rows, ahead);
}

void any_pack(const tt_sweep &w, bool back, int64_t rows, void *packed, int64_t first, int64_t last) {
    (is_float(w) ? pack<float> : pack<double>)(w, back, rows, packed, first, last);
}

void any_pack_x(const tt_sweep &w, bool back, void *packed, int64_t first, int64_t last) {
    (is_float(w) ? pack_x<float> : pack_x<double>)(w, back, packed, first, last);
}

void any_forward(const tt::Share &s) {
    const tt::Layout l = any_layout(*s.sweep, false, s.group_rows, s.ahead);
    is_float(*s.sweep) ? run<float, Forward>(s, l) : run<double, Forward>(s, l);
}

void any_backward(const tt::Share &s) {
    const tt::Layout l = any_layout(*s.sweep, true, s.group_rows, s.ahead);
    is_float(*s.sweep) ? run<float, Backward>(s, l) : run<double, Backward>(s, l);
}

extern const tt::Isa isa;
const tt::Isa isa = {TT_NAME, facts, any_layout, any_pack, any_pack_x, any_forward, any_backward};

}  // namespace TT_ISA
