// SPDX-License-Identifier: Apache-2.0
// Attention is the softmax of its definition, and a query's result has the same bits alone, beside other positions and
// other sequences, on any number of threads and with any instruction set.
#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "check.h"

namespace {

using namespace rkllm;

std::mt19937 random_bits(5);

std::vector<float> gaussians(int64_t n, float spread = 1.0f) {
  std::vector<float> values(static_cast<size_t>(n));
  for (float& v : values) v = spread * std::normal_distribution<float>()(random_bits);
  return values;
}

// A sequence whose queries, keys and values are known.
struct Sequence {
  AttentionShape shape;
  int length;
  std::vector<float> q;            // [length, n_heads, key_dim]
  std::vector<float> keys, values;  // [length, n_kv_heads, dim]
  std::unique_ptr<KvCache> cache;

  Sequence(const AttentionShape& of, int n, KvType type) : shape(of), length(n) {
    q = gaussians(int64_t(n) * q_row(), 1.5f);
    keys = gaussians(int64_t(n) * of.n_kv_heads * of.key_dim, 1.5f);
    values = gaussians(int64_t(n) * of.n_kv_heads * of.value_dim);
    cache = std::make_unique<KvCache>(1, of.n_kv_heads, of.key_dim, of.value_dim, n + 5, type);
    for (int p = 0; p < n; p++)
      for (int h = 0; h < of.n_kv_heads; h++) cache->put(0, h, p, key(p, h), value(p, h), kernels());
  }

  int64_t q_row() const { return int64_t(shape.n_heads) * shape.key_dim; }
  int64_t out_row() const { return int64_t(shape.n_heads) * shape.value_dim; }
  const float* key(int p, int h) const { return &keys[size_t((p * shape.n_kv_heads + h) * shape.key_dim)]; }
  const float* value(int p, int h) const { return &values[size_t((p * shape.n_kv_heads + h) * shape.value_dim)]; }
};

// The engine's results for positions [begin, end) of each sequence, one after the other.
struct Part {
  const Sequence* sequence;
  int begin, end;
};

std::vector<float> attended(const std::vector<Part>& parts, int window, int n_threads,
                            const Kernels& table = kernels()) {
  const AttentionShape& shape = parts[0].sequence->shape;
  const int64_t q_row = parts[0].sequence->q_row(), out_row = parts[0].sequence->out_row(), gap = 3;
  std::vector<AttentionRows> rows;
  std::vector<float> q;
  int longest = 0;
  for (const Part& part : parts) {
    rows.push_back({part.sequence->cache.get(), part.begin, part.end - part.begin});
    longest = std::max(longest, part.sequence->cache->max_positions());
    for (int p = part.begin; p < part.end; p++) {
      const float* from = &part.sequence->q[size_t(p * q_row)];
      q.insert(q.end(), from, from + q_row);
      q.insert(q.end(), size_t(gap), NAN);
    }
  }
  const int64_t n = int64_t(q.size()) / (q_row + gap);
  std::vector<float> out(size_t(n * (out_row + gap)), 7.0f);
  AttentionScratch scratch(shape, longest, n_threads);
  ThreadPool pool(n_threads);
  attend(shape, 0, window, rows.data(), int(rows.size()), q.data(), q_row + gap, out.data(), out_row + gap, scratch,
         table, pool);
  std::vector<float> packed;
  for (int64_t t = 0; t < n; t++) {
    packed.insert(packed.end(), out.begin() + t * (out_row + gap), out.begin() + t * (out_row + gap) + out_row);
    for (int64_t i = 0; i < gap; i++) CHECK(out[size_t(t * (out_row + gap) + out_row + i)] == 7.0f);
  }
  return packed;
}

bool same_bits(const float* a, const float* b, size_t n) { return !memcmp(a, b, n * sizeof(float)); }
bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && same_bits(a.data(), b.data(), a.size());
}

// Head h of position p by the formula, in double precision, over what was put into the cache.
std::vector<double> defined(const Sequence& s, int p, int h, int window) {
  const AttentionShape& shape = s.shape;
  const int kv = h / shape.shared(), first = window && p >= window ? p + 1 - window : 0;
  std::vector<double> weights, mixed(static_cast<size_t>(shape.value_dim), 0.0);
  double sum = 0.0;
  for (int at = first; at <= p; at++) {
    double score = 0.0;
    for (int d = 0; d < shape.key_dim; d++)
      score += double(s.q[size_t(p * s.q_row() + h * shape.key_dim + d)]) * double(s.key(at, kv)[d]);
    score *= double(shape.scale);
    if (shape.softcap > 0.0f) score = double(shape.softcap) * std::tanh(score / double(shape.softcap));
    weights.push_back(std::exp(score));
    sum += weights.back();
  }
  for (int at = first; at <= p; at++)
    for (int d = 0; d < shape.value_dim; d++)
      mixed[size_t(d)] += weights[size_t(at - first)] / sum * double(s.value(at, kv)[d]);
  return mixed;
}

struct Case {
  AttentionShape shape;
  int window;
};

const Case kCases[] = {
    {{9, 3, 64, 64, 0.125f, 0.0f}, 0},    // grouped heads
    {{4, 4, 20, 20, 0.2f, 0.0f}, 0},      // a key head for each, dimensions that are not multiples of sixteen
    {{8, 1, 40, 36, 0.15f, 0.0f}, 0},     // latent attention: one key head, values narrower than keys
    {{60, 1, 16, 16, 0.25f, 0.0f}, 0},    // more queries at one position than are computed together
    {{4, 2, 32, 32, 0.2f, 30.0f}, 300},   // capped scores, a window
    {{6, 2, 16, 16, 0.3f, 0.0f}, 7},      // a window shorter than a tile
};

void results_are_those_of_the_definition(const Case& one, KvType type) {
  const Sequence s(one.shape, 600, type);
  const double bound = type == KvType::F32 ? 5e-6 : type == KvType::F16 ? 3e-3 : 0.08;
  const std::vector<float> out = attended({{&s, 0, s.length}}, one.window, 1);
  double worst = 0.0;
  for (int p = 0; p < s.length; p += p < 20 ? 1 : 37)
    for (int h = 0; h < one.shape.n_heads; h++) {
      const std::vector<double> exact = defined(s, p, h, one.window);
      for (size_t d = 0; d < exact.size(); d++)
        worst = std::max(worst, std::fabs(exact[d] - out[size_t(p * s.out_row() + h * one.shape.value_dim) + d]));
    }
  CHECK(worst <= bound);
  if (worst > bound) fprintf(stderr, "%s: off by %g\n", kv_type_name(type), worst);
}

void a_position_has_the_bits_it_has_alone(const Case& one, KvType type) {
  const Sequence s(one.shape, 540, type);
  const std::vector<float> all = attended({{&s, 0, s.length}}, one.window, 1);
  const size_t row = size_t(s.out_row());
  for (int p : {0, 1, 15, 16, 17, 31, 254, 255, 256, 257, 300, 511, 512, 539})
    CHECK(same_bits(attended({{&s, p, p + 1}}, one.window, 1).data(), &all[size_t(p) * row], row));
  for (int begin : {0, 5, 250, 400})
    for (int n : {2, 9, 70, 140})
      for (int threads : {1, 3})
        CHECK(same_bits(attended({{&s, begin, begin + n}}, one.window, threads).data(), &all[size_t(begin) * row],
                        size_t(n) * row));
}

void sequences_together_have_the_bits_of_each_alone(const Case& one, KvType type) {
  const Sequence a(one.shape, 700, type), b(one.shape, 30, type), c(one.shape, 300, type);
  const std::vector<Part> parts = {{&a, 699, 700}, {&b, 0, 30}, {&c, 255, 258}, {&a, 10, 11}, {&b, 29, 30}};
  std::vector<float> expected;
  for (const Part& part : parts) {
    const std::vector<float> alone = attended({part}, one.window, 1);
    expected.insert(expected.end(), alone.begin(), alone.end());
  }
  for (int threads : {1, 2, 3, 8}) CHECK(same_bits(attended(parts, one.window, threads), expected));
}

void every_instruction_set_gives_the_same_bits(const Case& one, KvType type) {
  const Sequence s(one.shape, 300, type);
  const std::vector<float> expected = attended({{&s, 230, 300}}, one.window, 1, kernels_of("scalar"));
  for (const char* isa : isas()) CHECK(same_bits(attended({{&s, 230, 300}}, one.window, 1, kernels_of(isa)), expected));
}

// What lies behind a position, from another run or of later rows, is not seen.
void later_positions_do_not_count(KvType type) {
  const AttentionShape shape = kCases[0].shape;
  Sequence s(shape, 50, type);
  const std::vector<float> before = attended({{&s, 20, 21}}, 0, 1);
  const std::vector<float> wild(64, NAN);
  for (int p = 21; p < 50; p++)
    for (int h = 0; h < shape.n_kv_heads; h++) s.cache->put(0, h, p, wild.data(), wild.data(), kernels());
  CHECK(same_bits(attended({{&s, 20, 21}}, 0, 1), before));
  CHECK(same_bits(attended({{&s, 20, 36}}, 0, 1).data(), before.data(), before.size()));
}

}  // namespace

int main() {
  for (KvType type : {KvType::F32, KvType::F16, KvType::INT8}) {
    for (const Case& one : kCases) {
      results_are_those_of_the_definition(one, type);
      a_position_has_the_bits_it_has_alone(one, type);
      sequences_together_have_the_bits_of_each_alone(one, type);
      every_instruction_set_gives_the_same_bits(one, type);
    }
    later_positions_do_not_count(type);
  }
  return check::result();
}
