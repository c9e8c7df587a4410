// SPDX-License-Identifier: Apache-2.0
#include "sequence.h"

#include <algorithm>

#include "checksum.h"

namespace rkllm {
namespace {

constexpr uint64_t kEmbedding = uint64_t(1) << 63;

}  // namespace

SequenceInput part(const SequenceInput& input, int64_t first, int64_t n, int64_t dim) {
  if (!input.ids) return {nullptr, input.embed + first * dim, n};
  if (!input.embed) return {input.ids + first, nullptr, n};
  const int64_t embedded = std::count_if(input.ids, input.ids + first, [](int32_t id) { return id < 0; });
  return {input.ids + first, input.embed + embedded * dim, n};
}

std::vector<uint64_t> keys_of(const SequenceInput& input, int64_t dim) {
  std::vector<uint64_t> keys(size_t(input.n));
  const float* embed = input.embed;
  for (int64_t i = 0; i < input.n; i++) {
    if (input.ids && input.ids[i] >= 0) {
      keys[size_t(i)] = uint64_t(input.ids[i]);
      continue;
    }
    keys[size_t(i)] = kEmbedding | checksum(embed, size_t(dim) * sizeof(float));
    embed += dim;
  }
  return keys;
}

int32_t token_of(uint64_t key) { return key & kEmbedding ? -1 : int32_t(key); }

int common_keys(const std::vector<uint64_t>& a, const std::vector<uint64_t>& b) {
  const size_t n = std::min(a.size(), b.size());
  return int(std::mismatch(a.begin(), a.begin() + std::ptrdiff_t(n), b.begin()).first - a.begin());
}

Sequence::Sequence(const Model& model, int max_context, KvType type)
    : cache_(int(model.spec.n_layers), int(model.spec.n_kv_heads), int(key_dim(model.spec)), int(value_dim(model.spec)),
             max_context, type) {
  positions_.keys.reserve(size_t(max_context));
}

void Sequence::copy(const Sequence& other) {
  cache_.copy_positions(other.cache_, other.length());
  positions_ = other.positions_;
}

int Positions::common_prefix(const std::vector<uint64_t>& wanted, double wanted_variant) const {
  return wanted_variant == variant ? std::min(common_keys(keys, wanted), uniform) : 0;
}

void Positions::append(const std::vector<uint64_t>& more, double more_variant) {
  if (keys.empty()) variant = more_variant;
  if (uniform == length() && more_variant == variant) uniform += int(more.size());
  keys.insert(keys.end(), more.begin(), more.end());
}

void Positions::truncate(int n) {
  keys.resize(size_t(std::min(n, length())));
  uniform = std::min(uniform, length());
}

}  // namespace rkllm
