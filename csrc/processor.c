/* What this processor can do; the contract is in npdp_kernels.h. */
#define _GNU_SOURCE
#include "internal.h"
#include "npdp_kernels.h"

#ifdef NPDP_WITH_X86
#include <cpuid.h>
#endif
#ifdef NPDP_WITH_AMX
#include <sys/syscall.h>
#include <unistd.h>

/* The tiles are 8 KB more of a thread's state, which Linux (5.16) keeps for those processes that ask. */
static int has_amx(void)
{
#ifdef NPDP_EMULATED_TILES
    return __builtin_cpu_supports("avx512bw");
#endif
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };
    return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
           __builtin_cpu_supports("avx512bw") && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
}
#endif

#ifdef NPDP_WITH_X86
/* Intel's processors, and AMD's from Zen 5 on: Zen 4 works on the halves of a vector one after the other. */
static int has_wide_units(void)
{
    enum { ZEN_5 = 0x1a };
    unsigned signature, b, c, d;
    if (!__builtin_cpu_is("amd") || !__get_cpuid(1, &signature, &b, &c, &d))
        return __builtin_cpu_is("intel");
    return (signature >> 8 & 0xf) + (signature >> 20 & 0xff) >= ZEN_5;
}

int npdp_processor(void)
{
    __builtin_cpu_init();
    int flags = (__builtin_cpu_supports("avx512f") ? NPDP_HAS_AVX512 : 0) | (has_wide_units() ? NPDP_WIDE_UNITS : 0);
    flags |= __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? NPDP_HAS_AVX2 : 0;
#ifdef NPDP_WITH_AMX
    flags |= has_amx() ? NPDP_HAS_AMX : 0;
#endif
    return flags;
}

int npdp_has_fast_strings(void)
{
    enum { ENHANCED_REP_MOVSB = 1 << 9 };
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & ENHANCED_REP_MOVSB);
}
#else
int npdp_processor(void)
{
    return 0;
}

int npdp_has_fast_strings(void)
{
    return 0;
}
#endif
