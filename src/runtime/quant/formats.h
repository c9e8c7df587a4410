// SPDX-License-Identifier: Apache-2.0
// Weight formats: their sizes, and packing to and from the tile layout of docs/format.md.
#pragma once

#include <cstdint>
#include <string_view>

namespace rkllm {

struct Format {
  const char* name;
  int bits;             // 4, 8, 16 or 32
  int group;            // columns that share a weight scale; 0: one scale per row
  int scale_bits;       // 0, 16 or 32
  int activation_bits;  // 8, 16 or 32
  bool offered;         // by name to users

  bool is_float() const { return scale_bits == 0; }
};

// The activations that matrices are multiplied with: those that their formats name, or (asked for by name) 8-bit ones
// with 4-bit weights as well.
enum class ActivationType { AUTO, INT8 };

const char* activation_type_name(ActivationType type);  // "auto", "int8"

// Whether name is one of these; sets type.
bool parse_activation_type(std::string_view name, ActivationType* type);

inline int activation_bits(const Format& format, ActivationType type) {
  return type == ActivationType::INT8 && format.bits == 4 ? 8 : format.activation_bits;
}

// Rows and columns at most: row and column counts below 2^31 and exact 32-bit sums of byte products along a row.
constexpr int64_t kMaxRows = int64_t(1) << 30;
constexpr int64_t kMaxColumns = 131072;

// nullptr past the end, or when no format has the name.
const Format* format_at(int index);
const Format* find_format(std::string_view name);

// Where the parts of a packed [rows, cols] matrix lie.
struct Layout {
  int64_t tiles;         // of 16 rows
  int64_t k;             // columns with padding
  int64_t code_stride;   // bytes of codes per tile
  int64_t scale_stride;  // bytes of scales per tile
  int64_t scale_offset;  // of the scales from the start
  int64_t n_bytes;       // of everything
};

// Throws Error(INVALID_ARGUMENT) when the format cannot hold the shape, naming both numbers.
Layout layout_of(const Format& format, int64_t rows, int64_t cols);

// Pack into layout_of(...).n_bytes bytes. Codes: int8 [rows, cols] and scales float32 [rows, cols / group] or [rows];
// float formats: float32 [rows, cols], scales nullptr. Throws Error(INVALID_ARGUMENT) for codes out of range.
void pack(const Format& format, int64_t rows, int64_t cols, const void* codes, const float* scales, uint8_t* out);

// One row, float32 [cols].
void unpack_row(const Format& format, int64_t rows, int64_t cols, const uint8_t* packed, int64_t row, float* out);

}  // namespace rkllm
