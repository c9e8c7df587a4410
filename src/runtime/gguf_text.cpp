// SPDX-License-Identifier: Apache-2.0
#include "gguf_text.h"

namespace rkllm {
namespace {

struct ValueKind {
  const char* name;
  uint64_t bytes;
};

// By number of the type.
constexpr ValueKind kValueKinds[] = {{"u8", 1},  {"i8", 1},  {"u16", 2},  {"i16", 2},    {"u32", 4},
                                     {"i32", 4}, {"f32", 4}, {"bool", 1}, {"string", 0}, {"array", 0},
                                     {"u64", 8}, {"i64", 8}, {"f64", 8}};

bool starts_with(std::string_view text, std::string_view start) { return text.substr(0, start.size()) == start; }

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

// Length of the UTF-8 sequence at text[at], 0 when it is not well formed (overlong, surrogate, beyond U+10FFFF, cut).
size_t utf8_length(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return at + i < text.size() ? static_cast<uint8_t>(text[at + i]) : 0u; };
  const auto continues = [&](size_t i, uint32_t low = 0x80, uint32_t high = 0xBF) {
    return byte(i) >= low && byte(i) <= high;
  };
  const uint32_t first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return continues(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    const uint32_t low = first == 0xE0 ? 0xA0 : 0x80, high = first == 0xED ? 0x9F : 0xBF;
    return continues(1, low, high) && continues(2) ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const uint32_t low = first == 0xF0 ? 0x90 : 0x80, high = first == 0xF4 ? 0x8F : 0xBF;
    return continues(1, low, high) && continues(2) && continues(3) ? 4 : 0;
  }
  return 0;
}

}  // namespace

const char* value_type_name(uint32_t type) {
  return type < sizeof kValueKinds / sizeof *kValueKinds ? kValueKinds[type].name : nullptr;
}

uint64_t element_bytes(ValueType type) { return kValueKinds[static_cast<uint32_t>(type)].bytes; }

bool is_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const size_t n = utf8_length(text, at);
    if (n == 0) return false;
    at += n;
  }
  return true;
}

std::string quoted(std::string_view name) {
  constexpr size_t kLongest = 100;
  std::string text = "'";
  for (size_t at = 0; at < name.size();) {
    const size_t n = utf8_length(name, at);
    if (at + n > kLongest) {
      text += "...";
      break;
    }
    const bool printable = n > 0 && static_cast<uint8_t>(name[at]) >= 0x20 && name[at] != 0x7F;
    if (printable) {
      text.append(name, at, n);
    } else {
      text += '?';
    }
    at += n > 0 ? n : 1;
  }
  return text + "'";
}

std::string describe_foreign_file(std::string_view path, std::string_view start) {
  using namespace std::string_view_literals;
  const std::string convert = "; convert the model with 'rkllm-ext convert'";
  const bool pickle = starts_with(start, "PK\x03\x04"sv) || starts_with(start, "\x80\x02"sv);
  // 8 bytes of length come before the JSON header.
  const bool safetensors = start.size() > 9 && start[8] == '{' && std::string_view("\" }").find(start[9]) < 3;
  if (pickle) return "is a PyTorch checkpoint, not a GGUF file" + convert;
  if (safetensors) return "is a safetensors file, not a GGUF file" + convert;
  for (const char* old : {"lmgg", "fmgg", "tjgg"}) {
    if (starts_with(start, old)) return "is in a format older than GGUF; get the model as GGUF or safetensors";
  }
  if (starts_with(start, "version https://git-lfs")) {
    return "is a Git LFS pointer, not the model itself; fetch it with 'git lfs pull'";
  }
  if (starts_with(start, "<")) return "is a web page, not a model; the download went wrong";
  if (starts_with(start, "RK") || ends_with(path, ".rkllm")) {
    return "is not a model of this program; it may come from the vendor's toolkit, whose format is closed: convert the "
           "original Hugging Face or GGUF model with 'rkllm-ext convert'";
  }
  return "is not a GGUF file; a .rkllm file or a GGUF model is expected";
}

}  // namespace rkllm
