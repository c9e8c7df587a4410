// SPDX-License-Identifier: Apache-2.0
// Every instruction set computes the same bits as the scalar definition, and the definition is right.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "check.h"
#include "kernels/dispatch.h"
#include "numeric.h"
#include "quant/formats.h"

namespace {

using namespace rkllm;

std::mt19937 random_bits(7);

float gaussian() { return std::normal_distribution<float>()(random_bits); }

std::vector<float> gaussians(size_t n, float spread = 1.0f) {
  std::vector<float> values(n);
  for (float& v : values) v = spread * gaussian();
  return values;
}

// A matrix of random codes at their extremes as well.
std::vector<uint8_t> random_matrix(const Format& format, int64_t rows, int64_t cols) {
  std::vector<uint8_t> packed(size_t(layout_of(format, rows, cols).n_bytes));
  const size_t n = size_t(rows * cols);
  if (format.is_float()) {
    pack(format, rows, cols, gaussians(n).data(), nullptr, packed.data());
    return packed;
  }
  std::vector<int8_t> codes(n);
  for (int8_t& c : codes) {
    const int low = format.bits == 4 ? 0 : -127, high = format.bits == 4 ? 15 : 127;
    c = int8_t(std::uniform_int_distribution<int>(low, high)(random_bits));
    if (random_bits() % 8 == 0) c = int8_t(random_bits() % 2 ? low : high);
  }
  pack(format, rows, cols, codes.data(), gaussians(size_t(rows * (format.group ? cols / format.group : 1))).data(),
       packed.data());
  return packed;
}

struct Rows {  // quantized activations
  std::vector<int8_t> hi, lo;
  std::vector<float> scales;
  std::vector<int32_t> offsets;

  Rows(int64_t k, int64_t groups, int n)
      : hi(size_t(n * k)), lo(size_t(n * k)), scales(size_t(n * groups)), offsets(size_t(n * groups)) {}
  bool operator==(const Rows& o) const {
    return hi == o.hi && lo == o.lo && scales == o.scales && offsets == o.offsets;
  }
};

Rows quantized(const Kernels& table, int bits, const std::vector<float>& x, int cols, int k, int group, int n) {
  if (bits == 32) return Rows(0, 0, 0);  // float formats take the activations as they are, of any length
  const int groups = (k + group - 1) / group;
  Rows rows(k, groups, n);
  for (int t = 0; t < n; t++) {
    const QuantizedRow out = {k, group, &rows.hi[size_t(t * k)], &rows.lo[size_t(t * k)],
                              &rows.scales[size_t(t * groups)], &rows.offsets[size_t(t * groups)]};
    (bits == 16 ? table.quantize_a16 : table.quantize_a8)(&x[size_t(t * cols)], cols, out);
  }
  return rows;
}

std::vector<float> product(const Kernels& table, const Format& format, int bits, const Layout& layout, int64_t cols,
                           const std::vector<uint8_t>& packed, const std::vector<float>& x, const Rows& rows,
                           const std::vector<float>& bias, int group, int n) {
  std::vector<float> y(size_t(n * layout.tiles * 16), -1.0f);
  MatmulTask task = {};
  task.codes = packed.data();
  task.scales = packed.data() + layout.scale_offset;
  task.code_stride = layout.code_stride;
  task.scale_stride = layout.scale_stride;
  task.k = int32_t(layout.k);
  task.group = group;
  task.scale_per_group = format.group != 0;
  task.n_tokens = n;
  task.bias = bias.data();
  task.x = x.data();
  task.x_stride = cols;
  task.hi = rows.hi.data();
  task.lo = rows.lo.data();
  task.x_scales = rows.scales.data();
  task.offsets = rows.offsets.data();
  task.y = y.data();
  task.y_stride = layout.tiles * 16;
  const auto kernel = format.bits == 32   ? table.matmul_fp32
                      : format.bits == 16 ? table.matmul_fp16
                      : format.bits == 4  ? (bits == 16 ? table.matmul_w4a16 : table.matmul_w4a8)
                      : bits == 16        ? table.matmul_w8a16 : table.matmul_w8a8;
  kernel(task, 0, int(layout.tiles));
  return y;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && !memcmp(a.data(), b.data(), a.size() * sizeof(float));
}

// bits: those of the activations.
void products_agree(const Format& format, int bits, int64_t rows, int64_t cols, int n) {
  const Layout layout = layout_of(format, rows, cols);
  const std::vector<uint8_t> packed = random_matrix(format, rows, cols);
  std::vector<float> x = gaussians(size_t(n * cols));
  x[size_t(cols / 2)] = 300.0f;  // an outlier, as real activations have them
  const std::vector<float> bias = gaussians(size_t(layout.tiles * 16));
  const int k = int(layout.k), group = format.group ? format.group : format.bits == 4 ? 128 : k;
  const Kernels scalar = kernels_of("scalar");
  const Rows expected_rows = quantized(scalar, bits, x, int(cols), k, group, n);
  const std::vector<float> expected =
      product(scalar, format, bits, layout, cols, packed, x, expected_rows, bias, group, n);

  // The definition itself against unpacked weights in double precision: rounding an activation costs at most half
  // a step of its group's scale, and the float sums add a little.
  std::vector<float> weights(static_cast<size_t>(cols));
  const int64_t groups = (k + group - 1) / group;
  for (int64_t r = 0; r < rows; r++) {
    unpack_row(format, rows, cols, packed.data(), r, weights.data());
    for (int t = 0; t < n; t++) {
      double sum = bias[size_t(r)], bound = 0.0;
      for (int64_t c = 0; c < cols; c++) {
        const double weight = weights[size_t(c)], value = x[size_t(t * cols + c)];
        const double half_step = format.is_float() ? 0.0 : 0.5 * expected_rows.scales[size_t(t * groups + c / group)];
        sum += weight * value;
        bound += std::fabs(weight) * (half_step + 2e-6 * std::fabs(value));
      }
      CHECK(std::fabs(sum - expected[size_t(t * layout.tiles * 16 + r)]) <= 1.01 * bound + 1e-6);
    }
  }
  for (const char* isa : isas()) {
    const Kernels table = kernels_of(isa);
    CHECK(quantized(table, bits, x, int(cols), k, group, n) == expected_rows);
    CHECK(same_bits(product(table, format, bits, layout, cols, packed, x, expected_rows, bias, group, n), expected));
    // A token alone gives the bits it gives in company.
    const int last = n - 1;
    const std::vector<float> alone_x(x.begin() + last * cols, x.end());
    const Rows alone_rows = quantized(table, bits, alone_x, int(cols), k, group, 1);
    const std::vector<float> alone =
        product(table, format, bits, layout, cols, packed, alone_x, alone_rows, bias, group, 1);
    CHECK(same_bits(alone, std::vector<float>(expected.begin() + last * layout.tiles * 16, expected.end())));
  }
}

// Weights and activations that are all at the ends of their ranges, where narrow sums are the largest.
void extreme_codes_do_not_overflow(const char* name, int8_t x, int weight) {
  const Format& format = *find_format(name);
  const int k = 160, n = 15, group = format.group ? format.group : 128, groups = (k + group - 1) / group;
  const Layout layout = layout_of(format, 16, k);
  const std::vector<int8_t> codes(size_t(16 * k), int8_t(format.bits == 4 ? weight + 8 : weight));
  std::vector<uint8_t> packed(size_t(layout.n_bytes));
  pack(format, 16, k, codes.data(), std::vector<float>(size_t(16 * groups), 1.0f).data(), packed.data());
  Rows rows(k, groups, n);
  for (float& scale : rows.scales) scale = 1.0f;
  for (int8_t& code : rows.hi) code = x;
  for (int8_t& code : rows.lo) code = x;
  for (int bits : {8, 16}) {
    const int value = x * (bits == 16 ? 257 : 1);
    for (int i = 0; i < n * groups; i++)
      rows.offsets[size_t(i)] = -8 * value * std::min(group, k - i % groups * group);
    const std::vector<float> bias(16, 0.0f);
    for (const char* isa : isas())
      for (float y : product(kernels_of(isa), format, bits, layout, k, packed, {}, rows, bias, group, n))
        CHECK(y == float(k * weight * value));
  }
}

// Bytes in the layout of a KV cache: tiles of sixteen rows, one byte after the other, no scales.
void byte_products_agree(int tiles, int k, int n) {
  std::vector<int8_t> codes(size_t(tiles * k * 16));
  for (int8_t& c : codes) c = int8_t(std::uniform_int_distribution<int>(-128, 127)(random_bits));
  const std::vector<float> x = gaussians(size_t(n * k));
  const auto product = [&](const Kernels& table) {
    std::vector<float> y(size_t(n * tiles * 16), -1.0f);
    MatmulTask task = {};
    task.codes = reinterpret_cast<const uint8_t*>(codes.data());
    task.code_stride = int64_t(k) * 16;
    task.k = k;
    task.n_tokens = n;
    task.x = x.data();
    task.x_stride = k;
    task.y = y.data();
    task.y_stride = tiles * 16;
    table.matmul_s8(task, 0, tiles);
    return y;
  };
  const std::vector<float> expected = product(kernels_of("scalar"));
  for (int t = 0; t < n; t++)
    for (int row = 0; row < tiles * 16; row++) {
      double sum = 0.0, bound = 1e-6;
      for (int i = 0; i < k; i++) {
        const double term = double(x[size_t(t * k + i)]) * codes[size_t((row / 16 * k + i) * 16 + row % 16)];
        sum += term;
        bound += 1e-6 * std::fabs(term);
      }
      CHECK(std::fabs(sum - expected[size_t(t * tiles * 16 + row)]) <= bound);
    }
  for (const char* isa : isas()) CHECK(same_bits(product(kernels_of(isa)), expected));
}

void elementwise_agree(const Kernels& table) {
  const Kernels scalar = kernels_of("scalar");
  const int n = 208;
  const std::vector<float> x = gaussians(n, 20.0f), y = gaussians(n);
  const auto each = [&](auto&& apply) {
    std::vector<float> a = x, b = x;
    apply(scalar, a);
    apply(table, b);
    CHECK(same_bits(a, b));
  };
  each([&](const Kernels& k, std::vector<float>& v) { k.add(v.data(), y.data(), n); });
  each([&](const Kernels& k, std::vector<float>& v) { k.scale(v.data(), 0.3f, n); });
  each([&](const Kernels& k, std::vector<float>& v) { k.silu_mul(v.data(), y.data(), n); });
  each([&](const Kernels& k, std::vector<float>& v) { k.gelu_mul(v.data(), y.data(), n); });
  each([&](const Kernels& k, std::vector<float>& v) { k.gelu_mul(v.data(), nullptr, n); });
  each([&](const Kernels& k, std::vector<float>& v) { k.softcap(v.data(), 0.7f, 30.0f, n); });
  for (int columns : {208, 203, 193})
    each([&](const Kernels& k, std::vector<float>& v) {
      std::vector<float> weight = y, bias = y, padded_x = x;
      for (int i = columns; i < n; i++) weight[size_t(i)] = bias[size_t(i)] = padded_x[size_t(i)] = 0.0f;
      k.layer_norm(padded_x.data(), weight.data(), bias.data(), 1e-5f, columns, v.data());
      for (int i = columns; i < n; i++) CHECK(v[size_t(i)] == 0.0f);
    });
  each([&](const Kernels& k, std::vector<float>& v) { k.rms_norm(x.data(), y.data(), 1e-5f, n, v.data()); });
  each([&](const Kernels& k, std::vector<float>& v) { k.rotate(v.data(), y.data(), y.data() + 50, 50); });
}

// Weights of the counted scores, as the definition has them; nothing of what is outside, or (uncapped) is not a number.
void softmaxes_agree(const Kernels& table, float cap, bool scaled) {
  const int n = 256;
  const std::vector<float> scores = gaussians(n, 9.0f), factors = gaussians(n);
  for (int first : {0, 3, 16, 40})
    for (int last : {41, 48, 100, 256}) {
      const int begin = first / 16 * 16, end = (last + 15) / 16 * 16;
      const auto weights = [&](const Kernels& k, std::vector<float>& x) {
        x = scores;
        if (cap == 0.0f) x[size_t(first) + 1] = NAN;
        return k.softmax({x.data(), begin, end, first, last, 0.3f, cap, cap > 0.0f ? 1.5f : 0.45f,
                          scaled ? factors.data() : nullptr, scaled ? factors.data() : nullptr});
      };
      std::vector<float> expected, x;
      const SoftmaxSum expected_sum = weights(kernels_of("scalar"), expected), sum = weights(table, x);
      CHECK(!memcmp(&sum, &expected_sum, sizeof sum));
      CHECK(!memcmp(&x[size_t(begin)], &expected[size_t(begin)], size_t(end - begin) * sizeof(float)));
      double total = 0.0;
      for (int i = begin; i < end; i++) {
        const bool counts = i >= first && i < last && (cap > 0.0f || i != first + 1);
        double score = double(scores[size_t(i)]) * (scaled ? double(factors[size_t(i)]) : 1.0);
        if (cap > 0.0f) score = double(cap) * std::tanh(0.3 * score / double(cap));
        const double weight = std::exp2((score - double(sum.greatest)) * (cap > 0.0f ? 1.5 : 0.45));
        if (counts) total += weight;
        const double wanted = counts ? weight * (scaled ? double(factors[size_t(i)]) : 1.0) : 0.0;
        CHECK(counts ? std::fabs(x[size_t(i)] - wanted) <= 1e-5 * std::fabs(wanted) + 1e-37 : x[size_t(i)] == 0.0f);
      }
      CHECK(std::fabs(sum.sum - total) <= 1e-5 * total);
    }
}

// Blocks one after the other weigh as all of them at once would, and the first one is taken over as it is.
void merged_softmaxes_agree(const Kernels& table) {
  const std::vector<float> a = gaussians(48), b = gaussians(48);
  const SoftmaxSum first = {3.0f, 2.5f}, second = {5.0f, 1.25f};
  const auto merged = [&](const Kernels& k, std::vector<float>& mixed) {
    mixed.assign(48, 0.0f);
    SoftmaxSum total = kNoScores;
    k.softmax_merge(total, mixed.data(), first, a.data(), 0.7f, 48);
    CHECK(!memcmp(&total, &first, sizeof total) && same_bits(mixed, a));
    k.softmax_merge(total, mixed.data(), second, b.data(), 0.7f, 48);
    return total;
  };
  std::vector<float> expected, mixed;
  const SoftmaxSum expected_sum = merged(kernels_of("scalar"), expected), sum = merged(table, mixed);
  CHECK(!memcmp(&sum, &expected_sum, sizeof sum) && same_bits(mixed, expected));
  const double factor = std::exp2(-2.0 * 0.7f);
  CHECK(sum.greatest == 5.0f && std::fabs(sum.sum - (2.5 * factor + 1.25)) < 1e-6);
  for (size_t i = 0; i < 48; i++) CHECK(std::fabs(mixed[i] - (double(a[i]) * factor + double(b[i]))) < 1e-6);
}

void roundings_agree(const Kernels& table) {
  const Kernels scalar = kernels_of("scalar");
  std::vector<float> weights = gaussians(4096);
  for (size_t i = 0; i < 256; i++) weights[i] = float(int(i % 33) - 16) / 2.0f;  // ties
  for (int group : {16, 32, 128, 4096}) {
    const size_t n = weights.size() / size_t(group);
    std::vector<float> expected(n), found(n);
    CHECK(scalar.peaks(weights.data(), group, int(n), expected.data()));
    CHECK(table.peaks(weights.data(), group, int(n), found.data()));
    CHECK(same_bits(found, expected));
    std::vector<int8_t> codes(weights.size()), others(weights.size());
    for (float divisor : {-8.0f, 127.0f, 1e30f, 0.0f, 1e-45f}) {
      const auto kernel = [&](const Kernels& k) { return divisor == -8.0f ? k.codes_4 : k.codes_8; };
      for (size_t g = 0; g < n; g++) {
        const float scale = std::fabs(divisor) < 1e-3f ? divisor : expected[g] / divisor;
        kernel(scalar)(weights.data() + g * size_t(group), group, scale, codes.data() + g * size_t(group));
        kernel(table)(weights.data() + g * size_t(group), group, scale, others.data() + g * size_t(group));
      }
      CHECK(codes == others);
    }
  }
  float signs[16] = {0.0f, -2.0f, 2.0f}, peak = 0.0f;
  CHECK(table.peaks(signs, 16, 1, &peak) && peak == -2.0f);  // the first of two
  int8_t codes[16];
  for (float scale : {0.0f, 1e-45f}) {
    table.codes_4(signs, 16, scale, codes);
    for (int8_t code : codes) CHECK(code == 8);
  }
  for (float bad : {NAN, -NAN, INFINITY, -INFINITY}) {
    for (size_t at : {size_t(0), size_t(77)}) {
      std::vector<float> wrong(128, 1.0f), out(4);
      wrong[at] = bad;
      CHECK(!table.peaks(wrong.data(), 32, 4, out.data()));
    }
  }
}

void halves_agree(const Kernels& table) {
  const Kernels scalar = kernels_of("scalar");
  std::vector<uint16_t> halves(65536);
  for (size_t i = 0; i < halves.size(); i++) halves[i] = (i & 0x7c00) == 0x7c00 && (i & 0x3ff) ? 0 : uint16_t(i);
  std::vector<float> a(65536), b(65536);
  scalar.from_half(halves.data(), a.data(), 65536);
  table.from_half(halves.data(), b.data(), 65536);
  CHECK(same_bits(a, b));
  std::vector<uint16_t> back(65536);
  table.to_half(a.data(), back.data(), 65536);
  CHECK(back == halves);
  const std::vector<float> far = {1e9f, -1e9f, HUGE_VALF, -HUGE_VALF, std::nanf(""), 65519.0f, 65520.0f, 65504.0f,
                                  -65504.0f, -65520.0f, 1e-9f, 0.0f, 1.0f, -1.0f, 3e38f, -3e38f};
  const std::vector<uint16_t> most = {0x7bff, 0xfbff, 0x7bff, 0xfbff, 0xfbff, 0x7bff, 0x7bff, 0x7bff,
                                      0xfbff, 0xfbff, 0, 0, 0x3c00, 0xbc00, 0x7bff, 0xfbff};
  std::vector<uint16_t> finite(16);
  table.to_finite_half(far.data(), finite.data(), 16);
  CHECK(finite == most);
  // Floats between halves, where rounding decides: ties, neighbours of ties, overflow.
  std::vector<float> between;
  for (size_t i = 0; i + 1 < 0x7c00; i++)
    for (int step : {-1, 0, 1}) {
      float v = (a[i] + a[i + 1]) / 2;
      uint32_t bits;
      memcpy(&bits, &v, 4);
      bits += uint32_t(step);
      memcpy(&v, &bits, 4);
      between.push_back(v);
      between.push_back(-v);
    }
  for (float v : {65504.0f, 65519.0f, 65520.0f, 1e9f, 1e-9f, 0.0f, 2.98e-8f}) between.push_back(v);
  while (between.size() % 16) between.push_back(0.0f);
  std::vector<uint16_t> c(between.size()), d(between.size());
  scalar.to_half(between.data(), c.data(), int(between.size()));
  table.to_half(between.data(), d.data(), int(between.size()));
  CHECK(c == d);
}

// The vector exponential, through silu(v) * 1 = v / (1 + e^-v).
void silu_is_accurate(const Kernels& table) {
  for (float v = -80.0f; v < 80.0f; v += 0.37f) {
    float gate[16], one[16];
    for (int i = 0; i < 16; i++) gate[i] = v, one[i] = 1.0f;
    table.silu_mul(gate, one, 16);
    const double exact = double(v) / (1.0 + std::exp(-double(v)));
    CHECK(std::fabs(gate[3] - exact) <= 5e-7 * std::fabs(exact) + 1e-37);
  }
}

// Those of numeric.h, and near the genuine ones, for any number of them.
void exponentials_are_those_of_one_number(const Kernels& table) {
  std::vector<double> x = {0.0, -0.0, 1.0, -700.0, 700.0, -700.1, 700.1, -1e300, 1e300};
  for (double v = -699.9; v < 700.0; v += 1.37) x.push_back(v);
  std::vector<double> powers = x;
  table.exponentials(powers.data(), int(powers.size()));
  for (size_t i = 0; i < x.size(); i++) {
    CHECK(powers[i] == rkllm::exponential(x[i]));
    if (std::fabs(x[i]) <= 700.0) CHECK(std::fabs(powers[i] - std::exp(x[i])) <= 1e-15 * std::exp(x[i]));
  }
  CHECK(powers[0] == 1.0 && powers[5] == 0.0 && std::isinf(powers[6]) && powers[7] == 0.0 && std::isinf(powers[8]));
}

// Weights of the tokens of a vocabulary, and their sum, which every instruction set adds up in one order.
void token_weights_are_exponentials_and_their_sum(const Kernels& table) {
  const Kernels scalar = kernels_of("scalar");
  for (const int n : {1, 7, 16, 17, 511, 512, 513, 1500}) {
    std::vector<float> logits = gaussians(size_t(n), 30.0f);
    logits[size_t(n / 2)] = std::nanf("");
    if (n > 8) logits[0] = HUGE_VALF, logits[size_t(n - 1)] = -HUGE_VALF;
    float greatest = -HUGE_VALF;
    for (float logit : logits)
      if (std::isfinite(logit) && logit > greatest) greatest = logit;
    CHECK(table.greatest_finite(logits.data(), n) == greatest);
    std::vector<double> weights(static_cast<size_t>(n)), expected(static_cast<size_t>(n));
    const double total = table.token_weights(logits.data(), n, greatest, 0.7, weights.data());
    CHECK(total == scalar.token_weights(logits.data(), n, greatest, 0.7, expected.data()));
    double sum = 0.0;
    for (size_t i = 0; i < size_t(n); i++) {
      const double weight =
          std::isfinite(logits[i]) ? rkllm::exponential((double(logits[i]) - double(greatest)) / 0.7) : 0.0;
      CHECK(weights[i] == weight && expected[i] == weight);
      sum += weight;
      expected[i] = double(int(i % 5)) - 300.0;
    }
    CHECK(std::fabs(total - sum) <= 1e-13 * sum);
    weights = expected;
    CHECK(table.exponentials(weights.data(), n) == scalar.exponentials(expected.data(), n));
  }
}

void gelu_is_accurate(const Kernels& table) {
  for (double v = -30.0; v < 30.0; v += 0.037) {
    float alone[16], gate[16], half[16];
    for (int i = 0; i < 16; i++) alone[i] = gate[i] = float(v), half[i] = 0.5f;
    table.gelu_mul(alone, nullptr, 16);
    table.gelu_mul(gate, half, 16);
    const double x = double(float(v));
    const double exact = 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
    CHECK(std::fabs(alone[3] - exact) <= 4e-7 * std::fabs(x));
    CHECK(gate[3] == 0.5f * alone[3]);
  }
}

void softcap_is_accurate(const Kernels& table) {
  for (float v : {-1e9f, -500.0f, -31.0f, -3.0f, -0.01f, 0.0f, 1e-4f, 0.4f, 7.0f, 29.0f, 88.0f, 1e4f, 3e38f}) {
    float x[16];
    for (float& each : x) each = v;
    table.softcap(x, 0.25f, 30.0f, 16);
    CHECK(std::fabs(x[5] - 30.0 * std::tanh(0.25 * double(v) / 30.0)) <= 30.0 * 2e-7);
  }
}

// Against double precision, with a mean that is far from zero.
void layer_norm_is_accurate(const Kernels& table) {
  const int columns = 83;
  std::vector<float> x(96), weight(96), bias(96), out(96);
  double mean = 0.0, variance = 0.0;
  for (size_t i = 0; i < columns; i++) {
    x[i] = 5.0f + gaussian(), weight[i] = gaussian(), bias[i] = gaussian();
    mean += double(x[i]) / columns;
  }
  for (size_t i = 0; i < columns; i++) variance += (double(x[i]) - mean) * (double(x[i]) - mean) / columns;
  table.layer_norm(x.data(), weight.data(), bias.data(), 1e-5f, columns, out.data());
  for (size_t i = 0; i < columns; i++) {
    const double exact = (double(x[i]) - mean) / std::sqrt(variance + 1e-5) * double(weight[i]) + double(bias[i]);
    CHECK(std::fabs(out[i] - exact) <= 1e-5);
  }
}

// Numbers of hostile models: codes stay in their range, so that sums of them cannot overflow.
void what_is_not_finite_becomes_codes_in_range(const Kernels& table) {
  constexpr int k = 70, padded_k = 96, group = 32;
  for (const float odd : {HUGE_VALF, -HUGE_VALF, std::nanf(""), 3e38f, -3e38f}) {
    std::vector<float> x(padded_k, 0.5f), scales(3);
    for (int at : {0, 17, 31, 40, 69}) x[size_t(at)] = odd;
    std::vector<int8_t> hi(padded_k), lo(padded_k);
    std::vector<int32_t> offsets(3);
    const QuantizedRow row = {padded_k, group, hi.data(), lo.data(), scales.data(), offsets.data()};
    for (bool wide : {false, true}) {
      (wide ? table.quantize_a16 : table.quantize_a8)(x.data(), k, row);
      for (size_t g = 0; g < 3; g++) {
        int32_t sum = 0;
        for (size_t i = g * group; i < (g + 1) * group; i++) {
          const int32_t value = wide ? 256 * hi[i] + lo[i] : hi[i];
          CHECK(std::abs(value) <= (wide ? 32639 : 127));
          sum += value;
        }
        CHECK(offsets[g] == -8 * sum);
      }
    }
  }
}

}  // namespace

int main() {
  CHECK(!isas().empty() && !strcmp(isas()[0], "scalar"));
  for (int i = 0; const Format* format = format_at(i); i++) {
    const int64_t cols = format->group > 64 ? 1024 : 192;
    for (ActivationType type : {ActivationType::AUTO, ActivationType::INT8}) {
      const int bits = activation_bits(*format, type);
      if (type != ActivationType::AUTO && bits == format->activation_bits) continue;
      for (int n : {1, 2, 3, 5, 7, 8, 11}) products_agree(*format, bits, 83, cols, n);
      if (format->group <= 32) products_agree(*format, bits, 5, 96, 4);
      if (!format->group) products_agree(*format, bits, 33, 172, 3);  // columns that need padding
    }
  }
  for (int x : {-128, -127, 127}) {
    for (int weight : {-8, 7}) extreme_codes_do_not_overflow("w4a16", int8_t(x), weight);
    for (int weight : {-127, 127})
      for (const char* name : {"w8a8", "w8a16_g32"}) extreme_codes_do_not_overflow(name, int8_t(x), weight);
  }
  for (int n : {1, 2, 3, 5, 8}) byte_products_agree(5, 37, n);
  for (const char* isa : isas()) {
    const Kernels table = kernels_of(isa);
    elementwise_agree(table);
    for (float cap : {0.0f, 20.0f})
      for (bool scaled : {false, true}) softmaxes_agree(table, cap, scaled);
    merged_softmaxes_agree(table);
    roundings_agree(table);
    halves_agree(table);
    silu_is_accurate(table);
    gelu_is_accurate(table);
    softcap_is_accurate(table);
    exponentials_are_those_of_one_number(table);
    token_weights_are_exponentials_and_their_sum(table);
    layer_norm_is_accurate(table);
    what_is_not_finite_becomes_codes_in_range(table);
  }
  return check::result();
}
