// SPDX-License-Identifier: Apache-2.0
// Every arm64 processor: byte products by widening multiplies (RK3576's Cortex-A72 has no dot product).
#include <arm_neon.h>
#include <stdint.h>

#include "kernels.h"

namespace rkllm {
namespace {

constexpr int kTokens = 2;
constexpr int kTiles = 1;
constexpr int kManyTokens = 4;
constexpr int kManyTiles = 1;
// Blocks of integer kernels: tokens with 16- and 8-bit activations, tiles beside each other, and tiles where only
// memory counts.
constexpr int kTokensA16 = 1;  // sums of 16-bit products take twice as many registers: more do not fit
constexpr int kTokensA8 = 2;
constexpr int kIntegerTiles = 1;
template <int Bytes>
constexpr int kStreams = Bytes == 1 ? 2 : 1;
constexpr int kPeakSums = 6;
constexpr int kStepU4 = 32;
constexpr bool kNarrow = true;

#include "neon.inl"
#include "four_bytes.inl"

// acc + sums of four neighbouring products. A product of two bytes fits 16 bits, and so does the sum of two unless both
// are -128 * -128, which no weight allows.
inline int32x4_t quads(int32x4_t acc, uint8x16_t w, int8x16_t x) {
  const int8x16_t codes = vreinterpretq_s8_u8(w);
  const int16x8_t first = vmull_s8(vget_low_s8(codes), vget_low_s8(x)), second = vmull_high_s8(codes, x);
  return vpadalq_s16(acc, vpaddq_s16(first, second));
}
inline I dot_s8(I acc, C w, int32_t x4) {
  const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(x4));
  return {quads(acc.a, w.a, x), quads(acc.b, w.b, x), quads(acc.c, w.c, x), quads(acc.d, w.d, x)};
}

// Products with 4-bit weights, at most 15 * 128 each: 16 bits hold eight of them and the sum of two neighbours.
struct S { int16x8_t a, b, c, d, e, f, g, h; };
inline S sbegin(I) {
  const int16x8_t zero = vdupq_n_s16(0);
  return {zero, zero, zero, zero, zero, zero, zero, zero};
}
inline int16x8_t low_products(int16x8_t s, uint8x16_t w, int8x16_t x) {
  return vmlal_s8(s, vget_low_s8(vreinterpretq_s8_u8(w)), vget_low_s8(x));
}
inline int16x8_t high_products(int16x8_t s, uint8x16_t w, int8x16_t x) {
  return vmlal_high_s8(s, vreinterpretq_s8_u8(w), x);
}
inline S dot_u4(S s, C w, int32_t x4) {
  const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(x4));
  return {low_products(s.a, w.a, x), high_products(s.b, w.a, x), low_products(s.c, w.b, x), high_products(s.d, w.b, x),
          low_products(s.e, w.c, x), high_products(s.f, w.c, x), low_products(s.g, w.d, x), high_products(s.h, w.d, x)};
}
inline I send(I acc, S s) {
  return {vpadalq_s16(acc.a, vpaddq_s16(s.a, s.b)), vpadalq_s16(acc.b, vpaddq_s16(s.c, s.d)),
          vpadalq_s16(acc.c, vpaddq_s16(s.e, s.f)), vpadalq_s16(acc.d, vpaddq_s16(s.g, s.h))};
}
inline I dot_u7(I acc, C w, int32_t x4) { return dot_s8(acc, w, x4); }

#include "ops.inl"

}  // namespace

void use_neon(Kernels& table) { fill_table(table); }

}  // namespace rkllm
