// SPDX-License-Identifier: Apache-2.0
#include "model.h"

#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <mutex>
#include <tuple>

#include "checksum.h"
#include "error.h"
#include "kernels/cpu.h"

namespace rkllm {
namespace {

constexpr int64_t kVersion = 1;
constexpr uint32_t kTypeF32 = 0, kTypeI8 = 24, kTypeI64 = 27;  // GGML type numbers
constexpr char kChecksums[] = "checksums";

[[noreturn]] void refuse(const Container& file, const std::string& why) {
  throw Error(ErrorCode::MODEL_FILE, file.path() + ": " + why);
}

void check_kind(const Container& file) {
  const std::string advice = "; convert it: rkllm-ext convert " + file.path() + " OUT.rkllm";
  if (!file.find_value("general.architecture")) refuse(file, "a GGUF file without an architecture, not a .rkllm model");
  const std::string_view architecture = file.get_string("general.architecture");
  if (architecture != "rkllm")
    refuse(file, "a GGUF file of the architecture '" + std::string(architecture) + "', not a .rkllm model" + advice);
  const int64_t version = file.get_int("rkllm.version");
  if (version != kVersion)
    throw Error(ErrorCode::UNSUPPORTED_MODEL,
                format("%s: the file has version %lld of the format, this library reads %lld; convert the model again",
                       file.path().c_str(), static_cast<long long>(version), static_cast<long long>(kVersion)));
  const std::string_view type = file.get_string("general.type");
  if (type != "model") refuse(file, "is of the type '" + std::string(type) + "', not a model");
  for (std::string_view feature : file.get_strings("rkllm.required"))
    throw Error(ErrorCode::UNSUPPORTED_MODEL, file.path() + ": needs the feature '" + std::string(feature) +
                                                  "', which this version does not have; update rkllm_ext");
}

void check_sums(const Container& file) {
  const std::vector<TensorInfo>& tensors = file.tensors();
  if (tensors.empty() || tensors.back().name != kChecksums || tensors.back().type != kTypeI64 ||
      tensors.back().n_bytes != tensors.size() * 8)
    refuse(file, "the tensor 'checksums' is missing or not the last; the file is damaged");
  const uint8_t* sums = tensors.back().data;
  std::vector<char> wrong(tensors.size(), 0);
  ThreadPool pool(std::min(cpu_cores(), 8));
  pool.run(int(tensors.size()), [&](int item, int) {
    const size_t i = size_t(item);
    uint64_t expected;
    memcpy(&expected, sums + i * 8, 8);
    const bool header = i + 1 == tensors.size();
    wrong[i] = expected != (header ? checksum(file.bytes(), file.header_size())
                                   : checksum(tensors[i].data, tensors[i].n_bytes));
  });
  for (size_t i = 0; i < tensors.size(); i++)
    if (wrong[i])
      refuse(file, (i + 1 == tensors.size() ? std::string("the header") : "tensor '" + tensors[i].name + "'") +
                       " does not match its checksum: the file was altered or damaged; copy or convert it again");
}

// Gives out the tensors of a file by name and notes which were taken.
class Tensors {
 public:
  explicit Tensors(const Container& file) : file_(file), taken_(file.tensors().size(), false) {
    formats_ = file.get_strings("rkllm.tensor.format");
    rows_ = file.get_ints("rkllm.tensor.rows");
    cols_ = file.get_ints("rkllm.tensor.cols");
    if (formats_.size() != taken_.size() || rows_.size() != taken_.size() || cols_.size() != taken_.size())
      refuse(file, format("rkllm.tensor.format, rows and cols have %zu, %zu and %zu elements for %zu tensors",
                          formats_.size(), rows_.size(), cols_.size(), taken_.size()));
  }

  bool has(const std::string& name) const { return file_.find_tensor(name) != nullptr; }

  Matrix matrix(const std::string& name, int64_t rows, int64_t cols) {
    const size_t i = take(name);
    const TensorInfo& tensor = file_.tensors()[i];
    const Format* found = find_format(formats_[i]);
    if (!found)
      throw Error(ErrorCode::UNSUPPORTED_MODEL, file_.path() + ": tensor '" + name + "' has the format '" +
                                                    std::string(formats_[i]) + "', which this version does not know");
    if (rows_[i] != rows || cols_[i] != cols)
      refuse(file_, format("tensor '%s' is %lld x %lld, but the spec needs %lld x %lld", name.c_str(),
                           static_cast<long long>(rows_[i]), static_cast<long long>(cols_[i]),
                           static_cast<long long>(rows), static_cast<long long>(cols)));
    const Layout layout = layout_of(*found, rows, cols);
    if (tensor.type != kTypeI8 || tensor.n_bytes != uint64_t(layout.n_bytes))
      refuse(file_, format("tensor '%s' has %llu bytes, but %s %lld x %lld takes %lld", name.c_str(),
                           static_cast<unsigned long long>(tensor.n_bytes), found->name, static_cast<long long>(rows),
                           static_cast<long long>(cols), static_cast<long long>(layout.n_bytes)));
    n_parameters += rows * cols;
    return {found, rows, cols, layout, tensor.data};
  }

  Buffer<float> vector(const std::string& name, int64_t n) {
    const TensorInfo& tensor = file_.tensors()[take(name)];
    if (tensor.type != kTypeF32 || tensor.n_bytes != uint64_t(n) * 4)
      refuse(file_, format("tensor '%s' has %llu bytes, but %lld float32 values are needed", name.c_str(),
                           static_cast<unsigned long long>(tensor.n_bytes), static_cast<long long>(n)));
    Buffer<float> values(padded(n));
    memcpy(values.data(), tensor.data, tensor.n_bytes);
    for (int64_t i = 0; i < n; i++)
      if (!std::isfinite(values[i])) refuse(file_, "tensor '" + name + "' has values that are not finite");
    n_parameters += n;
    return values;
  }

  // <name>.weight and, where it is there, <name>.bias
  Linear linear(const std::string& name, int64_t rows, int64_t cols) {
    Linear linear;
    linear.weight = matrix(name + ".weight", rows, cols);
    if (has(name + ".bias")) linear.bias = vector(name + ".bias", rows);
    weight_bytes += linear.weight.layout.n_bytes;
    return linear;
  }

  // [rope_dim / 2], radians per position
  std::vector<float> frequencies(const std::string& name, const Spec& s) {
    const Buffer<float> values = vector(name, s.rope_dim / 2);
    for (uint32_t i = 0; i < s.rope_dim / 2; i++)
      if (!(values[i] >= 0.0f && values[i] <= 16.0f)) refuse(file_, name + " is out of range");
    return std::vector<float>(values.data(), values.data() + s.rope_dim / 2);
  }

  // Without bias, in fp32 or fp16: read head by head, whose rows quantized kernels do not know.
  Linear float_linear(const std::string& name, int64_t rows, int64_t cols) {
    Linear linear;
    linear.weight = matrix(name + ".weight", rows, cols);
    if (!linear.weight.format->is_float()) refuse(file_, "tensor '" + name + ".weight' must be fp32 or fp16");
    weight_bytes += linear.weight.layout.n_bytes;
    return linear;
  }

  // <name>.weight and, for layer norms, <name>.bias
  Norm norm(const std::string& name, const Spec& s) {
    Norm norm;
    norm.weight = vector(name + ".weight", s.dim);
    if (s.norm_type == "layer") norm.bias = vector(name + ".bias", s.dim);
    return norm;
  }

  void check_all_taken() const {
    for (size_t i = 0; i + 1 < taken_.size(); i++)
      if (!taken_[i])
        throw Error(ErrorCode::UNSUPPORTED_MODEL, file_.path() + ": tensor '" + file_.tensors()[i].name +
                                                      "' is not known to this version; update rkllm_ext");
  }

  int64_t n_parameters = 0;
  int64_t weight_bytes = 0;

 private:
  size_t take(const std::string& name) {
    const TensorInfo* tensor = file_.find_tensor(name);
    if (!tensor) refuse(file_, "tensor '" + name + "' is missing");
    const size_t i = size_t(tensor - file_.tensors().data());
    taken_[i] = true;
    return i;
  }

  const Container& file_;
  std::vector<bool> taken_;
  std::vector<std::string_view> formats_;
  std::vector<int64_t> rows_, cols_;
};

void read_latent_attention(Tensors& tensors, const Spec& s, const std::string& prefix, Layer& layer) {
  const int64_t heads = s.n_heads;
  layer.q_a = tensors.linear(prefix + "attn_q_a", s.q_lora_rank, s.dim);
  layer.q_a_norm.weight = tensors.vector(prefix + "attn_q_a_norm.weight", s.q_lora_rank);
  layer.q = tensors.linear(prefix + "attn_q_b", heads * s.head_dim, s.q_lora_rank);
  layer.kv_a = tensors.linear(prefix + "attn_kv_a_mqa", key_dim(s), s.dim);
  layer.kv_a_norm.weight = tensors.vector(prefix + "attn_kv_a_norm.weight", s.kv_lora_rank);
  layer.k_b = tensors.float_linear(prefix + "attn_k_b", heads * s.kv_lora_rank, s.head_dim - s.rope_dim);
  layer.v_b = tensors.float_linear(prefix + "attn_v_b", heads * s.v_head_dim, s.kv_lora_rank);
  layer.output = tensors.linear(prefix + "attn_output", s.dim, heads * s.v_head_dim);
}

Layer read_layer(Tensors& tensors, const Spec& s, uint32_t index) {
  const std::string prefix = "blk." + std::to_string(index) + ".";
  const int64_t q_width = int64_t(s.n_heads) * s.head_dim, kv_width = int64_t(s.n_kv_heads) * s.head_dim;
  Layer layer;
  layer.attn_norm = tensors.norm(prefix + "attn_norm", s);
  if (s.kv_lora_rank) {
    read_latent_attention(tensors, s, prefix, layer);
  } else {
    layer.q = tensors.linear(prefix + "attn_q", q_width, s.dim);
    layer.k = tensors.linear(prefix + "attn_k", kv_width, s.dim);
    layer.v = tensors.linear(prefix + "attn_v", kv_width, s.dim);
    layer.output = tensors.linear(prefix + "attn_output", s.dim, q_width);
  }
  if (s.qk_norms) {
    layer.q_norm.weight = tensors.vector(prefix + "attn_q_norm.weight", s.head_dim);
    layer.k_norm.weight = tensors.vector(prefix + "attn_k_norm.weight", s.head_dim);
  }
  if (s.post_norms) layer.post_attn_norm = tensors.norm(prefix + "post_attention_norm", s);
  if (!s.parallel_residual) layer.ffn_norm = tensors.norm(prefix + "ffn_norm", s);
  if (s.ffn_gated) layer.gate = tensors.linear(prefix + "ffn_gate", s.ffn_dim, s.dim);
  layer.up = tensors.linear(prefix + "ffn_up", s.ffn_dim, s.dim);
  layer.down = tensors.linear(prefix + "ffn_down", s.dim, s.ffn_dim);
  if (s.post_norms) layer.post_ffn_norm = tensors.norm(prefix + "post_ffw_norm", s);
  return layer;
}

std::shared_ptr<const Model> read_model(std::shared_ptr<const Container> file) {
  check_kind(*file);
  check_sums(*file);
  auto model = std::make_shared<Model>();
  model->file = file;
  model->spec = read_spec(*file);
  const Spec& s = model->spec;
  model->format = std::string(file->get_string("rkllm.format"));
  Tensors tensors(*file);
  model->embedding = tensors.matrix("token_embd.weight", s.vocab_size, s.dim);
  for (uint32_t i = 0; i < s.n_layers; i++) model->layers.push_back(read_layer(tensors, s, i));
  model->output_norm = tensors.norm("output_norm", s);
  if (tensors.has("output.weight")) {
    model->output = tensors.linear("output", s.vocab_size, s.dim);
  } else {
    model->output.weight = model->embedding;
    tensors.weight_bytes += model->embedding.layout.n_bytes;
  }
  model->n_parameters = tensors.n_parameters;
  model->rope = Rope(s, tensors.frequencies("rope_inv_freq.weight", s),
                     s.rope_long ? tensors.frequencies("rope_inv_freq_long.weight", s) : std::vector<float>());
  if (s.rope_local) model->local_rope = Rope(s, tensors.frequencies("rope_inv_freq_local.weight", s), {});
  tensors.check_all_taken();
  model->weight_bytes = tensors.weight_bytes;
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
