// SPDX-License-Identifier: Apache-2.0
#include "sampler.h"

#include <algorithm>
#include <cmath>

#include "error.h"
#include "numeric.h"

namespace rkllm {

void check_sampling(const Sampling& s) {
  const auto need = [](bool good, const char* name, double value, const char* range) {
    if (!good) throw Error(ErrorCode::INVALID_ARGUMENT, format("%s is %g, but must be %s", name, value, range));
  };
  const auto bounded = [](float v) { return v >= -100.0f && v <= 100.0f; };
  need(s.top_p > 0.0f && s.top_p <= 1.0f, "top_p", s.top_p, "above 0 and at most 1");
  need(s.temperature >= 0.0f && s.temperature <= 100.0f, "temperature", s.temperature, "0 to 100");
  need(s.repeat_penalty > 0.0f && s.repeat_penalty <= 100.0f, "repeat_penalty", s.repeat_penalty,
       "above 0 and at most 100");
  need(bounded(s.frequency_penalty), "frequency_penalty", s.frequency_penalty, "-100 to 100");
  need(bounded(s.presence_penalty), "presence_penalty", s.presence_penalty, "-100 to 100");
}

Sampler::Sampler(const Sampling& sampling, uint64_t seed) : sampling_(sampling), state_(seed) {}

// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), its upper 53 bits.
double Sampler::uniform() {
  uint64_t z = state_ += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  return double(z >> 11) * (1.0 / 9007199254740992.0);
}

void Sampler::penalize(float* logits, int32_t n, const std::vector<int32_t>& history) {
  if (sampling_.repeat_penalty == 1.0f && sampling_.frequency_penalty == 0.0f && sampling_.presence_penalty == 0.0f)
    return;
  counts_.clear();
  const size_t first = history.size() > kPenaltyWindow ? history.size() - kPenaltyWindow : 0;
  for (size_t i = first; i < history.size(); i++) {
    const auto same = [&](const auto& entry) { return entry.first == history[i]; };
    const auto seen = std::find_if(counts_.begin(), counts_.end(), same);
    if (seen != counts_.end()) seen->second++;
    else counts_.push_back({history[i], 1});
  }
  for (const auto& [id, count] : counts_) {
    if (id < 0 || id >= n) continue;
    float& logit = logits[id];
    logit = logit > 0.0f ? logit / sampling_.repeat_penalty : logit * sampling_.repeat_penalty;
    logit -= float(count) * sampling_.frequency_penalty + sampling_.presence_penalty;
  }
}

// The k greatest logits, greatest first, smaller ids first among equals. A heap of k with its least on top: most logits
// cost one comparison.
void Sampler::keep_top_k(const float* logits, int32_t n, int32_t k) {
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
  };
  candidates_.clear();
  for (int32_t id = 0; id < n; id++) {
    if (!std::isfinite(logits[id])) continue;
    const Candidate candidate = {logits[id], id};
    if (int32_t(candidates_.size()) < k) {
      candidates_.push_back(candidate);
      if (int32_t(candidates_.size()) == k) std::make_heap(candidates_.begin(), candidates_.end(), before);
    } else if (before(candidate, candidates_.front())) {
      std::pop_heap(candidates_.begin(), candidates_.end(), before);
      candidates_.back() = candidate;
      std::push_heap(candidates_.begin(), candidates_.end(), before);
    }
  }
  std::sort(candidates_.begin(), candidates_.end(), before);
}

// The shortest head of the candidates whose probabilities sum to p.
void Sampler::keep_top_p(double p) {
  if (p >= 1.0) return;
  double total = 0.0;
  weights_.clear();
  for (const Candidate& c : candidates_) {
    weights_.push_back(exponential(double(c.logit) - double(candidates_[0].logit)));
    total += weights_.back();
  }
  double mass = 0.0;
  for (size_t i = 0; i < candidates_.size(); i++) {
    mass += weights_[i];
    if (mass >= p * total) {
      candidates_.resize(i + 1);
      return;
    }
  }
}

int32_t Sampler::draw() {
  double total = 0.0;
  weights_.clear();
  for (const Candidate& c : candidates_) {
    weights_.push_back(exponential((double(c.logit) - double(candidates_[0].logit)) / double(sampling_.temperature)));
    total += weights_.back();
  }
  const double target = uniform() * total;
  double mass = 0.0;
  for (size_t i = 0; i < candidates_.size(); i++) {
    mass += weights_[i];
    if (target < mass) return candidates_[i].id;
  }
  return candidates_.back().id;
}

int32_t Sampler::sample(float* logits, int32_t n, const std::vector<int32_t>& history, const uint32_t* mask) {
  for (int32_t i = 0; mask && i < n; i++)
    if (!(mask[i / 32] >> (i % 32) & 1)) logits[i] = -INFINITY;
  penalize(logits, n, history);
  const bool greedy = sampling_.temperature == 0.0f || sampling_.top_k == 1;
  keep_top_k(logits, n, greedy ? 1 : sampling_.top_k > 0 ? std::min(sampling_.top_k, n) : n);
  if (candidates_.empty())
    throw Error(ErrorCode::INTERNAL, "the model produced no finite logit: its weights or the input are out of range");
  if (greedy) return candidates_[0].id;
  keep_top_p(sampling_.top_p);
  return draw();
}

}  // namespace rkllm
