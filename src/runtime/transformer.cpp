// SPDX-License-Identifier: Apache-2.0
#include "transformer.h"

#include <algorithm>

namespace rkllm {

Workspace::Workspace(const Model& model, int max_rows, int max_positions, int n_threads)
    : dim_stride(padded(model.spec.dim)),
      q_stride(padded(int64_t(model.spec.n_heads) * model.spec.head_dim)),
      kv_stride(padded(int64_t(model.spec.n_kv_heads) * model.spec.head_dim)),
      ffn_stride(padded(model.spec.ffn_dim)),
      x(max_rows * dim_stride), normed(max_rows * dim_stride), q(max_rows * q_stride), k(max_rows * kv_stride),
      v(max_rows * kv_stride), mixed(max_rows * q_stride), projected(max_rows * dim_stride),
      gate(max_rows * ffn_stride), up(max_rows * ffn_stride),
      cosines(int64_t(max_rows) * model.rope.half()), sines(int64_t(max_rows) * model.rope.half()),
      activations(max_rows, std::max({dim_stride, q_stride, ffn_stride})),
      attention({int(model.spec.n_heads), int(model.spec.n_kv_heads), int(model.spec.head_dim), model.spec.attn_scale},
                max_positions, n_threads) {}

namespace {

// One forward pass: the arguments that every step shares.
struct Pass {
  const Model& model;
  const Spec& spec;
  const Rows& rows;
  KvCache& cache;
  Workspace& w;
  ThreadPool& pool;
  const Kernels& kernels;

  void embed() const {
    pool.run(rows.n, [&](int t, int) {
      float* row = w.x.data() + t * w.dim_stride;
      const Matrix& table = model.embedding;
      if (rows.ids) unpack_row(*table.format, table.rows, table.cols, table.packed, rows.ids[t], row);
      else memcpy(row, rows.embed + int64_t(t) * spec.dim, spec.dim * sizeof(float));
    });
  }

  void norm(const Buffer<float>& weight) const {
    pool.run(rows.n, [&](int t, int) {
      kernels.rms_norm(w.x.data() + t * w.dim_stride, weight.data(), spec.norm_eps, int(spec.dim),
                       w.normed.data() + t * w.dim_stride);
    });
    w.activations.set(w.normed.data(), w.dim_stride, rows.n, spec.dim);
  }

  // x += projected
  void residual() const {
    pool.run(rows.n, [&](int t, int) {
      kernels.add(w.x.data() + t * w.dim_stride, w.projected.data() + t * w.dim_stride, int(w.dim_stride));
    });
  }

  void rotate_and_store(int layer) const {
    const int half = model.rope.half(), head_dim = int(spec.head_dim);
    pool.run(rows.n, [&](int t, int) {
      const float* cosines = w.cosines.data() + int64_t(t) * half;
      const float* sines = w.sines.data() + int64_t(t) * half;
      for (int h = 0; h < int(spec.n_heads); h++)
        kernels.rotate(w.q.data() + t * w.q_stride + h * head_dim, cosines, sines, half);
      for (int h = 0; h < int(spec.n_kv_heads); h++) {
        float* key = w.k.data() + t * w.kv_stride + h * head_dim;
        kernels.rotate(key, cosines, sines, half);
        cache.put(layer, h, rows.position + t, key, w.v.data() + t * w.kv_stride + h * head_dim, kernels);
      }
    });
  }

  void attention(int index) const {
    const Layer& layer = model.layers[size_t(index)];
    norm(layer.attn_norm);
    multiply(w.activations,
             {{&layer.q, w.q.data(), w.q_stride}, {&layer.k, w.k.data(), w.kv_stride}, {&layer.v, w.v.data(), w.kv_stride}},
             kernels, pool);
    rotate_and_store(index);
    attend({int(spec.n_heads), int(spec.n_kv_heads), int(spec.head_dim), spec.attn_scale}, cache, index, rows.position,
           rows.n, w.q.data(), w.q_stride, w.mixed.data(), w.q_stride, w.attention, kernels, pool);
    w.activations.set(w.mixed.data(), w.q_stride, rows.n, layer.output.weight.cols);
    multiply(w.activations, {{&layer.output, w.projected.data(), w.dim_stride}}, kernels, pool);
    residual();
  }

  void feed_forward(int index) const {
    const Layer& layer = model.layers[size_t(index)];
    norm(layer.ffn_norm);
    multiply(w.activations, {{&layer.gate, w.gate.data(), w.ffn_stride}, {&layer.up, w.up.data(), w.ffn_stride}},
             kernels, pool);
    pool.run(rows.n, [&](int t, int) {
      kernels.silu_mul(w.gate.data() + t * w.ffn_stride, w.up.data() + t * w.ffn_stride, int(w.ffn_stride));
    });
    w.activations.set(w.gate.data(), w.ffn_stride, rows.n, spec.ffn_dim);
    multiply(w.activations, {{&layer.down, w.projected.data(), w.dim_stride}}, kernels, pool);
    residual();
  }
};

}  // namespace

void forward(const Model& model, const Rows& rows, KvCache& cache, Workspace& workspace, ThreadPool& pool) {
  const Pass pass = {model, model.spec, rows, cache, workspace, pool, kernels()};
  model.rope.angles(rows.position, rows.n, rows.length, workspace.cosines.data(), workspace.sines.data());
  pass.embed();
  for (int i = 0; i < int(model.spec.n_layers); i++) {
    pass.attention(i);
    pass.feed_forward(i);
  }
  pass.norm(model.output_norm);
}

void project(const Model& model, Workspace& workspace, int first, int n, float* out, ThreadPool& pool) {
  workspace.activations.set(workspace.normed.data() + first * workspace.dim_stride, workspace.dim_stride, n,
                            model.spec.dim);
  multiply(workspace.activations, {{&model.output, out, padded(model.spec.vocab_size)}}, kernels(), pool);
}

}  // namespace rkllm
