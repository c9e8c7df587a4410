// SPDX-License-Identifier: Apache-2.0
// The vector types of arm64, four 4-lane registers for sixteen lanes: everything but the byte products, which differ
// between neon.cpp and dotprod.cpp.

struct F { float32x4_t a, b, c, d; };
struct I { int32x4_t a, b, c, d; };
struct C { uint8x16_t a, b, c, d; };

constexpr int kSignedOffset = 0;

inline F load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}; }
inline void store(float* p, F x) {
  vst1q_f32(p, x.a);
  vst1q_f32(p + 4, x.b);
  vst1q_f32(p + 8, x.c);
  vst1q_f32(p + 12, x.d);
}
inline F splat(float v) {
  const float32x4_t four = vdupq_n_f32(v);
  return {four, four, four, four};
}
inline F add(F x, F y) { return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b), vaddq_f32(x.c, y.c), vaddq_f32(x.d, y.d)}; }
inline F sub(F x, F y) { return {vsubq_f32(x.a, y.a), vsubq_f32(x.b, y.b), vsubq_f32(x.c, y.c), vsubq_f32(x.d, y.d)}; }
inline F mul(F x, F y) { return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b), vmulq_f32(x.c, y.c), vmulq_f32(x.d, y.d)}; }
inline F div(F x, F y) { return {vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b), vdivq_f32(x.c, y.c), vdivq_f32(x.d, y.d)}; }
inline F fma(F x, F y, F z) {
  return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c), vfmaq_f32(z.d, x.d, y.d)};
}
// x > y ? x : y, also for what is not a number.
inline float32x4_t greater(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
inline F max(F x, F y) { return {greater(x.a, y.a), greater(x.b, y.b), greater(x.c, y.c), greater(x.d, y.d)}; }
inline float32x4_t smaller(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
inline F min(F x, F y) { return {smaller(x.a, y.a), smaller(x.b, y.b), smaller(x.c, y.c), smaller(x.d, y.d)}; }

inline float sum(F x) {
  const float32x4_t four = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
inline float maximum(F x) {
  float lanes[16];
  store(lanes, x);
  float most = lanes[0];
  for (float lane : lanes) most = lane > most ? lane : most;
  return most;
}

inline I isplat(int32_t v) {
  const int32x4_t four = vdupq_n_s32(v);
  return {four, four, four, four};
}
inline I iadd(I x, I y) {
  return {vaddq_s32(x.a, y.a), vaddq_s32(x.b, y.b), vaddq_s32(x.c, y.c), vaddq_s32(x.d, y.d)};
}
inline I isub(I x, I y) {
  return {vsubq_s32(x.a, y.a), vsubq_s32(x.b, y.b), vsubq_s32(x.c, y.c), vsubq_s32(x.d, y.d)};
}
inline I shift_left_8(I x) {
  return {vshlq_n_s32(x.a, 8), vshlq_n_s32(x.b, 8), vshlq_n_s32(x.c, 8), vshlq_n_s32(x.d, 8)};
}
inline I shift_right_8(I x) {
  return {vshrq_n_s32(x.a, 8), vshrq_n_s32(x.b, 8), vshrq_n_s32(x.c, 8), vshrq_n_s32(x.d, 8)};
}
inline void store_bytes(int8_t* p, I x) {
  const int16x8_t first = vcombine_s16(vmovn_s32(x.a), vmovn_s32(x.b));
  const int16x8_t second = vcombine_s16(vmovn_s32(x.c), vmovn_s32(x.d));
  vst1q_s8(p, vcombine_s8(vmovn_s16(first), vmovn_s16(second)));
}
inline F to_float(I x) { return {vcvtq_f32_s32(x.a), vcvtq_f32_s32(x.b), vcvtq_f32_s32(x.c), vcvtq_f32_s32(x.d)}; }
inline I to_int(F x) { return {vcvtnq_s32_f32(x.a), vcvtnq_s32_f32(x.b), vcvtnq_s32_f32(x.c), vcvtnq_s32_f32(x.d)}; }
inline I truncate(F x) { return {vcvtq_s32_f32(x.a), vcvtq_s32_f32(x.b), vcvtq_s32_f32(x.c), vcvtq_s32_f32(x.d)}; }

inline float32x4_t power_of_two(int32x4_t n) {
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}
inline F exponent(F p, I n) {
  return {vmulq_f32(p.a, power_of_two(n.a)), vmulq_f32(p.b, power_of_two(n.b)),
          vmulq_f32(p.c, power_of_two(n.c)), vmulq_f32(p.d, power_of_two(n.d))};
}

inline float32x4_t four_halves(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
inline F load_half(const uint16_t* p) {
  return {four_halves(p), four_halves(p + 4), four_halves(p + 8), four_halves(p + 12)};
}
inline void store_four_halves(uint16_t* p, float32x4_t x) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x))); }
inline void store_half(uint16_t* p, F x) {
  store_four_halves(p, x.a);
  store_four_halves(p + 4, x.b);
  store_four_halves(p + 8, x.c);
  store_four_halves(p + 12, x.d);
}

inline F load_s8(const int8_t* p) {
  const int8x16_t bytes = vld1q_s8(p);
  const int16x8_t first = vmovl_s8(vget_low_s8(bytes)), second = vmovl_high_s8(bytes);
  return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(first))), vcvtq_f32_s32(vmovl_high_s16(first)),
          vcvtq_f32_s32(vmovl_s16(vget_low_s16(second))), vcvtq_f32_s32(vmovl_high_s16(second))};
}

inline C cload(const uint8_t* p) { return {vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}; }
inline C low(C x) {
  const uint8x16_t mask = vdupq_n_u8(15);
  return {vandq_u8(x.a, mask), vandq_u8(x.b, mask), vandq_u8(x.c, mask), vandq_u8(x.d, mask)};
}
inline C high(C x) { return {vshrq_n_u8(x.a, 4), vshrq_n_u8(x.b, 4), vshrq_n_u8(x.c, 4), vshrq_n_u8(x.d, 4)}; }
inline C prepare_s8(C x) { return x; }
