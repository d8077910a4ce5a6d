// Vectors of TT_BYTES bytes and the nonlinearities on them, by the compiler's vector extension, so
// that one source serves every instruction set. No -ffast-math: inf and NaN go through as in torch.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#define TT_ALWAYS __attribute__((always_inline))
#define TT_INLINE inline TT_ALWAYS

namespace TT_ISA {

typedef float v_float __attribute__((vector_size(TT_BYTES)));
typedef double v_double __attribute__((vector_size(TT_BYTES)));
typedef int32_t v_int32 __attribute__((vector_size(TT_BYTES)));
typedef int64_t v_int64 __attribute__((vector_size(TT_BYTES)));

template <class F> struct Simd;

template <> struct Simd<float> {
    typedef v_float V;
    typedef v_int32 I;
    static constexpr int lanes = TT_BYTES / 4, mantissa = 23, bias = 127;
    static constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    static constexpr float ln2_hi = 0.693359375f, ln2_lo = -2.12194440e-4f;
    static constexpr float exp_min = -87.0f, exp_max = 89.0f, tanh_max = 20.0f;
};

template <> struct Simd<double> {
    typedef v_double V;
    typedef v_int64 I;
    static constexpr int lanes = TT_BYTES / 8, mantissa = 52, bias = 1023;
    static constexpr double magic = 6755399441055744.0;
    static constexpr double ln2_hi = 6.93145751953125e-1, ln2_lo = 1.42860682030941723212e-6;
    static constexpr double exp_min = -708.0, exp_max = 710.0, tanh_max = 42.0;
};

template <class F> using Vec = typename Simd<F>::V;

template <class F> TT_INLINE Vec<F> load(const F *p) {
    Vec<F> v;
    memcpy(&v, p, sizeof v);
    return v;
}

template <class F> TT_INLINE void store(F *p, Vec<F> v) { memcpy(p, &v, sizeof v); }

// The first n lanes; the others are 0.
template <class F> TT_INLINE Vec<F> load(const F *p, int n) {
    if (n >= Simd<F>::lanes) return load(p);
#if defined(__AVX512F__)
    if constexpr (sizeof(F) == 4)
        return (Vec<F>)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
    else
        return (Vec<F>)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
#else
    F lanes[Simd<F>::lanes] = {};
    for (int i = 0; i < n; ++i) lanes[i] = p[i];
    return load(lanes);
#endif
}

template <class F> TT_INLINE void store(F *p, Vec<F> v, int n) {
    if (n >= Simd<F>::lanes) return store(p, v);
#if defined(__AVX512F__)
    if constexpr (sizeof(F) == 4)
        _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
    else
        _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)v);
#else
    F lanes[Simd<F>::lanes];
    store(lanes, v);
    for (int i = 0; i < n; ++i) p[i] = lanes[i];
#endif
}

// Write a whole line past the caches, which then neither read it first nor keep it. p is aligned.
// Only where a vector is a line: parts written separately would each cost a memory transaction.
constexpr bool streams = TT_BYTES == 64;
#if defined(__AVX512F__)
TT_INLINE void stream(float *p, v_float v) { _mm512_stream_ps(p, (__m512)v); }
TT_INLINE void stream(double *p, v_double v) { _mm512_stream_pd(p, (__m512d)v); }
// Make what was written so visible to threads that this one signals afterwards.
TT_INLINE void end_stream() { _mm_sfence(); }
#else
template <class F> TT_INLINE void stream(F *p, Vec<F> v) { store(p, v); }
TT_INLINE void end_stream() {}
#endif

// Prefetch a line that is read or written soon into the core's own cache.
template <class F> TT_INLINE void ask(const F *p) { __builtin_prefetch(p, 0, 2); }
template <class F> TT_INLINE void ask_to_write(F *p) { __builtin_prefetch(p, 1, 2); }

// Written so that a NaN in x stays.
template <class F> TT_INLINE Vec<F> clamp(Vec<F> x, F low, F high) {
    const Vec<F> zero = {};
    x = x < low ? zero + low : x;
    return x > high ? zero + high : x;
}

// e^r - 1 for |r| <= ln(2)/2, by its series: truncated below half a unit in the last place.
TT_INLINE v_float expm1_series(v_float r) {
    v_float p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    return p * (r * r) + r;
}

TT_INLINE v_double expm1_series(v_double r) {
    v_double p = r * (1.0 / 6227020800) + 1.0 / 479001600;
    p = p * r + 1.0 / 39916800;
    p = p * r + 1.0 / 3628800;
    p = p * r + 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    return p * (r * r) + r;
}

// e^y = scale * (1 + p) with scale a power of two and p = e^r - 1; with down, scale is half of that.
template <class F, int down = 0> TT_INLINE void split_exp(Vec<F> y, Vec<F> &p, Vec<F> &scale) {
    typedef Simd<F> K;
    typedef typename K::I I;
    const Vec<F> zero = {};
    const Vec<F> magic = zero + K::magic;
    const Vec<F> z = y * (F)1.4426950408889634074 + magic;
    const Vec<F> n = z - magic;
    p = expm1_series((y - n * K::ln2_hi) - n * K::ln2_lo);
    scale = (Vec<F>)(((I)z - (I)magic + (K::bias - down)) << K::mantissa);
}

// 1 / (1 + e^-x); for x very small e^-x is inf and this is 0. By way of e^-x / 2: just below where
// e^-x is inf its power of two is inf already, and p may be negative, which would make inf - inf.
template <class F> TT_INLINE Vec<F> sigmoid(Vec<F> x) {
    Vec<F> p, scale;
    split_exp<F, 1>(clamp<F>(-x, Simd<F>::exp_min, Simd<F>::exp_max), p, scale);
    const Vec<F> half = scale * p + scale;
    return (F)1 / (half + half + (F)1);
}

// (e^2x - 1) / (e^2x + 1) by e^2x - 1 itself, so that it is right to the last digits near 0.
template <class F> TT_INLINE Vec<F> tanh(Vec<F> x) {
    Vec<F> p, scale;
    split_exp<F>(clamp<F>(x + x, -Simd<F>::tanh_max, Simd<F>::tanh_max), p, scale);
    const Vec<F> e = scale * p + (scale - (F)1);
    return e / (e + (F)2);
}

template <class F> TT_INLINE Vec<F> nonlinear(Vec<F> x, int kind) {
    const Vec<F> zero = {};
    if (kind == TT_TANH) return tanh<F>(x);
    if (kind == TT_SIGMOID) return sigmoid<F>(x);
    if (kind == TT_RELU) return x < (F)0 ? zero : x;
    return x;
}

// delta * f'(a), f' from h = f(a).
template <class F> TT_INLINE Vec<F> through(Vec<F> delta, Vec<F> h, int kind) {
    const Vec<F> zero = {};
    if (kind == TT_TANH) return delta * ((F)1 - h * h);
    if (kind == TT_SIGMOID) return delta * (h * ((F)1 - h));
    if (kind == TT_RELU) return h <= (F)0 ? zero : delta;  // NaN passes, as in torch
    return delta;
}

}  // namespace TT_ISA
