// SPDX-License-Identifier: Apache-2.0
#include "attention.h"

#include <algorithm>
#include <cstring>

namespace rkllm {
namespace {

constexpr int kBlock = 256;          // keys; part of the definition, for it decides the order of sums
constexpr int kWantedQueries = 48;   // that read a block together: enough to be limited by arithmetic, not by memory
constexpr int kMostPositions = 32;   // of an item, so that a chunk of a prompt makes several
constexpr int kUnitsPerThread = 4;   // with fewer items than this, threads share the blocks of an item
constexpr int kAhead = 128;          // positions between what is read and what memory is asked for
constexpr int64_t kWaiting = 1 << 20;  // floats of results that wait for each other; more than this is not shared

// Positions whose queries read blocks together.
int positions_per_item(const AttentionShape& shape) {
  return std::max(1, std::min(kMostPositions, kWantedQueries / shape.shared()));
}

int queries_per_item(const AttentionShape& shape) { return positions_per_item(shape) * shape.shared(); }

}  // namespace

AttentionScratch::AttentionScratch(const AttentionShape& shape, int max_positions, int n_threads)
    : threads_(size_t(n_threads)) {
  const int64_t queries = queries_per_item(shape), value_width = padded(shape.value_dim);
  for (PerThread& own : threads_) {
    own.queries.resize(queries * shape.key_dim);
    own.scores.resize(queries * kBlock);
    own.mixed.resize(queries * value_width);
    own.total.resize(queries * value_width);
    own.sums.resize(queries);
    own.total_sums.resize(queries);
  }
  if (n_threads == 1) return;
  const int64_t one_row = int64_t(shape.n_heads) * ((max_positions + kBlock - 1) / kBlock);
  const int64_t capacity = std::max(one_row, kWaiting / value_width);
  waiting_.resize(capacity * value_width);
  waiting_sums_.resize(capacity);
}

struct Attention {
  const AttentionShape& shape;
  const Kernels& kernels;
  int layer;
  int window;
  const float* q;
  int64_t q_stride;
  float* out;
  int64_t out_stride;
  AttentionScratch& scratch;

  using Item = AttentionItem;
  struct Range {
    int begin, end;
  };
  // Of 2, for e to the power of a score.
  float exponent() const { return (shape.softcap > 0.0f ? 1.0f : shape.scale) * 1.44269504f; }
  int64_t value_width() const { return padded(shape.value_dim); }
  int first_key(int position) const { return window && position >= window ? position + 1 - window : 0; }

  void plan(const AttentionRows* rows, int n_entries) const {
    const int step = positions_per_item(shape);
    scratch.items_.clear();
    int row = 0;
    for (int i = 0; i < n_entries; row += rows[i++].n)
      for (int t = 0; t < rows[i].n; t += step) {
        const int n = std::min(step, rows[i].n - t), position = rows[i].position + t;
        scratch.items_.push_back({rows[i].cache, position, n, row + t, first_key(position) / kBlock,
                                  (position + n + kBlock - 1) / kBlock, 0, 0});
      }
    // The longest first, so that threads end together.
    std::sort(scratch.items_.begin(), scratch.items_.end(), [](const Item& a, const Item& b) {
      return a.n_blocks() > b.n_blocks();
    });
    int unit = 0;
    int64_t waiting = 0;
    for (Item& item : scratch.items_) {
      item.first_unit = unit;
      item.first_waiting = waiting;
      unit += item.n_blocks();
      waiting += waiting_results(item);
    }
  }

  // One for each block and query of an item.
  int64_t waiting_results(const Item& item) const { return int64_t(item.n_blocks()) * item.n * shape.n_heads; }

  // The queries of an item that share a key head, one after the other: position by position, head by head.
  const float* queries_of(const Item& item, int head, float* memory) const {
    const int64_t row_size = int64_t(shape.shared()) * shape.key_dim;
    const float* first = q + item.row * q_stride + head * row_size;
    if (item.n == 1) return first;
    for (int t = 0; t < item.n; t++)
      memcpy(memory + t * row_size, first + t * q_stride, size_t(row_size) * sizeof(float));
    return memory;
  }

  // The positions of an item, from its first, that reach a block of keys.
  Range reach(const Item& item, int block) const {
    Range range = {0, item.n};
    while (item.position + range.begin < block * kBlock) range.begin++;
    while (first_key(item.position + range.end - 1) >= (block + 1) * kBlock) range.end--;
    return range;
  }

  // For all queries that reach the block: scores, softmax and mixed values.
  void block(const Item& item, int head, int index, const float* queries, float* scores, float* mixed,
             SoftmaxSum* sums) const {
    const KvCache& cache = *item.cache;
    const int start = index * kBlock, shared = shape.shared();
    const int t_begin = reach(item, index).begin, t_end = reach(item, index).end;
    const int begin = std::max(first_key(item.position + t_begin) - start, 0) / 16 * 16;
    const int end = std::min(item.position + t_end - start, kBlock), padded_end = int(padded(end));
    const auto matmul = cache.type() == KvType::INT8 ? kernels.matmul_s8
                        : cache.type() == KvType::F16 ? kernels.matmul_fp16 : kernels.matmul_fp32;
    scores += t_begin * shared * kBlock;

    MatmulTask task = {};  // scores = q . k
    task.codes = cache.keys(layer, head) + start / 16 * cache.key_stride();
    task.code_stride = cache.key_stride();
    task.k = shape.key_dim;
    task.n_tokens = (t_end - t_begin) * shared;
    task.x = queries + t_begin * shared * shape.key_dim;
    task.x_stride = shape.key_dim;
    task.y = scores;
    task.y_stride = kBlock;
    task.ahead = kAhead / 16 * cache.key_stride();
    matmul(task, begin / 16, padded_end / 16);

    SoftmaxTask softmax = {scores, begin, padded_end, 0, 0, shape.scale, shape.softcap, exponent(), nullptr, nullptr};
    if (cache.type() == KvType::INT8) {
      softmax.key_scales = cache.key_scales(layer, head) + start;
      softmax.value_scales = cache.value_scales(layer, head) + start;
    }
    for (int i = t_begin * shared; i < t_end * shared; i++, softmax.scores += kBlock) {
      const int position = item.position + i / shared;
      softmax.first = std::max(first_key(position) - start, 0);
      softmax.last = std::min(position + 1 - start, kBlock);
      sums[i] = kernels.softmax(softmax);
    }

    // mixed = weights . v
    task.codes = cache.values(layer, head) + int64_t(start + begin) * 16 * cache.bytes_per_value();
    task.code_stride = cache.value_stride();
    task.ahead = kAhead * 16 * cache.bytes_per_value();
    task.k = end - begin;
    task.x = scores + begin;
    task.x_stride = kBlock;
    task.y = mixed + t_begin * shared * value_width();
    task.y_stride = value_width();
    matmul(task, 0, int(value_width() / 16));
  }

  void merge(const Item& item, int index, const float* mixed, const SoftmaxSum* sums, float* total,
             SoftmaxSum* total_sums) const {
    const Range range = reach(item, index);
    const int width = int(value_width());
    for (int i = range.begin * shape.shared(); i < range.end * shape.shared(); i++)
      kernels.softmax_merge(total_sums[i], total + i * width, sums[i], mixed + i * width, exponent(), width);
  }

  void start(const Item& item, float* total, SoftmaxSum* total_sums) const {
    const int n = item.n * shape.shared();
    memset(total, 0, size_t(n * value_width()) * sizeof(float));
    std::fill(total_sums, total_sums + n, kNoScores);
  }

  void finish(const Item& item, int head, float* total, const SoftmaxSum* total_sums) const {
    for (int i = 0; i < item.n * shape.shared(); i++) {
      float* values = total + i * value_width();
      kernels.scale(values, 1.0f / total_sums[i].sum, int(value_width()));
      float* to = out + (item.row + i / shape.shared()) * out_stride +
                  (int64_t(head) * shape.shared() + i % shape.shared()) * shape.value_dim;
      memcpy(to, values, size_t(shape.value_dim) * sizeof(float));
    }
  }

  void whole_item(const Item& item, int head, int thread) const {
    AttentionScratch::PerThread& own = scratch.threads_[size_t(thread)];
    const float* queries = queries_of(item, head, own.queries.data());
    start(item, own.total.data(), own.total_sums.data());
    for (int b = item.first_block; b < item.end_block; b++) {
      block(item, head, b, queries, own.scores.data(), own.mixed.data(), own.sums.data());
      merge(item, b, own.mixed.data(), own.sums.data(), own.total.data(), own.total_sums.data());
    }
    finish(item, head, own.total.data(), own.total_sums.data());
  }

  // Where one block of an item leaves its results until all are there.
  int64_t waiting_at(const Item& item, int head, int index) const {
    return item.first_waiting + (int64_t(index - item.first_block) * shape.n_kv_heads + head) * item.n * shape.shared();
  }

  void shared_block(int unit, int thread) const {
    AttentionScratch::PerThread& own = scratch.threads_[size_t(thread)];
    const int head = unit % shape.n_kv_heads;
    unit /= shape.n_kv_heads;
    size_t i = scratch.items_.size() - 1;
    while (scratch.items_[i].first_unit > unit) i--;
    const Item& item = scratch.items_[i];
    const int index = item.first_block + unit - item.first_unit;
    const int64_t at = waiting_at(item, head, index);
    block(item, head, index, queries_of(item, head, own.queries.data()), own.scores.data(),
          scratch.waiting_.data() + at * value_width(), scratch.waiting_sums_.data() + at);
  }

  void shared_item(const Item& item, int head, int thread) const {
    AttentionScratch::PerThread& own = scratch.threads_[size_t(thread)];
    start(item, own.total.data(), own.total_sums.data());
    for (int b = item.first_block; b < item.end_block; b++) {
      const int64_t at = waiting_at(item, head, b);
      merge(item, b, scratch.waiting_.data() + at * value_width(), scratch.waiting_sums_.data() + at, own.total.data(),
            own.total_sums.data());
    }
    finish(item, head, own.total.data(), own.total_sums.data());
  }

  void run(const AttentionRows* rows, int n_entries, ThreadPool& pool) const {
    plan(rows, n_entries);
    if (scratch.items_.empty()) return;
    const std::vector<Item>& items = scratch.items_;
    const int heads = shape.n_kv_heads, n_items = int(items.size()) * heads;
    const int n_units = (items.back().first_unit + items.back().n_blocks()) * heads;
    const auto item_of = [&](int i) -> const Item& { return items[size_t(i / heads)]; };
    if (n_items >= pool.size() * kUnitsPerThread || n_units == n_items ||
        items.back().first_waiting + waiting_results(items.back()) > scratch.waiting_sums_.size()) {
      pool.run(n_items, [&](int i, int thread) { whole_item(item_of(i), i % heads, thread); });
    } else {
      pool.run(n_units, [&](int unit, int thread) { shared_block(unit, thread); });
      pool.run(n_items, [&](int i, int thread) { shared_item(item_of(i), i % heads, thread); });
    }
  }
};

void attend(const AttentionShape& shape, int layer, int window, const AttentionRows* rows, int n_entries,
            const float* q, int64_t q_stride, float* out, int64_t out_stride, AttentionScratch& scratch,
            const Kernels& kernels, ThreadPool& pool) {
  const Attention attention = {shape, kernels, layer, window, q, q_stride, out, out_stride, scratch};
  attention.run(rows, n_entries, pool);
}

}  // namespace rkllm
