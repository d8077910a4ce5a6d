// Runs both sweeps over a small set of cases, for the sanitizers: every cell, dtype and instruction
// set, ragged rows, resets, several losses, columns shared by threads. All arrays have exactly
// the size they need, outputs begin as NaN, and every element must be written and finite.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <sstream>
#include <thread>
#include <vector>

#include "../interface.h"

namespace {

thread_local int thread_id = 0;
int team = 1;

int thread_num() { return thread_id; }
int num_threads() { return team; }

// A pool like OpenMP's, made of threads that the sanitizers know.
void parallel(void (*body)(void *), void *data, unsigned threads, unsigned) {
    team = (int)threads;
    std::vector<std::thread> others;
    for (unsigned i = 1; i < threads; ++i)
        others.emplace_back([=] {
            thread_id = (int)i;
            body(data);
        });
    body(data);
    for (auto &other : others) other.join();
}

struct Case {
    int cell, span;
    bool resets;
    int64_t T, B, I, H, V;
    int members, threads = 2;
    bool biases = true;
};

template <class F> struct Arrays {
    std::mt19937 draw{7};
    std::vector<F> random(int64_t n) {
        std::normal_distribution<double> normal(0, 0.3);
        std::vector<F> v(n);
        for (F &x : v) x = (F)normal(draw);
        return v;
    }
    static std::vector<F> poison(int64_t n) {
        return std::vector<F>(n, std::numeric_limits<F>::quiet_NaN());
    }
};

bool written(const char *what, const auto &array) {
    for (size_t i = 0; i < array.size(); ++i)
        if (!std::isfinite(array[i])) {
            std::printf("%s[%zu] was not written\n", what, i);
            return false;
        }
    return true;
}

template <class F> bool run(const Case &c) {
    Arrays<F> make;
    const tt_facts &facts = *tt_cell_facts(c.cell);
    const int64_t A = facts.gates * c.H, S = facts.states * c.H;
    auto weight = make.random(A * c.H), weight_ih = make.random(A * c.I), x = make.random(c.T * c.B * c.I);
    auto bias_ih = make.random(A), bias_hh = make.random(A);
    auto gain_ih = make.random(A), gain_hh = make.random(A);
    auto gain_c = make.random(c.H), bias_c = make.random(c.H);
    std::vector<std::vector<F>> kept;
    for (int i = 0; i < facts.kept; ++i)
        kept.push_back(make.poison(c.T * c.B * (facts.kept_units[i] * c.H + facts.kept_more[i])));
    auto g = make.random(c.V * c.T * c.B * S), delta_T = make.random(c.V * c.B * S);
    auto s = make.poison((c.T + 1) * c.B * S);
    auto h = make.poison(c.T * c.B * c.H), h_T = make.poison(c.B * c.H);
    auto c_T = make.poison(c.B * c.H);
    auto s_0 = make.random(c.B * S);
    std::vector<int32_t> first(c.B, 0), last(c.B, (int32_t)c.T), enters(c.V), floors(c.V);
    for (int64_t b = 0; b < c.B; ++b) {
        const int32_t steps = (int32_t)(make.draw() % (c.T + 1));
        if (c.span == 1) last[b] = steps;
        if (c.span == 2) first[b] = steps;
    }
    std::vector<uint8_t> reset(c.T * c.B);
    for (uint8_t &r : reset) r = make.draw() % 4 == 0;
    for (int64_t v = 0; v < c.V; ++v) {
        enters[v] = (int32_t)(c.T - 1 - v % c.T);
        floors[v] = (int32_t)(v % 3);
    }

    tt_sweep w{};
    w.cell = c.cell;
    w.dtype = sizeof(F) == 8;
    w.nonlinearity = (int32_t)(c.H % 4);
    w.threads = c.threads;
    w.members = c.members;
    w.T = c.T, w.B = c.B, w.I = c.I, w.H = c.H, w.V = 1;
    w.weight_hh = weight.data(), w.weight_ih = weight_ih.data();
    w.bias_ih = bias_ih.data(), w.bias_hh = bias_hh.data();
    if (facts.sums) {
        w.gain_ih = gain_ih.data(), w.gain_hh = gain_hh.data(), w.gain_c = gain_c.data();
        w.bias_c = bias_c.data(), w.eps = 1e-5;
    }
    if (!c.biases) w.bias_ih = w.bias_hh = w.bias_c = nullptr;
    w.x = x.data();  // the batch first
    w.x_stride_b = c.T * c.I, w.x_stride_t = c.I;
    if (c.span) w.first = first.data(), w.last = last.data();
    if (c.resets) w.reset = reset.data();
    w.s_0 = c.resets ? nullptr : s_0.data(), w.h = h.data();
    w.h_T = h_T.data(), w.final_stride_b = c.H, w.c_T = facts.states == 2 ? c_T.data() : nullptr;
    bool good = tt_forward(&w) == 0 && written("h", h) && written("h_T", h_T);
    if (w.c_T) good = good && written("c_T", c_T);
    std::fill(h.begin(), h.end(), std::numeric_limits<F>::quiet_NaN());
    for (auto *last : {&h_T, &c_T}) std::fill(last->begin(), last->end(), std::numeric_limits<F>::quiet_NaN());
    w.keep = 1;
    w.s = s.data();
    for (int i = 0; i < facts.kept; ++i) w.kept[i] = kept[i].data();
    good = good && tt_forward(&w) == 0 && written("s", s) && written("h", h) && written("h_T", h_T);
    if (w.c_T) good = good && written("c_T", c_T);
    for (const auto &array : kept) good = good && written("kept", array);
    // The backward sweep reads nothing of the steps that a row does not take.
    kept.push_back(std::move(s));
    for (auto &array : kept) std::fill(array.begin(), array.end(), std::numeric_limits<F>::quiet_NaN());
    w.keep = 2;
    good = good && tt_forward(&w) == 0 && written("h", h) && written("h_T", h_T);

    auto delta_0 = make.poison(c.V * c.B * S), grad_x = make.poison(c.T * c.B * c.I);
    auto grad_ih = make.poison(A * c.I), grad_hh = make.poison(A * c.H);
    auto grad_bias_ih = make.poison(A), grad_bias_hh = make.poison(A);
    w.g = g.data(), w.G = S;
    w.g_stride_b = S, w.g_stride_t = c.B * S, w.g_stride_v = c.T * c.B * S;
    w.delta_T = delta_T.data();
    w.delta_0 = delta_0.data();
    w.grads = 1;
    w.grad_x = grad_x.data(), w.grad_weight_ih = grad_ih.data(), w.grad_weight_hh = grad_hh.data();
    w.grad_bias_ih = grad_bias_ih.data(), w.grad_bias_hh = grad_bias_hh.data();
    auto grad_gain_ih = make.poison(A), grad_gain_hh = make.poison(A);
    auto grad_gain_c = make.poison(c.H), grad_bias_c = make.poison(c.H);
    if (facts.sums) {
        w.grad_gain_ih = grad_gain_ih.data(), w.grad_gain_hh = grad_gain_hh.data();
        w.grad_gain_c = grad_gain_c.data(), w.grad_bias_c = grad_bias_c.data();
    }
    good = good && tt_backward(&w) == 0 && written("grad_x", grad_x);
    good = good && written("grad_weight_ih", grad_ih) && written("grad_weight_hh", grad_hh);
    good = good && written("grad_bias_ih", grad_bias_ih) && written("grad_bias_hh", grad_bias_hh);
    if (facts.sums) {
        good = good && written("grad_gain_ih", grad_gain_ih) && written("grad_gain_hh", grad_gain_hh);
        good = good && written("grad_gain_c", grad_gain_c) && written("grad_bias_c", grad_bias_c);
    }

    // With everything that the gradients need, or with the columns of A alone.
    w.adjoint_size = c.resets ? facts.adjoint * c.H : A;
    auto adjoints = make.poison(c.V * c.T * c.B * w.adjoint_size);
    auto norms = make.poison(c.V * (c.T + 1) * c.B), deltas = make.poison(c.V * (c.T + 1) * c.B * S);
    w.V = c.V;
    w.grads = 0, w.grad_x = w.grad_weight_ih = w.grad_weight_hh = nullptr;
    w.grad_bias_ih = w.grad_bias_hh = nullptr;
    w.grad_gain_ih = w.grad_gain_hh = w.grad_gain_c = w.grad_bias_c = nullptr;
    w.adjoints = adjoints.data();
    good = good && tt_backward(&w) == 0 && written("adjoints", adjoints);
    good = good && written("delta_0", delta_0);
    w.g_stride_v = 0, w.g_sparse = 1, w.delta_T = nullptr;
    w.enters = enters.data(), w.floors = floors.data();
    w.adjoints = nullptr, w.norms = norms.data(), w.deltas = deltas.data();
    good = good && tt_backward(&w) == 0 && written("norms", norms) && written("deltas", deltas);
    return good;
}

}  // namespace

int main() {
    tt_set_pool(parallel, thread_num, num_threads);
    int cases = 0;
    std::istringstream names(tt_isas());
    for (std::string name; names >> name;) {
        tt_set_isa(name.c_str());
        for (int cell = 0; tt_cell_facts(cell); ++cell)
            for (int span = 0; span < 3; ++span)
                for (const Case &c : {Case{cell, span, false, 1, 1, 1, 1, 1, 0},
                                      Case{cell, span, true, 5, 3, 7, 17, 2, 0},
                                      Case{cell, span, true, 4, 53, 20, 33, 3, 1},
                                      Case{cell, span, true, 6, 2, 70, 130, 2, 2},
                                      // more steps than may wait; one row for two threads
                                      Case{cell, span, true, 130, 5, 9, 16, 1, 1},
                                      Case{cell, span, true, 300, 1, 40, 48, 1, 0},
                                      Case{cell, span, false, 3, 1, 5, 300, 1, 0},
                                      // more threads than share the columns: the rest help with products
                                      Case{cell, span, true, 40, 1, 60, 70, 2, 2, 4},
                                      Case{cell, span, true, 7, 2, 5, 65, 2, 2, 5},
                                      // three threads with rows of their own, no biases
                                      Case{cell, span, true, 9, 7, 5, 20, 2, 1, 3, false}}) {
                    if (!run<float>(c) || !run<double>(c)) {
                        std::printf("%s cell %d span %d H %d failed\n", name.c_str(), cell, span,
                                    (int)c.H);
                        return 1;
                    }
                    cases += 2;
                }
    }
    std::printf("%d cases on %s\n", cases, tt_isas());
    return 0;
}
