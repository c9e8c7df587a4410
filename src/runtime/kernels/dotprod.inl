// SPDX-License-Identifier: Apache-2.0
// The byte products and the blocking of arm64 processors with dot products, over neon.inl: sdot takes one step of the
// tile layout.

constexpr int kTokens = 2;
constexpr int kTiles = 1;
constexpr int kManyTokens = 4;
constexpr int kManyTiles = 1;
// Blocks of integer kernels: tokens with 16- and 8-bit activations, tiles beside each other, and tiles where only
// memory counts.
constexpr int kTokensA16 = 2;
constexpr int kTokensA8 = 4;  // with more, as with more of 16 bits, the compiler runs out of registers
constexpr int kIntegerTiles = 1;
constexpr int kStreams = 4;
constexpr int kPeakSums = 6;
constexpr int kStepU4 = 8;
constexpr bool kNarrow = false;

inline int32x4_t quads(int32x4_t acc, uint8x16_t w, int8x16_t x) { return vdotq_s32(acc, vreinterpretq_s8_u8(w), x); }
inline I dot_s8(I acc, C w, int32_t x4) {
  const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(x4));
  return {quads(acc.a, w.a, x), quads(acc.b, w.b, x), quads(acc.c, w.c, x), quads(acc.d, w.d, x)};
}
inline I dot_u4(I acc, C w, int32_t x4) { return dot_s8(acc, w, x4); }
using S = I;  // holds every sum: nothing is narrower
inline I dot_u7(I acc, C w, int32_t x4) { return dot_s8(acc, w, x4); }
