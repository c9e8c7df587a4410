// SPDX-License-Identifier: Apache-2.0
// Typed access to the key/values of a container.
#include <cstring>

#include "container.h"
#include "error.h"
#include "gguf_text.h"

namespace rkllm {
namespace {

[[noreturn]] void refuse(const Container& file, std::string_view key, const std::string& what) {
  throw Error(ErrorCode::MODEL_FILE, file.path() + ": key " + quoted(key) + " " + what);
}

[[noreturn]] void refuse_type(const Container& file, const Value& value, const char* expected) {
  const char* element = value_type_name(static_cast<uint32_t>(value.element));
  const char* shape = value.type == ValueType::ARRAY ? "an array of " : "";
  refuse(file, value.key, format("is %s%s, expected %s", shape, element, expected));
}

const Value& require(const Container& file, std::string_view key) {
  const Value* value = file.find_value(key);
  if (!value) refuse(file, key, "is missing");
  return *value;
}

const Value& require_array(const Container& file, std::string_view key, const char* expected) {
  const Value& value = require(file, key);
  if (value.type != ValueType::ARRAY) refuse_type(file, value, expected);
  return value;
}

template <class Number>
Number load(const uint8_t* data) {
  Number number;
  memcpy(&number, data, sizeof number);
  return number;
}

int64_t load_int(const Container& file, const Value& value, const uint8_t* data, const char* expected) {
  switch (value.element) {
    case ValueType::U8: return load<uint8_t>(data);
    case ValueType::I8: return load<int8_t>(data);
    case ValueType::U16: return load<uint16_t>(data);
    case ValueType::I16: return load<int16_t>(data);
    case ValueType::U32: return load<uint32_t>(data);
    case ValueType::I32: return load<int32_t>(data);
    case ValueType::I64: return load<int64_t>(data);
    case ValueType::U64: {
      const auto number = load<uint64_t>(data);
      if (number <= INT64_MAX) return static_cast<int64_t>(number);
      refuse(file, value.key, format("holds %llu, more than 2^63 - 1", static_cast<unsigned long long>(number)));
    }
    default: refuse_type(file, value, expected);
  }
}

double load_float(const Container& file, const Value& value, const uint8_t* data, const char* expected) {
  if (value.element == ValueType::F32) return load<float>(data);
  if (value.element == ValueType::F64) return load<double>(data);
  refuse_type(file, value, expected);
}

std::string_view load_string(const uint8_t* data) {
  return {reinterpret_cast<const char*>(data) + 8, static_cast<size_t>(load<uint64_t>(data))};
}

}  // namespace

std::string_view Container::get_string(std::string_view key) const {
  const Value& value = require(*this, key);
  if (value.type != ValueType::STRING) refuse_type(*this, value, "a string");
  return load_string(value.data);
}

int64_t Container::get_int(std::string_view key) const {
  const Value& value = require(*this, key);
  if (value.type == ValueType::ARRAY) refuse_type(*this, value, "an integer");
  return load_int(*this, value, value.data, "an integer");
}

double Container::get_float(std::string_view key) const {
  const Value& value = require(*this, key);
  if (value.type == ValueType::ARRAY) refuse_type(*this, value, "a float");
  return load_float(*this, value, value.data, "a float");
}

bool Container::get_bool(std::string_view key) const {
  const Value& value = require(*this, key);
  if (value.type != ValueType::BOOL) refuse_type(*this, value, "a bool");
  return *value.data != 0;
}

std::vector<std::string_view> Container::get_strings(std::string_view key) const {
  const Value& value = require_array(*this, key, "an array of strings");
  if (value.element != ValueType::STRING) refuse_type(*this, value, "an array of strings");
  std::vector<std::string_view> strings;
  strings.reserve(value.count);
  const uint8_t* at = value.data;
  for (uint64_t i = 0; i < value.count; i++) {
    strings.push_back(load_string(at));
    at += 8 + strings.back().size();
  }
  return strings;
}

std::vector<int64_t> Container::get_ints(std::string_view key) const {
  const Value& value = require_array(*this, key, "an array of integers");
  std::vector<int64_t> numbers;
  numbers.reserve(value.count);
  const uint64_t width = element_bytes(value.element);
  for (uint64_t i = 0; i < value.count; i++) {
    numbers.push_back(load_int(*this, value, value.data + i * width, "an array of integers"));
  }
  return numbers;
}

std::vector<float> Container::get_floats(std::string_view key) const {
  const Value& value = require_array(*this, key, "an array of floats");
  std::vector<float> numbers;
  numbers.reserve(value.count);
  const uint64_t width = element_bytes(value.element);
  for (uint64_t i = 0; i < value.count; i++) {
    numbers.push_back(static_cast<float>(load_float(*this, value, value.data + i * width, "an array of floats")));
  }
  return numbers;
}

}  // namespace rkllm
