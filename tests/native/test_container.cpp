// SPDX-License-Identifier: Apache-2.0
// The typed accessors of Container, which Python does not reach.
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

#include "check.h"
#include "container.h"
#include "gguf_bytes.h"

namespace {

using check::contains;
using check::sentence_of;
using gguf_bytes::bytes_of;
using gguf_bytes::text;
using rkllm::Container;
using rkllm::ValueType;

std::string key(const std::string& name, ValueType type, const std::string& payload) {
  return gguf_bytes::key(name, static_cast<uint32_t>(type), payload);
}

std::string array(const std::string& name, ValueType element, uint64_t count, const std::string& payload) {
  return key(name, ValueType::ARRAY, bytes_of(static_cast<uint32_t>(element)) + bytes_of(count) + payload);
}

struct File {
  std::string path = "/tmp/rkllm-container-XXXXXX";

  explicit File(const std::string& content) {
    const int fd = mkstemp(&path[0]);
    const bool written = fd >= 0 && write(fd, content.data(), content.size()) == static_cast<ssize_t>(content.size());
    CHECK(written);
    close(fd);
  }
  ~File() { unlink(path.c_str()); }
};

File make_file() {
  const std::string keys[] = {
      key("u8", ValueType::U8, bytes_of<uint8_t>(255)),
      key("i8", ValueType::I8, bytes_of<int8_t>(-128)),
      key("u16", ValueType::U16, bytes_of<uint16_t>(65535)),
      key("i16", ValueType::I16, bytes_of<int16_t>(-32768)),
      key("u32", ValueType::U32, bytes_of<uint32_t>(4294967295u)),
      key("i32", ValueType::I32, bytes_of<int32_t>(std::numeric_limits<int32_t>::min())),
      key("i64", ValueType::I64, bytes_of<int64_t>(std::numeric_limits<int64_t>::min())),
      key("u64", ValueType::U64, bytes_of<uint64_t>(INT64_MAX)),
      key("u64.large", ValueType::U64, bytes_of<uint64_t>(UINT64_MAX)),
      key("f32", ValueType::F32, bytes_of(0.5f)),
      key("f64", ValueType::F64, bytes_of(0.1)),
      key("bool", ValueType::BOOL, bytes_of<uint8_t>(1)),
      key("text", ValueType::STRING, text("a\xc3\xa9")),
      array("ints", ValueType::I16, 3, bytes_of<int16_t>(1) + bytes_of<int16_t>(-2) + bytes_of<int16_t>(3)),
      array("bytes", ValueType::U8, 2, std::string("\x01\xff")),
      array("floats", ValueType::F32, 2, bytes_of(1.5f) + bytes_of(-2.5f)),
      array("doubles", ValueType::F64, 1, bytes_of(0.25)),
      array("texts", ValueType::STRING, 3, text("") + text("b") + text("cc")),
      array("large", ValueType::U64, 1, bytes_of<uint64_t>(uint64_t{1} << 63)),
      array("none", ValueType::I32, 0, ""),
  };
  std::string content = "GGUF" + bytes_of<uint32_t>(3) + bytes_of<uint64_t>(0);
  content += bytes_of<uint64_t>(sizeof keys / sizeof *keys);
  for (const std::string& one : keys) content += one;
  return File(content);
}

void any_integer_type_is_an_integer(const Container& file) {
  CHECK(file.get_int("u8") == 255);
  CHECK(file.get_int("i8") == -128);
  CHECK(file.get_int("u16") == 65535);
  CHECK(file.get_int("i16") == -32768);
  CHECK(file.get_int("u32") == 4294967295);
  CHECK(file.get_int("i32") == std::numeric_limits<int32_t>::min());
  CHECK(file.get_int("i64") == std::numeric_limits<int64_t>::min());
  CHECK(file.get_int("u64") == INT64_MAX);
}

void values_come_as_written(const Container& file) {
  CHECK(file.get_float("f32") == 0.5);
  CHECK(file.get_float("f64") == 0.1);
  CHECK(file.get_bool("bool"));
  CHECK(file.get_string("text") == "a\xc3\xa9");
  CHECK((file.get_ints("ints") == std::vector<int64_t>{1, -2, 3}));
  CHECK((file.get_ints("bytes") == std::vector<int64_t>{1, 255}));
  CHECK((file.get_floats("floats") == std::vector<float>{1.5f, -2.5f}));
  CHECK((file.get_floats("doubles") == std::vector<float>{0.25f}));
  CHECK((file.get_strings("texts") == std::vector<std::string_view>{"", "b", "cc"}));
  CHECK(file.get_ints("none").empty());
  CHECK(file.header_size() == file.file_size());
}

void another_type_is_refused_by_name(const Container& file) {
  const std::string start = file.path() + ": key ";
  CHECK(sentence_of([&] { file.get_int("f32"); }) == start + "'f32' is f32, expected an integer");
  CHECK(sentence_of([&] { file.get_int("bool"); }) == start + "'bool' is bool, expected an integer");
  CHECK(sentence_of([&] { file.get_int("ints"); }) == start + "'ints' is an array of i16, expected an integer");
  CHECK(sentence_of([&] { file.get_float("u32"); }) == start + "'u32' is u32, expected a float");
  CHECK(sentence_of([&] { file.get_bool("u8"); }) == start + "'u8' is u8, expected a bool");
  CHECK(sentence_of([&] { file.get_string("u8"); }) == start + "'u8' is u8, expected a string");
  CHECK(sentence_of([&] { file.get_ints("u8"); }) == start + "'u8' is u8, expected an array of integers");
  CHECK(sentence_of([&] { file.get_ints("texts"); }) ==
        start + "'texts' is an array of string, expected an array of integers");
  CHECK(sentence_of([&] { file.get_floats("ints"); }) ==
        start + "'ints' is an array of i16, expected an array of floats");
  CHECK(sentence_of([&] { file.get_strings("bytes"); }) ==
        start + "'bytes' is an array of u8, expected an array of strings");
  CHECK(sentence_of([&] { file.get_strings("text"); }) == start + "'text' is string, expected an array of strings");
}

void what_is_too_large_or_absent_is_refused(const Container& file) {
  CHECK(contains(sentence_of([&] { file.get_int("u64.large"); }), "'u64.large' holds 18446744073709551615, more than"));
  CHECK(contains(sentence_of([&] { file.get_ints("large"); }), "'large' holds 9223372036854775808, more than"));
  CHECK(contains(sentence_of([&] { file.get_int("absent"); }), ": key 'absent' is missing"));
  CHECK(contains(sentence_of([&] { file.get_strings("absent"); }), ": key 'absent' is missing"));
  CHECK(!file.find_value("absent") && !file.find_value("") && !file.find_tensor("text"));
}

}  // namespace

int main() {
  const File file = make_file();
  const auto container = Container::open(file.path);
  any_integer_type_is_an_integer(*container);
  values_come_as_written(*container);
  another_type_is_refused_by_name(*container);
  what_is_too_large_or_absent_is_refused(*container);
  return check::result();
}
