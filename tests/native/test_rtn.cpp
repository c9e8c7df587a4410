// SPDX-License-Identifier: Apache-2.0
// Rounding straight into tiles: within its step of the weights, for every format, type and awkward shape, and nothing
// written beside the tile. Exact bytes are compared with the definition in tests/unit/test_quantize_native.py.
#include "quant/rtn.h"

#include <cmath>
#include <cstring>

#include "check.h"
#include "kernels/dispatch.h"

using namespace rkllm;

namespace {

// Numbers around zero, the same on every machine.
std::vector<float> numbers(int64_t n) {
  std::vector<float> values(static_cast<size_t>(n));
  uint32_t state = 12345;
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    value = float(int32_t(state >> 8) - (1 << 23)) / float(1 << 23);
  }
  return values;
}

// The numbers in a type's own bytes, exactly as long as they are, so that a sanitizer sees a read behind them.
std::vector<uint16_t> narrow(std::vector<float>& values, NumberType type) {
  std::vector<uint16_t> stored(values.size());
  for (size_t i = 0; i < values.size(); i++) {
    float wide[16] = {values[i]};
    if (type == NumberType::F16) {
      uint16_t halves[16];
      kernels().to_half(wide, halves, 16);
      kernels().from_half(halves, wide, 16);
      stored[i] = halves[0];
    } else {
      uint32_t bits;
      memcpy(&bits, wide, 4);
      stored[i] = uint16_t(bits >> 16);
      bits &= 0xffff0000u;
      memcpy(wide, &bits, 4);
    }
    values[i] = wide[0];
  }
  return stored;
}

double step_of(const Format& format) {
  if (format.is_float()) return format.bits == 32 ? 0.0 : 1e-3;
  return format.bits == 4 ? 1.01 / 8.0 : 0.51 / 127.0;  // on the side of code 7 half a step is cut off
}

void check_shape(const Format& format, NumberType type, int64_t rows, int64_t cols) {
  std::vector<float> weights = numbers(rows * cols);
  std::vector<uint16_t> stored;
  if (type != NumberType::F32) stored = narrow(weights, type);
  const void* data = type == NumberType::F32 ? static_cast<const void*>(weights.data()) : stored.data();
  const Layout layout = layout_of(format, rows, cols);
  std::vector<uint8_t> packed(size_t(layout.n_bytes), 0xaa);
  RoundingScratch scratch;
  for (int64_t tile = layout.tiles - 1; tile >= 0; tile--) {
    const RowProblem problem = round_tile(format, layout, {type, rows, cols, data}, tile, scratch, packed.data());
    CHECK(problem.kind == RowProblem::NONE);
  }
  std::vector<float> row(static_cast<size_t>(cols));
  for (int64_t r = 0; r < rows; r++) {
    unpack_row(format, rows, cols, packed.data(), r, row.data());
    for (int64_t k = 0; k < cols; k++)
      CHECK(std::fabs(double(row[size_t(k)]) - double(weights[size_t(r * cols + k)])) <= step_of(format));
  }
}

void check_problems(const Format& format) {
  const int64_t cols = format.group ? format.group : 600, rows = 20;
  std::vector<float> weights = numbers(rows * cols);
  weights[size_t(18 * cols + cols - 1)] = -INFINITY;
  weights[size_t(17 * cols)] = NAN;
  const Layout layout = layout_of(format, rows, cols);
  std::vector<uint8_t> packed(static_cast<size_t>(layout.n_bytes));
  RoundingScratch scratch;
  const SourceMatrix matrix = {NumberType::F32, rows, cols, weights.data()};
  CHECK(round_tile(format, layout, matrix, 0, scratch, packed.data()).kind == RowProblem::NONE);
  const RowProblem problem = round_tile(format, layout, matrix, 1, scratch, packed.data());
  CHECK(problem.kind == RowProblem::NOT_FINITE && problem.row == 17);
}

}  // namespace

int main() {
  NumberType type;
  CHECK(!find_number_type("f64", type));
  for (int i = 0; const Format* format = format_at(i); i++) {
    for (const char* name : {"f32", "f16", "bf16"}) {
      CHECK(find_number_type(name, type));
      for (int64_t rows : {1, 16, 17, 35})
        for (int64_t cols : {1, 3, 33, 530})
          check_shape(*format, type, rows, format->group ? format->group * (cols % 4 + 1) : cols);
    }
    check_problems(*format);
  }
  return check::result();
}
