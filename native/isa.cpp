// Compiled once for every instruction set, with TT_ISA naming its namespace.
#include "backward.h"
#include "forward.h"

namespace TT_ISA {

template <class F> tt::Layout layout(const tt_sweep &w, bool back, int64_t rows) {
    constexpr int L = Simd<F>::lanes;
    const Panels panels(w, back, L, rows);
    const int64_t units = panels.vectors * L;
    const int64_t chunk = rows < chunk_rows ? rows : chunk_rows;
    return {panels.size(), (back ? tt::gates(w) : 1) * units + L, units, chunk * max_vectors * L,
            panels.count};
}

template <class F>
void pack(const tt_sweep &w, bool back, int64_t rows, void *packed, int64_t first, int64_t last) {
    const Panels panels(w, back, Simd<F>::lanes, rows);
    for (int64_t p = first; p < last; ++p)
        (back ? pack_backward<F> : pack_forward<F>)(w, panels, p, (F *)packed + panels.offset(p));
}

template <class F, template <class, class> class Direction> void run(const tt::Share &share) {
    switch (share.sweep->cell) {
        case TT_LSTM: return Direction<F, Lstm<F>>(share).run();
        case TT_GRU: return Direction<F, Gru<F>>(share).run();
        default: return Direction<F, Elman<F>>(share).run();
    }
}

bool is_float(const tt_sweep &w) { return w.dtype == TT_FLOAT32; }

tt::Layout any_layout(const tt_sweep &w, bool back, int64_t rows) {
    return is_float(w) ? layout<float>(w, back, rows) : layout<double>(w, back, rows);
}

void any_pack(const tt_sweep &w, bool back, int64_t rows, void *packed, int64_t first, int64_t last) {
    (is_float(w) ? pack<float> : pack<double>)(w, back, rows, packed, first, last);
}

void any_forward(const tt::Share &s) {
    is_float(*s.sweep) ? run<float, Forward>(s) : run<double, Forward>(s);
}

void any_backward(const tt::Share &s) {
    is_float(*s.sweep) ? run<float, Backward>(s) : run<double, Backward>(s);
}

extern const tt::Isa isa;
const tt::Isa isa = {TT_NAME, any_layout, any_pack, any_forward, any_backward};

}  // namespace TT_ISA
