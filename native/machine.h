// What the processor at hand is and can do. Asked of it directly: the compilers' own
// __builtin_cpu_supports is answered by a library that Zig leaves empty, so that nothing is supported.
#pragma once

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

namespace tt {

struct Machine {
    bool avx2 = false, avx512 = false, intel = false;

    Machine() {
#if defined(__x86_64__) || defined(__i386__)
        unsigned most, a, b, c, d;
        if (!__get_cpuid(0, &most, &b, &c, &d)) return;
        intel = b == signature_INTEL_ebx && c == signature_INTEL_ecx && d == signature_INTEL_edx;
        if (most < 7) return;
        __cpuid(1, a, b, c, d);
        const bool fma = c & bit_FMA;
        if (!(c & bit_OSXSAVE)) return;
        // The system, too, must save the wide registers: bits 1 and 2 for AVX, 5 to 7 for AVX-512.
        unsigned saved, high;
        __asm__ volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
        __cpuid_count(7, 0, a, b, c, d);
        avx2 = (saved & 0x6) == 0x6 && fma && (b & bit_AVX2);
        constexpr unsigned all = bit_AVX512F | bit_AVX512DQ | bit_AVX512VL | bit_AVX512BW;
        avx512 = avx2 && (saved & 0xe0) == 0xe0 && (b & all) == all;
#endif
    }
};

// Return this machine's; it is asked once.
inline const Machine &machine() {
    static const Machine found;
    return found;
}

}  // namespace tt
