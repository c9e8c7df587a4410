// SPDX-License-Identifier: Apache-2.0
// Low-rank additions to linear layers (LoRA, arXiv:2106.09685): y += scale * b (a x), beside weights that stay as they
// are. Float arithmetic whatever the weights' format; the bits of a row depend on nothing but its own addition.
#pragma once

#include <vector>

#include "linear.h"

namespace rkllm {

struct LowRank {
  Linear a;  // [n_heads * rank, in], float; n_heads as of the layer
  Linear b;  // [out, rank], float
};

// To n rows of results y, from the rows x that the layer read.
struct Addition {
  const LowRank* low_rank;  // of a layer with n_heads 1
  float scale;
  const float* x;
  int64_t x_stride;
  int n;
  float* y;
  int64_t y_stride;  // holds the padded rows of b
};

// All of them, as two jobs. between is memory that grows as needed.
void add_low_rank(const std::vector<Addition>& additions, Buffer<float>& between, const Kernels& kernels,
                  ThreadPool& pool);

// To the n rows that multiply_heads computed.
void add_low_rank_heads(const LowRank& low_rank, float scale, int n, const float* x, Heads x_at, float* y, Heads y_at,
                        Buffer<float>& between, const Kernels& kernels, ThreadPool& pool);

}  // namespace rkllm
