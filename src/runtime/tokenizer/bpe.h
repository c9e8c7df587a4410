// SPDX-License-Identifier: Apache-2.0
// Byte-pair encoding: join the best pair of neighbours, the leftmost of equals, until no pair is left.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "table.h"

namespace rkllm {

constexpr uint32_t kNoPair = UINT32_MAX;

// Memory that the merging of one word leaves to the next.
struct MergeScratch {
  std::vector<uint32_t> keys;    // of the pair that begins at a symbol; a smaller key merges earlier
  std::vector<uint32_t> next;    // symbol behind a symbol
  std::vector<uint32_t> before;  // symbol before a symbol
  std::vector<uint64_t> heap;    // key << 32 | symbol
};

// Few symbols: search them all for each merge. Symbols that remain end up in scratch->next, in order.
template <class Pairs>
void merge_few(uint32_t n, Pairs* pairs, MergeScratch* scratch) {
  std::vector<uint32_t>&symbols = scratch->next, &keys = scratch->keys;
  symbols.resize(n);
  keys.resize(n);
  for (uint32_t i = 0; i < n; ++i) symbols[i] = i;
  for (uint32_t i = 0; i + 1 < n; ++i) keys[i] = pairs->key(i, i + 1);
  keys[n - 1] = kNoPair;
  while (n > 1) {
    const uint32_t i = static_cast<uint32_t>(std::min_element(keys.begin(), keys.begin() + n) - keys.begin());
    if (keys[i] == kNoPair) break;
    pairs->join(symbols[i], symbols[i + 1], keys[i]);
    std::copy(symbols.begin() + i + 2, symbols.begin() + n, symbols.begin() + i + 1);
    std::copy(keys.begin() + i + 2, keys.begin() + n, keys.begin() + i + 1);
    --n;
    if (i > 0) keys[i - 1] = pairs->key(symbols[i - 1], symbols[i]);
    keys[i] = i + 1 < n ? pairs->key(symbols[i], symbols[i + 1]) : kNoPair;
  }
  symbols.resize(n);
}

// Many symbols: a heap of pairs over a linked list, O(n log n). An entry counts if its key is still the symbol's.
template <class Pairs>
void merge_many(uint32_t n, Pairs* pairs, MergeScratch* scratch) {
  std::vector<uint32_t>&keys = scratch->keys, &next = scratch->next, &before = scratch->before;
  std::vector<uint64_t>& heap = scratch->heap;
  const auto later = std::greater<uint64_t>();
  keys.assign(n, kNoPair);
  next.resize(n);
  before.resize(n);
  heap.clear();
  for (uint32_t i = 0; i < n; ++i) {
    next[i] = i + 1;
    before[i] = i - 1;
    if (i + 1 < n) keys[i] = pairs->key(i, i + 1);
    if (keys[i] != kNoPair) heap.push_back(static_cast<uint64_t>(keys[i]) << 32 | i);
  }
  std::make_heap(heap.begin(), heap.end(), later);
  const auto update = [&](uint32_t left) {
    keys[left] = next[left] < n ? pairs->key(left, next[left]) : kNoPair;
    if (keys[left] == kNoPair) return;
    heap.push_back(static_cast<uint64_t>(keys[left]) << 32 | left);
    std::push_heap(heap.begin(), heap.end(), later);
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const uint32_t left = static_cast<uint32_t>(heap.back());
    const uint32_t key = static_cast<uint32_t>(heap.back() >> 32);
    heap.pop_back();
    if (keys[left] != key) continue;
    const uint32_t right = next[left];
    pairs->join(left, right, key);
    keys[right] = kNoPair;
    next[left] = next[right];
    if (next[left] < n) before[next[left]] = left;
    update(left);
    if (left > 0) update(before[left]);
  }
  uint32_t kept = 0;
  for (uint32_t i = 0; i < n; i = next[i]) before[kept++] = i;
  before.resize(kept);
  next.swap(before);
}

// Merge symbols 0 ... n-1 and leave those that remain, by number and in order, in scratch->next.
// Pairs has  uint32_t key(uint32_t left, uint32_t right)  and  void join(uint32_t left, uint32_t right, uint32_t key),
// which makes left the whole of both.
template <class Pairs>
void merge(uint32_t n, Pairs* pairs, MergeScratch* scratch) {
  if (n == 0) {
    scratch->next.clear();
  } else if (n <= 32) {
    merge_few(n, pairs, scratch);
  } else {
    merge_many(n, pairs, scratch);
  }
}

// What the encoding of a text needs beside the table.
struct Encoder {
  const TokenTable& table;
  std::vector<int32_t>* out;
  std::vector<int32_t> symbols;
  std::vector<uint32_t> starts;  // models by score: where each symbol begins in the word; symbols has where it ends
  MergeScratch scratch;
};

// Append the ids of a word of bytes (BYTE_BPE, BYTE_SCORE_BPE).
void encode_bytes(std::string_view word, Encoder* encoder);

// Append the ids of a text whose space marks are spaces (RANK_BPE, SCORE_BPE, UNIGRAM).
void encode_marked(std::string_view text, Encoder* encoder);

// Merge encoder->symbols by rank and append what remains.
void merge_by_rank(Encoder* encoder);

// Merge the symbols of a word at encoder->starts and ->symbols by the score of what they become; those that remain are
// numbered in encoder->scratch.next.
void merge_by_score(std::string_view word, Encoder* encoder);

// Cut a text into its best tokens (UNIGRAM), as merge_by_score leaves them.
void cut_unigram(std::string_view text, Encoder* encoder);

}  // namespace rkllm
