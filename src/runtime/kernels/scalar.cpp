// SPDX-License-Identifier: Apache-2.0
// The definition: sixteen lanes in plain C++. Runs everywhere; every other instruction set must give the same bits.
#include <stdint.h>

#include "kernels.h"

namespace rkllm {
namespace {

struct F { float lane[16]; };
struct I { int32_t lane[16]; };
struct C { uint8_t byte[64]; };

constexpr int kTokens = 4;
constexpr int kTiles = 1;
constexpr int kManyTokens = 4;
constexpr int kManyTiles = 1;
// Blocks of integer kernels: tokens with 16- and 8-bit activations, tiles beside each other, and tiles where only
// memory counts.
constexpr int kTokensA16 = 2;
constexpr int kTokensA8 = 4;
constexpr int kIntegerTiles = 1;
template <int Bytes>
constexpr int kStreams = 1;
constexpr int kPeakSums = 4;
constexpr int kStepU4 = 8;
constexpr bool kNarrow = false;
constexpr int kSignedOffset = 0;

template <class Body>
inline F each(Body body) {
  F r;
  for (int i = 0; i < 16; i++) r.lane[i] = body(i);
  return r;
}

template <class Body>
inline I ieach(Body body) {
  I r;
  for (int i = 0; i < 16; i++) r.lane[i] = body(i);
  return r;
}

inline F load(const float* p) {
  F r;
  __builtin_memcpy(&r, p, sizeof r);
  return r;
}
inline void store(float* p, F a) { __builtin_memcpy(p, &a, sizeof a); }
inline F splat(float v) { return each([&](int) { return v; }); }
inline F add(F a, F b) { return each([&](int i) { return a.lane[i] + b.lane[i]; }); }
inline F sub(F a, F b) { return each([&](int i) { return a.lane[i] - b.lane[i]; }); }
inline F mul(F a, F b) { return each([&](int i) { return a.lane[i] * b.lane[i]; }); }
inline F div(F a, F b) { return each([&](int i) { return a.lane[i] / b.lane[i]; }); }
inline F fma(F a, F b, F c) { return each([&](int i) { return __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]); }); }
inline F max(F a, F b) { return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; }); }
inline F min(F a, F b) { return each([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; }); }

// The fixed tree: lanes 8 apart, then 4, 2, 1.
inline float sum(F a) {
  for (int step = 8; step; step /= 2)
    for (int i = 0; i < step; i++) a.lane[i] = a.lane[i] + a.lane[i + step];
  return a.lane[0];
}
inline float maximum(F a) {
  float r = a.lane[0];
  for (float v : a.lane) r = v > r ? v : r;
  return r;
}

inline I isplat(int32_t v) { return ieach([&](int) { return v; }); }
inline I iadd(I a, I b) { return ieach([&](int i) { return a.lane[i] + b.lane[i]; }); }
inline I isub(I a, I b) { return ieach([&](int i) { return a.lane[i] - b.lane[i]; }); }
inline I shift_left_8(I a) { return ieach([&](int i) { return a.lane[i] * 256; }); }
inline I shift_right_8(I a) { return ieach([&](int i) { return a.lane[i] >> 8; }); }
inline void store_bytes(int8_t* p, I a) {
  for (int i = 0; i < 16; i++) p[i] = int8_t(a.lane[i]);
}
inline F to_float(I a) { return each([&](int i) { return float(a.lane[i]); }); }
// What no int32 holds, NaN too, becomes the least one, as on x86-64: lanes that nobody reads, and numbers of hostile
// models.
inline I to_int(F a) {
  return ieach([&](int i) {
    const float r = __builtin_rintf(a.lane[i]);
    return r >= -2147483648.0f && r < 2147483648.0f ? int32_t(r) : INT32_MIN;
  });
}

// Towards zero, of numbers that an int32 holds.
inline I truncate(F a) { return ieach([&](int i) { return int32_t(a.lane[i]); }); }

// p * 2^n for 2^n in the range of normal floats.
inline F exponent(F p, I n) {
  return each([&](int i) {
    const uint32_t bits = (uint32_t(n.lane[i]) + 127u) << 23;
    float power;
    __builtin_memcpy(&power, &bits, 4);
    return p.lane[i] * power;
  });
}

inline float half_to_float(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000u | mantissa << 13;
  } else if (exponent) {
    bits = sign | (exponent + 112) << 23 | mantissa << 13;
  } else {  // zero and subnormal: mantissa * 2^-24, exact
    const float v = float(mantissa) * 5.9604644775390625e-8f;
    __builtin_memcpy(&bits, &v, 4);
    bits |= sign;
  }
  float r;
  __builtin_memcpy(&r, &bits, 4);
  return r;
}

// Round to nearest even, as F16C and NEON do.
inline uint16_t float_to_half(float f) {
  uint32_t bits;
  __builtin_memcpy(&bits, &f, 4);
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return uint16_t(sign | 0x7e00);   // NaN
  if (bits >= 0x47800000) return uint16_t(sign | 0x7c00);  // 65536 and above
  if (bits < 0x38800000) {  // below 2^-14: the sum with 0.5 rounds at the subnormal's last place
    float magnitude;
    __builtin_memcpy(&magnitude, &bits, 4);
    magnitude += 0.5f;
    __builtin_memcpy(&bits, &magnitude, 4);
    return uint16_t(sign | (bits - 0x3f000000));
  }
  bits += 0xfff + (bits >> 13 & 1);
  return uint16_t(sign | (bits - 0x38000000) >> 13);
}

inline F load_half(const uint16_t* p) { return each([&](int i) { return half_to_float(p[i]); }); }
inline void store_half(uint16_t* p, F a) {
  for (int i = 0; i < 16; i++) p[i] = float_to_half(a.lane[i]);
}

inline F load_s8(const int8_t* p) { return each([&](int i) { return float(p[i]); }); }

inline C cload(const uint8_t* p) {
  C r;
  __builtin_memcpy(&r, p, sizeof r);
  return r;
}
inline C low(C a) {
  for (uint8_t& b : a.byte) b &= 15;
  return a;
}
inline C high(C a) {
  for (uint8_t& b : a.byte) b = uint8_t(b >> 4);
  return a;
}
inline C prepare_s8(C a) { return a; }

template <class Weight>
inline I dot(I acc, const C& w, int32_t x4) {
  int8_t x[4];
  __builtin_memcpy(x, &x4, 4);
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 4; j++) acc.lane[i] += int32_t(Weight(w.byte[4 * i + j])) * x[j];
  return acc;
}
inline I dot_s8(I acc, const C& w, int32_t x4) { return dot<int8_t>(acc, w, x4); }
inline I dot_u4(I acc, const C& w, int32_t x4) { return dot<uint8_t>(acc, w, x4); }
using S = I;  // holds every sum: nothing is narrower

inline I dot_u7(I acc, const C& w, int32_t x4) { return dot_s8(acc, w, x4); }

#include "four_bytes.inl"
#include "ops.inl"

}  // namespace

void use_scalar(Kernels& table) { fill_table(table); }

}  // namespace rkllm
