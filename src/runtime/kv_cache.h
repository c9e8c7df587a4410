// SPDX-License-Identifier: Apache-2.0
// Keys and values of one sequence, in the tile layout of float weights so that the matmul kernels read them in order:
// keys of a head are a [positions, key_dim] matrix, values a [value_dim, positions] matrix (docs/architecture.md).
#pragma once

#include <cstdint>

#include "kernels/dispatch.h"

namespace rkllm {

// How keys and values are stored: as floats, or as signed bytes with one scale per position, head and side.
enum class KvType { F16, F32, INT8 };

const char* kv_type_name(KvType type);  // "f16", "f32", "int8"

// Whether name is one of these; sets type.
bool parse_kv_type(const char* name, KvType* type);

// Everything in it is finite: what is not, or is beyond the range of the type, is stored as the type's largest value.
// Not thread-safe; different layers and heads may be written by different threads.
class KvCache {
 public:
  // Memory is reserved here and taken from the system when it is first used.
  KvCache(int n_layers, int n_kv_heads, int key_dim, int value_dim, int max_positions, KvType type);
  ~KvCache();
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  int max_positions() const { return max_positions_; }
  KvType type() const { return type_; }
  int64_t n_bytes() const { return n_bytes_; }

  int bytes_per_value() const { return bytes_per_value_; }
  const uint8_t* keys(int layer, int head) const { return head_data(layer, head); }
  const uint8_t* values(int layer, int head) const { return head_data(layer, head) + key_bytes_; }
  int64_t key_stride() const { return int64_t(key_dim_) * 16 * bytes_per_value_; }
  int64_t value_stride() const { return int64_t(max_padded_) * 16 * bytes_per_value_; }
  // [positions] factors of the stored codes; nullptr unless the type is INT8.
  const float* key_scales(int layer, int head) const { return scales(layer, head, 0); }
  const float* value_scales(int layer, int head) const { return scales(layer, head, 1); }

  // Write one position; key and value are float [key_dim] and [value_dim].
  void put(int layer, int head, int position, const float* key, const float* value, const Kernels& kernels);

  // Take over the first n positions of another cache of the same shape and type; max_positions may differ.
  void copy_positions(const KvCache& from, int n);

  // One layer's first n positions as bytes, whatever max_positions is. For each head, one after the other:
  // keys [n, key_dim], values [n, value_dim], and of INT8 also key scales [n] and value scales [n] as f32.
  int64_t state_bytes(int n) const;
  void read_state(int layer, int n, uint8_t* out) const;
  // Take over the first n positions of the state of n_saved.
  void write_state(int layer, int n_saved, int n, const uint8_t* in);
  // Whether these bytes can be a state of n positions: numbers that are finite, scales that are not negative.
  bool is_state(int n, const uint8_t* in) const;

 private:
  uint8_t* head_data(int layer, int head) const { return data_ + (int64_t(layer) * n_kv_heads_ + head) * head_bytes_; }
  float* scales(int layer, int head, int side) const {
    return type_ == KvType::INT8 ? reinterpret_cast<float*>(head_data(layer, head) + scales_at_) + side * max_padded_
                                 : nullptr;
  }
  void check_count(int n) const;

  int n_layers_;
  int n_kv_heads_;
  int key_dim_;
  int value_dim_;
  int max_positions_;
  int max_padded_;
  KvType type_;
  int bytes_per_value_;
  int64_t key_bytes_;
  int64_t scales_at_;
  int64_t head_bytes_;
  int64_t n_bytes_;
  uint8_t* data_;
};

}  // namespace rkllm
