// SPDX-License-Identifier: Apache-2.0
// Tokens that a sampler may choose, and their order.
#pragma once

#include <cstdint>
#include <vector>

namespace rkllm {

struct Candidate {
  float logit;
  int32_t id;
  double weight;  // proportional to the probability
};

// Greater logits first, smaller ids first among equals: one order, whatever the sorting algorithm.
inline bool before(const Candidate& a, const Candidate& b) {
  return (a.logit > b.logit) | ((a.logit == b.logit) & (a.id < b.id));
}

// Put candidates whose ids ascend in order; logits are numbers. spare is memory.
void sort_by_logit(std::vector<Candidate>& candidates, std::vector<Candidate>& spare);

}  // namespace rkllm
