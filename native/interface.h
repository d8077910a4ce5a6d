// The C interface of the compiled sweeps: raw pointers, no PyTorch or Python headers.
//
// Letters as in docs/math.md: T steps, B batch rows, H hidden units, A = gates * H, S = H or 2H,
// V losses. All arrays are row-major; what is not given a stride is contiguous. The caller checks
// sizes, dtypes and overflow before it calls.
#pragma once

#include <stdint.h>

#define TT_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

enum tt_cell { TT_ELMAN = 0, TT_LSTM = 1, TT_GRU = 2 };
enum tt_dtype { TT_FLOAT32 = 0, TT_FLOAT64 = 1 };
enum tt_nonlinearity { TT_TANH = 0, TT_RELU = 1, TT_SIGMOID = 2, TT_IDENTITY = 3 };

typedef struct tt_sweep {
    int32_t cell, dtype, nonlinearity, threads;
    int32_t members;        // threads that share the columns of one row; 0: choose
    int32_t keep;           // forward: whether gates and q are written for the way back
    int64_t T, B, H, V;     // V is 1 in the forward sweep
    const void *weight_hh;  // (A, H)
    const void *bias_n;     // GRU: b_hn (H), or null
    const int32_t *first;   // (B) row b takes the steps first[b] <= t < last[b]; null: all
    const int32_t *last;
    const uint8_t *reset;   // (T, B), or null
    void *packed;           // tt_packed_size elements, 64-byte aligned; null: found for this call
    int32_t packed_ready;   // 1: a call before has filled it, for these weights and direction
    int32_t reserved;
    const int32_t *places;  // (T, B) rows of drive and adjoints by step and row, -1 where the row
                            // takes no step; null: t * B + b. With V = 1 only
    const void *drive;      // forward: pre-activations; null: they are in a
    void *a;                // (T, B, A): gates out, and in where there is no drive; back: gates
    void *s;                // (T+1, B, S); s[0] given
    void *q;                // GRU: (T, B, H)
    const void *g;          // direct gradients of loss v at step t, row b; or null
    int64_t g_stride_v, g_stride_t, g_stride_b, G;
    const int32_t *enters;  // (V) no gradient of loss v comes in after this step; null: T - 1
    const int32_t *floors;  // (V) the lowest k that loss v is followed to; null: 0
    int32_t g_sparse;       // 1: g holds for loss v at step enters[v] alone
    int32_t width;          // columns of adjoints: A, or 4H for the GRU (dn * r last)
    const void *delta_T;    // (V, B, S), or null
    void *adjoints;         // (V, T, B, width), or null
    void *delta_0;          // (V, B, S)
    void *norms;            // (V, T+1, B), or null
    void *deltas;           // (V, T+1, B, S), or null
} tt_sweep;

typedef void (*tt_parallel)(void (*body)(void *), void *data, unsigned threads, unsigned flags);
typedef int (*tt_count)(void);

// 0, or 1 when there is no memory for the packed weights, or 2 for an unknown cell or dtype.
TT_API int tt_forward(const tt_sweep *sweep);
TT_API int tt_backward(const tt_sweep *sweep);

// Elements of W_h once packed, for one direction.
TT_API int64_t tt_packed_size(const tt_sweep *sweep, int back);

// Ask for large pages where memory is about to be written for the first time; elsewhere nothing.
TT_API void tt_advise(void *memory, int64_t bytes);

// The thread pool to borrow: GOMP_parallel, omp_get_thread_num, omp_get_num_threads of the OpenMP
// library that is loaded already. Without one every sweep runs on the calling thread.
TT_API void tt_set_pool(tt_parallel parallel, tt_count thread_num, tt_count num_threads);

TT_API int tt_version(void);            // of this interface and struct
TT_API int64_t tt_sweep_size(void);     // sizeof(tt_sweep), for the caller to compare
TT_API const char *tt_isa(void);        // what the sweeps run on
TT_API const char *tt_isas(void);       // all that this build has and this machine can run, best first
TT_API int tt_set_isa(const char *name);  // 0, or 1 when that one is not there

#ifdef __cplusplus
}
#endif
