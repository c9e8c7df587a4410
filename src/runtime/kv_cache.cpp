// SPDX-License-Identifier: Apache-2.0
#include "kv_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "error.h"
#include "tensor.h"

namespace rkllm {
namespace {

struct TypeRow {
  const char* name;
  int bytes_per_value;
  float largest;
};
constexpr TypeRow kTypes[] = {{"f16", 2, 65504.0f}, {"f32", 4, 3.4028234664e38f}, {"int8", 1, 3e38f}};

const TypeRow& row_of(KvType type) { return kTypes[int(type)]; }

// x, or the nearest finite value; what is not a number becomes -largest.
inline float finite(float x, float largest) {
  x = x > -largest ? x : -largest;
  return x < largest ? x : largest;
}

// The scale of n values stored as signed bytes. Below the bound its reciprocal would not be finite: all codes are 0.
float byte_scale(const float* x, int n, float largest) {
  float most = 0.0f;
  for (int i = 0; i < n; i++) {
    const float v = finite(x[i], largest), magnitude = v < 0.0f ? -v : v;
    most = magnitude > most ? magnitude : most;
  }
  return most > 1e-30f ? most / 127.0f : 0.0f;
}

// Nearest integer, ties to even, of |x| < 2^22: the sum has no room for a fraction.
inline int8_t nearest_byte(float x) { return int8_t((x + 12582912.0f) - 12582912.0f); }

// Between n values side by side and every sixteenth one of a tile.
template <int Bytes>
void scatter_values(const uint8_t* from, int n, uint8_t* tile) {
  for (int i = 0; i < n; i++) memcpy(tile + int64_t(i) * 16 * Bytes, from + i * Bytes, Bytes);
}
template <int Bytes>
void gather_values(const uint8_t* tile, int n, uint8_t* to) {
  for (int i = 0; i < n; i++) memcpy(to + i * Bytes, tile + int64_t(i) * 16 * Bytes, Bytes);
}

void scatter(int bytes, const uint8_t* from, int n, uint8_t* tile) {
  (bytes == 1 ? scatter_values<1> : bytes == 2 ? scatter_values<2> : scatter_values<4>)(from, n, tile);
}
void gather(int bytes, const uint8_t* tile, int n, uint8_t* to) {
  (bytes == 1 ? gather_values<1> : bytes == 2 ? gather_values<2> : gather_values<4>)(tile, n, to);
}

// Values on their way into a cache, sixteen at a time.
struct Encoder {
  KvType type;
  float largest;
  float factor;  // of INT8
  const Kernels& kernels;
  alignas(64) float values[16];
  alignas(64) uint8_t bytes[16 * sizeof(float)];

  // The bytes of x[0, count), zeros behind them up to sixteen values.
  const uint8_t* encode(const float* x, int count) {
    if (type == KvType::F16 && count == 16) {  // as they lie: a copy just made is not soon to be had as a vector
      kernels.to_finite_half(x, reinterpret_cast<uint16_t*>(bytes), 16);
      return bytes;
    }
    for (int i = 0; i < 16; i++) values[i] = i < count ? finite(x[i], largest) : 0.0f;
    if (type == KvType::F32) return reinterpret_cast<const uint8_t*>(values);
    if (type == KvType::F16) kernels.to_half(values, reinterpret_cast<uint16_t*>(bytes), 16);
    else for (int i = 0; i < 16; i++) bytes[i] = uint8_t(nearest_byte(values[i] * factor));
    return bytes;
  }
};

}  // namespace

const char* kv_type_name(KvType type) { return row_of(type).name; }

bool parse_kv_type(const char* name, KvType* type) {
  for (KvType each : {KvType::F16, KvType::F32, KvType::INT8}) {
    if (strcmp(name, kv_type_name(each)) != 0) continue;
    *type = each;
    return true;
  }
  return false;
}

KvCache::KvCache(int n_layers, int n_kv_heads, int key_dim, int value_dim, int max_positions, KvType type)
    : n_layers_(n_layers), n_kv_heads_(n_kv_heads), key_dim_(key_dim), value_dim_(value_dim),
      max_positions_(max_positions), max_padded_(int(padded(max_positions))), type_(type),
      bytes_per_value_(row_of(type).bytes_per_value) {
  key_bytes_ = int64_t(max_padded_) * key_dim * bytes_per_value_;
  scales_at_ = key_bytes_ + int64_t(max_padded_) * padded(value_dim) * bytes_per_value_;
  head_bytes_ = scales_at_ + (type == KvType::INT8 ? 2 * int64_t(max_padded_) * int64_t(sizeof(float)) : 0);
  head_bytes_ = (head_bytes_ + 63) / 64 * 64;
  n_bytes_ = head_bytes_ * n_kv_heads * n_layers;
  void* memory = mmap(nullptr, size_t(n_bytes_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    throw Error(ErrorCode::OUT_OF_MEMORY,
                format("a KV cache of %lld MB for max_context_len %d cannot be had; use a smaller max_context_len",
                       static_cast<long long>(n_bytes_ >> 20), max_positions));
  data_ = static_cast<uint8_t*>(memory);
}

KvCache::~KvCache() { munmap(data_, size_t(n_bytes_)); }

void KvCache::put(int layer, int head, int position, const float* key, const float* value, const Kernels& kernels) {
  const int64_t step = int64_t(16) * bytes_per_value_;
  Encoder encoder = {type_, row_of(type_).largest, 0.0f, kernels, {}, {}};
  const auto start = [&](int side, const float* x, int n) {
    if (type_ != KvType::INT8) return;
    const float scale = byte_scale(x, n, encoder.largest);
    scales(layer, head, side)[position] = scale;
    encoder.factor = scale > 0.0f ? 1.0f / scale : 0.0f;
  };
  uint8_t* keys = head_data(layer, head) + position / 16 * key_stride() + position % 16 * bytes_per_value_;
  start(0, key, key_dim_);
  for (int d = 0; d < key_dim_; d += 16) {  // lane = position: one value into each column's row of sixteen
    const int count = std::min(16, key_dim_ - d);
    scatter(bytes_per_value_, encoder.encode(key + d, count), count, keys + d * step);
  }
  uint8_t* values = head_data(layer, head) + key_bytes_ + position * step;
  start(1, value, value_dim_);
  for (int d = 0; d < value_dim_; d += 16)  // lane = dimension: sixteen values side by side
    memcpy(values + d / 16 * value_stride(), encoder.encode(value + d, std::min(16, value_dim_ - d)), size_t(step));
}

void KvCache::check_count(int n) const {
  if (n < 0 || n > max_positions_)
    throw Error(ErrorCode::INTERNAL, format("%d positions of a KV cache that holds %d", n, max_positions_));
}

void KvCache::copy_positions(const KvCache& from, int n) {
  check_count(n);
  from.check_count(n);
  if (from.type_ != type_ || from.n_layers_ != n_layers_ || from.n_kv_heads_ != n_kv_heads_ ||
      from.key_dim_ != key_dim_ || from.value_dim_ != value_dim_)
    throw Error(ErrorCode::INTERNAL, "KV caches of different shapes or types");
  const int64_t key_bytes = padded(n) / 16 * key_stride(), value_bytes = int64_t(n) * 16 * bytes_per_value_;
  for (int layer = 0; layer < n_layers_; layer++)
    for (int head = 0; head < n_kv_heads_; head++) {
      memcpy(head_data(layer, head), from.keys(layer, head), size_t(key_bytes));
      uint8_t* values = head_data(layer, head) + key_bytes_;
      for (int tile = 0; tile < int(padded(value_dim_) / 16); tile++)
        memcpy(values + tile * value_stride(), from.values(layer, head) + tile * from.value_stride(),
               size_t(value_bytes));
      for (int side = 0; side < 2 && type_ == KvType::INT8; side++)
        memcpy(scales(layer, head, side), from.scales(layer, head, side), size_t(n) * sizeof(float));
    }
}

int64_t KvCache::state_bytes(int n) const {
  const int64_t scales = type_ == KvType::INT8 ? 2 * int64_t(sizeof(float)) : 0;
  return int64_t(n_kv_heads_) * n * ((int64_t(key_dim_) + value_dim_) * bytes_per_value_ + scales);
}

void KvCache::read_state(int layer, int n, uint8_t* out) const {
  check_count(n);
  const int64_t step = int64_t(16) * bytes_per_value_;
  for (int head = 0; head < n_kv_heads_; head++) {
    for (int p = 0; p < n; p++, out += key_dim_ * bytes_per_value_)
      gather(bytes_per_value_, keys(layer, head) + p / 16 * key_stride() + p % 16 * bytes_per_value_, key_dim_, out);
    for (int p = 0; p < n; p++)
      for (int d = 0; d < value_dim_; d += 16) {
        const int64_t bytes = int64_t(std::min(16, value_dim_ - d)) * bytes_per_value_;
        memcpy(out, values(layer, head) + d / 16 * value_stride() + p * step, size_t(bytes));
        out += bytes;
      }
    for (int side = 0; side < 2 && type_ == KvType::INT8; side++, out += n * sizeof(float))
      memcpy(out, scales(layer, head, side), size_t(n) * sizeof(float));
  }
}

void KvCache::write_state(int layer, int n_saved, int n, const uint8_t* in) {
  check_count(n);
  const int64_t step = int64_t(16) * bytes_per_value_;
  const int64_t key_row = int64_t(key_dim_) * bytes_per_value_, value_row = int64_t(value_dim_) * bytes_per_value_;
  for (int head = 0; head < n_kv_heads_; head++) {
    uint8_t* keys = head_data(layer, head);
    for (int p = 0; p < n; p++)
      scatter(bytes_per_value_, in + p * key_row, key_dim_,
              keys + p / 16 * key_stride() + p % 16 * bytes_per_value_);
    in += n_saved * key_row;
    for (int p = 0; p < n; p++)
      for (int d = 0; d < value_dim_; d += 16)
        memcpy(keys + key_bytes_ + d / 16 * value_stride() + p * step, in + p * value_row + d * bytes_per_value_,
               size_t(std::min(16, value_dim_ - d)) * size_t(bytes_per_value_));
    in += n_saved * value_row;
    for (int side = 0; side < 2 && type_ == KvType::INT8; side++, in += n_saved * sizeof(float))
      memcpy(scales(layer, head, side), in, size_t(n) * sizeof(float));
  }
}

bool KvCache::is_state(int n, const uint8_t* in) const {
  if (type_ == KvType::F16) return all_finite<uint16_t>(in, state_bytes(n), 0x7c00);
  if (type_ == KvType::F32) return all_finite<uint32_t>(in, state_bytes(n), 0x7f800000);
  const int64_t codes = int64_t(n) * (key_dim_ + value_dim_), scales = 2 * int64_t(n);
  for (int head = 0; head < n_kv_heads_; head++) {
    if (memchr(in, 0x80, size_t(codes))) return false;  // -128
    in += codes;
    for (int64_t i = 0; i < scales; i++, in += sizeof(float)) {
      float scale;
      memcpy(&scale, in, sizeof scale);
      if (!(scale >= 0.0f && scale <= row_of(type_).largest)) return false;
    }
  }
  return true;
}

}  // namespace rkllm
