// SPDX-License-Identifier: Apache-2.0
#include "kv_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "error.h"
#include "tensor.h"

namespace rkllm {

KvCache::KvCache(int n_layers, int n_kv_heads, int key_dim, int value_dim, int max_positions, int bytes_per_value)
    : n_kv_heads_(n_kv_heads), key_dim_(key_dim), value_dim_(value_dim), max_positions_(max_positions),
      max_padded_(int(padded(max_positions))), bytes_per_value_(bytes_per_value) {
  key_bytes_ = int64_t(max_padded_) * key_dim * bytes_per_value;
  head_bytes_ = key_bytes_ + int64_t(max_padded_) * padded(value_dim) * bytes_per_value;
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
  uint8_t* keys = head_data(layer, head) + position / 16 * key_stride() + position % 16 * bytes_per_value_;
  uint8_t* values = head_data(layer, head) + key_bytes_ + int64_t(position) * 16 * bytes_per_value_;
  const int64_t step = int64_t(16) * bytes_per_value_;
  float block[16];
  uint16_t half[16];
  const auto stored = [&](const float* x, int count) {  // sixteen values as the cache holds them, zeros behind `count`
    memset(block, 0, sizeof block);
    memcpy(block, x, size_t(count) * sizeof(float));
    if (bytes_per_value_ == 2) kernels.to_half(block, half, 16);
    return bytes_per_value_ == 2 ? reinterpret_cast<const uint8_t*>(half) : reinterpret_cast<const uint8_t*>(block);
  };
  for (int d = 0; d < key_dim_; d += 16) {  // lane = position: one value into each column's row of sixteen
    const int count = std::min(16, key_dim_ - d);
    const uint8_t* bytes = stored(key + d, count);
    for (int i = 0; i < count; i++) memcpy(keys + (d + i) * step, bytes + i * bytes_per_value_, bytes_per_value_);
  }
  for (int d = 0; d < value_dim_; d += 16)  // lane = dimension: sixteen values side by side
    memcpy(values + d / 16 * value_stride(), stored(value + d, std::min(16, value_dim_ - d)), size_t(step));
}

}  // namespace rkllm
