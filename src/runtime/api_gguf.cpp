// SPDX-License-Identifier: Apache-2.0
// The GGUF functions of rkllm_ext.h: a container, row by row.
#include <memory>

#include "api.h"
#include "container.h"
#include "rkllm_ext.h"

struct RKLLMExtGGUF {
  std::shared_ptr<const rkllm::Container> container;
};

using rkllm::Error;
using rkllm::ErrorCode;

extern "C" int rkllm_ext_gguf_open(const char* path, RKLLMExtGGUF** file) {
  if (file) *file = nullptr;
  return rkllm::guard([&] {
    if (!path || !file) throw Error(ErrorCode::INVALID_ARGUMENT, "rkllm_ext_gguf_open: path and file must not be NULL");
    auto container = rkllm::Container::open(path);
    *file = new RKLLMExtGGUF{std::move(container)};
  });
}

extern "C" void rkllm_ext_gguf_close(RKLLMExtGGUF* file) { delete file; }

extern "C" int rkllm_ext_gguf_value(const RKLLMExtGGUF* file, uint64_t index, RKLLMExtGGUFValue* row) {
  if (!file || !row || index >= file->container->values().size()) return 1;
  const rkllm::Value& value = file->container->values()[index];
  row->key = value.key.c_str();
  row->type = static_cast<uint32_t>(value.type);
  row->element = static_cast<uint32_t>(value.element);
  row->count = value.count;
  row->data = value.data;
  row->n_bytes = value.n_bytes;
  return 0;
}

extern "C" int rkllm_ext_gguf_tensor(const RKLLMExtGGUF* file, uint64_t index, RKLLMExtGGUFTensor* row) {
  if (!file || !row || index >= file->container->tensors().size()) return 1;
  const rkllm::TensorInfo& tensor = file->container->tensors()[index];
  row->name = tensor.name.c_str();
  row->type = tensor.type;
  row->n_dims = static_cast<uint32_t>(tensor.dims.size());
  for (size_t i = 0; i < 4; i++) row->dims[i] = i < tensor.dims.size() ? tensor.dims[i] : 1;
  row->data = tensor.data;
  row->n_bytes = tensor.n_bytes;
  return 0;
}
