// SPDX-License-Identifier: Apache-2.0
#include "attention.h"

#include <cstring>

namespace rkllm {

AttentionScratch::AttentionScratch(const AttentionShape& shape, int max_positions, int n_threads) {
  const int64_t shared = shape.n_heads / shape.n_kv_heads;
  scores_size_ = shared * padded(max_positions);
  mixed_size_ = shared * padded(shape.value_dim);
  scores_.resize(scores_size_ * n_threads);
  mixed_.resize(mixed_size_ * n_threads);
}

namespace {

struct Attention {
  const AttentionShape& shape;
  const KvCache& cache;
  const Kernels& kernels;
  int layer;
  int window;

  // All query heads that share a key head, for one position: keys and values are read once for the group.
  void group(int head, int position, const float* q, float* out, float* scores, float* mixed) const {
    const int shared = shape.n_heads / shape.n_kv_heads, length = position + 1;
    const int first = window && length > window ? length - window : 0, begin = first / 16 * 16;
    const auto matmul = cache.type() == KvType::INT8 ? kernels.matmul_s8
                        : cache.type() == KvType::F16 ? kernels.matmul_fp16 : kernels.matmul_fp32;
    const float* key_scales = cache.key_scales(layer, head);
    const float* value_scales = cache.value_scales(layer, head);
    const int64_t score_stride = padded(length), mixed_stride = padded(shape.value_dim);

    MatmulTask task = {};  // scores = q . k
    task.codes = cache.keys(layer, head);
    task.code_stride = cache.key_stride();
    task.k = shape.key_dim;
    task.n_tokens = shared;
    task.x = q + int64_t(head) * shared * shape.key_dim;
    task.x_stride = shape.key_dim;
    task.y = scores;
    task.y_stride = score_stride;
    matmul(task, begin / 16, int(score_stride / 16));

    float sums[256];
    for (int h = 0; h < shared; h++) {
      float* row = scores + h * score_stride;
      for (int i = first; key_scales && i < length; i++) row[i] *= key_scales[i];
      if (shape.softcap > 0.0f) kernels.softcap(row + begin, shape.scale, shape.softcap, length - begin);
      sums[h] = kernels.softmax_sum(row, first, length, shape.softcap > 0.0f ? 1.0f : shape.scale);
      for (int i = first; value_scales && i < length; i++) row[i] *= value_scales[i];
    }

    task.codes = cache.values(layer, head) + int64_t(begin) * 16 * cache.bytes_per_value();  // mixed = softmax . v
    task.code_stride = cache.value_stride();
    task.k = length - begin;
    task.x = scores + begin;
    task.x_stride = score_stride;
    task.y = mixed;
    task.y_stride = mixed_stride;
    matmul(task, 0, int(mixed_stride / 16));

    for (int h = 0; h < shared; h++) {
      kernels.scale(mixed + h * mixed_stride, 1.0f / sums[h], int(mixed_stride));
      memcpy(out + (int64_t(head) * shared + h) * shape.value_dim, mixed + h * mixed_stride,
             size_t(shape.value_dim) * sizeof(float));
    }
  }
};

}  // namespace

void attend(const AttentionShape& shape, int layer, int window, const AttentionRows* rows, int n_entries, const float* q,
            int64_t q_stride, float* out, int64_t out_stride, AttentionScratch& scratch, const Kernels& kernels,
            ThreadPool& pool) {
  int n = 0;
  for (int i = 0; i < n_entries; i++) n += rows[i].n;
  pool.run(n * shape.n_kv_heads, [&](int item, int thread) {
    const int t = n - 1 - item / shape.n_kv_heads;  // the longest first, so that threads end together
    int entry = 0, first = 0;
    while (t - first >= rows[entry].n) first += rows[entry++].n;
    const Attention attention = {shape, *rows[entry].cache, kernels, layer, window};
    attention.group(item % shape.n_kv_heads, rows[entry].position + t - first, q + t * q_stride, out + t * out_stride,
                    scratch.scores(thread), scratch.mixed(thread));
  });
}

}  // namespace rkllm
