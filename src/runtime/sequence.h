// SPDX-License-Identifier: Apache-2.0
// One sequence: keys and values of its positions, and what each position is, so that another input can tell how much
// of it is its own beginning.
#pragma once

#include <cstdint>
#include <utility>
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

// What the positions of a sequence are.
struct Positions {
  std::vector<uint64_t> keys;
  double variant = 0.0;  // Rope::variant that the first `uniform` of them were computed with
  int uniform = 0;

  int length() const { return int(keys.size()); }

  // Positions that serve a sequence of these keys whose rotary angles are those of the variant.
  int common_prefix(const std::vector<uint64_t>& wanted, double wanted_variant) const;

  void append(const std::vector<uint64_t>& more, double more_variant);
  void truncate(int n);
};

// Used by one thread at a time.
class Sequence {
 public:
  Sequence(const Model& model, int max_context, KvType type);

  KvCache& cache() { return cache_; }
  const KvCache& cache() const { return cache_; }
  int length() const { return positions_.length(); }
  int max_context() const { return cache_.max_positions(); }
  const Positions& positions() const { return positions_; }
  const std::vector<uint64_t>& keys() const { return positions_.keys; }

  // Note that the cache holds further positions, holds only the first n, or has been filled with these.
  void append(const std::vector<uint64_t>& keys, double variant) { positions_.append(keys, variant); }
  void truncate(int n) { positions_.truncate(n); }
  void replace(Positions positions) { positions_ = std::move(positions); }

  // Become what another sequence of the same model and kind of cache is.
  void copy(const Sequence& other);

 private:
  KvCache cache_;
  Positions positions_;
};

// How many keys two lists have in common from the first on.
int common_keys(const std::vector<uint64_t>& a, const std::vector<uint64_t>& b);

}  // namespace rkllm
