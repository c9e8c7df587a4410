// SPDX-License-Identifier: Apache-2.0
// A .rkllm model: the tensors of a mapped file under their names, checked against the spec.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "container.h"
#include "linear.h"
#include "rope.h"
#include "spec.h"
#include "tokenizer/tokenizer.h"

namespace rkllm {

struct Norm {
  Buffer<float> weight;
  Buffer<float> bias;  // of a layer norm; empty for an RMS norm
};

// What the spec does not call for is empty.
struct Layer {
  Norm attn_norm;
  Linear q, k, v, output;
  Norm q_norm, k_norm;  // of each head
  Linear q_a, kv_a;  // latent attention: q reads the normed latent of q_a; per head k_b and v_b, one below the other
  Norm q_a_norm, kv_a_norm;
  Linear k_b, v_b;
  Norm post_attn_norm;
  Norm ffn_norm;
  Linear gate, up, down;
  Norm post_ffn_norm;
};

// Immutable once opened: sessions on any threads share one.
struct Model {
  std::shared_ptr<const Container> file;
  Spec spec;
  std::string format;  // that was asked for at conversion
  Matrix embedding;
  std::vector<Layer> layers;
  Norm output_norm;
  Linear output;  // the embedding when tied
  Rope rope;
  Rope local_rope;  // of layers that are not global, where the spec sets them apart
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<int32_t> end_tokens;
  int64_t n_parameters = 0;
  int64_t weight_bytes = 0;  // that one token reads

  bool is_end(int32_t token) const;
};

bool has_4_bit_matrix(const Model& model);

// The linear layer of a name ("blk.3.attn_q", "output"), nullptr when the model has none.
const Linear* find_linear(const Model& model, const std::string& name);

// Open, or share with whoever has the same file open. Throws Error(MODEL_FILE / UNSUPPORTED_MODEL).
std::shared_ptr<const Model> open_model(const std::string& path);

}  // namespace rkllm
