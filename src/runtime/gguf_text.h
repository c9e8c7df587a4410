// SPDX-License-Identifier: Apache-2.0
// The words of GGUF: names of value types, names of keys in sentences, and what a file is that is not GGUF.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "container.h"

namespace rkllm {

// The name of a value type ("u32"), nullptr for a number that is none.
const char* value_type_name(uint32_t type);

// Bytes of one element; 0 for strings and arrays, which have no fixed size.
uint64_t element_bytes(ValueType type);

bool is_utf8(std::string_view text);

// 'name', fit for a sentence: control characters replaced, long names cut.
std::string quoted(std::string_view name);

// What a file is that does not start like GGUF, and what to do with it: "is a safetensors file; ...".
std::string describe_foreign_file(std::string_view path, std::string_view start);

}  // namespace rkllm
