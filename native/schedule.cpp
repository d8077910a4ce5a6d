#include "schedule.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <thread>

#include "machine.h"

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

namespace tt {

namespace {

constexpr size_t line = 64;
// Threads share the columns of a step where W_h has at least this many bytes and sharing is expected
// to cost less than `promise` times as much. Costs are in bytes, each the time in which one row uses
// one; a barrier costs so many per thread.
constexpr int64_t shared_weights = 192 << 10;
constexpr double barrier_bytes = 64 << 10, promise = 0.98;
// A thread is not worth waking for fewer operations, nor a spare block worth keeping above a size.
constexpr double thread_operations = 4e5;
constexpr size_t spare_bytes = 64 << 20;

// How often a thread looks whether the others have come, before it sleeps: about 50 microseconds.
constexpr int spins_before_sleep = 1000;

// How many rows use a panel as fast as it arrives: from a core's own cache, and from beyond it, which
// is far slower behind the mesh of an Intel server.
constexpr double near_rows = 2, mesh_rows = 12;

double rows_beyond_l2(const Isa &isa) {
    return machine().intel && !std::strcmp(isa.name, "avx512") ? mesh_rows : near_rows;
}

// Bytes of a core's L2.
int64_t own_cache() {
    static const int64_t bytes = [] {
#if defined(_SC_LEVEL2_CACHE_SIZE)
        const long found = sysconf(_SC_LEVEL2_CACHE_SIZE);
        if (found > 0) return (int64_t)found;
#endif
        return (int64_t)1 << 20;
    }();
    return bytes;
}

size_t round_up(size_t bytes) { return (bytes + line - 1) / line * line; }

size_t element(const tt_sweep &w) { return w.dtype == TT_FLOAT32 ? 4 : 8; }

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

// Sleep until woken if `value` is still `now`; the caller looks again.
void sleep_while(std::atomic<int> &value, int now) {
#if defined(__linux__)
    syscall(SYS_futex, (int *)&value, FUTEX_WAIT_PRIVATE, now, nullptr, nullptr, 0);
#else
    (void)value, (void)now;
    std::this_thread::yield();
#endif
}

void wake_all(std::atomic<int> &value) {
#if defined(__linux__)
    syscall(SYS_futex, (int *)&value, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#else
    (void)value;
#endif
}

}  // namespace

// A wait is usually over within microseconds. Where it is not, another process has the core of
// whoever is late, and to go on spinning would only keep that core from it.
void Barrier::wait() {
    const int now = round.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) == members - 1) {
        arrived.store(0, std::memory_order_relaxed);
        round.store(now + 1);
        if (sleepers.load()) wake_all(round);
        return;
    }
    for (int spins = 0; spins < spins_before_sleep; ++spins) {
        if (round.load(std::memory_order_acquire) != now) return;
        relax();
    }
    sleepers.fetch_add(1);
    while (round.load() == now) sleep_while(round, now);
    sleepers.fetch_sub(1);
}

struct Workspace::Block {
    size_t bytes;
    alignas(line) char data[1];
};

std::atomic<Workspace::Block *> Workspace::spare_{nullptr};

Workspace::Workspace(size_t bytes) : block_(spare_.exchange(nullptr)) {
    if (!block_ || block_->bytes < bytes) {
        ::operator delete(block_, std::align_val_t(line));
        block_ = nullptr;
        block_ = (Block *)::operator new(sizeof(Block) + bytes, std::align_val_t(line));
        block_->bytes = bytes;
        tt_advise(block_->data, (int64_t)bytes);
    }
#if defined(TT_POISON)
    std::fill_n(block_->data, bytes, (char)0xff);  // NaN, so that reading what was never written shows
#endif
}

Workspace::~Workspace() {
    Block *other = block_->bytes <= spare_bytes ? spare_.exchange(block_) : block_;
    ::operator delete(other, std::align_val_t(line));
}

char *Workspace::begin() const { return block_->data; }

Schedule::Schedule(const tt_sweep &sweep, const Isa &isa, bool back, int threads)
    : sweep_(sweep), isa_(isa), facts_(*isa.facts(sweep.cell)), back_(back), threads_(threads) {
    take_rows();
    choose_team();
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

// How many threads there are, in which groups, and how many of a group share the columns of a step.
void Schedule::choose_team() {
    const tt_sweep &w = sweep_;
    const int64_t n = w.V * w.B;
    const int64_t weights = facts_.gates * w.H * w.H * (int64_t)element(w);
    const double operations = 2.0 * w.T * n * facts_.gates * w.H * (w.H + (has_products() ? w.I : 0));
    if (w.members <= 0)
        threads_ = (int)std::max(1.0, std::min((double)threads_, operations / thread_operations));
    // A norm needs all columns of its row, and so does a cell that takes whole rows.
    const int members = w.norms || facts_.whole_rows ? 1 : w.members > 0 ? w.members : best_members(weights);
    const int64_t panels = isa_.layout(w, back_, n, false).panels;
    members_ = (int)std::max<int64_t>(1, std::min<int64_t>({members, panels, threads_}));
    groups_ = (int)std::min<int64_t>(threads_ / members_, std::max<int64_t>(n, 1));
    team_ = has_products() ? threads_ / groups_ : members_;
    threads_ = groups_ * team_;
    ahead_ = has_products() && team_ == 2 && members_ == 1;
}

// How many threads should share the columns of a step. Panels arrive no faster than a few rows use
// them, and rows that do not divide evenly leave threads waiting: sharing helps with both.
int Schedule::best_members(int64_t weights) const {
    const int64_t n = sweep_.V * sweep_.B;
    if (weights < shared_weights) return 1;
    const double active = active_rows(), beyond = rows_beyond_l2(isa_);
    int best = 1;
    double least = 0;
    for (int members = 1; members <= threads_; ++members) {
        const double groups = (double)std::min<int64_t>(threads_ / members, n);
        const double rows = active == (double)n ? std::ceil(n / groups) : active / groups;
        const double fed = weights / members <= own_cache() ? near_rows : beyond;
        const double used = std::sqrt(std::hypot(rows * rows, fed * fed));  // the larger, smoothly
        const double cost = (double)weights / members * used + (members > 1) * members * barrier_bytes;
        if (members == 1 || cost < promise * least) best = members, least = cost;
    }
    return best;
}

// How many rows take a step, averaged over the steps that any row takes.
double Schedule::active_rows() const {
    int64_t taken = 0;
    int32_t begin = std::numeric_limits<int32_t>::max(), end = 0;
    for (size_t id = 0; id < lo_.size(); ++id) {
        if (lo_[id] >= hi_[id]) continue;
        taken += hi_[id] - lo_[id];
        begin = std::min(begin, lo_[id]), end = std::max(end, hi_[id]);
    }
    return taken ? (double)taken / (end - begin) : 0;
}

// Deal each group rows of about equal total length. Rows of one b lie together, since they share
// what is saved.
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
    waiting_.resize(2 * groups_);
    barriers_.reset(new Barrier[2 * groups_ + 1]);
    barriers_[2 * groups_].members = threads_;
    size_t bytes = 0;
    std::vector<std::pair<void **, size_t>> pointers;  // pointers to set once the memory is there
    const auto reserve = [&](auto **to, int64_t elements, size_t element_size) {
        pointers.emplace_back((void **)to, bytes);
        bytes += round_up(elements * element_size);
    };
    for (const auto &rows : rows_) group_rows_ = std::max(group_rows_, (int64_t)rows.size());
    const Layout layout = isa_.layout(w, back_, group_rows_, ahead_);
    Share first{};
    reserve(&first.packed, layout.packed, size);
    reserve(&first.packed_x, packs_x() ? layout.packed_x : 0, size);
    reserve(&first.sums, w.grads ? groups_ * layout.sums : 0, size);
    for (int g = 0; g < groups_; ++g) {
        const int64_t n = (int64_t)rows_[g].size();
        const int64_t wait = has_products() ? layout.waiting_rows : 0;
        barriers_[g].members = team_;
        barriers_[groups_ + g].members = members_;
        for (int side = 0; side < (ahead_ ? 2 : 1); ++side) {
            Waiting &list = waiting_[side * groups_ + g];
            reserve(&list.rows, wait * layout.waiting_row, size);
            reserve(&list.at, wait, sizeof(int64_t));
            reserve(&list.x_at, wait, sizeof(int64_t));
        }
        Share &group = shares_[g * team_];
        group.rows = rows_[g].data();
        group.n_rows = n;
        group.ragged = std::any_of(rows_[g].begin(), rows_[g].end(),
                                   [&](int32_t id) { return lo_[id] != 0 || hi_[id] != w.T; });
        reserve(&group.state[0], n * layout.state_row, size);
        reserve(&group.state[1], n * layout.state_row, size);
        reserve(&group.carry_h, n * layout.unit_row, size);
        reserve(&group.carry_c, n * layout.unit_row, size);
        for (int side = 0; side < (ahead_ ? 2 : 1); ++side)
            reserve(&group.place[side], back_ ? 0 : tt::places * layout.waiting_rows, sizeof(int32_t));
        for (int m = 0; m < team_; ++m) {
            Share &share = shares_[g * team_ + m];
            reserve(&share.tile, layout.tile, size);
            reserve(&share.gathered, has_products() ? layout.gathered : 0, size);
            reserve(&share.delta, w.norms ? std::min<int64_t>(n, 64) * facts_.states * w.H : 0, size);
            for (int32_t **slots : {&share.current, &share.next, &share.out})
                reserve(slots, n, sizeof(int32_t));
        }
    }
    memory_.reset(new Workspace(bytes));
    for (const auto &[to, offset] : pointers) *to = memory_->begin() + offset;
    for (int thread = 0; thread < threads_; ++thread) complete(thread, first);
}

// Set what a thread has in common with the first of its group, and with all threads.
void Schedule::complete(int thread, const Share &first) {
    Share &share = shares_[thread];
    const int g = thread / team_;
    const Share &group = shares_[g * team_];
    share.rows = group.rows, share.n_rows = group.n_rows, share.ragged = group.ragged;
    share.state[0] = group.state[0], share.state[1] = group.state[1];
    share.carry_h = group.carry_h, share.carry_c = group.carry_c;
    share.place[0] = group.place[0], share.place[1] = group.place[1];
    share.sweep = &sweep_;
    share.group_rows = group_rows_;
    share.lo = lo_.data(), share.hi = hi_.data();
    share.member = thread % team_, share.team = team_, share.members = members_;
    share.thread = thread, share.threads = threads_;
    share.packed = first.packed, share.packed_x = first.packed_x, share.sums = first.sums;
    share.waiting = waiting_.data(), share.group = g, share.groups = groups_, share.ahead = ahead_;
    share.barrier = &barriers_[g], share.step_barrier = &barriers_[groups_ + g];
    share.all_barrier = &barriers_[2 * groups_];
    share.wait = [](void *barrier) { ((Barrier *)barrier)->wait(); };
}

void Schedule::run(int thread) {
    if (thread >= threads_) return;
    const Share &share = shares_[thread];
    const Layout layout = isa_.layout(sweep_, back_, group_rows_, ahead_);
    isa_.pack(sweep_, back_, group_rows_, share.packed, layout.panels * thread / threads_,
              layout.panels * (thread + 1) / threads_);
    if (packs_x())
        isa_.pack_x(sweep_, back_, share.packed_x, layout.panels_x * thread / threads_,
                    layout.panels_x * (thread + 1) / threads_);
    barriers_[2 * groups_].wait();
    (back_ ? isa_.backward : isa_.forward)(share);
}

}  // namespace tt
