// SPDX-License-Identifier: Apache-2.0
// One sequence: keys and values of its positions, and what each position is, so that another input can tell how much
// of it is its own beginning.
#pragma once

#include <cstdint>
#include <vector>

#include "kv_cache.h"
#include "model.h"

namespace rkllm {

// Rows where the caller keeps them: tokens, or where ids is nullptr or an id negative the next row of embed.
struct SequenceInput {
  const int32_t* ids = nullptr;   // [n]
  const float* embed = nullptr;   // [rows that are not tokens, dim]
  int64_t n = 0;
};

// Rows first ... first + n - 1 of an input.
SequenceInput part(const SequenceInput& input, int64_t first, int64_t n, int64_t dim);

// What each row is: a token's id, or a number made of an embedding's bytes.
std::vector<uint64_t> keys_of(const SequenceInput& input, int64_t dim);

// The id of a key, or -1 for an embedding's.
int32_t token_of(uint64_t key);

// Used by one thread at a time.
class Sequence {
 public:
  Sequence(const Model& model, int max_context, KvType type);

  KvCache& cache() { return cache_; }
  const KvCache& cache() const { return cache_; }
  int length() const { return int(keys_.size()); }
  int max_context() const { return cache_.max_positions(); }
  const std::vector<uint64_t>& keys() const { return keys_; }
  // Rope::variant that the first uniform() positions were computed with.
  double variant() const { return variant_; }
  int uniform() const { return uniform_; }

  // Positions that serve a sequence of these keys whose rotary angles are those of the variant.
  int common_prefix(const std::vector<uint64_t>& keys, double variant) const;

  // Note that the cache holds further positions.
  void append(const std::vector<uint64_t>& keys, double variant);
  void truncate(int n);

  // Become what another sequence of the same model and kind of cache is.
  void copy(const Sequence& other);

 private:
  KvCache cache_;
  std::vector<uint64_t> keys_;
  double variant_ = 0.0;
  int uniform_ = 0;
};

// How many keys two lists have in common from the first on.
int common_keys(const std::vector<uint64_t>& a, const std::vector<uint64_t>& b);

}  // namespace rkllm
