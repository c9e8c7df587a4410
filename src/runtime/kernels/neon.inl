// SPDX-License-Identifier: Apache-2.0
// The vector types of arm64, four 4-lane registers for sixteen lanes: everything but the byte products, which differ
// between neon.cpp and dotprod.cpp.

struct F { float32x4_t v[4]; };
struct I { int32x4_t v[4]; };
struct C { uint8x16_t v[4]; };

constexpr int kSignedOffset = 0;

inline F load(const float* p) { return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}}; }
inline void store(float* p, F a) {
  for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, a.v[i]);
}
inline F splat(float x) { return {{vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x)}}; }
inline F add(F a, F b) {
  for (int i = 0; i < 4; i++) a.v[i] = vaddq_f32(a.v[i], b.v[i]);
  return a;
}
inline F sub(F a, F b) {
  for (int i = 0; i < 4; i++) a.v[i] = vsubq_f32(a.v[i], b.v[i]);
  return a;
}
inline F mul(F a, F b) {
  for (int i = 0; i < 4; i++) a.v[i] = vmulq_f32(a.v[i], b.v[i]);
  return a;
}
inline F div(F a, F b) {
  for (int i = 0; i < 4; i++) a.v[i] = vdivq_f32(a.v[i], b.v[i]);
  return a;
}
inline F fma(F a, F b, F c) {
  for (int i = 0; i < 4; i++) c.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i]);
  return c;
}
// a > b ? a : b, also for what is not a number.
inline float32x4_t greater(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline F max(F a, F b) {
  for (int i = 0; i < 4; i++) a.v[i] = greater(a.v[i], b.v[i]);
  return a;
}

inline float sum(F a) {
  const float32x4_t four = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
inline float maximum(F a) {
  float lanes[16];
  store(lanes, a);
  float most = lanes[0];
  for (float x : lanes) most = x > most ? x : most;
  return most;
}

inline I isplat(int32_t x) { return {{vdupq_n_s32(x), vdupq_n_s32(x), vdupq_n_s32(x), vdupq_n_s32(x)}}; }
inline void istore(int32_t* p, I a) {
  for (int i = 0; i < 4; i++) vst1q_s32(p + 4 * i, a.v[i]);
}
inline I iadd(I a, I b) {
  for (int i = 0; i < 4; i++) a.v[i] = vaddq_s32(a.v[i], b.v[i]);
  return a;
}
inline I isub(I a, I b) {
  for (int i = 0; i < 4; i++) a.v[i] = vsubq_s32(a.v[i], b.v[i]);
  return a;
}
inline I shift_left_8(I a) {
  for (int i = 0; i < 4; i++) a.v[i] = vshlq_n_s32(a.v[i], 8);
  return a;
}
inline I shift_right_8(I a) {
  for (int i = 0; i < 4; i++) a.v[i] = vshrq_n_s32(a.v[i], 8);
  return a;
}
inline void store_bytes(int8_t* p, I a) {
  const int16x8_t first = vcombine_s16(vmovn_s32(a.v[0]), vmovn_s32(a.v[1]));
  const int16x8_t second = vcombine_s16(vmovn_s32(a.v[2]), vmovn_s32(a.v[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(first), vmovn_s16(second)));
}
inline F to_float(I a) {
  F r;
  for (int i = 0; i < 4; i++) r.v[i] = vcvtq_f32_s32(a.v[i]);
  return r;
}
inline I to_int(F a) {
  I r;
  for (int i = 0; i < 4; i++) r.v[i] = vcvtnq_s32_f32(a.v[i]);
  return r;
}
inline F exponent(F p, I n) {
  for (int i = 0; i < 4; i++) {
    const int32x4_t bits = vshlq_n_s32(vaddq_s32(n.v[i], vdupq_n_s32(127)), 23);
    p.v[i] = vmulq_f32(p.v[i], vreinterpretq_f32_s32(bits));
  }
  return p;
}

inline F load_half(const uint16_t* p) {
  F r;
  for (int i = 0; i < 4; i++) r.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
  return r;
}
inline void store_half(uint16_t* p, F a) {
  for (int i = 0; i < 4; i++) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
}

inline F load_s8(const int8_t* p) {
  const int8x16_t bytes = vld1q_s8(p);
  const int16x8_t first = vmovl_s8(vget_low_s8(bytes)), second = vmovl_high_s8(bytes);
  return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(first))), vcvtq_f32_s32(vmovl_high_s16(first)),
           vcvtq_f32_s32(vmovl_s16(vget_low_s16(second))), vcvtq_f32_s32(vmovl_high_s16(second))}};
}

inline C cload(const uint8_t* p) { return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}}; }
inline C low(C a) {
  for (int i = 0; i < 4; i++) a.v[i] = vandq_u8(a.v[i], vdupq_n_u8(15));
  return a;
}
inline C high(C a) {
  for (int i = 0; i < 4; i++) a.v[i] = vshrq_n_u8(a.v[i], 4);
  return a;
}
inline C prepare_s8(C a) { return a; }
