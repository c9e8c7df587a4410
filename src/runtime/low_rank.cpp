// SPDX-License-Identifier: Apache-2.0
#include "low_rank.h"

#include <algorithm>

namespace rkllm {
namespace {

// Rows and tiles of one item: few tiles of a, which has few, and results that stay on an item's stack.
constexpr int kRows = 16, kTilesOfA = 1, kTilesOfB = 4;
// Multiply-adds that are done sooner than other threads have been told of them.
constexpr int64_t kAlone = 1 << 15;

int64_t between_stride(const Addition& addition) { return padded(addition.low_rank->a.weight.rows); }

void reserve(Buffer<float>& buffer, int64_t n) {
  if (buffer.size() < n) buffer.resize(n);
}

// y = x * w^T for some tiles of w, whose first lands in the first column of y.
void multiply_tiles(const Matrix& w, int tile, int tiles, const float* x, int64_t x_stride, int n, float* y,
                    int64_t y_stride, const Kernels& kernels) {
  MatmulTask task = {};
  task.codes = w.packed + tile * w.layout.code_stride;
  task.code_stride = w.layout.code_stride;
  task.k = int32_t(w.layout.k);
  task.n_tokens = n;
  task.x = x;
  task.x_stride = x_stride;
  task.y = y;
  task.y_stride = y_stride;
  (w.format->bits == 32 ? kernels.matmul_fp32 : kernels.matmul_fp16)(task, 0, tiles);
}

int blocks_of(const Addition& addition, const Linear& side, int step) {
  return (addition.n + kRows - 1) / kRows * int((side.weight.layout.tiles + step - 1) / step);
}

// Run body(addition, its rows of between, first row, rows, first tile, tiles) for every block of one side, as one job.
template <class Body>
void for_blocks(const std::vector<Addition>& additions, Linear LowRank::*side, int step, float* between,
                ThreadPool& pool, const Body& body) {
  int items = 0;
  int64_t work = 0;
  for (const Addition& each : additions) {
    const Matrix& weight = (each.low_rank->*side).weight;
    items += blocks_of(each, each.low_rank->*side, step);
    work += each.n * weight.rows * weight.cols;
  }
  const auto block = [&](int item, int) {
    float* own = between;
    for (const Addition& each : additions) {
      const Linear& linear = each.low_rank->*side;
      const int blocks = blocks_of(each, linear, step);
      if (item < blocks) {
        const int row_blocks = (each.n + kRows - 1) / kRows;
        const int row = item % row_blocks * kRows, tile = item / row_blocks * step;
        body(each, own, row, std::min(kRows, each.n - row), tile,
             std::min(step, int(linear.weight.layout.tiles) - tile));
        return;
      }
      item -= blocks;
      own += each.n * between_stride(each);
    }
  };
  if (work > kAlone) pool.run(items, block);
  else for (int item = 0; item < items; item++) block(item, 0);
}

}  // namespace

void add_low_rank(const std::vector<Addition>& additions, Buffer<float>& between, const Kernels& kernels,
                  ThreadPool& pool) {
  int64_t floats = 0;
  for (const Addition& each : additions) floats += each.n * between_stride(each);
  reserve(between, floats);
  for_blocks(additions, &LowRank::a, kTilesOfA, between.data(), pool,
             [&](const Addition& each, float* own, int row, int rows, int tile, int tiles) {
               const int64_t stride = between_stride(each);
               float* out = own + row * stride + 16 * tile;
               multiply_tiles(each.low_rank->a.weight, tile, tiles, each.x + row * each.x_stride, each.x_stride, rows,
                              out, stride, kernels);
               for (int t = 0; t < rows; t++) kernels.scale(out + t * stride, each.scale, 16 * tiles);
             });
  for_blocks(additions, &LowRank::b, kTilesOfB, between.data(), pool,
             [&](const Addition& each, float* own, int row, int rows, int tile, int tiles) {
               alignas(64) float results[kRows * kTilesOfB * 16];
               const int64_t stride = between_stride(each), width = 16 * tiles;
               multiply_tiles(each.low_rank->b.weight, tile, tiles, own + row * stride, stride, rows, results, width,
                              kernels);
               for (int t = 0; t < rows; t++)
                 kernels.add(each.y + (row + t) * each.y_stride + 16 * tile, results + t * width, int(width));
             });
}

void add_low_rank_heads(const LowRank& low_rank, float scale, int n, const float* x, Heads x_at, float* y, Heads y_at,
                        Buffer<float>& between, const Kernels& kernels, ThreadPool& pool) {
  const int heads = low_rank.b.n_heads;
  const int64_t rank = low_rank.b.weight.cols, out = low_rank.b.weight.rows / heads;
  const int64_t inner_stride = padded(heads * rank), scratch_stride = n * head_slot(std::max(rank, out));
  reserve(between, n * inner_stride + n * heads * out + pool.size() * scratch_stride);
  float* inner = between.data();
  float* added = inner + n * inner_stride;
  float* scratch = added + n * heads * out;
  const Heads inner_at = {rank, inner_stride}, added_at = {out, heads * out};
  multiply_heads(low_rank.a, n, x, x_at, inner, inner_at, scratch, scratch_stride, kernels, pool);
  pool.run(n, [&](int t, int) { kernels.scale(inner + t * inner_stride, scale, int(inner_stride)); });
  multiply_heads(low_rank.b, n, inner, inner_at, added, added_at, scratch, scratch_stride, kernels, pool);
  pool.run(n * heads, [&](int item, int) {
    const int t = item / heads, head = item % heads;
    float* row = y + t * y_at.stride + head * y_at.head_stride;
    const float* from = added + t * added_at.stride + head * out;
    for (int64_t i = 0; i < out; i++) row[i] += from[i];
  });
}

}  // namespace rkllm
