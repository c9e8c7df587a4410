// SPDX-License-Identifier: Apache-2.0
// AVX2 with the VEX-encoded VNNI (Alder Lake, Zen 5 and later): vpdpbusd takes half a step of the tile layout.
#include <immintrin.h>
#include <stdint.h>

#include "kernels.h"

namespace rkllm {
namespace {

constexpr int kPeakSums = 4;
constexpr int kStepU4 = 16;
constexpr bool kNarrow = false;
constexpr int kSignedOffset = 128;  // vpdpbusd wants unsigned weights

#include "avx2.inl"
#include "four_bytes.inl"

inline C prepare_s8(C w) {
  const __m256i sign = _mm256_set1_epi8(char(0x80));
  return {_mm256_xor_si256(w.a, sign), _mm256_xor_si256(w.b, sign)};
}
inline I dot_s8(I acc, C w, int32_t x4) {
  const __m256i x = _mm256_set1_epi32(x4);
  return {_mm256_dpbusd_avx_epi32(acc.a, w.a, x), _mm256_dpbusd_avx_epi32(acc.b, w.b, x)};
}
inline I dot_u4(I acc, C w, int32_t x4) { return dot_s8(acc, w, x4); }
using S = I;  // holds every sum: nothing is narrower
inline I dot_u7(I acc, C w, int32_t x4) { return dot_s8(acc, w, x4); }

#include "ops.inl"

}  // namespace

void use_avxvnni(Kernels& table) { fill_table(table); }

}  // namespace rkllm
