// SPDX-License-Identifier: Apache-2.0
// Sampling: each stage against what it promises, and draws against their distribution.
#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "check.h"

namespace {

using rkllm::Sampler;
using rkllm::Sampling;

int32_t draw(const Sampling& sampling, std::vector<float> logits, const std::vector<int32_t>& history,
             uint64_t seed = 1) {
  return Sampler(sampling, seed).sample(logits.data(), int32_t(logits.size()), history);
}

Sampling plain() { return {0, 1.0f, 1.0f, 1.0f, 0.0f, 0.0f}; }

void greedy() {
  Sampling s = plain();
  s.temperature = 0.0f;
  CHECK(draw(s, {0.0f, 3.0f, 2.0f, 3.0f}, {}) == 1);  // the smaller id among equals
  s = plain();
  s.top_k = 1;
  CHECK(draw(s, {0.0f, 3.0f, 5.0f}, {}) == 2);
}

void penalties() {
  Sampling s = plain();
  s.temperature = 0.0f;
  s.repeat_penalty = 2.0f;
  CHECK(draw(s, {4.0f, 3.0f}, {0}) == 1);             // 4 / 2 < 3
  CHECK(draw(s, {-1.0f, -1.5f}, {0}) == 1);           // -1 * 2 < -1.5
  CHECK(draw(s, {4.0f, 3.0f}, {}) == 0);
  std::vector<int32_t> old(rkllm::kPenaltyWindow + 1, 1);
  old[0] = 0;
  CHECK(draw(s, {4.0f, 3.0f}, old) == 0);             // 0 has left the window
  s.repeat_penalty = 1.0f;
  s.frequency_penalty = 0.6f;
  CHECK(draw(s, {4.0f, 3.0f}, {0}) == 0);
  CHECK(draw(s, {4.0f, 3.0f}, {0, 0}) == 1);          // 4 - 2 * 0.6 < 3
  s.frequency_penalty = 0.0f;
  s.presence_penalty = 1.1f;
  CHECK(draw(s, {4.0f, 3.0f}, {0, 0}) == 1);
}

// Greater logits first, smaller ids first among equal ones, both zeros being equal: for few and for many, of which
// some digits are the same everywhere.
void candidates_are_sorted_like_by_comparisons() {
  std::mt19937 bits(3);
  std::vector<rkllm::Candidate> spare;
  for (const size_t n : {size_t(0), size_t(1), size_t(100), size_t(511), size_t(512), size_t(5000)})
    for (const int kind : {0, 1, 2, 3}) {
      std::vector<rkllm::Candidate> list;
      for (size_t i = 0; i < n; i++) {
        float logit = std::normal_distribution<float>(0.0f, 5.0f)(bits);
        if (kind == 1) logit = float(int(logit)) * (bits() % 2 ? 0.5f : -0.5f);  // many equal ones, and both zeros
        if (kind == 2) logit = 1.0f + logit * 1e-6f;
        if (kind == 3) logit = bits() % 2 ? 3e38f : -1e-40f;
        list.push_back({logit, int32_t(3 * i), double(i)});
      }
      std::vector<rkllm::Candidate> expected = list;
      std::sort(expected.begin(), expected.end(), rkllm::before);
      rkllm::sort_by_logit(list, spare);
      CHECK(list.size() == n);
      for (size_t i = 0; i < n; i++) CHECK(list[i].id == expected[i].id && list[i].weight == expected[i].weight);
    }
}

// Frequencies of many draws within five standard deviations of the expected probabilities.
void distribution(const Sampling& s, const std::vector<float>& logits, const std::vector<double>& expected) {
  Sampler sampler(s, 42);
  const int n = 40000;
  std::vector<int> counts(logits.size());
  for (int i = 0; i < n; i++) {
    std::vector<float> copy = logits;
    counts[size_t(sampler.sample(copy.data(), int32_t(copy.size()), {}))]++;
  }
  for (size_t i = 0; i < logits.size(); i++) {
    const double deviation = std::sqrt(n * expected[i] * (1.0 - expected[i]));
    CHECK(std::fabs(counts[i] - n * expected[i]) <= 5.0 * deviation);
  }
}

std::vector<float> logs(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (double p : probabilities) logits.push_back(float(std::log(p)));
  return logits;
}

void draws() {
  const std::vector<double> p = {0.5, 0.1, 0.3, 0.1};
  distribution(plain(), logs(p), p);
  Sampling s = plain();
  s.top_k = 2;
  distribution(s, logs(p), {0.625, 0.0, 0.375, 0.0});
  s = plain();
  s.top_p = 0.7f;
  distribution(s, logs(p), {0.625, 0.0, 0.375, 0.0});
  s.top_p = 0.01f;
  distribution(s, logs(p), {1.0, 0.0, 0.0, 0.0});
  s = plain();
  s.temperature = 0.5f;  // probabilities squared
  distribution(s, logs(p), {0.25 / 0.36, 0.01 / 0.36, 0.09 / 0.36, 0.01 / 0.36});
}

void reproducible() {
  Sampler a(plain(), 5), b(plain(), 5), c(plain(), 6);
  bool differs = false;
  for (int i = 0; i < 100; i++) {
    std::vector<float> x(50), y(50), z(50);
    const int32_t first = a.sample(x.data(), 50, {});
    CHECK(first == b.sample(y.data(), 50, {}));
    differs |= first != c.sample(z.data(), 50, {});
  }
  CHECK(differs);
}

// Settings may change while random numbers go on; mirostat's state goes with its target.
void changed_settings() {
  std::vector<float> logits(50);
  const auto next = [&](Sampler& sampler) {
    std::vector<float> copy = logits;
    return sampler.sample(copy.data(), 50, {});
  };
  for (size_t i = 0; i < 50; i++) logits[i] = -0.1f * float(i);
  Sampling steered = plain();
  steered.mirostat = 2;
  steered.mirostat_tau = 2.0f;
  Sampler changed(plain(), 5), same(plain(), 5);
  for (int i = 0; i < 20; i++) CHECK(next(changed) == next(same));
  Sampler fresh = changed;
  changed.set(steered);
  for (int i = 0; i < 20; i++) next(changed);
  Sampler kept = changed, again = changed;
  again.set(steered);  // nothing changes
  for (int i = 0; i < 20; i++) CHECK(next(kept) == next(again));
  // A changed target starts at twice the target: wide open, so the worst tokens come again.
  steered.mirostat_tau = 50.0f;
  steered.mirostat_eta = 0.0f;
  changed.set(steered);
  int32_t worst = 0;
  for (int i = 0; i < 500; i++) worst = std::max(worst, next(changed));
  CHECK(worst > 40);
  fresh.set(steered);
  fresh.set(plain());
  for (int i = 0; i < 20; i++) CHECK(next(fresh) == next(same));
}

void refusals() {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(check::contains(check::sentence_of([&] { draw(plain(), {nan, nan}, {}); }), "no finite logit"));
  CHECK(draw(plain(), {nan, 1.0f}, {}) == 1);
  for (auto set : {+[](Sampling& s) { s.top_p = 0.0f; }, +[](Sampling& s) { s.temperature = -1.0f; },
                   +[](Sampling& s) { s.repeat_penalty = 0.0f; }, +[](Sampling& s) { s.presence_penalty = 1e9f; }}) {
    Sampling s = plain();
    set(s);
    CHECK(check::contains(check::sentence_of([&] { check_sampling(s); }), "must be"));
  }
}

}  // namespace

int main() {
  candidates_are_sorted_like_by_comparisons();
  greedy();
  penalties();
  draws();
  reproducible();
  changed_settings();
  refusals();
  return check::result();
}
