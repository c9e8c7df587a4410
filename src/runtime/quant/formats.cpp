// SPDX-License-Identifier: Apache-2.0
#include "quant/formats.h"

#include <cstring>

#include "error.h"
#include "kernels/dispatch.h"

namespace rkllm {
namespace {

constexpr int kTile = 16;  // rows side by side
constexpr int scale_none = 0, scale_f16 = 16, scale_f32 = 32;

const Format kFormats[] = {
#define FORMAT(name, bits, group, scale, activation, offered) {#name, bits, group, scale_##scale, activation, offered},
#include "quant/formats.def"
#undef FORMAT
};

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Index of the byte that holds column k of a row inside its tile; 4-bit formats keep column k + 4 in its high nibble.
int64_t code_index(const Format& format, int64_t lane, int64_t k) {
  if (format.bits == 8) return (k / 4 * kTile + lane) * 4 + k % 4;
  return (k / 8 * kTile + lane) * 4 + k % 4;
}

int64_t scale_index(const Format& format, int64_t lane, int64_t k) {
  return (format.group ? k / format.group : 0) * kTile + lane;
}

// Halves go through the kernels, sixteen at a time, so that one rounding serves the whole library.
uint16_t to_half(float value) {
  float wide[kTile] = {value};
  uint16_t half[kTile];
  kernels().to_half(wide, half, kTile);
  return half[0];
}

float from_half(const uint8_t* at) {
  uint16_t half[kTile] = {};
  float wide[kTile];
  memcpy(half, at, 2);
  kernels().from_half(half, wide, kTile);
  return wide[0];
}

void pack_float_row(const Format& format, const float* row, int64_t cols, int64_t lane, uint8_t* tile) {
  for (int64_t k = 0; k < cols; k++) {
    if (format.bits == 32) {
      memcpy(tile + (k * kTile + lane) * 4, row + k, 4);
    } else {
      const uint16_t half = to_half(row[k]);
      memcpy(tile + (k * kTile + lane) * 2, &half, 2);
    }
  }
}

void pack_code_row(const Format& format, const int8_t* row, int64_t cols, int64_t lane, uint8_t* tile) {
  for (int64_t k = 0; k < cols; k++) {
    const int code = row[k];
    uint8_t& byte = tile[code_index(format, lane, k)];
    if (format.bits == 8) {
      if (code == -128)
        throw Error(
            ErrorCode::INVALID_ARGUMENT,
            rkllm::format("column %lld has the code -128; 8-bit codes are -127 to 127", static_cast<long long>(k)));
      byte = uint8_t(code);
    } else {
      if (code < 0 || code > 15)
        throw Error(ErrorCode::INVALID_ARGUMENT, rkllm::format("column %lld has the code %d; 4-bit codes are 0 to 15",
                                                             static_cast<long long>(k), code));
      byte = k % 8 < 4 ? uint8_t((byte & 0xf0) | code) : uint8_t((byte & 0x0f) | code << 4);
    }
  }
}

void pack_scales(const Format& format, const float* scales, int64_t per_row, int64_t row, uint8_t* out) {
  for (int64_t g = 0; g < per_row; g++) {
    const float scale = scales[row * per_row + g];
    const int64_t at = g * kTile + row % kTile;
    if (format.scale_bits == 32) {
      memcpy(out + at * 4, &scale, 4);
    } else {
      const uint16_t half = to_half(scale);
      memcpy(out + at * 2, &half, 2);
    }
  }
}

}  // namespace

const Format* format_at(int index) {
  const int count = int(sizeof kFormats / sizeof *kFormats);
  return index >= 0 && index < count ? &kFormats[index] : nullptr;
}

const Format* find_format(std::string_view name) {
  for (const Format& format : kFormats)
    if (name == format.name) return &format;
  return nullptr;
}

const char* activation_type_name(ActivationType type) { return type == ActivationType::INT8 ? "int8" : "auto"; }

bool parse_activation_type(std::string_view name, ActivationType* type) {
  for (ActivationType each : {ActivationType::AUTO, ActivationType::INT8}) {
    if (name != activation_type_name(each)) continue;
    *type = each;
    return true;
  }
  return false;
}

Layout layout_of(const Format& format, int64_t rows, int64_t cols) {
  if (rows < 1 || rows > kMaxRows || cols < 1 || cols > kMaxColumns)
    throw Error(ErrorCode::INVALID_ARGUMENT,
                rkllm::format("a matrix of %lld x %lld is outside the supported 1 x 1 to %lld x %lld",
                            static_cast<long long>(rows), static_cast<long long>(cols),
                            static_cast<long long>(kMaxRows), static_cast<long long>(kMaxColumns)));
  if (format.group && cols % format.group)
    throw Error(ErrorCode::INVALID_ARGUMENT,
                rkllm::format("%s: the group size %d does not divide the input dimension %lld", format.name,
                              format.group, static_cast<long long>(cols)));
  Layout layout;
  layout.tiles = round_up(rows, kTile) / kTile;
  layout.k = format.is_float() ? cols : round_up(cols, 32);
  layout.code_stride = layout.k * kTile * format.bits / 8;
  const int64_t scales_per_row = format.is_float() ? 0 : format.group ? cols / format.group : 1;
  layout.scale_stride = scales_per_row * kTile * format.scale_bits / 8;
  layout.scale_offset = layout.tiles * layout.code_stride;
  layout.n_bytes = layout.scale_offset + layout.tiles * layout.scale_stride;
  return layout;
}

void pack(const Format& format, int64_t rows, int64_t cols, const void* codes, const float* scales, uint8_t* out) {
  const Layout layout = layout_of(format, rows, cols);
  memset(out, format.bits == 4 ? 0x88 : 0, size_t(layout.scale_offset));
  memset(out + layout.scale_offset, 0, size_t(layout.n_bytes - layout.scale_offset));
  const int64_t scales_per_row = format.group ? cols / format.group : 1;
  for (int64_t row = 0; row < rows; row++) {
    uint8_t* tile = out + row / kTile * layout.code_stride;
    if (format.is_float()) {
      pack_float_row(format, static_cast<const float*>(codes) + row * cols, cols, row % kTile, tile);
    } else {
      pack_code_row(format, static_cast<const int8_t*>(codes) + row * cols, cols, row % kTile, tile);
      pack_scales(format, scales, scales_per_row, row, out + layout.scale_offset + row / kTile * layout.scale_stride);
    }
  }
}

void unpack_row(const Format& format, int64_t rows, int64_t cols, const uint8_t* packed, int64_t row, float* out) {
  const Layout layout = layout_of(format, rows, cols);
  const int64_t lane = row % kTile;
  const uint8_t* tile = packed + row / kTile * layout.code_stride;
  const uint8_t* scales = packed + layout.scale_offset + row / kTile * layout.scale_stride;
  float scale = 0.0f;
  for (int64_t k = 0; k < cols; k++) {
    if (format.bits == 32) {
      memcpy(out + k, tile + (k * kTile + lane) * 4, 4);
      continue;
    }
    if (format.bits == 16) {
      out[k] = from_half(tile + (k * kTile + lane) * 2);
      continue;
    }
    if (k == 0 || (format.group && k % format.group == 0)) {
      const uint8_t* at = scales + scale_index(format, lane, k) * format.scale_bits / 8;
      if (format.scale_bits == 32) memcpy(&scale, at, 4);
      else scale = from_half(at);
    }
    const uint8_t byte = tile[code_index(format, lane, k)];
    const int code = format.bits == 8 ? int8_t(byte) : (k % 8 < 4 ? byte & 15 : byte >> 4) - 8;
    out[k] = scale * float(code);
  }
}

}  // namespace rkllm
