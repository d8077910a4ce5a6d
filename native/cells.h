// The cells: one row for each.
#pragma once

#include "cell_elman.h"
#include "cell_gru.h"
#include "cell_layernorm_lstm.h"
#include "cell_lstm.h"

#define TT_CELLS(CELL) \
    CELL(TT_ELMAN, Elman) \
    CELL(TT_LSTM, Lstm) \
    CELL(TT_GRU, Gru) \
    CELL(TT_LAYERNORM_LSTM, LayerNormLstm)

namespace TT_ISA {

// A cell's facts; null for an unknown number.
inline const tt_facts *facts(int32_t cell) {
    switch (cell) {
#define TT_FACTS(number, Cell) case number: return &Cell<float>::facts;
        TT_CELLS(TT_FACTS)
#undef TT_FACTS
        default: return nullptr;
    }
}
inline int gates_of(const tt_sweep &w) { return facts(w.cell)->gates; }

// What waits for a product outside the steps, in the backward sweep: the adjoints for W_x, then, for
// W_h, those of the gates whose hidden side has its own.
inline int64_t waiting_adjoint(const tt_sweep &w) {
    const tt_facts &cell = *facts(w.cell);
    return (2 * cell.gates - cell.shared) * w.H;
}

// Call `act` with the cell of this number.
template <class F, class Act> void with_cell(int32_t cell, const Act &act) {
    switch (cell) {
#define TT_ACT(number, Cell) case number: return act(Cell<F>{});
        TT_CELLS(TT_ACT)
#undef TT_ACT
        default: return;
    }
}

}  // namespace TT_ISA
