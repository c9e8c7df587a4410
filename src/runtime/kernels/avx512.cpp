// SPDX-License-Identifier: Apache-2.0
// AVX-512 with VNNI: one register is sixteen lanes, and vpdpbusd takes one step of the tile layout.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC's own headers trip it (GCC bug 105593)
#endif
#include <immintrin.h>
#include <stdint.h>

#include "kernels.h"

namespace rkllm {
namespace {

using F = __m512;
using I = __m512i;
struct C { __m512i v; };

constexpr int kTokens = 4;
constexpr int kTiles = 4;
constexpr int kManyTokens = 4;
constexpr int kManyTiles = 4;
// Blocks of integer kernels: tokens with 16- and 8-bit activations, tiles beside each other, and tiles where only
// memory counts.
constexpr int kTokensA16 = 5;
constexpr int kTokensA8 = 5;  // with six, the compiler runs out of registers
constexpr int kIntegerTiles = 2;
template <int Bytes>
constexpr int kStreams = 1;
constexpr int kPeakSums = 8;
constexpr int kStepU4 = 16;
constexpr bool kNarrow = false;
constexpr int kSignedOffset = 128;  // vpdpbusd wants unsigned weights

inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F v) { _mm512_storeu_ps(p, v); }
inline F splat(float v) { return _mm512_set1_ps(v); }
inline F add(F x, F y) { return _mm512_add_ps(x, y); }
inline F sub(F x, F y) { return _mm512_sub_ps(x, y); }
inline F mul(F x, F y) { return _mm512_mul_ps(x, y); }
inline F div(F x, F y) { return _mm512_div_ps(x, y); }
inline F fma(F x, F y, F z) { return _mm512_fmadd_ps(x, y, z); }
inline F max(F x, F y) { return _mm512_max_ps(x, y); }
inline F min(F x, F y) { return _mm512_min_ps(x, y); }

inline float sum(F v) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float maximum(F v) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

inline I isplat(int32_t v) { return _mm512_set1_epi32(v); }
inline I iadd(I x, I y) { return _mm512_add_epi32(x, y); }
inline I isub(I x, I y) { return _mm512_sub_epi32(x, y); }
inline I shift_left_8(I v) { return _mm512_slli_epi32(v, 8); }
inline I shift_right_8(I v) { return _mm512_srai_epi32(v, 8); }
inline void store_bytes(int8_t* p, I v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v)); }
inline F to_float(I v) { return _mm512_cvtepi32_ps(v); }
inline I to_int(F v) { return _mm512_cvtps_epi32(v); }
inline I truncate(F v) { return _mm512_cvttps_epi32(v); }

inline F exponent(F p, I n) {
  const I bits = _mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23);
  return _mm512_mul_ps(p, _mm512_castsi512_ps(bits));
}

inline F load_half(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void store_half(uint16_t* p, F v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

inline F load_s8(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

inline C cload(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline C low(C w) { return {_mm512_and_si512(w.v, _mm512_set1_epi8(15))}; }
inline C high(C w) { return {_mm512_and_si512(_mm512_srli_epi16(w.v, 4), _mm512_set1_epi8(15))}; }
inline C prepare_s8(C w) { return {_mm512_xor_si512(w.v, _mm512_set1_epi8(char(0x80)))}; }
inline I dot_s8(I acc, C w, int32_t x4) { return _mm512_dpbusd_epi32(acc, w.v, _mm512_set1_epi32(x4)); }
inline I dot_u4(I acc, C w, int32_t x4) { return dot_s8(acc, w, x4); }
using S = I;  // holds every sum: nothing is narrower
inline I dot_u7(I acc, C w, int32_t x4) { return dot_s8(acc, w, x4); }

#include "four_bytes.inl"
#include "ops.inl"

}  // namespace

void use_avx512(Kernels& table) { fill_table(table); }

}  // namespace rkllm
