// One thread's part of a sweep. No instruction-set specific code, and plain data only: isa.cpp
// is compiled once per instruction set and must not instantiate anything the others could pick up.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "interface.h"

namespace tt {

// How far a forward sweep looks ahead, in steps and rows, in units of what may wait.
constexpr int64_t places = 4;

// The steps taken that wait for their products, and where each came from.
struct Waiting {
    void *rows;      // forward: pre-activations; back: adjoints
    int64_t *at;     // t * B + b of each
    int64_t *x_at;   // where its input begins
    int64_t n;       // how many there are
    bool last;       // back: this group has no more to come
};

struct Share {
    const tt_sweep *sweep;
    const int32_t *rows;      // ids of this group's rows: v * B + b
    int64_t n_rows;
    int64_t group_rows;       // the most that any group has: the packed panels serve all groups
    const int32_t *lo, *hi;   // by row id: the steps lo <= t < hi are computed
    bool ragged;              // false: lo = 0 and hi = T for every row of the group
    int group, groups;
    int member, team;         // which of the group's threads; they share the products outside the steps
    int members;              // the first this many share the columns of a step
    int thread, threads;      // of all
    bool ahead;               // the first of two takes steps while the other takes products
    void *packed, *packed_x;  // W_h and W_x in panels, shared by all threads
    void *state[2];           // by slot: what goes into the product at this step and the next
    void *carry_h, *carry_c;  // by position in rows: what travels beside the product
    void *delta;              // by position: delta_t, where norms are wanted
    void *tile;               // the product of a chunk of rows and one panel, or all panels
    void *sums;               // back: sums over rows and steps, by group
    void *gathered;           // gathered operands of a product outside the steps
    int32_t *place[2];        // forward: by step and position, the row of its pre-activations
    int32_t *current, *next, *out;  // positions by slot; the slot of each at the next step
    Waiting *waiting;         // every group's, twice: one list is filled while the other is used
    // The group's threads meet; those of them that take steps; all threads.
    void *barrier, *step_barrier, *all_barrier;
    void (*wait)(void *barrier);
};

// Sizes in elements, chosen by the instruction set's vector length.
struct Layout {
    int64_t packed, packed_x, state_row, unit_row, tile, panels, panels_x;
    int64_t waiting_row, waiting_rows;  // of Waiting: elements of a row, and how many rows
    int64_t gathered;
    int64_t sums;  // of one group
};

struct Isa {
    const char *name;
    const tt_facts *(*facts)(int32_t cell);
    Layout (*layout)(const tt_sweep &, bool back, int64_t rows, bool ahead);
    void (*pack)(const tt_sweep &, bool back, int64_t rows, void *packed, int64_t first, int64_t last);
    void (*pack_x)(const tt_sweep &, bool back, void *packed, int64_t first, int64_t last);
    void (*forward)(const Share &);
    void (*backward)(const Share &);
};

}  // namespace tt
