// SPDX-License-Identifier: Apache-2.0
// The architecture of a model as the fields of spec.def. The engine executes these numbers and holds no family name.
#pragma once

#include <cstdint>
#include <string>

#include "container.h"

namespace rkllm {

struct SpecField {
  const char* type;
  const char* name;
  const char* default_value;  // nullptr: required
  const char* meaning;
};

struct Spec {
#define SPEC_TYPE_u32 uint32_t
#define SPEC_TYPE_f32 float
#define SPEC_TYPE_string std::string
#define FIELD(type, name, default_value, meaning) SPEC_TYPE_##type name = {};
#include "spec.def"
#undef FIELD
#undef SPEC_TYPE_u32
#undef SPEC_TYPE_f32
#undef SPEC_TYPE_string
};

// Width of a key and of a value in the KV cache. With latent attention one key, [latent, rotated part], serves all
// heads, and its latent is the value.
inline uint32_t key_dim(const Spec& s) { return s.kv_lora_rank ? s.kv_lora_rank + s.rope_dim : s.head_dim; }
inline uint32_t value_dim(const Spec& s) { return s.kv_lora_rank ? s.kv_lora_rank : s.head_dim; }

// nullptr past the end.
const SpecField* spec_field_at(int index);

// Read rkllm.spec.* and check every number against the others. Throws Error(MODEL_FILE) for a missing or impossible
// field and Error(UNSUPPORTED_MODEL) for one that this engine does not know.
Spec read_spec(const Container& file);

}  // namespace rkllm
