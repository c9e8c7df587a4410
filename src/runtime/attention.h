// SPDX-License-Identifier: Apache-2.0
// Causal attention of new positions over KV caches that already hold their keys and values.
//
// Each query goes through its keys in blocks at fixed positions: the softmax within a block, then the blocks one after
// the other (an online softmax, arXiv:1805.02867). So its result does not depend on the queries beside it, and blocks
// may be computed by different threads.
#pragma once

#include <vector>

#include "kv_cache.h"
#include "tensor.h"
#include "thread_pool.h"

namespace rkllm {

struct AttentionShape {
  int n_heads;
  int n_kv_heads;
  int key_dim;
  int value_dim;
  float scale;    // on q.k
  float softcap;  // on scaled scores; 0: none

  int shared() const { return n_heads / n_kv_heads; }  // query heads of a key head
};

// n rows of q, one after the other, at positions position ... position + n - 1 of one sequence.
struct AttentionRows {
  const KvCache* cache;
  int position;
  int n;
};

// Successive rows of one sequence that read each block of keys together.
struct AttentionItem {
  const KvCache* cache;
  int position;
  int n;
  int row;  // of q and out
  int first_block, end_block;
  int first_unit;         // of its blocks, counted over all items ...
  int64_t first_waiting;  // ... and of their results, one for each query

  int n_blocks() const { return end_block - first_block; }
};

// Memory for each thread, and for blocks whose results wait for each other.
class AttentionScratch {
 public:
  AttentionScratch(const AttentionShape& shape, int max_positions, int n_threads);

 private:
  friend struct Attention;
  struct PerThread {
    Buffer<float> queries, scores, mixed, total;
    Buffer<SoftmaxSum> sums, total_sums;
  };
  std::vector<PerThread> threads_;
  std::vector<AttentionItem> items_;
  Buffer<float> waiting_;
  Buffer<SoftmaxSum> waiting_sums_;
};

// out[t] = softmax(scale * q[t] . k[0 ... position of t]) . v for the rows of n_entries sequences; a row is n_heads
// vectors of key_dim (q) and value_dim (out), rows are stride apart. The caches hold the rows' own keys and values.
// With a window > 0 only the last `window` positions of a row count.
void attend(const AttentionShape& shape, int layer, int window, const AttentionRows* rows, int n_entries,
            const float* q, int64_t q_stride, float* out, int64_t out_stride, AttentionScratch& scratch,
            const Kernels& kernels, ThreadPool& pool);

}  // namespace rkllm
