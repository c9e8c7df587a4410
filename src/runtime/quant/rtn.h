// SPDX-License-Identifier: Apache-2.0
// Round to nearest, from the numbers of a checkpoint straight to packed tiles: what src/rkllm_ext/quant/rtn.py defines,
// bit for bit, and pack(). A tile of 16 rows depends on nothing else, so tiles may be made by any threads in any order.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "quant/formats.h"

namespace rkllm {

enum class NumberType { F32, F16, BF16 };

// false: there is no type of that name ("f32", "f16", "bf16").
bool find_number_type(std::string_view name, NumberType& type);
int bytes_of(NumberType type);

// A matrix of a checkpoint, rows one after the other, aligned to its numbers.
struct SourceMatrix {
  NumberType type;
  int64_t rows;
  int64_t cols;
  const void* data;
};

// Working memory of one thread.
struct RoundingScratch {
  std::vector<float> weights;  // of one row, or of a block of columns of a tile
  std::vector<float> scales;   // of one row
  std::vector<uint16_t> halves;
  std::vector<int8_t> codes;   // of a tile, row after row
};

// What keeps a row from being stored.
struct RowProblem {
  enum Kind { NONE, NOT_FINITE, BEYOND_F16 } kind = NONE;
  int64_t row = 0;
  float value = 0.0f;
};

// Write rows 16 * tile ... of the matrix to their place in `out`, which has layout_of(format, rows, cols).n_bytes
// bytes.
// Returns the first row that cannot be stored; the tile is then unfinished.
RowProblem round_tile(const Format& format, const Layout& layout, const SourceMatrix& matrix, int64_t tile,
                      RoundingScratch& scratch, uint8_t* out);

}  // namespace rkllm
