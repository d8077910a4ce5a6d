// Sums over rows and steps, for gradients that are not products, such as that of a norm's gain.
//
// Each group has its own, vectors of H, and all are added up at the end in the same order. They grow
// in two levels, those of the current round and those of the rounds before, and so lose fewer digits.
#pragma once

#include "gemm.h"

namespace TT_ISA {

template <class F> struct Sums {
    const tt::Share &share;
    const tt_sweep &w;
    const int64_t count, unit_row;  // how many vectors, and how far apart
    const int64_t first, last;      // this thread's units

    Sums(const Sweep<F> &sweep, int count_)
        : share(sweep.share), w(sweep.w), count(w.grads && sweep.sweeps() ? count_ : 0),
          unit_row(sweep.unit_row), first(sweep.first_unit()), last(sweep.last_unit()) {}

    F *recent() const { return count ? of(share.group, count) : nullptr; }
    F *before() const { return recent() + count * unit_row; }
    F *of(int group, int64_t vectors) const { return (F *)share.sums + 2 * group * vectors * unit_row; }

    void clear() const {
        for (int64_t k = 0; k < 2 * count; ++k)
            memset(recent() + k * unit_row + first, 0, (last - first) * sizeof(F));
    }

    // The current round is over.
    void add_recent() const {
        for (int64_t k = 0; k < count; ++k) {
            F *from = recent() + k * unit_row, *to = before() + k * unit_row;
            for (int64_t u = first; u < last; ++u) to[u] += from[u], from[u] = 0;
        }
    }

    // After all threads are done: write this one's part of the vectors to where Cell says they go.
    template <class Cell> void write() const {
        constexpr int64_t vectors = Cell::facts.sums;
        int64_t begin, end;
        part_of(vectors, share.thread, share.threads, begin, end);
        for (int64_t k = begin; k < end; ++k)
            for (F *to : Cell::sums_of(w, (int)k).to)
                for (int64_t u = 0; to && u < w.H; ++u) to[u] = total((vectors + k) * unit_row + u, vectors);
    }

    F total(int64_t at, int64_t vectors) const {
        F sum = 0;
        for (int g = 0; g < share.groups; ++g) sum += of(g, vectors)[at];
        return sum;
    }
};

}  // namespace TT_ISA
