// SPDX-License-Identifier: Apache-2.0
// Low-rank additions: what they compute, and that their bits depend on neither threads nor company.
#include "low_rank.h"

#include <cmath>
#include <cstring>
#include <random>

#include "check.h"

using namespace rkllm;

namespace {

std::mt19937 source(3);

std::vector<float> random_values(int64_t n) {
  std::normal_distribution<float> normal(0.0f, 1.0f);
  std::vector<float> values;
  values.reserve(size_t(n));
  for (int64_t i = 0; i < n; i++) values.push_back(normal(source));
  return values;
}

// A matrix with its packed bytes and what they hold.
struct Owned {
  Owned(const char* name, int64_t rows, int64_t cols, int n_heads = 1) : values(random_values(rows * cols)) {
    const Format& format = *find_format(name);
    const Layout layout = layout_of(format, rows, cols);
    bytes.resize(layout.n_bytes);
    pack(format, rows, cols, values.data(), nullptr, bytes.data());
    linear.weight = {&format, rows, cols, layout, bytes.data()};
    linear.n_heads = n_heads;
    for (int64_t row = 0; row < rows; row++)
      unpack_row(format, rows, cols, bytes.data(), row, &values[size_t(row * cols)]);
  }

  double at(int64_t row, int64_t col) const { return double(values[size_t(row * linear.weight.cols + col)]); }

  std::vector<float> values;
  Buffer<uint8_t> bytes;
  Linear linear;
};

struct Pair {
  Pair(const char* format, int64_t out, int64_t in, int64_t rank, int heads = 1)
      : a(format, heads * rank, in, heads), b(format, out, rank, heads) {
    low_rank.a.weight = a.linear.weight;
    low_rank.b.weight = b.linear.weight;
    low_rank.a.n_heads = low_rank.b.n_heads = heads;
  }

  // scale * (b (a x))[row] in double precision, for one head.
  double expected(const float* x, int head, int64_t row, double scale) const {
    const int64_t rank = b.linear.weight.cols, in = a.linear.weight.cols;
    double sum = 0.0;
    for (int64_t r = 0; r < rank; r++) {
      double inner = 0.0;
      for (int64_t k = 0; k < in; k++) inner += a.at(head * rank + r, k) * double(x[k]);
      sum += b.at(row, r) * inner;
    }
    return scale * sum;
  }

  Owned a, b;
  LowRank low_rank;
};

struct Shape {
  const char* format;
  int64_t out, in, rank;
  int n;
};

const Shape kShapes[] = {{"fp32", 40, 24, 4, 1},  {"fp32", 300, 70, 17, 5},   {"fp16", 96, 64, 1, 33},
                         {"fp16", 130, 33, 40, 16}, {"fp32", 16, 200, 250, 70}};

void additions_are_what_the_formula_says() {
  ThreadPool pool(3);
  for (const Shape& s : kShapes) {
    const Pair pair(s.format, s.out, s.in, s.rank);
    const int64_t x_stride = padded(s.in), y_stride = padded(s.out) + 16;
    const std::vector<float> x = random_values(s.n * x_stride), before = random_values(s.n * y_stride);
    std::vector<float> y = before;
    Buffer<float> between;
    add_low_rank({{&pair.low_rank, -1.5f, x.data(), x_stride, s.n, y.data(), y_stride}}, between, kernels(), pool);
    double worst = 0.0;
    for (int t = 0; t < s.n; t++)
      for (int64_t row = 0; row < s.out; row++) {
        const double wanted = double(before[size_t(t * y_stride + row)]) +
                              pair.expected(x.data() + t * x_stride, 0, row, -1.5);
        worst = std::max(worst, std::fabs(wanted - double(y[size_t(t * y_stride + row)])) / (1.0 + std::fabs(wanted)));
      }
    CHECK(worst < 1e-4);
    for (int t = 0; t < s.n; t++)  // behind the padded rows nothing is written
      CHECK(!memcmp(&y[size_t(t * y_stride + padded(s.out))], &before[size_t(t * y_stride + padded(s.out))], 64));
  }
}

// Each row alone on one thread, against all rows of all shapes in one call on several.
void bits_depend_on_neither_threads_nor_company() {
  std::vector<Pair> pairs;
  std::vector<std::vector<float>> x, together, alone;
  for (const Shape& s : kShapes) {
    pairs.emplace_back(s.format, s.out, s.in, s.rank);
    x.push_back(random_values(s.n * padded(s.in)));
    together.push_back(random_values(s.n * padded(s.out)));
  }
  alone = together;
  ThreadPool one(1), four(4);
  Buffer<float> between, other;
  std::vector<Addition> all;
  for (size_t i = 0; i < pairs.size(); i++) {
    const Shape& s = kShapes[i];
    const int64_t x_stride = padded(s.in), y_stride = padded(s.out);
    all.push_back({&pairs[i].low_rank, 0.7f, x[i].data(), x_stride, s.n, together[i].data(), y_stride});
    for (int t = 0; t < s.n; t++)
      add_low_rank({{&pairs[i].low_rank, 0.7f, &x[i][size_t(t * x_stride)], x_stride, 1,
                     &alone[i][size_t(t * y_stride)], y_stride}},
                   other, kernels(), one);
  }
  add_low_rank(all, between, kernels(), four);
  for (size_t i = 0; i < pairs.size(); i++)
    CHECK(!memcmp(alone[i].data(), together[i].data(), alone[i].size() * sizeof(float)));
}

void heads_have_pairs_of_their_own() {
  const int heads = 3, n = 6;
  const int64_t in = 20, out = 9, rank = 5, x_stride = padded(heads * in), y_stride = 64;
  const Pair pair("fp32", heads * out, in, rank, heads);
  const std::vector<float> x = random_values(n * x_stride), before = random_values(n * y_stride);
  std::vector<float> whole = before, single = before;
  ThreadPool one(1), four(4);
  Buffer<float> between, other;
  add_low_rank_heads(pair.low_rank, 2.0f, n, x.data(), {in, x_stride}, whole.data(), {20, y_stride}, between, kernels(),
                     four);
  for (int t = 0; t < n; t++)
    add_low_rank_heads(pair.low_rank, 2.0f, 1, &x[size_t(t * x_stride)], {in, x_stride}, &single[size_t(t * y_stride)],
                       {20, y_stride}, other, kernels(), one);
  CHECK(!memcmp(whole.data(), single.data(), whole.size() * sizeof(float)));
  for (int t = 0; t < n; t++)
    for (int h = 0; h < heads; h++)
      for (int64_t row = 0; row < 20 && h * 20 + row < y_stride; row++) {
        const size_t at = size_t(t * y_stride + h * 20 + row);
        const double added =
            row < out ? pair.expected(&x[size_t(t * x_stride + h * in)], h, h * out + row, 2.0) : 0.0;
        CHECK(std::fabs(double(before[at]) + added - double(whole[at])) < 1e-3);
      }
}

}  // namespace

int main() {
  additions_are_what_the_formula_says();
  bits_depend_on_neither_threads_nor_company();
  heads_have_pairs_of_their_own();
  return check::result();
}
