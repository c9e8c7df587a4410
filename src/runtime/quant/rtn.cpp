// SPDX-License-Identifier: Apache-2.0
#include "quant/rtn.h"

#include <cstring>
#include <limits>

#include "kernels/dispatch.h"

namespace rkllm {
namespace {

constexpr int kTile = 16;
constexpr int kLanes = 16;           // of the loops that the compiler turns into vector code
constexpr float kF16Max = 65504.0f;  // ends of the f16 range
constexpr int64_t kBlock = 512;      // columns of float formats that are worked on at once
// From one row of the scratch to the next: a little more than a power of two, so that the same columns of 16 rows do
// not fall into the same sets of the cache.
constexpr int64_t kBlockStride = kBlock + 32;

struct TypeRow {
  const char* name;
  NumberType type;
  int bytes;
};
constexpr TypeRow kTypes[] = {{"f32", NumberType::F32, 4}, {"f16", NumberType::F16, 2}, {"bf16", NumberType::BF16, 2}};

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

float from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

// Kernels convert halves by sixteens; the rest of a row goes through a buffer.
void widen_halves(const uint16_t* in, float* out, int64_t n) {
  const int64_t whole = n / kLanes * kLanes;
  if (whole) kernels().from_half(in, out, int(whole));
  if (whole == n) return;
  uint16_t rest[kLanes] = {};
  float wide[kLanes];
  memcpy(rest, in + whole, size_t(n - whole) * 2);
  kernels().from_half(rest, wide, kLanes);
  memcpy(out + whole, wide, size_t(n - whole) * 4);
}

// Columns [first, first + n) of a row as float32: where they lie, or in `wide`.
const float* floats_of(const SourceMatrix& matrix, int64_t row, int64_t first, int64_t n, float* wide) {
  const int64_t at = row * matrix.cols + first;
  if (matrix.type == NumberType::F32) return static_cast<const float*>(matrix.data) + at;
  const uint16_t* stored = static_cast<const uint16_t*>(matrix.data) + at;
  if (matrix.type == NumberType::F16) {
    widen_halves(stored, wide, n);
  } else {
    for (int64_t k = 0; k < n; k++) {
      const uint32_t bits = uint32_t(stored[k]) << 16;
      memcpy(wide + k, &bits, 4);
    }
  }
  return wide;
}

// The weight of largest magnitude; of several, the first one. Bit patterns without their sign are ordered as the
// magnitudes are, infinity and NaN above all others, so whole numbers can be compared.
float largest(const float* w, int64_t n) {
  int32_t with_plus[kLanes], with_minus[kLanes];
  for (int i = 0; i < kLanes; i++) with_plus[i] = with_minus[i] = std::numeric_limits<int32_t>::min();
  int64_t k = 0;
  for (; k + kLanes <= n; k += kLanes) {
    for (int i = 0; i < kLanes; i++) {
      int32_t bits;
      memcpy(&bits, w + k + i, 4);
      const int32_t turned = bits ^ std::numeric_limits<int32_t>::min();
      with_plus[i] = bits > with_plus[i] ? bits : with_plus[i];
      with_minus[i] = turned > with_minus[i] ? turned : with_minus[i];
    }
  }
  for (int half = kLanes / 2; half; half /= 2) {
    for (int i = 0; i < half; i++) {
      with_plus[i] = with_plus[i + half] > with_plus[i] ? with_plus[i + half] : with_plus[i];
      with_minus[i] = with_minus[i + half] > with_minus[i] ? with_minus[i + half] : with_minus[i];
    }
  }
  int32_t plus = with_plus[0], minus = with_minus[0];
  for (; k < n; k++) {
    const int32_t bits = int32_t(bits_of(w[k])), turned = bits ^ std::numeric_limits<int32_t>::min();
    plus = bits > plus ? bits : plus;
    minus = turned > minus ? turned : minus;
  }
  uint32_t found = plus > minus ? uint32_t(plus) : uint32_t(minus) | 0x80000000u;
  if (plus == minus) {  // both signs: the first one counts
    for (k = 0; (bits_of(w[k]) & 0x7fffffffu) != uint32_t(plus); k++) {}
    found = bits_of(w[k]);
  }
  return from_bits(found);
}

bool is_finite(float value) { return (bits_of(value) & 0x7fffffffu) < 0x7f800000u; }

float magnitude(float value) { return from_bits(bits_of(value) & 0x7fffffffu); }

// Scales of a row, one per group, as the file keeps them, from a row padded with zeros to whole kernels. Returns a
// largest weight that is not finite, or 0.
float scales_of(const Format& format, const float* w, int group, int n, RoundingScratch& scratch) {
  float* scales = scratch.scales.data();
  if (!kernels().peaks(w, group, n, scales)) return largest(w, int64_t(n) * group);
  for (int g = 0; g < n; g++) {
    const float scale = format.bits == 4 ? scales[g] / -8.0f : magnitude(scales[g]) / 127.0f;
    scales[g] = scale;
    if (format.scale_bits == 16) scales[g] = scale > kF16Max ? kF16Max : scale < -kF16Max ? -kF16Max : scale;
  }
  if (format.scale_bits == 16) {
    const int padded = int(round_up(n, kLanes));
    kernels().to_half(scales, scratch.halves.data(), padded);
    kernels().from_half(scratch.halves.data(), scales, padded);
  }
  return 0.0f;
}

// The codes of 16 rows to their places in the tile: four neighbouring columns are four neighbouring bytes.
void interleave_codes(const Format& format, const int8_t* codes, int64_t stride, int64_t k_padded, uint8_t* tile) {
  const int64_t step = format.bits == 8 ? 4 : 8;
  for (int64_t k = 0; k < k_padded; k += step) {
    for (int64_t lane = 0; lane < kTile; lane++, tile += 4) {
      const int8_t* from = codes + lane * stride + k;
      uint32_t four, next;
      memcpy(&four, from, 4);
      if (format.bits == 4) {  // codes 0 ... 15, a byte each: two in one
        memcpy(&next, from + 4, 4);
        four |= next << 4;
      }
      memcpy(tile, &four, 4);
    }
  }
}

void put_scales(const Format& format, const RoundingScratch& scratch, int64_t n, int64_t lane, uint8_t* out) {
  for (int64_t g = 0; g < n; g++) {
    const int64_t at = g * kTile + lane;
    if (format.scale_bits == 32) memcpy(out + at * 4, &scratch.scales[size_t(g)], 4);
    else memcpy(out + at * 2, &scratch.halves[size_t(g)], 2);
  }
}

// Numbers of `kTile` rows, side by side.
template <class Number>
void interleave_floats(const Number* rows, int64_t n, uint8_t* out) {
  for (int64_t k = 0; k < n; k++)
    for (int64_t lane = 0; lane < kTile; lane++, out += sizeof(Number))
      memcpy(out, rows + lane * kBlockStride + k, sizeof(Number));
}

// The row of smallest number wins, so that the answer does not depend on the order of the work.
void note(RowProblem& found, RowProblem::Kind kind, int64_t row, float value) {
  if (found.kind == RowProblem::NONE || row < found.row) found = {kind, row, value};
}

RowProblem pack_floats(const Format& format, const SourceMatrix& matrix, int64_t first_row, int64_t n_rows,
                       RoundingScratch& scratch, uint8_t* tile) {
  RowProblem problem;
  scratch.weights.assign(kTile * kBlockStride, 0.0f);
  scratch.halves.assign(kTile * kBlockStride, 0);
  for (int64_t first = 0; first < matrix.cols; first += kBlock) {
    const int64_t n = matrix.cols - first < kBlock ? matrix.cols - first : kBlock;
    for (int64_t lane = 0; lane < n_rows; lane++) {
      float* row = scratch.weights.data() + lane * kBlockStride;
      const float* w = floats_of(matrix, first_row + lane, first, n, row);
      if (w != row) memcpy(row, w, size_t(n) * sizeof(float));
      const float top = largest(row, n);
      if (!is_finite(top)) note(problem, RowProblem::NOT_FINITE, first_row + lane, top);
      else if (format.bits == 16 && magnitude(top) > kF16Max)
        note(problem, RowProblem::BEYOND_F16, first_row + lane, top);
      if (format.bits == 16)
        kernels().to_half(row, scratch.halves.data() + lane * kBlockStride, int(round_up(n, kLanes)));
    }
    uint8_t* out = tile + first * kTile * format.bits / 8;
    if (format.bits == 32) interleave_floats(scratch.weights.data(), n, out);
    else interleave_floats(scratch.halves.data(), n, out);
  }
  return problem;
}

RowProblem pack_codes(const Format& format, const Layout& layout, const SourceMatrix& matrix, int64_t first_row,
                      int64_t n_rows, RoundingScratch& scratch, uint8_t* tile, uint8_t* scales) {
  const int64_t cols = matrix.cols, padded = round_up(cols, kLanes), stride = layout.k + 32;
  const int group = int(format.group ? format.group : padded), n_groups = int(padded / group);
  const auto to_codes = format.bits == 4 ? kernels().codes_4 : kernels().codes_8;
  scratch.weights.assign(size_t(padded), 0.0f);
  scratch.scales.resize(size_t(round_up(n_groups, kLanes)));
  scratch.halves.resize(scratch.scales.size());
  scratch.codes.assign(size_t(kTile * stride), format.bits == 4 ? 8 : 0);  // padding is the code of zero
  if (n_rows < kTile) memset(scales, 0, size_t(layout.scale_stride));
  for (int64_t lane = 0; lane < n_rows; lane++) {
    const float* w = floats_of(matrix, first_row + lane, 0, cols, scratch.weights.data());
    if (padded != cols && w != scratch.weights.data()) {
      memcpy(scratch.weights.data(), w, size_t(cols) * sizeof(float));
      w = scratch.weights.data();
    }
    const float bad = scales_of(format, w, group, n_groups, scratch);
    if (bad != 0.0f) return {RowProblem::NOT_FINITE, first_row + lane, bad};
    int8_t* codes = scratch.codes.data() + lane * stride;
    for (int g = 0; g < n_groups; g++) to_codes(w + g * group, group, scratch.scales[size_t(g)], codes + g * group);
    put_scales(format, scratch, n_groups, lane, scales);
  }
  interleave_codes(format, scratch.codes.data(), stride, layout.k, tile);
  return {};
}

}  // namespace

bool find_number_type(std::string_view name, NumberType& type) {
  for (const TypeRow& row : kTypes) {
    if (name != row.name) continue;
    type = row.type;
    return true;
  }
  return false;
}

int bytes_of(NumberType type) {
  for (const TypeRow& row : kTypes)
    if (row.type == type) return row.bytes;
  return 0;
}

RowProblem round_tile(const Format& format, const Layout& layout, const SourceMatrix& matrix, int64_t tile,
                      RoundingScratch& scratch, uint8_t* out) {
  const int64_t first = tile * kTile, rows = matrix.rows - first < kTile ? matrix.rows - first : kTile;
  uint8_t* codes = out + tile * layout.code_stride;
  if (format.is_float()) return pack_floats(format, matrix, first, rows, scratch, codes);
  uint8_t* scales = out + layout.scale_offset + tile * layout.scale_stride;
  return pack_codes(format, layout, matrix, first, rows, scratch, codes, scales);
}

}  // namespace rkllm
