// SPDX-License-Identifier: Apache-2.0
// The part of rkllm_ext.h for people who sample themselves: samplers and log-probabilities without a handle.
#include "api_sampler.h"

#include <algorithm>

#include "api.h"
#include "rkllm_ext.h"
#include "sampler.h"

using namespace rkllm;

struct RKLLMExtSampler {
  Sampler sampler;
  std::vector<float> logits;      // a copy to work on
  std::vector<int32_t> history;
};

namespace {

Sampling sampling_of(const RKLLMExtSampling& given) {
  Sampling s;
  s.top_k = given.top_k;
  s.top_p = given.top_p;
  s.min_p = given.min_p;
  s.temperature = given.temperature;
  s.repeat_penalty = given.repeat_penalty;
  s.frequency_penalty = given.frequency_penalty;
  s.presence_penalty = given.presence_penalty;
  s.mirostat = given.mirostat;
  s.mirostat_tau = given.mirostat_tau;
  s.mirostat_eta = given.mirostat_eta;
  need(given.n_bias == 0 || (given.bias_ids && given.biases), "bias_ids and biases must be given, or n_bias be 0");
  for (size_t i = 0; i < given.n_bias; i++) s.logit_bias.push_back({given.bias_ids[i], given.biases[i]});
  check_sampling(s);
  return s;
}

void check_logits(const float* logits, int32_t n) {
  need(logits, "logits is NULL");
  if (n < 1) throw Error(ErrorCode::INVALID_ARGUMENT, rkllm::format("n is %d, but at least one logit is needed", n));
}

}  // namespace

namespace rkllm {

void hand_over(const std::vector<TokenLogprob>& rows, int32_t* ids, float* logprobs, size_t capacity, size_t* count) {
  *count = rows.size();
  if ((ids || logprobs) && rows.size() > capacity)
    throw Error(ErrorCode::INVALID_ARGUMENT,
                rkllm::format("there are %zu log-probabilities, but room for %zu", rows.size(), capacity));
  for (size_t i = 0; i < rows.size(); i++) {
    if (ids) ids[i] = rows[i].id;
    if (logprobs) logprobs[i] = rows[i].logprob;
  }
}

}  // namespace rkllm

extern "C" {

RKLLMExtSampling rkllm_ext_default_sampling(void) {
  const Sampling s;
  RKLLMExtSampling given = {};
  given.top_k = s.top_k;
  given.top_p = s.top_p;
  given.min_p = s.min_p;
  given.temperature = s.temperature;
  given.repeat_penalty = s.repeat_penalty;
  given.frequency_penalty = s.frequency_penalty;
  given.presence_penalty = s.presence_penalty;
  given.mirostat = s.mirostat;
  given.mirostat_tau = s.mirostat_tau;
  given.mirostat_eta = s.mirostat_eta;
  return given;
}

int rkllm_ext_sampler_open(const RKLLMExtSampling* settings, uint64_t seed, RKLLMExtSampler** sampler) {
  return guard([&] {
    need(settings && sampler, "settings and sampler must be given");
    *sampler = nullptr;
    *sampler = new RKLLMExtSampler{Sampler(sampling_of(*settings), seed), {}, {}};
  });
}

int rkllm_ext_sampler_copy(const RKLLMExtSampler* sampler, RKLLMExtSampler** copy) {
  return guard([&] {
    need(sampler && copy, "sampler and copy must be given");
    *copy = nullptr;
    *copy = new RKLLMExtSampler{sampler->sampler, {}, {}};
  });
}

void rkllm_ext_sampler_close(RKLLMExtSampler* sampler) { delete sampler; }

int rkllm_ext_sample(RKLLMExtSampler* sampler, const float* logits, int32_t n, const int32_t* history, size_t n_history,
                     const uint32_t* mask, int32_t* token) {
  return guard([&] {
    need(sampler && token && (history || n_history == 0), "sampler, history and token must be given");
    check_logits(logits, n);
    const size_t used = std::min(n_history, size_t(kPenaltyWindow));
    sampler->logits.assign(logits, logits + n);
    sampler->history.clear();
    if (used) sampler->history.assign(history + (n_history - used), history + n_history);
    *token = sampler->sampler.sample(sampler->logits.data(), n, sampler->history, mask);
  });
}

int rkllm_ext_top_logprobs(const float* logits, int32_t n, int32_t token, int32_t k, float* chosen, int32_t* ids,
                           float* logprobs, size_t* count) {
  return guard([&] {
    need(count, "count is NULL");
    check_logits(logits, n);
    if (k < 0 || k > kMostLogprobs)
      throw Error(ErrorCode::INVALID_ARGUMENT, rkllm::format("k is %d, but must be 0 to %d", k, kMostLogprobs));
    if (chosen && (token < 0 || token >= n))
      throw Error(ErrorCode::INVALID_ARGUMENT, rkllm::format("token is %d, but there are %d logits", token, n));
    Logprobs found;
    top_logprobs(logits, n, token, k, &found.chosen, &found.top);
    if (chosen) *chosen = found.chosen.logprob;
    hand_over(found.top, ids, logprobs, size_t(k), count);
  });
}

}  // extern "C"
