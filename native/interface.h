// The C interface of the compiled sweeps: raw pointers, no PyTorch or Python headers.
//
// Letters as in docs/math.md: T steps, B batch rows, I inputs, H hidden units, A = gates * H,
// S = states * H, V losses. All arrays are row-major; what is not given a stride is contiguous. The
// caller checks sizes, dtypes and overflow before it calls.
#pragma once

#include <stdint.h>

#define TT_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

enum tt_cell { TT_ELMAN = 0, TT_LSTM = 1, TT_GRU = 2, TT_LAYERNORM_LSTM = 3 };
enum tt_dtype { TT_FLOAT32 = 0, TT_FLOAT64 = 1 };
enum tt_nonlinearity { TT_TANH = 0, TT_RELU = 1, TT_SIGMOID = 2, TT_IDENTITY = 3 };

#define TT_KEPT 5  // the most arrays that any cell keeps beside s

// What a cell is, as far as its arrays are concerned.
typedef struct tt_facts {
    int32_t gates, states;    // A = gates * H, S = states * H
    int32_t shared;           // this many gates have one adjoint for both W_x and W_h; the hidden side
                              // of the others has its own
    int32_t adjoint;          // everything the gradients need of a step's adjoint is adjoint * H wide
    int32_t sums;             // vectors of H that are summed over rows and steps for further gradients
    int32_t whole_rows;       // 1: its step needs a whole row of products at once
    int32_t kept;             // arrays kept beside s, each (T, B, kept_units * H + kept_more)
    int32_t kept_units[TT_KEPT], kept_more[TT_KEPT];
} tt_facts;

typedef struct tt_sweep {
    int32_t cell, dtype, nonlinearity, threads;
    int32_t members;        // threads that share the columns of one row; 0: choose
    int32_t keep;           // forward: s and kept are written, 1: for all steps, 2: for those that
                            // a row takes, and s_0; 0: none of them
    int64_t T, B, I, H, V;  // V is 1 in the forward sweep
    const void *weight_hh;  // (A, H)
    const void *weight_ih;  // (A, I); back: where grad_x is wanted
    const void *bias_ih, *bias_hh;  // (A), or both null
    const void *gain_ih, *gain_hh;  // layer-norm LSTM: (A)
    const void *gain_c, *bias_c;    // layer-norm LSTM: (H); bias_c: or null
    double eps;             // layer-norm LSTM: added to each variance
    const int32_t *first;   // (B) row b takes the steps first[b] <= t < last[b]; null: 0
    const int32_t *last;    // null: T
    const uint8_t *reset;   // (T, B), or null
    const void *x;          // (T, B, I), its rows anywhere
    int64_t x_stride_t, x_stride_b;
    void *kept[TT_KEPT];    // what the cell keeps of each step; its tt_facts say how wide
    void *s;                // (T+1, B, S); forward without keep: null
    const void *s_0;        // forward: (B, S); null: zeros
    void *h_T, *c_T;        // forward: (B, H) each, the state after a row's last step; c_T: two states
    int64_t final_stride_b;  // of both, from row to row
    void *h;                // forward: (T, B, H), 0 where a row takes no step; or null
    const void *g;          // direct gradients of loss v at step t, row b; or null
    int64_t g_stride_v, g_stride_t, g_stride_b, G;
    const int32_t *enters;  // (V) no gradient of loss v enters after this step; null: T - 1
    const int32_t *floors;  // (V) the lowest k that loss v is followed to; null: 0
    const void *delta_T;    // (V, B, S), or null
    int32_t g_sparse;       // 1: g holds for loss v at step enters[v] alone
    int32_t grads;          // 1: V is 1, and what follows delta_0 up to adjoints is written
    void *delta_0;          // (V, B, S)
    void *grad_x;           // (T, B, I), or null; likewise the other eight
    void *grad_weight_ih, *grad_weight_hh, *grad_bias_ih, *grad_bias_hh;
    void *grad_gain_ih, *grad_gain_hh, *grad_gain_c, *grad_bias_c;
    int64_t adjoint_size;   // columns of adjoints: A, or the facts' adjoint * H
    void *adjoints;         // (V, T, B, adjoint_size), or null; likewise the next two
    void *norms;            // (V, T+1, B)
    void *deltas;           // (V, T+1, B, S)
} tt_sweep;

typedef void (*tt_parallel)(void (*body)(void *), void *data, unsigned threads, unsigned flags);
typedef int (*tt_count)(void);

// 0, or 1 when there is no memory to work in, or 2 for an unknown cell or dtype.
TT_API int tt_forward(const tt_sweep *sweep);
TT_API int tt_backward(const tt_sweep *sweep);

// Ask for large pages where memory is about to be written for the first time; elsewhere nothing.
TT_API void tt_advise(void *memory, int64_t bytes);

// The thread pool to borrow: GOMP_parallel, omp_get_thread_num, omp_get_num_threads of the OpenMP
// library that is loaded already. Without one every sweep runs on the calling thread.
TT_API void tt_set_pool(tt_parallel parallel, tt_count thread_num, tt_count num_threads);

TT_API const tt_facts *tt_cell_facts(int32_t cell);  // null for an unknown number

TT_API int tt_version(void);            // of this interface and struct
TT_API int64_t tt_sweep_size(void);     // sizeof(tt_sweep), for the caller to compare
TT_API const char *tt_isa(void);        // what the sweeps run on
TT_API const char *tt_isas(void);       // all that this build has and this machine can run, best first
TT_API int tt_set_isa(const char *name);  // 0, or 1 if there is none of that name

#ifdef __cplusplus
}
#endif
