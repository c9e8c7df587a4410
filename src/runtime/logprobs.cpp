// SPDX-License-Identifier: Apache-2.0
#include "logprobs.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/dispatch.h"
#include "numeric.h"

namespace rkllm {
namespace {

// Put a candidate into a list of at most k that is kept in order. Most logits cost one comparison.
void insert(std::vector<TokenLogprob>& top, size_t k, TokenLogprob candidate) {
  if (top.size() == k && (k == 0 || candidate.logprob <= top.back().logprob)) return;
  if (top.size() == k) top.pop_back();
  const auto greater = [](const TokenLogprob& a, const TokenLogprob& b) { return a.logprob > b.logprob; };
  top.insert(std::upper_bound(top.begin(), top.end(), candidate, greater), candidate);
}

}  // namespace

void top_logprobs(const float* logits, int32_t n, int32_t chosen, int32_t k, TokenLogprob* chosen_out,
                  std::vector<TokenLogprob>* top) {
  top->clear();
  float greatest = -std::numeric_limits<float>::infinity();
  for (int32_t id = 0; id < n; id++) {
    if (!std::isfinite(logits[id])) continue;
    greatest = std::max(greatest, logits[id]);
    insert(*top, size_t(k), {id, logits[id]});
  }
  std::vector<double> weights;
  weights.reserve(size_t(n));
  for (int32_t id = 0; id < n; id++)
    if (std::isfinite(logits[id])) weights.push_back(double(logits[id]) - double(greatest));
  kernels().exponentials(weights.data(), int(weights.size()));
  double total = 0.0;
  for (double weight : weights) total += weight;
  const double log_total = total > 0.0 ? logarithm(total) : 0.0;
  const auto logprob = [&](float logit) { return float(double(logit) - double(greatest) - log_total); };
  for (TokenLogprob& row : *top) row.logprob = logprob(row.logprob);
  const bool has = chosen >= 0 && chosen < n && std::isfinite(logits[chosen]);
  *chosen_out = {chosen, has ? logprob(logits[chosen]) : -std::numeric_limits<float>::infinity()};
}

}  // namespace rkllm
