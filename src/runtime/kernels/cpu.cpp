// SPDX-License-Identifier: Apache-2.0
#include "cpu.h"

#if defined(RKLLM_ARCH_x86_64)
#include <cpuid.h>
#elif defined(RKLLM_ARCH_aarch64)
#include <sys/auxv.h>
#endif

namespace rkllm {
namespace {

#if defined(RKLLM_ARCH_x86_64)
// GCC 10 and clang 14 have no __builtin_cpu_supports("f16c").
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

// GCC 10 and clang 14 do not name this one either.
bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned avx_vnni = 1u << 4;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & avx_vnni);
}
#endif

}  // namespace

uint32_t cpu_features() {
  uint32_t features = 0;
#if defined(RKLLM_ARCH_x86_64)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  if (avx2) features |= CPU_AVX2;
  if (avx2 && has_avx_vnni()) features |= CPU_AVX_VNNI;
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni"))
    features |= CPU_AVX512_VNNI;
#elif defined(RKLLM_ARCH_aarch64)
  // HWCAP_ASIMDDP, AT_HWCAP2 and HWCAP2_I8MM, which older headers do not name.
  constexpr unsigned long dot_product = 1ul << 20, second_word = 26, matrix_product = 1ul << 13;
  const bool dots = getauxval(AT_HWCAP) & dot_product;
  if (dots) features |= CPU_DOTPROD;
  if (dots && (getauxval(second_word) & matrix_product)) features |= CPU_I8MM;
#endif
  return features;
}

}  // namespace rkllm
