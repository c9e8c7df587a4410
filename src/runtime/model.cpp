// SPDX-License-Identifier: Apache-2.0
#include "model.h"

#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <mutex>
#include <tuple>

#include "error.h"
#include "rkllm_file.h"

namespace rkllm {
namespace {

// Puts the tensors of a file together as the layers need them.
struct Reader {
  const Container& file;
  Tensors tensors;
  int64_t weight_bytes = 0;

  void read_factors(Linear& linear) {
    const auto read = [&](const std::string& name, int64_t n) {
      Buffer<float> values;
      if (!tensors.has(name)) return values;
      values = tensors.vector(name, n);
      tensors.n_parameters -= n;  // known from the other tensors
      for (int64_t i = 0; i < n; i++)
        if (!(values[i] > 0.0f)) refuse(file, "tensor '" + name + "' has factors that are not positive");
      return values;
    };
    linear.in_factors = read(linear.name + ".in_factors", linear.weight.cols);
    linear.out_factors = read(linear.name + ".out_factors", linear.weight.rows);
  }

  // <name>.weight and, where it is there, <name>.bias
  Linear linear(const std::string& name, int64_t rows, int64_t cols) {
    Linear linear;
    linear.name = name;
    linear.weight = tensors.matrix(name + ".weight", rows, cols);
    if (tensors.has(name + ".bias")) linear.bias = tensors.vector(name + ".bias", rows);
    read_factors(linear);
    weight_bytes += linear.weight.layout.n_bytes;
    return linear;
  }

  // [rope_dim / 2], radians per position
  std::vector<float> frequencies(const std::string& name, const Spec& s) {
    const Buffer<float> values = tensors.vector(name, s.rope_dim / 2);
    for (uint32_t i = 0; i < s.rope_dim / 2; i++)
      if (!(values[i] >= 0.0f && values[i] <= 16.0f)) refuse(file, name + " is out of range");
    return std::vector<float>(values.data(), values.data() + s.rope_dim / 2);
  }

  // A matrix of `rows` for each head, without bias, in fp32 or fp16: quantized kernels do not know rows of heads.
  Linear per_head(const std::string& name, int n_heads, int64_t rows, int64_t cols) {
    Linear linear;
    linear.name = name;
    linear.n_heads = n_heads;
    linear.weight = tensors.matrix(name + ".weight", n_heads * rows, cols);
    if (!linear.weight.format->is_float()) refuse(file, "tensor '" + name + ".weight' must be fp32 or fp16");
    read_factors(linear);
    weight_bytes += linear.weight.layout.n_bytes;
    return linear;
  }

  // <name>.weight and, for layer norms, <name>.bias
  Norm norm(const std::string& name, const Spec& s) {
    Norm norm;
    norm.weight = tensors.vector(name + ".weight", s.dim);
    if (s.norm_type == "layer") norm.bias = tensors.vector(name + ".bias", s.dim);
    return norm;
  }
};

void read_latent_attention(Reader& read, const Spec& s, const std::string& prefix, Layer& layer) {
  const int64_t heads = s.n_heads;
  layer.q_a = read.linear(prefix + "attn_q_a", s.q_lora_rank, s.dim);
  layer.q_a_norm.weight = read.tensors.vector(prefix + "attn_q_a_norm.weight", s.q_lora_rank);
  layer.q = read.linear(prefix + "attn_q_b", heads * s.head_dim, s.q_lora_rank);
  layer.kv_a = read.linear(prefix + "attn_kv_a_mqa", key_dim(s), s.dim);
  layer.kv_a_norm.weight = read.tensors.vector(prefix + "attn_kv_a_norm.weight", s.kv_lora_rank);
  layer.k_b = read.per_head(prefix + "attn_k_b", int(heads), s.kv_lora_rank, s.head_dim - s.rope_dim);
  layer.v_b = read.per_head(prefix + "attn_v_b", int(heads), s.v_head_dim, s.kv_lora_rank);
  layer.output = read.linear(prefix + "attn_output", s.dim, heads * s.v_head_dim);
}

Layer read_layer(Reader& read, const Spec& s, uint32_t index) {
  const std::string prefix = "blk." + std::to_string(index) + ".";
  const int64_t q_width = int64_t(s.n_heads) * s.head_dim, kv_width = int64_t(s.n_kv_heads) * s.head_dim;
  Layer layer;
  layer.attn_norm = read.norm(prefix + "attn_norm", s);
  if (s.kv_lora_rank) {
    read_latent_attention(read, s, prefix, layer);
  } else {
    layer.q = read.linear(prefix + "attn_q", q_width, s.dim);
    layer.k = read.linear(prefix + "attn_k", kv_width, s.dim);
    layer.v = read.linear(prefix + "attn_v", kv_width, s.dim);
    layer.output = read.linear(prefix + "attn_output", s.dim, q_width);
  }
  if (s.qk_norms) {
    layer.q_norm.weight = read.tensors.vector(prefix + "attn_q_norm.weight", s.head_dim);
    layer.k_norm.weight = read.tensors.vector(prefix + "attn_k_norm.weight", s.head_dim);
  }
  if (s.post_norms) layer.post_attn_norm = read.norm(prefix + "post_attention_norm", s);
  if (!s.parallel_residual) layer.ffn_norm = read.norm(prefix + "ffn_norm", s);
  if (s.ffn_gated) layer.gate = read.linear(prefix + "ffn_gate", s.ffn_dim, s.dim);
  layer.up = read.linear(prefix + "ffn_up", s.ffn_dim, s.dim);
  layer.down = read.linear(prefix + "ffn_down", s.dim, s.ffn_dim);
  if (s.post_norms) layer.post_ffn_norm = read.norm(prefix + "post_ffw_norm", s);
  return layer;
}

std::shared_ptr<const Model> read_model(std::shared_ptr<const Container> file) {
  check_file(*file, "model");
  auto model = std::make_shared<Model>();
  model->file = file;
  model->spec = read_spec(*file);
  const Spec& s = model->spec;
  model->format = std::string(file->get_string("rkllm.format"));
  Reader read = {*file, Tensors(*file)};
  model->embedding = read.tensors.matrix("token_embd.weight", s.vocab_size, s.dim);
  for (uint32_t i = 0; i < s.n_layers; i++) model->layers.push_back(read_layer(read, s, i));
  model->output_norm = read.norm("output_norm", s);
  if (read.tensors.has("output.weight")) {
    model->output = read.linear("output", s.vocab_size, s.dim);
  } else {
    model->output.name = "output";
    model->output.weight = model->embedding;
    read.weight_bytes += model->embedding.layout.n_bytes;
  }
  model->n_parameters = read.tensors.n_parameters;
  model->rope = Rope(s, read.frequencies("rope_inv_freq.weight", s),
                     s.rope_long ? read.frequencies("rope_inv_freq_long.weight", s) : std::vector<float>());
  if (s.rope_local) model->local_rope = Rope(s, read.frequencies("rope_inv_freq_local.weight", s), {});
  read.tensors.check_all_taken();
  model->weight_bytes = read.weight_bytes;
  model->tokenizer = std::make_shared<Tokenizer>(*file);
  if (model->tokenizer->vocab_size() > int32_t(s.vocab_size))
    refuse(*file, format("the tokenizer has %d tokens, but the embedding only %u rows", model->tokenizer->vocab_size(),
                         s.vocab_size));
  for (int64_t id : file->get_ints("rkllm.end_tokens")) {
    if (id < 0 || id >= int64_t(s.vocab_size)) refuse(*file, "rkllm.end_tokens has an id outside the vocabulary");
    model->end_tokens.push_back(int32_t(id));
  }
  return model;
}

// The first linear layer that fits; nullptr: none does.
template <class Fits>
const Linear* first_linear(const Model& model, const Fits& fits) {
  if (fits(model.output)) return &model.output;
  for (const Layer& layer : model.layers)
    for (const Linear* linear : {&layer.q, &layer.k, &layer.v, &layer.output, &layer.q_a, &layer.kv_a, &layer.k_b,
                                 &layer.v_b, &layer.gate, &layer.up, &layer.down})
      if (linear->weight.format && fits(*linear)) return linear;
  return nullptr;
}

// Which file a path names right now, so that a replaced file is not mistaken for the one that is open.
using FileKey = std::tuple<uint64_t, uint64_t, int64_t, int64_t, int64_t>;

FileKey key_of(const std::string& path) {
  struct stat info = {};
  if (stat(path.c_str(), &info) != 0) return {};
  return {info.st_dev, info.st_ino, info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec};
}

}  // namespace

bool Model::is_end(int32_t token) const {
  return std::find(end_tokens.begin(), end_tokens.end(), token) != end_tokens.end();
}

const Linear* find_linear(const Model& model, const std::string& name) {
  return first_linear(model, [&](const Linear& linear) { return linear.name == name; });
}

bool has_4_bit_matrix(const Model& model) {
  return first_linear(model, [](const Linear& linear) { return linear.weight.format->bits == 4; });
}

std::shared_ptr<const Model> open_model(const std::string& path) {
  // Never destroyed: a run on another thread may outlive the static objects at exit.
  static std::mutex& mutex = *new std::mutex;
  static auto& open_models = *new std::map<FileKey, std::weak_ptr<const Model>>;
  std::lock_guard<std::mutex> lock(mutex);
  const FileKey key = key_of(path);
  if (const auto shared = open_models[key].lock()) return shared;
  std::shared_ptr<const Model> model = read_model(Container::open(path));
  open_models[key] = model;
  for (auto entry = open_models.begin(); entry != open_models.end();)
    entry = entry->second.expired() ? open_models.erase(entry) : std::next(entry);
  return model;
}

}  // namespace rkllm
