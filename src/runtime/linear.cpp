// SPDX-License-Identifier: Apache-2.0
#include "linear.h"

#include <algorithm>

#include "error.h"

namespace rkllm {
namespace {

constexpr int kUngrouped = 128;     // columns that share an activation scale when the 4-bit weights have no groups
constexpr int kTileStep = 4;        // items are multiples of so many tiles, the widest block of float kernels; ...
constexpr int kIntegerStep = 2;     // ... of integer ones, where arithmetic counts and not long streams of memory
constexpr int kItemsPerThread = 8;
constexpr size_t kMostProducts = 4;  // of one job
constexpr int64_t kAhead = 2048;     // bytes that float weights are asked for in advance, in each stream

int activation_group(const Format& format, int64_t k) {
  if (format.group) return format.group;
  return format.bits == 4 ? kUngrouped : int(k);
}

using Kernel = void (*)(const MatmulTask&, int, int);

Kernel kernel_of(const Format& format, ActivationType type, const Kernels& kernels) {
  const bool wide = activation_bits(format, type) == 16;
  if (format.bits == 32) return kernels.matmul_fp32;
  if (format.bits == 16) return kernels.matmul_fp16;
  if (format.bits == 4) return wide ? kernels.matmul_w4a16 : kernels.matmul_w4a8;
  return wide ? kernels.matmul_w8a16 : kernels.matmul_w8a8;
}

}  // namespace

Activations::Activations(int max_rows, int64_t max_cols) : max_rows_(max_rows), max_cols_(max_cols) {}

void Activations::set(const float* x, int64_t stride, int n, int64_t cols) {
  x_ = x;
  stride_ = stride;
  n_ = n;
  cols_ = cols;
  used_ = 0;
}

// The rows as a matrix wants them, if they are quantized like that already.
Activations::Quantized* Activations::find(const Matrix& weight) {
  const int bits = activation_bits(*weight.format, type_), group = activation_group(*weight.format, weight.layout.k);
  for (size_t i = 0; i < used_; i++)
    if (quantized_[i].bits == bits && quantized_[i].group == group) return &quantized_[i];
  return nullptr;
}

// Memory for them.
Activations::Quantized& Activations::add(const Matrix& weight) {
  if (used_ == quantized_.size()) quantized_.emplace_back();
  Quantized& q = quantized_[used_++];
  q.bits = activation_bits(*weight.format, type_);
  q.group = activation_group(*weight.format, weight.layout.k);
  q.k = weight.layout.k;
  const auto reserve = [](auto& buffer, int64_t n) {
    if (buffer.size() < n) buffer.resize(n);
  };
  const int64_t bytes = std::max(int64_t(max_rows_) * (max_cols_ + 31) / 32 * 32, n_ * q.k);
  const int64_t scales = int64_t(max_rows_) * ((q.k + q.group - 1) / q.group);
  reserve(q.hi, bytes);
  if (q.bits == 16) reserve(q.lo, bytes);
  reserve(q.scales, scales);
  reserve(q.offsets, scales);
  return q;
}

void Activations::quantize_row(Quantized& q, int row, const Kernels& kernels) const {
  const int64_t at = row * ((q.k + q.group - 1) / q.group);
  const QuantizedRow out = {int32_t(q.k), q.group, q.hi.data() + row * q.k,
                            q.bits == 16 ? q.lo.data() + row * q.k : nullptr, q.scales.data() + at,
                            q.offsets.data() + at};
  (q.bits == 16 ? kernels.quantize_a16 : kernels.quantize_a8)(x_ + row * stride_, int(cols_), out);
}

void Activations::prepare(const Matrix& weight, const Kernels& kernels, ThreadPool& pool, MatmulTask& task) {
  task.n_tokens = n_;
  if (weight.format->is_float()) {
    task.x = x_;
    task.x_stride = stride_;
    return;
  }
  Quantized* q = find(weight);
  if (!q) {
    q = &add(weight);
    pool.run(n_, [&](int row, int) { quantize_row(*q, row, kernels); });
  }
  task.group = q->group;
  task.hi = q->hi.data();
  task.lo = q->lo.data();
  task.x_scales = q->scales.data();
  task.offsets = q->offsets.data();
}

void multiply(Activations& x, std::initializer_list<Product> products, const Kernels& kernels, ThreadPool& pool) {
  struct Part {
    MatmulTask task;
    Kernel kernel;
    int tiles;
    int first_item;
  };
  Part parts[kMostProducts];
  int total_tiles = 0, unit = x.rows() > 2 ? kIntegerStep : kTileStep;
  const size_t count = products.size();
  if (count > kMostProducts) throw Error(ErrorCode::INTERNAL, "too many products in one job");
  for (size_t i = 0; i < count; i++) {
    const Linear& linear = *products.begin()[i].linear;
    const Layout& layout = linear.weight.layout;
    MatmulTask task = {};
    task.codes = linear.weight.packed;
    task.scales = linear.weight.packed + layout.scale_offset;
    task.code_stride = layout.code_stride;
    task.scale_stride = layout.scale_stride;
    task.k = int32_t(layout.k);
    task.ahead = kAhead;
    task.scale_per_group = linear.weight.format->group != 0;
    task.bias = linear.bias.data();
    task.y = products.begin()[i].y;
    task.y_stride = products.begin()[i].y_stride;
    x.prepare(linear.weight, kernels, pool, task);
    parts[i] = {task, kernel_of(*linear.weight.format, x.type(), kernels), int(layout.tiles), 0};
    total_tiles += int(layout.tiles);
    if (linear.weight.format->is_float()) unit = kTileStep;
  }
  // Items of equal size over all parts; sizes depend on the thread count, results do not.
  const int step = std::max(1, total_tiles / (pool.size() * kItemsPerThread) / unit) * unit;
  int items = 0;
  for (size_t i = 0; i < count; i++) {
    parts[i].first_item = items;
    items += (parts[i].tiles + step - 1) / step;
  }
  pool.run(items, [&](int item, int) {
    size_t i = count - 1;
    while (parts[i].first_item > item) i--;
    const int begin = (item - parts[i].first_item) * step;
    parts[i].kernel(parts[i].task, begin, std::min(begin + step, parts[i].tiles));
  });
}

void multiply_heads(const Linear& linear, int n, const float* x, Heads x_at, float* y, Heads y_at, float* scratch,
                    int64_t scratch_stride, const Kernels& kernels, ThreadPool& pool) {
  const Layout& layout = linear.weight.layout;
  const int64_t rows = linear.weight.rows / linear.n_heads, slot = head_slot(rows);
  pool.run(linear.n_heads, [&](int head, int thread) {
    const int64_t first = head * rows, tile = first / 16;  // a tile may hold rows of two heads
    MatmulTask task = {};
    task.codes = linear.weight.packed + tile * layout.code_stride;
    task.code_stride = layout.code_stride;
    task.k = int32_t(layout.k);
    task.n_tokens = n;
    task.x = x + head * x_at.head_stride;
    task.x_stride = x_at.stride;
    task.y = scratch + thread * scratch_stride;
    task.y_stride = slot;
    kernel_of(*linear.weight.format, ActivationType::AUTO, kernels)(task, 0, int((first + rows + 15) / 16 - tile));
    for (int t = 0; t < n; t++)
      memcpy(y + t * y_at.stride + head * y_at.head_stride, task.y + t * slot + (first - 16 * tile),
             size_t(rows) * sizeof(float));
  });
}

}  // namespace rkllm
