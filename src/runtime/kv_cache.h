// SPDX-License-Identifier: Apache-2.0
// Keys and values of one sequence, in the tile layout of float weights so that the matmul kernels read them in order:
// keys of a head are a [positions, key_dim] matrix, values a [value_dim, positions] matrix (docs/architecture.md).
#pragma once

#include <cstdint>

#include "kernels/dispatch.h"

namespace rkllm {

// Not thread-safe; different layers and heads may be written by different threads.
class KvCache {
 public:
  // bytes_per_value: 2 (half) or 4 (float). Memory is reserved here and taken from the system when it is first used.
  KvCache(int n_layers, int n_kv_heads, int key_dim, int value_dim, int max_positions, int bytes_per_value);
  ~KvCache();
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  int max_positions() const { return max_positions_; }
  int bytes_per_value() const { return bytes_per_value_; }
  int64_t n_bytes() const { return n_bytes_; }

  const uint8_t* keys(int layer, int head) const { return head_data(layer, head); }
  const uint8_t* values(int layer, int head) const { return head_data(layer, head) + key_bytes_; }
  int64_t key_stride() const { return int64_t(key_dim_) * 16 * bytes_per_value_; }
  int64_t value_stride() const { return int64_t(max_padded_) * 16 * bytes_per_value_; }

  // Write one position; key and value are float [key_dim] and [value_dim].
  void put(int layer, int head, int position, const float* key, const float* value, const Kernels& kernels);

 private:
  uint8_t* head_data(int layer, int head) const { return data_ + (int64_t(layer) * n_kv_heads_ + head) * head_bytes_; }

  int n_kv_heads_;
  int key_dim_;
  int value_dim_;
  int max_positions_;
  int max_padded_;
  int bytes_per_value_;
  int64_t key_bytes_;
  int64_t head_bytes_;
  int64_t n_bytes_;
  uint8_t* data_;
};

}  // namespace rkllm
