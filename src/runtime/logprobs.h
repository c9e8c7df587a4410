// SPDX-License-Identifier: Apache-2.0
// Log-probabilities of tokens in a model's own distribution: the logarithm of the softmax of the logits as the model
// gave them, before bias, mask and penalties. Sums are in double precision in the order of the ids.
#pragma once

#include <cstdint>
#include <vector>

namespace rkllm {

struct TokenLogprob {
  int32_t id;
  float logprob;  // natural logarithm; -infinity for a token whose logit is no finite number
};

// A chosen token and the most probable ones.
struct Logprobs {
  TokenLogprob chosen = {-1, 0.0f};
  std::vector<TokenLogprob> top;  // most probable first, smaller ids first among equals
};

constexpr int32_t kMostLogprobs = 20;

// Of n logits: the chosen token and the k most probable ones, fewer when fewer logits are finite. top is overwritten.
void top_logprobs(const float* logits, int32_t n, int32_t chosen, int32_t k, TokenLogprob* chosen_out,
                  std::vector<TokenLogprob>* top);

}  // namespace rkllm
