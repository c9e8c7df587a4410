// SPDX-License-Identifier: Apache-2.0
#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "error.h"
#include "kernels/dispatch.h"
#include "numeric.h"

namespace rkllm {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kLn2 = 0.69314718055994530942;

}  // namespace

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
  need(s.mirostat >= 0 && s.mirostat <= 2, "mirostat", s.mirostat, "0 (off), 1 or 2");
  need(s.mirostat_tau >= 0.0f && s.mirostat_tau <= 100.0f, "mirostat_tau", s.mirostat_tau, "0 to 100");
  need(s.mirostat_eta >= 0.0f && s.mirostat_eta <= 100.0f, "mirostat_eta", s.mirostat_eta, "0 to 100");
  need(s.min_p >= 0.0f && s.min_p <= 1.0f, "min_p", s.min_p, "0 to 1");
  for (const LogitBias& row : s.logit_bias) {
    need(row.id >= 0, "a token of logit_bias", row.id, "an id of the vocabulary");
    need(row.bias == -kInfinity || (row.bias >= -1e6f && row.bias <= 1e6f), "a value of logit_bias", row.bias,
         "-1000000 to 1000000, or -inf");
  }
}

// The allowed surprise begins at twice the target, as in the paper and in llama.cpp.
Sampler::Sampler(const Sampling& sampling, uint64_t seed)
    : sampling_(sampling), state_(seed), mu_(2.0 * double(sampling.mirostat_tau)) {}

void Sampler::set(const Sampling& sampling) {
  if (sampling.mirostat != sampling_.mirostat || sampling.mirostat_tau != sampling_.mirostat_tau)
    mu_ = 2.0 * double(sampling.mirostat_tau);
  sampling_ = sampling;
}

// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), its upper 53 bits.
double Sampler::uniform() {
  uint64_t z = state_ += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  return double(z >> 11) * (1.0 / 9007199254740992.0);
}

void Sampler::restrict_to(const uint32_t* mask, float* logits, int32_t n) const {
  for (int32_t first = 0; first < n; first += 32) {
    const uint32_t word = mask[first / 32];
    if (word == 0xffffffffu) continue;
    for (int32_t id = first; id < std::min(n, first + 32); id++)
      if (!(word >> (id - first) & 1)) logits[id] = -kInfinity;
  }
}

void Sampler::add_bias(float* logits, int32_t n) const {
  for (const LogitBias& row : sampling_.logit_bias) {
    if (row.id >= n)
      throw Error(ErrorCode::INVALID_ARGUMENT, format("logit_bias names token %d, but there are %d", row.id, n));
    logits[row.id] += row.bias;
  }
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

void Sampler::take_all(const float* logits, int32_t n) {
  candidates_.resize(size_t(n));
  Candidate* next = candidates_.data();
  float greatest = -kInfinity;
  for (int32_t id = 0; id < n; id++) {
    if (!std::isfinite(logits[id])) continue;
    *next++ = {logits[id], id, 0.0};
    greatest = std::max(greatest, logits[id]);
  }
  candidates_.resize(size_t(next - candidates_.data()));
  n_ranked_ = 0;
  greatest_ = greatest;
}

// A heap of k with its least on top: most logits cost one comparison.
void Sampler::take_top_k(const float* logits, int32_t n, int32_t k) {
  candidates_.clear();
  for (int32_t id = 0; id < n; id++) {
    if (!std::isfinite(logits[id])) continue;
    const Candidate candidate = {logits[id], id, 0.0};
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
  n_ranked_ = candidates_.size();
  if (n_ranked_) greatest_ = candidates_[0].logit;
}

// Put the first n candidates in order.
void Sampler::rank(size_t n) {
  if (n <= n_ranked_) return;
  const auto begin = candidates_.begin() + std::ptrdiff_t(n_ranked_), end = candidates_.begin() + std::ptrdiff_t(n);
  if (end == candidates_.end()) std::sort(begin, end, before);
  else std::partial_sort(begin, end, candidates_.end(), before);
  n_ranked_ = n;
}

// The candidate at a place of the order, 0 the most probable. Orders little more than is asked for.
const Candidate& Sampler::ranked(size_t place) {
  if (place >= n_ranked_) rank(std::min(candidates_.size(), std::max(16 * place, size_t(64))));
  return candidates_[place];
}

// Give all candidates weights that are proportional to their probabilities at a temperature, 1 for the most probable.
// Returns their sum.
double Sampler::weigh(double temperature) {
  weights_.resize(candidates_.size());
  for (size_t i = 0; i < candidates_.size(); i++)
    weights_[i] = (double(candidates_[i].logit) - double(greatest_)) / temperature;
  const double total = kernels().exponentials(weights_.data(), int(weights_.size()));
  for (size_t i = 0; i < candidates_.size(); i++) candidates_[i].weight = weights_[i];
  return total;
}

// The same of all n logits, in weights_: 0 for those that are no finite numbers.
double Sampler::weigh_all(const float* logits, int32_t n, double temperature) {
  greatest_ = kernels().greatest_finite(logits, n);
  weights_.resize(size_t(n));
  return kernels().token_weights(logits, n, greatest_, temperature, weights_.data());
}

// The number of first candidates, in order of probability, whose weights are enough(sum) together; 0: all are not. Puts
// them, in any order but the last of them last, before the others. A search like quickselect, which sums what it sets
// aside: to sort a whole vocabulary takes as long as to compute its logits.
template <class Enough>
size_t Sampler::head(const Enough& enough) {
  constexpr size_t kFew = 32;
  const bool in_order = n_ranked_ == candidates_.size();
  if (!in_order) n_ranked_ = 0;
  size_t begin = 0, end = candidates_.size();
  double mass = 0.0;
  Candidate* c = candidates_.data();
  while (!in_order && end - begin > kFew) {
    std::swap(c[begin + (end - begin) / 2], c[end - 1]);
    const Candidate pivot = c[end - 1];
    size_t middle = begin;  // those before it rank before the pivot
    double sum = 0.0;
    for (size_t i = begin; i + 1 < end; i++) {  // without branches, which nobody could predict
      const Candidate moved = c[i];
      const bool goes_on = before(moved, pivot);
      c[i] = c[middle];
      c[middle] = moved;
      sum += goes_on ? moved.weight : 0.0;
      middle += goes_on;
    }
    std::swap(c[middle], c[end - 1]);
    if (enough(mass + sum)) {
      end = middle;
    } else if (enough(mass + sum + pivot.weight)) {
      return middle + 1;
    } else {
      mass += sum + pivot.weight;
      begin = middle + 1;
    }
  }
  if (!in_order) std::sort(c + begin, c + end, before);
  for (size_t i = begin; i < end; i++)
    if (enough(mass += c[i].weight)) return i + 1;
  return end < candidates_.size() ? end : 0;  // rounding: the parts were enough, the sum of them one by one is not
}

// Take the shortest head of the order whose weights are enough(sum), if it is among the likely ones: as a rule it is,
// and the rest, nearly all of a vocabulary, need not be looked at again. False: it is not.
template <class Enough>
bool Sampler::take_head(const float* logits, int32_t n, double temperature, const Enough& enough) {
  if (greatest_ == -kInfinity) return false;
  constexpr double kLikely = 8.0;  // e^-8 times as probable as the first, or more
  const float least = float(double(greatest_) - kLikely * temperature);
  candidates_.clear();
  for (int32_t id = 0; id < n; id++)
    if (logits[id] >= least && logits[id] < kInfinity) candidates_.push_back({logits[id], id, weights_[size_t(id)]});
  sort_by_logit(candidates_, spare_);
  n_ranked_ = candidates_.size();
  const size_t count = head(enough);
  if (count) keep(count);
  return count > 0;
}

// -log2 of the probability at the temperature of sampling, among candidates whose total weight has this logarithm.
double Sampler::surprise(const Candidate& candidate, double log_total) const {
  const double log_weight = (double(candidate.logit) - double(greatest_)) / double(sampling_.temperature);
  return (log_total - log_weight) / kLn2;
}

void Sampler::keep(size_t n) {
  const bool is_ranked = n_ranked_ >= n;
  candidates_.resize(n);
  n_ranked_ = is_ranked ? n : 0;
}

// The candidates that stay, and the most probable one in any case.
template <class Stays>
void Sampler::keep_if(const Stays& stays) {
  const Candidate first = *std::min_element(candidates_.begin(), candidates_.end(), before);
  const bool is_ranked = n_ranked_ == candidates_.size();
  const auto goes = [&](const Candidate& candidate) { return candidate.id != first.id && !stays(candidate); };
  candidates_.erase(std::remove_if(candidates_.begin(), candidates_.end(), goes), candidates_.end());
  n_ranked_ = is_ranked ? candidates_.size() : 0;
}

// The shortest head of the candidates whose probabilities sum to p.
void Sampler::keep_top_p(double p) {
  if (p >= 1.0) return;
  const double needed = p * weigh(1.0);
  if (const size_t n = head([&](double mass) { return mass >= needed; })) keep(n);
}

// Those that are at least p times as probable as the first.
void Sampler::keep_min_p(double p) {
  if (p <= 0.0) return;
  weigh(1.0);
  keep_if([&](const Candidate& candidate) { return candidate.weight >= p; });
}

// Basu et al., Mirostat (ICLR 2021), algorithm 1: estimate the exponent s of Zipf's law from the most probable tokens,
// and from it the k whose expected surprise is mu; n is the size of the vocabulary. The estimate looks at 100 tokens.
//   b[i] = ln(p[i] / p[i+1]), t[i] = ln((i + 2) / (i + 1)), s = sum(t b) / sum(t t), e = s - 1
//   k = (e 2^mu / (1 - n^-e)) ^ (1 / s)
void Sampler::keep_mirostat_1(int32_t n) {
  if (candidates_.size() == 1) return;
  constexpr size_t kLooksAt = 100;
  constexpr double kLeast = 1e-6;  // s and e of flat heads and of s = 1, where the formula has gaps
  const size_t m = std::min(kLooksAt, candidates_.size());
  double sum_tb = 0.0, sum_tt = 0.0;
  for (size_t i = 0; i + 1 < m; i++) {
    const double t = logarithm(double(i + 2) / double(i + 1));
    const double b = (double(ranked(i).logit) - double(ranked(i + 1).logit)) / double(sampling_.temperature);
    sum_tb += t * b;
    sum_tt += t * t;
  }
  const double s = std::max(sum_tb / sum_tt, kLeast), log_n = logarithm(double(n));
  const double e = std::fabs(s - 1.0) < kLeast ? kLeast : s - 1.0;
  const double log_k = (logarithm(e / (1.0 - exponential(-e * log_n))) + mu_ * kLn2) / s;
  const size_t k = log_k < log_n ? size_t(std::max(exponential(log_k), 1.0)) : size_t(n);
  rank(std::min(candidates_.size(), k));
  keep(std::min(candidates_.size(), k));
}

// Mirostat 2: those whose surprise is at most mu, the first in any case.
void Sampler::keep_mirostat_2() {
  const double log_total = logarithm(weigh(double(sampling_.temperature)));
  keep_if([&](const Candidate& candidate) { return surprise(candidate, log_total) <= mu_; });
}

// Draw by the probabilities at the temperature, and let mirostat learn from the surprise.
int32_t Sampler::draw() {
  const double total = weigh(double(sampling_.temperature)), target = uniform() * total;
  const size_t n = head([&](double mass) { return mass > target; });
  // Without one, rounding left the target beyond the last that has a weight.
  if (n == 0) keep_if([](const Candidate& candidate) { return candidate.weight > 0.0; });
  const Candidate drawn = n ? candidates_[n - 1] : *std::max_element(candidates_.begin(), candidates_.end(), before);
  if (sampling_.mirostat)
    mu_ -= double(sampling_.mirostat_eta) * (surprise(drawn, logarithm(total)) - double(sampling_.mirostat_tau));
  return drawn.id;
}

// What take_all, keep_top_p, keep_min_p and draw do, if it is decided among the likely ones; else -1, and nothing has
// happened.
int32_t Sampler::draw_likely(const float* logits, int32_t n) {
  if (sampling_.top_p >= 1.0f) {
    if (sampling_.min_p > 0.0f) return -1;
    const double temperature = double(sampling_.temperature), total = weigh_all(logits, n, temperature);
    const uint64_t state = state_;
    const double target = uniform() * total;
    if (take_head(logits, n, temperature, [&](double mass) { return mass > target; })) return candidates_.back().id;
    state_ = state;
    return -1;
  }
  const double needed = double(sampling_.top_p) * weigh_all(logits, n, 1.0);
  if (!take_head(logits, n, 1.0, [&](double mass) { return mass >= needed; })) return -1;
  keep_min_p(sampling_.min_p);
  return draw();
}

int32_t Sampler::sample(float* logits, int32_t n, const std::vector<int32_t>& history, const uint32_t* mask) {
  if (mask) restrict_to(mask, logits, n);
  add_bias(logits, n);
  penalize(logits, n, history);
  const bool greedy = sampling_.temperature == 0.0f || (sampling_.top_k == 1 && !sampling_.mirostat);
  const bool all = sampling_.mirostat || sampling_.top_k <= 0 || sampling_.top_k >= n;
  if (all && !greedy && !sampling_.mirostat) {
    const int32_t drawn = draw_likely(logits, n);
    if (drawn >= 0) return drawn;
  }
  if (greedy) take_top_k(logits, n, 1);
  else if (all) take_all(logits, n);
  else take_top_k(logits, n, sampling_.top_k);
  if (candidates_.empty() && (mask || !sampling_.logit_bias.empty()))
    throw Error(ErrorCode::INVALID_ARGUMENT,
                format("no token is left of %d: the mask and logit_bias forbid all whose logit is a finite number", n));
  if (candidates_.empty())
    throw Error(ErrorCode::INTERNAL, "the model produced no finite logit: its weights or the input are out of range");
  if (greedy) return candidates_[0].id;
  if (sampling_.mirostat == 1) {
    keep_mirostat_1(n);
  } else if (sampling_.mirostat == 2) {
    keep_mirostat_2();
  } else {
    keep_top_p(sampling_.top_p);
    keep_min_p(sampling_.min_p);
  }
  return draw();
}

}  // namespace rkllm
