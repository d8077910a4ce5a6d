// The C interface: which instruction set, which thread pool, and the parallel region.
#include <cstring>
#include <new>
#include <string>

#include "machine.h"
#include "schedule.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#define TT_VERSION 10

#if defined(TT_HAVE_AVX512)
namespace tt_avx512 { extern const tt::Isa isa; }
#endif
#if defined(TT_HAVE_AVX2)
namespace tt_avx2 { extern const tt::Isa isa; }
#endif
namespace tt_portable { extern const tt::Isa isa; }

namespace {

// The instruction sets that this build has and this machine can run, best first; null ends the list.
const tt::Isa *const *known() {
    static const tt::Isa *found[4] = {};
    static const bool done = [] {
        int n = 0;
#if defined(TT_HAVE_AVX512)
        if (tt::machine().avx512) found[n++] = &tt_avx512::isa;
#endif
#if defined(TT_HAVE_AVX2)
        if (tt::machine().avx2) found[n++] = &tt_avx2::isa;
#endif
        found[n++] = &tt_portable::isa;
        return true;
    }();
    (void)done;
    return found;
}

std::atomic<const tt::Isa *> chosen{nullptr};

const tt::Isa &isa() {
    const tt::Isa *set = chosen.load(std::memory_order_acquire);
    return set ? *set : *known()[0];
}

tt_parallel parallel = nullptr;
tt_count thread_num = nullptr, num_threads = nullptr;

// Run a sweep on as many threads as asked for, or on one if the pool provides fewer.
struct Region {
    const tt_sweep &sweep;
    const bool back;
    tt::Schedule &schedule;
    int status;

    static void body(void *data) {
        Region &region = *(Region *)data;
        const int thread = thread_num();
        if (num_threads() >= region.schedule.threads())
            region.schedule.run(thread);
        else if (thread == 0)
            region.status = alone(region.sweep, region.back);
    }

    static int alone(const tt_sweep &sweep, bool back) {
        try {
            tt::Schedule(sweep, isa(), back, 1).run(0);
            return 0;
        } catch (const std::bad_alloc &) {
            return 1;
        }
    }
};

int sweep(const tt_sweep *w, bool back) {
    if (!isa().facts(w->cell) || w->dtype < 0 || w->dtype > 1) return 2;
    if (w->T < 1 || w->B < 1 || w->V < 1 || w->H < 1) return 0;
    try {
        const int threads = parallel && w->threads > 1 ? w->threads : 1;
        tt::Schedule schedule(*w, isa(), back, threads);
        Region region{*w, back, schedule, 0};
        if (schedule.threads() == 1)
            schedule.run(0);
        else
            parallel(Region::body, &region, (unsigned)schedule.threads(), 0);
        return region.status;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

}  // namespace

extern "C" {

int tt_forward(const tt_sweep *w) { return sweep(w, false); }
int tt_backward(const tt_sweep *w) { return sweep(w, true); }

void tt_advise(void *memory, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t page = 2 << 20, first = ((uintptr_t)memory + page - 1) / page * page;
    const uintptr_t last = ((uintptr_t)memory + (uintptr_t)bytes) / page * page;
    if (first < last) madvise((void *)first, last - first, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

void tt_set_pool(tt_parallel parallel_, tt_count thread_num_, tt_count num_threads_) {
    thread_num = thread_num_;
    num_threads = num_threads_;
    parallel = parallel_;
}

const tt_facts *tt_cell_facts(int32_t cell) { return isa().facts(cell); }

int tt_version(void) { return TT_VERSION; }
int64_t tt_sweep_size(void) { return sizeof(tt_sweep); }
const char *tt_isa(void) { return isa().name; }

const char *tt_isas(void) {
    static const std::string names = [] {
        std::string all;
        for (const tt::Isa *const *set = known(); *set; ++set)
            all += (all.empty() ? "" : " ") + std::string((*set)->name);
        return all;
    }();
    return names.c_str();
}

int tt_set_isa(const char *name) {
    for (const tt::Isa *const *set = known(); *set; ++set)
        if (std::strcmp((*set)->name, name) == 0) {
            chosen.store(*set, std::memory_order_release);
            return 0;
        }
    return 1;
}

}  // extern "C"
