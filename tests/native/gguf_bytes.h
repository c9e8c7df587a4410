// SPDX-License-Identifier: Apache-2.0
// The bytes of GGUF pieces, for tests that write a file by hand.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

namespace gguf_bytes {

template <class Number>
std::string bytes_of(Number number) {
  std::string bytes(sizeof number, '\0');
  memcpy(&bytes[0], &number, sizeof number);
  return bytes;
}

inline std::string text(const std::string& value) { return bytes_of<uint64_t>(value.size()) + value; }

inline std::string key(const std::string& name, uint32_t type, const std::string& payload) {
  return text(name) + bytes_of(type) + payload;
}

}  // namespace gguf_bytes
