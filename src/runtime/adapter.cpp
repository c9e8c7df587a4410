// SPDX-License-Identifier: Apache-2.0
#include "adapter.h"

#include <cmath>

#include "checksum.h"
#include "error.h"
#include "rkllm_file.h"

namespace rkllm {
namespace {

const std::string kA = ".lora_a", kB = ".lora_b";

// The part of a name before the suffix, "" when it ends otherwise.
std::string stem(const std::string& name, const std::string& suffix) {
  const bool ends =
      name.size() > suffix.size() && name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0;
  return ends ? name.substr(0, name.size() - suffix.size()) : "";
}

void check_base(const Container& file, const Model& model) {
  const std::string made_for(file.get_string("rkllm.source"));
  const std::string source(model.file->get_string("rkllm.source"));
  if (made_for != source)
    refuse(file, "is an adapter of another model: it was converted with a checkpoint of SHA-256 " + made_for +
                     ", but " + model.file->path() + " was made of " + source +
                     "; convert the adapter again, with the checkpoint that the model was made of");
}

Linear read_side(const Container& file, Tensors& tensors, const std::string& name, int64_t rows, int64_t cols,
                 const std::string& why) {
  if (tensors.rows(name) != rows || tensors.cols(name) != cols)
    refuse(file, format("tensor '%s' is %lld x %lld, but %s needs %lld x %lld", name.c_str(),
                        static_cast<long long>(tensors.rows(name)), static_cast<long long>(tensors.cols(name)),
                        why.c_str(), static_cast<long long>(rows), static_cast<long long>(cols)));
  Linear side;
  side.name = name;
  side.weight = tensors.matrix(name, rows, cols);
  if (!side.weight.format->is_float())
    refuse(file,
           "tensor '" + name + "' has the format " + side.weight.format->name + ", but adapters are fp32 or fp16");
  const bool finite = side.weight.format->bits == 32
                          ? all_finite<uint32_t>(side.weight.packed, side.weight.layout.n_bytes, 0x7f800000)
                          : all_finite<uint16_t>(side.weight.packed, side.weight.layout.n_bytes, 0x7c00);
  if (!finite) refuse(file, "tensor '" + name + "' has values that are not finite");
  return side;
}

LowRank read_pair(const Container& file, Tensors& tensors, const Linear& linear) {
  const std::string& layer = linear.name;
  const int n_heads = linear.n_heads;
  const int64_t a_rows = tensors.rows(layer + kA), rank = a_rows / n_heads;
  if (rank < 1 || a_rows % n_heads)
    refuse(file, format("tensor '%s' has %lld rows, but a whole rank for each of %d heads is needed",
                        (layer + kA).c_str(), static_cast<long long>(a_rows), n_heads));
  const std::string why = "the model's layer '" + layer + "' with rank " + std::to_string(rank);
  LowRank pair;
  pair.a = read_side(file, tensors, layer + kA, a_rows, linear.weight.cols, why);
  pair.b = read_side(file, tensors, layer + kB, linear.weight.rows, rank, why);
  pair.a.n_heads = pair.b.n_heads = n_heads;
  return pair;
}

// The matrix in fp32 with each value multiplied by factor(row, column), its bytes at the end of `kept`.
template <class Factor>
Matrix adjusted(const Matrix& matrix, std::vector<Buffer<uint8_t>>& kept, const Factor& factor) {
  const Format& format = *find_format("fp32");
  const int64_t rows = matrix.rows, cols = matrix.cols;
  const Layout layout = layout_of(format, rows, cols);
  Buffer<float> values(rows * cols);
  for (int64_t row = 0; row < rows; row++) {
    unpack_row(*matrix.format, rows, cols, matrix.packed, row, &values[row * cols]);
    for (int64_t col = 0; col < cols; col++) values[row * cols + col] *= factor(row, col);
  }
  kept.emplace_back(layout.n_bytes);
  pack(format, rows, cols, values.data(), nullptr, kept.back().data());
  return {&format, rows, cols, layout, kept.back().data()};
}

// The layer's input is divided by its in_factors, and whoever reads its output undoes that by its out_factors.
void adjust(const Linear& linear, LowRank& pair, std::vector<Buffer<uint8_t>>& kept) {
  const Buffer<float>&in = linear.in_factors, &out = linear.out_factors;
  if (in.size()) pair.a.weight = adjusted(pair.a.weight, kept, [&](int64_t, int64_t col) { return in[col]; });
  if (out.size()) pair.b.weight = adjusted(pair.b.weight, kept, [&](int64_t row, int64_t) { return 1.0f / out[row]; });
}

uint64_t fingerprint_with(const Container& file, float scale) {
  uint64_t parts[] = {fingerprint_of(file), 0};
  memcpy(&parts[1], &scale, sizeof scale);
  return checksum(parts, sizeof parts);
}

}  // namespace

const LowRank* Adapter::find(const Linear& linear) const {
  const auto found = additions.find(&linear);
  return found == additions.end() ? nullptr : &found->second;
}

std::shared_ptr<const Adapter> open_adapter(const std::string& path, std::shared_ptr<const Model> model, float scale) {
  if (!std::isfinite(scale))
    throw Error(ErrorCode::INVALID_ARGUMENT,
                format("the scale of the adapter is %g, but must be finite", double(scale)));
  const std::shared_ptr<const Container> file = Container::open(path);
  check_file(*file, "adapter");
  const std::string kind(file->get_string("adapter.type"));
  if (kind != "lora")
    throw Error(ErrorCode::UNSUPPORTED_MODEL, path + ": is an adapter of the type '" + kind + "'; 'lora' is supported");
  check_base(*file, *model);
  auto adapter = std::make_shared<Adapter>();
  Tensors tensors(*file);
  for (size_t i = 0; i + 1 < file->tensors().size(); i++) {
    const std::string& name = file->tensors()[i].name;
    const std::string layer = stem(name, kA);
    if (layer.empty()) continue;  // a side b comes with its a
    const Linear* linear = find_linear(*model, layer);
    if (!linear) refuse(*file, "tensor '" + name + "': the model has no linear layer '" + layer + "'");
    LowRank pair = read_pair(*file, tensors, *linear);
    adjust(*linear, pair, adapter->adjusted);
    adapter->additions.emplace(linear, std::move(pair));
  }
  tensors.check_all_taken();
  if (adapter->additions.empty()) refuse(*file, "the adapter changes no layer");
  adapter->fingerprint = fingerprint_with(*file, scale);
  adapter->scale = scale;
  adapter->model = std::move(model);
  adapter->file = file;
  return adapter;
}

void Adapters::load(const std::string& name, const std::string& path, float scale) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (name.empty())
    throw Error(ErrorCode::INVALID_ARGUMENT, "the name of the adapter is empty; give one to choose it by");
  if (adapters_.count(name))
    throw Error(ErrorCode::INVALID_ARGUMENT, "an adapter '" + name + "' is loaded already; release it first, or choose "
                                             "another name");
  adapters_.emplace(name, open_adapter(path, model_, scale));
}

std::shared_ptr<const Adapter> Adapters::find(const std::string& name) const {
  if (name.empty()) return nullptr;
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = adapters_.find(name);
  if (found != adapters_.end()) return found->second;
  std::string loaded;
  for (const auto& entry : adapters_) loaded += (loaded.empty() ? "" : ", ") + entry.first;
  throw Error(ErrorCode::INVALID_ARGUMENT,
              "no adapter '" + name + "' is loaded; loaded: " + (loaded.empty() ? "none" : loaded));
}

std::shared_ptr<const Adapter> Adapters::find_fingerprint(uint64_t fingerprint) const {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& entry : adapters_)
    if (entry.second->fingerprint == fingerprint) return entry.second;
  return nullptr;
}

std::shared_ptr<const Adapter> Adapters::release(const std::string& name) {
  if (name.empty()) throw Error(ErrorCode::INVALID_ARGUMENT, "the name of the adapter is empty");
  std::shared_ptr<const Adapter> released = find(name);
  std::lock_guard<std::mutex> lock(mutex_);
  adapters_.erase(name);
  return released;
}

}  // namespace rkllm
