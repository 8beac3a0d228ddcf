/* What this processor can do; the contract is in npdp_kernels.h. */
#define _GNU_SOURCE
#include "internal.h"
#include "npdp_kernels.h"

#ifdef NPDP_WITH_AMX
#include <sys/syscall.h>
#include <unistd.h>

/* The tiles are 8 KB more of a thread's state, which Linux (5.16) keeps for those processes that ask. */
static int has_amx(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };
    return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
           __builtin_cpu_supports("avx512bw") && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
}
#else
static int has_amx(void)
{
    return 0;
}
#endif

int npdp_processor(void)
{
#ifdef NPDP_WITH_AVX512
    __builtin_cpu_init();
    return (__builtin_cpu_supports("avx512f") ? NPDP_HAS_AVX512 : 0) | (has_amx() ? NPDP_HAS_AMX : 0) |
           (__builtin_cpu_is("intel") ? NPDP_IS_INTEL : 0);
#else
    return 0;
#endif
}
