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
    std::atomic<int> sleepers{0};
    int members = 1;
    void wait();
};

// Memory to work in. One block outlives its sweep and serves the next, since a fresh page costs more
// than most of the work done in it.
class Workspace {
  public:
    explicit Workspace(size_t bytes);
    ~Workspace();
    Workspace(const Workspace &) = delete;
    Workspace &operator=(const Workspace &) = delete;
    char *begin() const;

  private:
    struct Block;
    static std::atomic<Block *> spare_;
    Block *block_;
};

class Schedule {
  public:
    Schedule(const tt_sweep &sweep, const Isa &isa, bool back, int threads);

    // Pack this thread's part of the weights, wait for the others, and run the sweep.
    void run(int thread);

    int threads() const { return threads_; }

  private:
    void take_rows();
    void choose_team();
    int best_members(int64_t weights) const;
    double active_rows() const;
    void deal_rows();
    void lay_out();
    void complete(int thread, const Share &first);
    bool packs_x() const { return !back_ || sweep_.grad_x; }
    bool has_products() const { return !back_ || sweep_.grads; }

    const tt_sweep &sweep_;
    const Isa &isa_;
    const tt_facts &facts_;
    const bool back_;
    int threads_, members_ = 1, team_ = 1, groups_ = 1;
    bool ahead_ = false;                        // one thread takes steps while another takes products
    int64_t group_rows_ = 0;
    std::vector<int32_t> lo_, hi_;              // by row id
    std::vector<std::vector<int32_t>> rows_;    // by group
    std::vector<Share> shares_;                 // by thread
    std::vector<Waiting> waiting_;              // by group
    std::unique_ptr<Barrier[]> barriers_;       // a group's, those of its steps, one for all
    std::unique_ptr<Workspace> memory_;
};

}  // namespace tt
