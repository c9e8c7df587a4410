// SPDX-License-Identifier: Apache-2.0
// The forward pass. One function runs n >= 1 rows: prefill, decode, embedding input and logits are all this call.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "adapter.h"
#include "attention.h"
#include "kv_cache.h"
#include "model.h"

namespace rkllm {

// New rows of one sequence, at positions position ... position + n - 1. A row is a token of ids or, where ids is
// nullptr or the id is negative, the next row of embed.
struct Segment {
  KvCache* cache;
  const Adapter* adapter;  // or nullptr
  const int32_t* ids;      // [n]
  const float* embed;      // [rows that are not tokens, dim]
  int n;
  int position;
  int length;  // of the whole sequence as far as it is known; dynamic rotary scaling depends on it
};

// Sees the rows that enter linear layers: the weight's name, then rows of cols floats, stride apart.
using Tap = std::function<void(const std::string& name, const float* x, int64_t rows, int64_t cols, int64_t stride)>;

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
  Tap tap;  // empty: nobody watches
  Buffer<float> logits;  // [n, padded(vocab_size)] for as many rows as were ever asked for at once
  // What each row of the current pass is.
  struct Row {
    const Segment* segment;
    int position;
    int32_t id;          // or -1
    const float* embed;  // where id is -1
  };
  std::vector<Row> rows;
  std::vector<AttentionRows> attended;
  // Its rows that an adapter changes: neighbouring segments with the same one are one run.
  struct Adapted {
    const Adapter* adapter;
    int first, n;
  };
  std::vector<Adapted> adapted;
  std::vector<Addition> additions;
  Buffer<float> between;
};

// Append the rows of all segments, max_rows at most together, to their caches and leave their final hidden states
// (after the last norm) in workspace.normed, one segment behind the other. Bits do not depend on what shares the pass.
void forward(const Model& model, const Segment* segments, int n_segments, Workspace& workspace, ThreadPool& pool);

// out[i] = logits of hidden state first + i, n rows of padded(vocab_size) floats.
void project(const Model& model, Workspace& workspace, int first, int n, float* out, ThreadPool& pool);

// The same of the first n hidden states, into workspace.logits.
const float* project(const Model& model, Workspace& workspace, int n, ThreadPool& pool);

}  // namespace rkllm
