// SPDX-License-Identifier: Apache-2.0
#include "transformer.h"

#include <algorithm>

#include "numeric.h"

namespace rkllm {
namespace {

AttentionShape attention_shape(const Spec& spec) {
  return {int(spec.n_heads), int(spec.n_kv_heads), int(key_dim(spec)), int(value_dim(spec)), spec.attn_scale,
          spec.attn_softcap};
}

}  // namespace

Workspace::Workspace(const Model& model, int max_rows, int max_positions, int n_threads)
    : dim_stride(padded(model.spec.dim)),
      q_stride(padded(int64_t(model.spec.n_heads) * model.spec.head_dim)),
      kv_stride(padded(int64_t(model.spec.n_kv_heads) * key_dim(model.spec))),
      mixed_stride(padded(int64_t(model.spec.n_heads) * value_dim(model.spec))),
      ffn_stride(padded(model.spec.ffn_dim)),
      x(max_rows * dim_stride), normed(max_rows * dim_stride), q(max_rows * q_stride), k(max_rows * kv_stride),
      v(max_rows * kv_stride), mixed(max_rows * mixed_stride), projected(max_rows * dim_stride),
      gate(max_rows * ffn_stride), up(max_rows * ffn_stride),
      cosines(int64_t(max_rows) * model.rope.half()), sines(int64_t(max_rows) * model.rope.half()),
      local_cosines(int64_t(max_rows) * model.local_rope.half()),
      local_sines(int64_t(max_rows) * model.local_rope.half()),
      activations(max_rows, std::max({dim_stride, q_stride, ffn_stride, padded(model.spec.q_lora_rank),
                                      padded(int64_t(model.spec.n_heads) * model.spec.v_head_dim)})),
      attention(attention_shape(model.spec), max_positions, n_threads),
      latent_stride(model.spec.kv_lora_rank ? padded(int64_t(model.spec.n_heads) * key_dim(model.spec)) : 0),
      values_stride(padded(int64_t(model.spec.n_heads) * model.spec.v_head_dim)),
      q_a_stride(padded(model.spec.q_lora_rank)),
      scratch_stride(
          latent_stride ? max_rows * head_slot(std::max(model.spec.kv_lora_rank, model.spec.v_head_dim)) : 0),
      q_latent(max_rows * latent_stride), values(max_rows * values_stride), q_a(max_rows * q_a_stride),
      scratch(n_threads * scratch_stride) {
  rows.reserve(size_t(max_rows));
}

namespace {

// Whether a layer is one of those that come every so many layers: the last of each period.
bool is_every(uint32_t period, int layer) { return period && (uint32_t(layer) + 1) % period == 0; }

// Add what the pass's adapters change about products of its rows first ... first + n - 1, which are the activations.
void add_adapters(Workspace& w, int first, int n, std::initializer_list<Product> products, const Kernels& kernels,
                  ThreadPool& pool) {
  w.additions.clear();
  const int64_t x_stride = w.activations.stride();
  for (const Workspace::Adapted& run : w.adapted) {
    const int begin = std::max(run.first, first) - first, end = std::min(run.first + run.n, first + n) - first;
    for (const Product& product : products)
      if (const LowRank* low_rank = end > begin ? run.adapter->find(*product.linear) : nullptr)
        w.additions.push_back({low_rank, run.adapter->scale, w.activations.data() + begin * x_stride, x_stride,
                               end - begin, product.y + begin * product.y_stride, product.y_stride});
  }
  if (!w.additions.empty()) add_low_rank(w.additions, w.between, kernels, pool);
}

// One forward pass: the arguments that every step shares.
struct Pass {
  const Model& model;
  const Spec& spec;
  int n;  // rows
  Workspace& w;
  ThreadPool& pool;
  const Kernels& kernels;

  void embed() const {
    pool.run(n, [&](int t, int) {
      float* row = w.x.data() + t * w.dim_stride;
      const Matrix& table = model.embedding;
      if (w.rows[size_t(t)].embed) {
        memcpy(row, w.rows[size_t(t)].embed, spec.dim * sizeof(float));
        return;
      }
      unpack_row(*table.format, table.rows, table.cols, table.packed, w.rows[size_t(t)].id, row);
      if (spec.embed_scale != 1.0f) kernels.scale(row, spec.embed_scale, int(w.dim_stride));
    });
  }

  // Linear layers of the current activations.
  void multiply(std::initializer_list<Product> products) const {
    rkllm::multiply(w.activations, products, kernels, pool);
    add_adapters(w, 0, n, products, kernels, pool);
    if (w.tap) {
      const Activations& x = w.activations;
      w.tap(products.begin()->linear->name + ".weight", x.data(), n, x.cols(), x.stride());
    }
  }

  // The same where each head has a matrix of its own.
  void multiply_heads(const Linear& linear, const Buffer<float>& x, Heads x_at, Buffer<float>& y, Heads y_at) const {
    rkllm::multiply_heads(linear, n, x.data(), x_at, y.data(), y_at, w.scratch.data(), w.scratch_stride, kernels, pool);
    for (const Workspace::Adapted& run : w.adapted)
      if (const LowRank* low_rank = run.adapter->find(linear))
        add_low_rank_heads(*low_rank, run.adapter->scale, run.n, x.data() + run.first * x_at.stride, x_at,
                           y.data() + run.first * y_at.stride, y_at, w.between, kernels, pool);
  }

  void norm_row(const Norm& norm, const float* x, float* out) const {
    if (norm.bias.size())
      kernels.layer_norm(x, norm.weight.data(), norm.bias.data(), spec.norm_eps, int(spec.dim), out);
    else
      kernels.rms_norm(x, norm.weight.data(), spec.norm_eps, int(spec.dim), out);
  }

  // x += scale * norm(projected), one row of it.
  void add_row(const Norm& post_norm, int t) const {
    float* added = w.projected.data() + t * w.dim_stride;
    if (spec.post_norms) norm_row(post_norm, added, added);
    if (spec.residual_scale != 1.0f) kernels.scale(added, spec.residual_scale, int(w.dim_stride));
    kernels.add(w.x.data() + t * w.dim_stride, added, int(w.dim_stride));
  }

  // normed = norm(x), after what is projected has been added to x (post_norm: its norm; nullptr: there is nothing yet).
  // Rows are quantized for the layer that reads them in the same job, for at the end of each job threads wait.
  void add_and_norm(const Norm* post_norm, const Norm& norm, const Linear* reader) const {
    w.activations.set(w.normed.data(), w.dim_stride, n, spec.dim);
    w.activations.fill(reader, kernels, pool, [&](int t) {
      if (post_norm) add_row(*post_norm, t);
      norm_row(norm, w.x.data() + t * w.dim_stride, w.normed.data() + t * w.dim_stride);
    });
  }

  bool is_global(int layer) const { return is_every(spec.global_layer_period, layer); }

  // A query or key head, just projected, before it is compared.
  void prepare_head(const Norm& norm, const float* cosines, const float* sines, int half, float* head) const {
    if (spec.qk_norms) kernels.rms_norm(head, norm.weight.data(), spec.norm_eps, int(spec.head_dim), head);
    kernels.rotate(head, cosines, sines, half);
  }

  void rotate_and_store(int layer) const {
    const int stride = model.rope.half(), head_dim = int(spec.head_dim);
    const int half = is_every(spec.unrotated_layer_period, layer) ? 0 : stride;
    const bool is_local = spec.rope_local && !is_global(layer);
    const Layer& norms = model.layers[size_t(layer)];
    pool.run(n, [&](int t, int) {
      const float* cosines = (is_local ? w.local_cosines : w.cosines).data() + int64_t(t) * stride;
      const float* sines = (is_local ? w.local_sines : w.sines).data() + int64_t(t) * stride;
      const Workspace::Row& row = w.rows[size_t(t)];
      const uint32_t length = uint32_t(row.position) + 1;
      if (spec.logn_context && length > spec.logn_context) {
        const double factor = logarithm(double(length)) / logarithm(double(spec.logn_context));
        kernels.scale(w.q.data() + t * w.q_stride, float(factor), int(w.q_stride));
      }
      for (int h = 0; h < int(spec.n_heads); h++)
        prepare_head(norms.q_norm, cosines, sines, half, w.q.data() + t * w.q_stride + h * head_dim);
      for (int h = 0; h < int(spec.n_kv_heads); h++) {
        float* key = w.k.data() + t * w.kv_stride + h * head_dim;
        prepare_head(norms.k_norm, cosines, sines, half, key);
        row.segment->cache->put(layer, h, row.position, key, w.v.data() + t * w.kv_stride + h * head_dim, kernels);
      }
    });
  }

  // Of the queries given, from the cache.
  void attend_layer(int index, const Buffer<float>& q, int64_t q_stride) const {
    const int window = is_global(index) ? 0 : int(spec.sliding_window);
    attend(attention_shape(spec), index, window, w.attended.data(), int(w.attended.size()), q.data(), q_stride,
           w.mixed.data(), w.mixed_stride, w.attention, kernels, pool);
  }

  void head_attention(const Layer& layer, int index) const {
    multiply({{&layer.q, w.q.data(), w.q_stride}, {&layer.k, w.k.data(), w.kv_stride},
              {&layer.v, w.v.data(), w.kv_stride}});
    rotate_and_store(index);
    attend_layer(index, w.q, w.q_stride);
    w.activations.set(w.mixed.data(), w.mixed_stride, n, layer.output.weight.cols);
  }

  // Multi-head latent attention (arXiv:2405.04434) without expanding keys and values: q . (k_b c) = (q k_b) . c and
  // sum p (v_b c) = v_b (sum p c) for latents c, so that one cached [c, rotated key] serves all heads.
  void latent_attention(const Layer& layer, int index) const {
    const int heads = int(spec.n_heads), latent = int(spec.kv_lora_rank), key_width = int(key_dim(spec));
    const int head_dim = int(spec.head_dim), rope_dim = int(spec.rope_dim), half = model.rope.half();
    multiply({{&layer.q_a, w.q_a.data(), w.q_a_stride}, {&layer.kv_a, w.k.data(), w.kv_stride}});
    pool.run(n, [&](int t, int) {
      float* q_a = w.q_a.data() + t * w.q_a_stride;
      float* key = w.k.data() + t * w.kv_stride;
      kernels.rms_norm(q_a, layer.q_a_norm.weight.data(), spec.lora_norm_eps, int(spec.q_lora_rank), q_a);
      kernels.rms_norm(key, layer.kv_a_norm.weight.data(), spec.lora_norm_eps, latent, key);
      kernels.rotate(key + latent, w.cosines.data() + int64_t(t) * half, w.sines.data() + int64_t(t) * half, half);
      const Workspace::Row& row = w.rows[size_t(t)];
      row.segment->cache->put(index, 0, row.position, key, key, kernels);
    });
    w.activations.set(w.q_a.data(), w.q_a_stride, n, spec.q_lora_rank);
    multiply({{&layer.q, w.q.data(), w.q_stride}});
    multiply_heads(layer.k_b, w.q, {head_dim, w.q_stride}, w.q_latent, {key_width, w.latent_stride});
    pool.run(n, [&](int t, int) {
      for (int h = 0; h < heads; h++) {
        float* rotated = w.q.data() + t * w.q_stride + (h + 1) * head_dim - rope_dim;
        kernels.rotate(rotated, w.cosines.data() + int64_t(t) * half, w.sines.data() + int64_t(t) * half, half);
        memcpy(w.q_latent.data() + t * w.latent_stride + h * key_width + latent, rotated,
               size_t(rope_dim) * sizeof(float));
      }
    });
    attend_layer(index, w.q_latent, w.latent_stride);
    multiply_heads(layer.v_b, w.mixed, {latent, w.mixed_stride}, w.values, {spec.v_head_dim, w.values_stride});
    w.activations.set(w.values.data(), w.values_stride, n, layer.output.weight.cols);
  }

  // This and feed_forward leave in projected what the next norm adds to x.
  void attention(int index) const {
    const Layer& layer = model.layers[size_t(index)];
    const Norm* post_norm = index ? &model.layers[size_t(index) - 1].post_ffn_norm : nullptr;
    add_and_norm(post_norm, layer.attn_norm, spec.kv_lora_rank ? &layer.q_a : &layer.q);
    if (spec.kv_lora_rank) latent_attention(layer, index);
    else head_attention(layer, index);
    multiply({{&layer.output, w.projected.data(), w.dim_stride}});
  }

  void feed_forward(int index) const {
    const Layer& layer = model.layers[size_t(index)];
    if (spec.parallel_residual) {  // the output of the norm is still that of the attention
      pool.run(n, [&](int t, int) { add_row(layer.post_attn_norm, t); });
      w.activations.set(w.normed.data(), w.dim_stride, n, spec.dim);
    } else {
      add_and_norm(&layer.post_attn_norm, layer.ffn_norm, spec.ffn_gated ? &layer.gate : &layer.up);
    }
    if (spec.ffn_gated)
      multiply({{&layer.gate, w.gate.data(), w.ffn_stride}, {&layer.up, w.up.data(), w.ffn_stride}});
    else multiply({{&layer.up, w.gate.data(), w.ffn_stride}});
    const auto activate = spec.activation == "gelu" ? kernels.gelu_mul : kernels.silu_mul;
    w.activations.set(w.gate.data(), w.ffn_stride, n, spec.ffn_dim);
    w.activations.fill(&layer.down, kernels, pool, [&](int t) {
      activate(w.gate.data() + t * w.ffn_stride, spec.ffn_gated ? w.up.data() + t * w.ffn_stride : nullptr,
               int(w.ffn_stride));
    });
    multiply({{&layer.down, w.projected.data(), w.dim_stride}});
  }
};

}  // namespace

void forward(const Model& model, const Segment* segments, int n_segments, Workspace& w, ThreadPool& pool) {
  w.rows.clear();
  w.attended.clear();
  w.adapted.clear();
  for (const Segment* s = segments; s < segments + n_segments; s++) {
    const int64_t at = int64_t(w.rows.size()) * model.rope.half();
    const float* embed = s->embed;
    w.attended.push_back({s->cache, s->position, s->n});
    const bool goes_on = s > segments && s[-1].adapter == s->adapter;
    if (s->adapter && goes_on) w.adapted.back().n += s->n;
    else if (s->adapter) w.adapted.push_back({s->adapter, int(w.rows.size()), s->n});
    for (int i = 0; i < s->n; i++) {
      const bool is_token = s->ids && s->ids[i] >= 0;
      w.rows.push_back({s, s->position + i, is_token ? s->ids[i] : -1, is_token ? nullptr : embed});
      if (!is_token) embed += model.spec.dim;
    }
    model.rope.angles(s->position, s->n, s->length, w.cosines.data() + at, w.sines.data() + at);
    if (model.spec.rope_local)
      model.local_rope.angles(s->position, s->n, s->length, w.local_cosines.data() + at, w.local_sines.data() + at);
  }
  const Pass pass = {model, model.spec, int(w.rows.size()), w, pool, kernels()};
  pass.embed();
  for (int i = 0; i < int(model.spec.n_layers); i++) {
    pass.attention(i);
    pass.feed_forward(i);
  }
  pass.add_and_norm(&model.layers.back().post_ffn_norm, model.output_norm, nullptr);
}

void project(const Model& model, Workspace& workspace, int first, int n, float* out, ThreadPool& pool) {
  workspace.activations.set(workspace.normed.data() + first * workspace.dim_stride, workspace.dim_stride, n,
                            model.spec.dim);
  const Spec& spec = model.spec;
  const int64_t stride = padded(spec.vocab_size);
  multiply(workspace.activations, {{&model.output, out, stride}}, kernels(), pool);
  add_adapters(workspace, first, n, {{&model.output, out, stride}}, kernels(), pool);
  if (workspace.tap) {
    const Activations& x = workspace.activations;
    workspace.tap(model.output.name + ".weight", x.data(), n, x.cols(), x.stride());
  }
  if (spec.logit_softcap == 0.0f && spec.logit_scale == 1.0f) return;
  pool.run(n, [&](int t, int) {
    if (spec.logit_softcap > 0.0f)
      kernels().softcap(out + t * stride, spec.logit_scale, spec.logit_softcap, int(stride));
    else
      kernels().scale(out + t * stride, spec.logit_scale, int(stride));
  });
}

const float* project(const Model& model, Workspace& workspace, int n, ThreadPool& pool) {
  const int64_t needed = n * padded(model.spec.vocab_size);
  if (workspace.logits.size() < needed) workspace.logits.resize(needed);
  project(model, workspace, 0, n, workspace.logits.data(), pool);
  return workspace.logits.data();
}

}  // namespace rkllm
