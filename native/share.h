// What one thread gets of a sweep. No instruction-set specific code, and plain data only: isa.cpp
// is compiled once per instruction set and must not instantiate anything the others could pick up.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "interface.h"

namespace tt {

struct Share {
    const tt_sweep *sweep;
    const int32_t *rows;      // ids of this group's rows: v * B + b
    int64_t n_rows;
    int64_t group_rows;       // the most that any group has: the packed panels serve all groups
    const int32_t *lo, *hi;   // by row id: the steps lo <= t < hi are computed
    bool ragged;              // false: lo = 0 and hi = T for every row of the group
    int member, members;      // which threads of the group share its columns
    void *packed;             // W_h in panels, shared by all threads
    void *state[2];           // by slot: what goes into the product at this step and the next
    void *carry_h, *carry_c;  // by position in rows: what travels beside the product
    void *delta;              // by position: delta_t, where norms are wanted
    void *tile;               // the product of a chunk of rows and one panel
    int32_t *current, *next, *out;  // positions by slot; the slot of each at the next step
    void *barrier;
    void (*wait)(void *barrier);
};

// Sizes in elements, chosen by the instruction set's vector length.
struct Layout {
    int64_t packed, state_row, unit_row, tile, panels;
};

struct Isa {
    const char *name;
    Layout (*layout)(const tt_sweep &, bool back, int64_t rows);
    void (*pack)(const tt_sweep &, bool back, int64_t rows, void *packed, int64_t first, int64_t last);
    void (*forward)(const Share &);
    void (*backward)(const Share &);
};

static inline int gates(const tt_sweep &w) { return w.cell == TT_LSTM ? 4 : w.cell == TT_GRU ? 3 : 1; }
static inline int64_t state_size(const tt_sweep &w) { return w.cell == TT_LSTM ? 2 * w.H : w.H; }

}  // namespace tt
