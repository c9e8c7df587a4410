// SPDX-License-Identifier: Apache-2.0
#include "rkllm_file.h"

#include <algorithm>
#include <cmath>

#include "checksum.h"
#include "error.h"
#include "cores.h"
#include "thread_pool.h"

namespace rkllm {
namespace {

constexpr uint32_t kTypeF32 = 0, kTypeI8 = 24, kTypeI64 = 27;  // GGML type numbers
constexpr char kChecksums[] = "checksums";

void check_kind(const Container& file, std::string_view wanted) {
  const bool is_cache = wanted == "prompt_cache";
  const std::string what = is_cache ? "prompt cache" : std::string(wanted);
  const std::string advice = is_cache ? "" : "; convert it: rkllm-ext convert " + file.path() + " OUT.rkllm";
  if (!file.find_value("general.architecture"))
    refuse(file, "a GGUF file without an architecture, not a .rkllm " + what);
  const std::string_view architecture = file.get_string("general.architecture");
  if (architecture != "rkllm")
    refuse(file, "a GGUF file of the architecture '" + std::string(architecture) + "', not a .rkllm " + what + advice);
  const int64_t version = file.get_int("rkllm.version");
  if (version != int64_t(kFileVersion))
    throw Error(ErrorCode::UNSUPPORTED_MODEL,
                format("%s: the file has version %lld of the format, this library reads %u; %s the %s again",
                       file.path().c_str(), static_cast<long long>(version), kFileVersion,
                       is_cache ? "save" : "convert", what.c_str()));
  const std::string_view type = file.get_string("general.type");
  if (type != wanted) refuse(file, "is of the type '" + std::string(type) + "', not '" + std::string(wanted) + "'");
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
  const bool small = file.file_size() < 1 << 20;  // summed sooner than a thread has started
  ThreadPool pool(small ? 1 : std::min(default_cores().count, 8));
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
                       " does not match its checksum: the file was altered or damaged; copy or make it again");
}

}  // namespace

void refuse(const Container& file, const std::string& why) {
  throw Error(ErrorCode::MODEL_FILE, file.path() + ": " + why);
}

void check_file(const Container& file, std::string_view type) {
  check_kind(file, type);
  check_sums(file);
}

uint64_t fingerprint_of(const Container& file) {
  const TensorInfo& sums = file.tensors().back();
  return checksum(sums.data, sums.n_bytes);
}

Tensors::Tensors(const Container& file) : file_(file), taken_(file.tensors().size(), false) {
  formats_ = file.get_strings("rkllm.tensor.format");
  rows_ = file.get_ints("rkllm.tensor.rows");
  cols_ = file.get_ints("rkllm.tensor.cols");
  if (formats_.size() != taken_.size() || rows_.size() != taken_.size() || cols_.size() != taken_.size())
    refuse(file, format("rkllm.tensor.format, rows and cols have %zu, %zu and %zu elements for %zu tensors",
                        formats_.size(), rows_.size(), cols_.size(), taken_.size()));
}

Matrix Tensors::matrix(const std::string& name, int64_t rows, int64_t cols) {
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
  Layout layout;
  try {
    layout = layout_of(*found, rows, cols);
  } catch (const Error& error) {
    refuse(file_, "tensor '" + name + "': " + error.sentence());
  }
  if (tensor.type != kTypeI8 || tensor.n_bytes != uint64_t(layout.n_bytes))
    refuse(file_, format("tensor '%s' has %llu bytes, but %s %lld x %lld takes %lld", name.c_str(),
                         static_cast<unsigned long long>(tensor.n_bytes), found->name, static_cast<long long>(rows),
                         static_cast<long long>(cols), static_cast<long long>(layout.n_bytes)));
  n_parameters += rows * cols;
  return {found, rows, cols, layout, tensor.data};
}

Buffer<float> Tensors::vector(const std::string& name, int64_t n) {
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

void Tensors::check_all_taken() const {
  for (size_t i = 0; i + 1 < taken_.size(); i++)
    if (!taken_[i])
      throw Error(ErrorCode::UNSUPPORTED_MODEL, file_.path() + ": tensor '" + file_.tensors()[i].name +
                                                    "' is not known to this version; update rkllm_ext");
}

size_t Tensors::index_of(const std::string& name) const {
  const TensorInfo* tensor = file_.find_tensor(name);
  if (!tensor) refuse(file_, "tensor '" + name + "' is missing");
  return size_t(tensor - file_.tensors().data());
}

size_t Tensors::take(const std::string& name) {
  const size_t i = index_of(name);
  taken_[i] = true;
  return i;
}

}  // namespace rkllm
