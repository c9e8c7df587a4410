// SPDX-License-Identifier: Apache-2.0
// arm64 with products of 8-bit matrices (i8mm: Cortex-A510, A710 and later): smmla multiplies two rows of eight weights
// with two tokens' eight activations. What it gains are products of integer weights with three tokens and more; one or
// two wait for memory, with sdot as with smmla. Everything else is as with dot products.
#include <arm_neon.h>
#include <stdint.h>

#include "kernels.h"

namespace rkllm {
namespace {

#include "neon.inl"
#include "dotprod.inl"
#include "matmul.inl"

// Sixteen columns of two tokens: columns 0-3 and 8-11 of both, then 4-7 and 12-15 of both. In this order words of the
// tile layout meet when two registers of weights are interleaved.
struct Columns { int8x16_t part[2]; };

inline Columns columns(const int8_t* first, const int8_t* second) {
  const int32x4_t a = vreinterpretq_s32_s8(vld1q_s8(first)), b = vreinterpretq_s32_s8(vld1q_s8(second));
  return {{vreinterpretq_s8_s32(vuzp1q_s32(a, b)), vreinterpretq_s8_s32(vuzp2q_s32(a, b))}};
}

// Weights of rows 0 and 1, and of rows 2 and 3, in the order of a part of Columns.
struct Weights { int8x16_t rows01, rows23; };

inline Weights interleaved(const uint8_t* a, const uint8_t* b) {
  const int32x4_t first = vreinterpretq_s32_u8(vld1q_u8(a)), second = vreinterpretq_s32_u8(vld1q_u8(b));
  return {vreinterpretq_s8_s32(vzip1q_s32(first, second)), vreinterpretq_s8_s32(vzip2q_s32(first, second))};
}
// Codes are 8 above their values, which makes values of their halves of a byte when the highest bit is turned over.
inline int8x16_t value_of_codes(int8x16_t codes, int part) {
  const int8x16_t values = veorq_s8(codes, vdupq_n_s8(int8_t(0x88)));
  return vshrq_n_s8(part ? values : vshlq_n_s8(values, 4), 4);
}
// w: where the first of sixteen columns of four rows lie in the tile.
template <int Bits>
Weights four_rows(const uint8_t* w, int part) {
  if (Bits == 8) return interleaved(w + 64 * part, w + 64 * (part + 2));
  const Weights codes = interleaved(w, w + 64);
  return {value_of_codes(codes.rows01, part), value_of_codes(codes.rows23, part)};
}

// Sums of a group for P pairs of tokens and Q times four rows.
template <int Bits, int P, int Q>
struct PairSums {
  int32x4_t rows01[P][Q], rows23[P][Q];  // of two rows with the first token, then with the second

  PairSums() {
    for (int p = 0; p < P; p++)
      for (int q = 0; q < Q; q++) rows01[p][q] = rows23[p][q] = vdupq_n_s32(0);
  }

  void times_256() {
    for (int p = 0; p < P; p++)
      for (int q = 0; q < Q; q++) {
        rows01[p][q] = vshlq_n_s32(rows01[p][q], 8);
        rows23[p][q] = vshlq_n_s32(rows23[p][q], 8);
      }
  }

  // Add the products of a number of columns, which is a multiple of 16.
  void add(const uint8_t* w, const int8_t* x, int64_t stride, int n) {
    for (int k = 0; k < n; k += 16, w += 32 * Bits, x += 16) {
      Columns pairs[P];
      for (int p = 0; p < P; p++) pairs[p] = columns(x + 2 * p * stride, x + (2 * p + 1) * stride);
      for (int q = 0; q < Q; q++)
        for (int part = 0; part < 2; part++) {
          Weights weights = four_rows<Bits>(w + 16 * q, part);
          // Here and now: GCC would prepare all weights at once, for which there are no registers.
          __asm__ volatile("" : "+w"(weights.rows01), "+w"(weights.rows23));
          for (int p = 0; p < P; p++) {
            rows01[p][q] = vmmlaq_s32(rows01[p][q], pairs[p].part[part], weights.rows01);
            rows23[p][q] = vmmlaq_s32(rows23[p][q], pairs[p].part[part], weights.rows23);
          }
        }
    }
  }

  // The sums of four rows with a token.
  float32x4_t value(int t, int q) const {
    const int64x2_t a = vreinterpretq_s64_s32(rows01[t / 2][q]), b = vreinterpretq_s64_s32(rows23[t / 2][q]);
    return vcvtq_f32_s32(vreinterpretq_s32_s64(t % 2 ? vzip2q_s64(a, b) : vzip1q_s64(a, b)));
  }
};

// quad: the first of Q times four rows of the tile.
template <int Bits, int Bytes, int P, int Q>
void pairs_block(const MatmulTask& task, int token, int tile, int quad) {
  const int n_groups = (task.k + task.group - 1) / task.group;
  const uint8_t* codes = task.codes + tile * task.code_stride + 16 * quad;
  const uint8_t* scales = task.scales + tile * task.scale_stride;
  float32x4_t acc[2 * P][Q];
  for (int t = 0; t < 2 * P; t++)
    for (int q = 0; q < Q; q++) acc[t][q] = vdupq_n_f32(0.0f);
  for (int g = 0; g < n_groups; g++) {
    const int begin = g * task.group, n = at_most(task.group, task.k - begin);
    const int64_t at = int64_t(token) * task.k + begin;
    const uint8_t* w = codes + int64_t(begin) * 2 * Bits;
    PairSums<Bits, P, Q> sums;
    sums.add(w, task.hi + at, task.k, n);
    if (Bytes == 2) {
      sums.times_256();
      sums.add(w, task.lo + at, task.k, n);
    }
    for (int q = 0; q < Q; q++) {
      const uint16_t* halves = reinterpret_cast<const uint16_t*>(scales) + 16 * g + 4 * (quad + q);
      const float32x4_t scale = task.scale_per_group ? four_halves(halves) : vdupq_n_f32(1.0f);
      for (int t = 0; t < 2 * P; t++) {
        const float32x4_t factor = vmulq_n_f32(scale, task.x_scales[int64_t(token + t) * n_groups + g]);
        acc[t][q] = vfmaq_f32(acc[t][q], sums.value(t, q), factor);
      }
    }
  }
  for (int q = 0; q < Q; q++) {
    const int row = 4 * (quad + q);
    const float32x4_t bias = task.bias ? vld1q_f32(task.bias + 16 * tile + row) : vdupq_n_f32(0.0f);
    for (int t = 0; t < 2 * P; t++) {
      float32x4_t y = acc[t][q];
      if (!task.scale_per_group) y = vmulq_f32(y, vld1q_f32(reinterpret_cast<const float*>(scales) + row));
      vst1q_f32(task.y + (token + t) * task.y_stride + 16 * tile + row, vaddq_f32(y, bias));
    }
  }
}

// A tile with 2 * P tokens; returns the token after these.
template <int Bits, int Bytes, int P>
int pairs(const MatmulTask& task, int token, int tile) {
  constexpr int Q = P > 2 ? 2 : 4;  // sums and activations fill the registers
  for (int quad = 0; quad < 4; quad += Q) pairs_block<Bits, Bytes, P, Q>(task, token, tile, quad);
  return token + 2 * P;
}

template <template <int, int> class Block, int Bits, int Bytes>
void matmul(const MatmulTask& task, int tile_begin, int tile_end) {
  if (task.n_tokens <= 2) return cover<Block, 2, 1>(task, tile_begin, tile_end);
  for (int tile = tile_begin; tile < tile_end; tile++) {
    int token = 0;
    while (token + 8 <= task.n_tokens) token = pairs<Bits, Bytes, 4>(task, token, tile);
    if (token + 6 <= task.n_tokens) token = pairs<Bits, Bytes, 3>(task, token, tile);
    if (token + 4 <= task.n_tokens) token = pairs<Bits, Bytes, 2>(task, token, tile);
    if (token + 2 <= task.n_tokens) token = pairs<Bits, Bytes, 1>(task, token, tile);
    if (token < task.n_tokens) Block<1, 1>::run(task, token, tile);
  }
}

// A step has two smmla.
float integer_peak(int64_t steps) {
  const int8x16_t x = vdupq_n_s8(3), w = vdupq_n_s8(5);
  int32x4_t sums[16];
  for (int i = 0; i < 16; i++) sums[i] = vdupq_n_s32(i);
  for (int64_t done = 0; done < steps; done++)
    for (int32x4_t& sum : sums) sum = vmmlaq_s32(sum, x, w);
  int32x4_t total = vdupq_n_s32(0);
  for (const int32x4_t& sum : sums) total = vaddq_s32(total, sum);
  return float(vaddvq_s32(total));
}

}  // namespace

void use_smmla(Kernels& table) {
  table.matmul_w8a8 = matmul<BlockW8A8, 8, 1>;
  table.matmul_w8a16 = matmul<BlockW8A16, 8, 2>;
  table.matmul_w4a8 = matmul<BlockW4A8, 4, 1>;
  table.matmul_w4a16 = matmul<BlockW4A16, 4, 2>;
  table.integer_peak = integer_peak;
}

}  // namespace rkllm
