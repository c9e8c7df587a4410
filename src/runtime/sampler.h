// SPDX-License-Identifier: Apache-2.0
// Choosing the next token from logits. The stages are those of llama.cpp in 2024, in its order; docs/abi.md has the
// table. Everything is computed in double precision with the library's own exponential and logarithm: the same logits
// and seed give the same tokens everywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "candidates.h"

namespace rkllm {

struct LogitBias {
  int32_t id;
  float bias;  // added to the logit; -infinity forbids the token
};

struct Sampling {
  int32_t top_k = 40;
  float top_p = 0.9f;
  float temperature = 0.8f;
  float repeat_penalty = 1.1f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  int32_t mirostat = 0;  // 0: off, 1 or 2: version
  float mirostat_tau = 5.0f;
  float mirostat_eta = 0.1f;
  float min_p = 0.0f;
  std::vector<LogitBias> logit_bias = {};
};

// How many of the latest tokens (prompt included) the penalties look at.
constexpr int kPenaltyWindow = 64;

// Throws Error(INVALID_ARGUMENT) naming the parameter that is out of range.
void check_sampling(const Sampling& sampling);

// One per run; used by one thread at a time. A copy goes on from the same state.
class Sampler {
 public:
  Sampler(const Sampling& sampling, uint64_t seed);

  // Choose from n logits, which are changed. history: the latest tokens, at most kPenaltyWindow of them are used. mask:
  // (n + 31) / 32 words, bit i % 32 of word i / 32 set: token i is allowed; NULL: all are.
  // Throws Error(INTERNAL) when no logit is a finite number, Error(INVALID_ARGUMENT) when mask and bias leave none.
  int32_t sample(float* logits, int32_t n, const std::vector<int32_t>& history, const uint32_t* mask = nullptr);

  // Choose by other settings from now on. The random numbers go on; mirostat begins anew when its version or target
  // changes.
  void set(const Sampling& sampling);

 private:
  void restrict_to(const uint32_t* mask, float* logits, int32_t n) const;
  void add_bias(float* logits, int32_t n) const;
  void penalize(float* logits, int32_t n, const std::vector<int32_t>& history);

  void take_all(const float* logits, int32_t n);
  double weigh_all(const float* logits, int32_t n, double temperature);
  template <class Enough>
  bool take_head(const float* logits, int32_t n, double temperature, const Enough& enough);
  void take_top_k(const float* logits, int32_t n, int32_t k);
  void rank(size_t n);
  const Candidate& ranked(size_t place);
  double weigh(double temperature);
  template <class Enough>
  size_t head(const Enough& enough);
  double surprise(const Candidate& candidate, double log_total) const;
  template <class Stays>
  void keep_if(const Stays& stays);

  void keep_top_p(double p);
  void keep_min_p(double p);
  void keep_mirostat_1(int32_t n);
  void keep_mirostat_2();
  void keep(size_t n);
  int32_t draw();
  int32_t draw_likely(const float* logits, int32_t n);
  double uniform();  // [0, 1)

  Sampling sampling_;
  uint64_t state_;
  double mu_;  // the surprise that mirostat allows, bits
  std::vector<Candidate> candidates_, spare_;
  size_t n_ranked_ = 0;  // the first so many are in order
  float greatest_ = 0.0f;
  std::vector<double> weights_;  // where they are computed
  std::vector<std::pair<int32_t, int>> counts_;
};

}  // namespace rkllm
