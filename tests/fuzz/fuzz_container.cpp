// SPDX-License-Identifier: Apache-2.0
// Fuzzes the GGUF reader: any bytes are either refused with a sentence, or opened such that every accessor stays inside
// the mapping and agrees with every other.
#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "memory_file.h"

namespace {

using rkllm::Container;
using rkllm::Error;
using rkllm::ErrorCode;

uint64_t sum(const uint8_t* data, uint64_t n) {
  uint64_t total = 0;
  for (uint64_t i = 0; i < n; i++) total += data[i];
  return total;
}

// A typed accessor either returns or refuses by name.
template <class Get>
bool gives(const Container& file, const rkllm::Value& value, Get get) {
  try {
    get();
    return true;
  } catch (const Error& error) {
    require(error.code() == ErrorCode::MODEL_FILE, "an accessor threw another code");
    require(error.sentence().compare(0, file.path().size(), file.path()) == 0, "a sentence does not name the file");
    require(!value.key.empty(), "a key is empty");
    return false;
  }
}

void visit_values(const Container& file) {
  for (const rkllm::Value& value : file.values()) {
    require(file.find_value(value.key) == &value, "a key is not found");
    require(value.data >= file.bytes() && value.data + value.n_bytes <= file.bytes() + file.header_size(),
            "a value lies outside the header");
    sum(value.data, value.n_bytes);
    const int kinds = gives(file, value, [&] { file.get_string(value.key); }) +
                      gives(file, value, [&] { file.get_int(value.key); }) +
                      gives(file, value, [&] { file.get_float(value.key); }) +
                      gives(file, value, [&] { file.get_bool(value.key); });
    require(kinds <= 1, "a value has several types");
    size_t elements = 0;
    gives(file, value, [&] { elements += file.get_ints(value.key).size(); });
    gives(file, value, [&] { elements += file.get_floats(value.key).size(); });
    gives(file, value, [&] {
      for (const std::string_view text : file.get_strings(value.key)) {
        sum(reinterpret_cast<const uint8_t*>(text.data()), text.size());
        elements++;
      }
    });
    require(elements == 0 || elements == value.count, "an array has another length than it says");
  }
}

void visit_tensors(const Container& file) {
  std::vector<std::pair<const uint8_t*, const uint8_t*>> places;
  for (const rkllm::TensorInfo& tensor : file.tensors()) {
    require(file.find_tensor(tensor.name) == &tensor, "a tensor is not found");
    require(tensor.data >= file.bytes() + file.header_size() &&
                tensor.data + tensor.n_bytes <= file.bytes() + file.file_size(),
            "a tensor lies outside the data section");
    require(!tensor.dims.empty() && tensor.dims.size() <= 4, "a tensor has an impossible number of dimensions");
    long double elements = 1;
    for (const uint64_t size : tensor.dims) elements *= static_cast<long double>(size);
    require(elements <= 8.0L * tensor.n_bytes, "a tensor has more elements than bits");
    sum(tensor.data, tensor.n_bytes);
    places.emplace_back(tensor.data, tensor.data + tensor.n_bytes);
  }
  std::sort(places.begin(), places.end());
  for (size_t i = 1; i < places.size(); i++) require(places[i - 1].second <= places[i].first, "tensors overlap");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const MemoryFile bytes(data, size);
  try {
    const auto file = Container::open(bytes.path());
    require(file->file_size() == size, "the size differs");
    visit_values(*file);
    visit_tensors(*file);
    require(!file->find_value("") && !file->find_tensor(""), "an empty name is found");
  } catch (const Error& error) {
    require(error.code() == ErrorCode::MODEL_FILE, "open threw another code");
    bytes.require_refusal(error);
  }
  return 0;
}
