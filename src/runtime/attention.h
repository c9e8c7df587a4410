// SPDX-License-Identifier: Apache-2.0
// Causal attention of new positions over a KV cache that already holds their keys and values.
#pragma once

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
};

// Memory for the scores of each thread.
class AttentionScratch {
 public:
  AttentionScratch(const AttentionShape& shape, int max_positions, int n_threads);
  float* scores(int thread) { return scores_.data() + thread * scores_size_; }
  float* mixed(int thread) { return mixed_.data() + thread * mixed_size_; }

 private:
  int64_t scores_size_, mixed_size_;
  Buffer<float> scores_, mixed_;
};

// n rows of q, one after the other, at positions position ... position + n - 1 of one sequence.
struct AttentionRows {
  const KvCache* cache;
  int position;
  int n;
};

// out[t] = softmax(scale * q[t] . k[0 ... position of t]) . v for the rows of n_entries sequences; a row is n_heads
// vectors of key_dim (q) and value_dim (out), rows are stride apart. The caches hold the rows' own keys and values.
// With a window > 0 only the last `window` positions of a row count.
void attend(const AttentionShape& shape, int layer, int window, const AttentionRows* rows, int n_entries, const float* q,
            int64_t q_stride, float* out, int64_t out_stride, AttentionScratch& scratch, const Kernels& kernels,
            ThreadPool& pool);

}  // namespace rkllm
