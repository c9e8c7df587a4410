// SPDX-License-Identifier: Apache-2.0
// Choosing the next token from logits. The stages are those of llama.cpp in 2024, in its order: penalties, top-k,
// top-p, temperature, draw. Everything is computed in double precision with the library's own exponential: the same
// logits and seed give the same tokens everywhere.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace rkllm {

struct Sampling {
  int32_t top_k = 40;
  float top_p = 0.9f;
  float temperature = 0.8f;
  float repeat_penalty = 1.1f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
};

// How many of the latest tokens (prompt included) the penalties look at.
constexpr int kPenaltyWindow = 64;

// Throws Error(INVALID_ARGUMENT) naming the parameter that is out of range.
void check_sampling(const Sampling& sampling);

// One per run; used by one thread at a time.
class Sampler {
 public:
  Sampler(const Sampling& sampling, uint64_t seed);

  // Choose from n logits, which are changed. history: the latest tokens, at most kPenaltyWindow of them are used.
  // Throws Error(INTERNAL) when no logit is a finite number.
  int32_t sample(float* logits, int32_t n, const std::vector<int32_t>& history, const uint32_t* mask = nullptr);

  // Choose by other settings from now on; the random numbers go on.
  void set(const Sampling& sampling) { sampling_ = sampling; }

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  void penalize(float* logits, int32_t n, const std::vector<int32_t>& history);
  void keep_top_k(const float* logits, int32_t n, int32_t k);
  void keep_top_p(double p);
  int32_t draw();
  double uniform();  // [0, 1)

  Sampling sampling_;
  uint64_t state_;
  std::vector<Candidate> candidates_;  // most probable first
  std::vector<double> weights_;
  std::vector<std::pair<int32_t, int>> counts_;
};

}  // namespace rkllm
