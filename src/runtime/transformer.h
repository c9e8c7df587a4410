// SPDX-License-Identifier: Apache-2.0
// The forward pass. One function runs n >= 1 rows: prefill, decode, embedding input and logits are all this call.
#pragma once

#include "attention.h"
#include "kv_cache.h"
#include "model.h"

namespace rkllm {

// New rows of one sequence: token ids or embeddings, at positions position ... position + n - 1.
struct Rows {
  const int32_t* ids;  // [n], or nullptr
  const float* embed;  // [n, dim] when ids is nullptr
  int n;
  int position;
  int length;  // of the whole sequence as far as it is known; dynamic rotary scaling depends on it
};

// Everything a forward pass writes, allocated once. Used by one thread at a time.
struct Workspace {
  Workspace(const Model& model, int max_rows, int max_positions, int n_threads);

  int64_t dim_stride, q_stride, kv_stride, mixed_stride, ffn_stride;
  Buffer<float> x, normed, q, k, v, mixed, projected, gate, up;  // [max_rows, stride]
  Buffer<float> cosines, sines;                                  // [max_rows, rope_dim / 2]
  Buffer<float> local_cosines, local_sines;                      // the same, where layers differ
  Activations activations;
  AttentionScratch attention;
  // Latent attention only: queries in latent space, the heads' values, and multiply_heads' memory for each thread.
  int64_t latent_stride, values_stride, q_a_stride, scratch_stride;
  Buffer<float> q_latent, values, q_a, scratch;
};

// Append the rows to the cache and leave their final hidden states (after the last norm) in workspace.normed.
void forward(const Model& model, const Rows& rows, KvCache& cache, Workspace& workspace, ThreadPool& pool);

// out[i] = logits of hidden state first + i, n rows of padded(vocab_size) floats.
void project(const Model& model, Workspace& workspace, int first, int n, float* out, ThreadPool& pool);

}  // namespace rkllm
