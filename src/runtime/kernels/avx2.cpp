// SPDX-License-Identifier: Apache-2.0
// AVX2 with FMA and F16C: byte products through maddubs.
#include <immintrin.h>
#include <stdint.h>

#include "kernels.h"

namespace rkllm {
namespace {

constexpr int kPeakSums = 6;
constexpr int kStepU4 = 32;
constexpr bool kNarrow = true;
constexpr int kSignedOffset = 0;

#include "avx2.inl"
#include "four_bytes.inl"

inline C prepare_s8(C v) { return v; }

// a + b, here and now: GCC would add up the products of many steps in another order, and keep them all in memory till
// then.
inline __m256i sum_32(__m256i a, __m256i b) {
  __m256i sum = _mm256_add_epi32(a, b);
  __asm__("" : "+x"(sum));
  return sum;
}
inline __m256i sum_16(__m256i a, __m256i b) {
  __m256i sum = _mm256_add_epi16(a, b);
  __asm__("" : "+x"(sum));
  return sum;
}

// acc + the sums of four neighbouring products of unsigned u and signed s. Pairs must fit 16 bits: 128 * 127 * 2 does.
inline __m256i quads(__m256i acc, __m256i u, __m256i s) {
  return sum_32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)));
}
inline I dot_u7(I acc, C w, int32_t x4) {
  const __m256i x = _mm256_set1_epi32(x4);
  __asm__ volatile("" : "+x"(w.a), "+x"(w.b));  // or products that are always the same would be computed once
  return {quads(acc.a, w.a, x), quads(acc.b, w.b, x)};
}
// The activation may be -128 but no weight is, so it is the weight that takes the sign.
inline I dot_s8(I acc, C w, int32_t x4) {
  const __m256i x = _mm256_set1_epi32(x4), magnitude = _mm256_abs_epi8(x);
  return {quads(acc.a, magnitude, _mm256_sign_epi8(w.a, x)), quads(acc.b, magnitude, _mm256_sign_epi8(w.b, x))};
}

// Pairs of products, at most 15 * 128 * 2 each: 16 bits hold eight of them.
struct S { __m256i a, b; };
inline S sbegin(I) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline S dot_u4(S s, C w, int32_t x4) {
  const __m256i x = _mm256_set1_epi32(x4);
  return {sum_16(s.a, _mm256_maddubs_epi16(w.a, x)), sum_16(s.b, _mm256_maddubs_epi16(w.b, x))};
}
inline I send(I acc, S s) {
  const __m256i ones = _mm256_set1_epi16(1);
  return {sum_32(acc.a, _mm256_madd_epi16(s.a, ones)), sum_32(acc.b, _mm256_madd_epi16(s.b, ones))};
}

#include "ops.inl"

}  // namespace

void use_avx2(Kernels& table) { fill_table(table); }

}  // namespace rkllm
