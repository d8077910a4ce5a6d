#include "schedule.h"

#include <algorithm>
#include <numeric>
#include <thread>

namespace tt {

namespace {

constexpr size_t line = 64;
// Below this a step is too short to pay for a barrier. With rows enough for all threads, sharing
// columns gains nothing even where W_h is 16 MB, and a thread that loses its core stops the other.
constexpr int64_t shared_weights = 192 << 10;

size_t round_up(size_t bytes) { return (bytes + line - 1) / line * line; }

size_t element(const tt_sweep &w) { return w.dtype == TT_FLOAT32 ? 4 : 8; }

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

}  // namespace

void Barrier::wait() {
    const int now = round.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) == members - 1) {
        arrived.store(0, std::memory_order_relaxed);
        round.store(now + 1, std::memory_order_release);
        return;
    }
    for (int spins = 0; round.load(std::memory_order_acquire) == now; ++spins) {
        if (spins < 500)
            relax();
        else
            std::this_thread::yield();  // fewer cores than threads
    }
}

Schedule::Schedule(const tt_sweep &sweep, const Isa &isa, bool back, int threads)
    : sweep_(sweep), isa_(isa), back_(back), threads_(threads) {
    take_rows();
    choose_members();
    deal_rows();
    lay_out();
}

// The steps that each row computes: those it is active in and that its loss reaches.
void Schedule::take_rows() {
    const tt_sweep &w = sweep_;
    const int64_t n = w.V * w.B;
    lo_.resize(n);
    hi_.resize(n);
    for (int64_t id = 0; id < n; ++id) {
        const int64_t v = id / w.B, b = id % w.B;
        lo_[id] = w.first ? w.first[b] : 0;
        hi_[id] = w.last ? w.last[b] : (int32_t)w.T;
        if (back_ && w.enters && !w.delta_T) hi_[id] = std::min(hi_[id], w.enters[v] + 1);
        if (back_ && w.floors) lo_[id] = std::max(lo_[id], w.floors[v] - 1);
    }
}

void Schedule::choose_members() {
    const tt_sweep &w = sweep_;
    const int64_t n = w.V * w.B;
    const int64_t weights = gates(w) * w.H * w.H * (int64_t)element(w);
    const int64_t panels = isa_.layout(w, back_, n).panels;
    members_ = 1;
    if (w.members > 0)
        members_ = w.members;
    else if (n < threads_ && weights >= shared_weights)
        members_ = (int)(threads_ / n);
    if (w.norms) members_ = 1;  // a norm needs all columns of its row
    members_ = (int)std::max<int64_t>(1, std::min<int64_t>({members_, panels, threads_}));
    groups_ = (int)std::min<int64_t>(threads_ / members_, std::max<int64_t>(n, 1));
    threads_ = groups_ * members_;
}

// Give each group rows of equal total length. Rows of one b lie together: they share what is saved.
void Schedule::deal_rows() {
    const tt_sweep &w = sweep_;
    std::vector<int32_t> order;
    order.reserve(w.V * w.B);
    for (int64_t b = 0; b < w.B; ++b)
        for (int64_t v = 0; v < w.V; ++v) order.push_back((int32_t)(v * w.B + b));
    const auto cost = [&](int32_t id) { return std::max(0, hi_[id] - lo_[id]); };
    rows_.assign(groups_, {});
    const bool equal = std::all_of(order.begin(), order.end(),
                                   [&](int32_t id) { return cost(id) == cost(order[0]); });
    if (equal) {
        for (int64_t g = 0, n = (int64_t)order.size(); g < groups_; ++g)
            rows_[g].assign(order.begin() + n * g / groups_, order.begin() + n * (g + 1) / groups_);
        return;
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t x, int32_t y) { return cost(x) > cost(y); });
    std::vector<int64_t> load(groups_, 0);
    for (int32_t id : order) {
        const size_t g = std::min_element(load.begin(), load.end()) - load.begin();
        rows_[g].push_back(id);
        load[g] += cost(id) + 1;
    }
    if (w.V > 1)
        for (auto &rows : rows_)
            std::sort(rows.begin(), rows.end(), [&](int32_t x, int32_t y) {
                return x % w.B != y % w.B ? x % w.B < y % w.B : x < y;
            });
}

void Schedule::lay_out() {
    const tt_sweep &w = sweep_;
    const size_t size = element(w);
    shares_.resize(threads_);
    barriers_.reset(new Barrier[groups_ + 1]);
    barriers_[groups_].members = threads_;
    size_t n_slots = 0, bytes = line;
    const auto reserve = [&](int64_t elements) {
        const size_t at = bytes;
        bytes += round_up(elements * size);
        return (void *)at;  // an offset until the memory is there
    };
    group_rows_ = 0;
    for (const auto &rows : rows_) group_rows_ = std::max(group_rows_, (int64_t)rows.size());
    void *packed = w.packed ? nullptr : reserve(isa_.layout(w, back_, 1).packed);
    for (int g = 0; g < groups_; ++g) {
        const int64_t n = (int64_t)rows_[g].size();
        const Layout layout = isa_.layout(w, back_, group_rows_);
        barriers_[g].members = members_;
        Share group{};
        group.sweep = &w;
        group.rows = rows_[g].data();
        group.n_rows = n;
        group.group_rows = group_rows_;
        group.lo = lo_.data();
        group.hi = hi_.data();
        group.ragged = std::any_of(rows_[g].begin(), rows_[g].end(),
                                   [&](int32_t id) { return lo_[id] != 0 || hi_[id] != w.T; });
        group.members = members_;
        group.packed = packed;
        group.state[0] = reserve(n * layout.state_row);
        group.state[1] = reserve(n * layout.state_row);
        group.carry_h = reserve(n * layout.unit_row);
        group.carry_c = reserve(n * layout.unit_row);
        group.barrier = &barriers_[g];
        group.wait = [](void *barrier) { ((Barrier *)barrier)->wait(); };
        for (int m = 0; m < members_; ++m) {
            Share &share = shares_[g * members_ + m] = group;
            share.member = m;
            share.tile = reserve(layout.tile);
            share.delta = reserve(w.norms ? std::min<int64_t>(n, 64) * state_size(w) : 0);
            n_slots += 3 * n;
        }
    }
    memory_.reset(new char[bytes + line]);
#if defined(TT_POISON)
    std::fill_n(memory_.get(), bytes + line, (char)0xff);  // NaN: what is read unwritten shows
#endif
    slots_.resize(n_slots);
    char *base = (char *)round_up((size_t)memory_.get());
    int32_t *slots = slots_.data();
    for (Share &share : shares_) {
        for (void **p : {&share.packed, &share.state[0], &share.state[1], &share.carry_h,
                         &share.carry_c, &share.tile, &share.delta})
            *p = base + (size_t)*p;
        if (w.packed) share.packed = w.packed;
        share.current = slots;
        share.next = slots + share.n_rows;
        share.out = slots + 2 * share.n_rows;
        slots += 3 * share.n_rows;
    }
}

void Schedule::run(int thread) {
    if (thread >= threads_) return;
    const Share &share = shares_[thread];
    const int64_t panels = isa_.layout(sweep_, back_, group_rows_).panels;
    if (!(sweep_.packed && sweep_.packed_ready)) {
        isa_.pack(sweep_, back_, group_rows_, share.packed, panels * thread / threads_,
                  panels * (thread + 1) / threads_);
        barriers_[groups_].wait();
    }
    (back_ ? isa_.backward : isa_.forward)(share);
}

}  // namespace tt
