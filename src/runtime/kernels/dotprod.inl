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
template <int Bytes>
constexpr int kStreams = 1;  // sums of more do not fit the registers
constexpr int kPeakSums = 6;
constexpr int kStepU4 = 16;
constexpr bool kNarrow = false;

// Four of eight columns of activations: sdot takes them from a register by their place.
template <int Word>
struct Four { int8x8_t eight; };
template <int Word>
inline Four<Word> four_of(const int8_t* p) {
  return {vld1_s8(p)};
}

template <int Word>
inline int32x4_t quads(int32x4_t acc, uint8x16_t w, Four<Word> x) {
  return vdotq_lane_s32(acc, vreinterpretq_s8_u8(w), x.eight, Word);
}
template <int Word>
inline I dot_s8(I acc, C w, Four<Word> x) {
  return {quads(acc.a, w.a, x), quads(acc.b, w.b, x), quads(acc.c, w.c, x), quads(acc.d, w.d, x)};
}
template <int Word>
inline I dot_u4(I acc, C w, Four<Word> x) {
  return dot_s8(acc, w, x);
}
using S = I;  // holds every sum: nothing is narrower
inline I dot_u7(I acc, C w, int32_t x4) { return dot_s8(acc, w, Four<0>{vreinterpret_s8_s32(vdup_n_s32(x4))}); }
