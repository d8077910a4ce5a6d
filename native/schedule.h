// Which thread takes which rows and columns, and the memory they work in.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "share.h"

namespace tt {

// All threads of a group meet here between two steps.
struct alignas(64) Barrier {
    std::atomic<int> arrived{0};
    alignas(64) std::atomic<int> round{0};
    int members = 1;
    void wait();
};

class Schedule {
  public:
    Schedule(const tt_sweep &sweep, const Isa &isa, bool back, int threads);

    // Pack this thread's part of W_h, wait for the others, and run the sweep.
    void run(int thread);

    int threads() const { return threads_; }

  private:
    void take_rows();
    void choose_members();
    void deal_rows();
    void lay_out();

    const tt_sweep &sweep_;
    const Isa &isa_;
    const bool back_;
    int threads_, members_ = 1, groups_ = 1;
    int64_t group_rows_ = 0;
    std::vector<int32_t> lo_, hi_;              // by row id
    std::vector<std::vector<int32_t>> rows_;    // by group
    std::vector<Share> shares_;                 // by thread
    std::vector<int32_t> slots_;
    std::unique_ptr<Barrier[]> barriers_;       // one a group, then one for all threads
    std::unique_ptr<char[]> memory_;
};

}  // namespace tt
