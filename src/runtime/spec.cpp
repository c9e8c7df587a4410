// SPDX-License-Identifier: Apache-2.0
#include "spec.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "error.h"
#include "numeric.h"

namespace rkllm {
namespace {

constexpr char kPrefix[] = "rkllm.spec.";
constexpr uint32_t kMostHeadsPerKey = 256;
constexpr uint32_t kMostColumns = 131072;

constexpr const char* required = nullptr;
const SpecField kFields[] = {
#define FIELD(type, name, default_value, meaning) {#type, #name, default_value, meaning},
#include "spec.def"
#undef FIELD
};

const SpecField* find_field(std::string_view name) {
  for (const SpecField& field : kFields)
    if (name == field.name) return &field;
  return nullptr;
}

void read(const Container& file, const SpecField& field, uint32_t& out) {
  const std::string key = std::string(kPrefix) + field.name;
  if (!file.find_value(key) && field.default_value) {
    out = uint32_t(strtoul(field.default_value, nullptr, 10));
    return;
  }
  const int64_t value = file.get_int(key);
  if (value < 0 || value > INT32_MAX)
    throw Error(ErrorCode::MODEL_FILE, format("%s: %s is %lld, which is out of range", file.path().c_str(),
                                              key.c_str(), static_cast<long long>(value)));
  out = uint32_t(value);
}

void read(const Container& file, const SpecField& field, float& out) {
  const std::string key = std::string(kPrefix) + field.name;
  if (!file.find_value(key) && field.default_value) read_float(field.default_value, &out);
  else out = float(file.get_float(key));
}

void read(const Container& file, const SpecField& field, std::string& out) {
  const std::string key = std::string(kPrefix) + field.name;
  if (!file.find_value(key) && field.default_value) out = field.default_value;
  else out = std::string(file.get_string(key));
}

[[noreturn]] void refuse(const Container& file, const std::string& why) {
  throw Error(ErrorCode::MODEL_FILE, file.path() + ": " + why);
}

void check(const Container& file, const Spec& s) {
  const auto within = [&](const char* name, uint32_t value, uint32_t most) {
    if (value < 1 || value > most)
      refuse(file, format("%s%s is %u, outside 1 to %u", kPrefix, name, value, most));
  };
  within("n_layers", s.n_layers, 4096);
  within("dim", s.dim, kMostColumns);
  within("n_heads", s.n_heads, 4096);
  within("n_kv_heads", s.n_kv_heads, 4096);
  within("head_dim", s.head_dim, 4096);
  within("ffn_dim", s.ffn_dim, kMostColumns);
  within("vocab_size", s.vocab_size, 1u << 24);
  within("max_context", s.max_context, 1u << 24);
  within("rope_dim", s.rope_dim, s.head_dim);
  if (s.n_heads % s.n_kv_heads || s.n_heads / s.n_kv_heads > kMostHeadsPerKey)
    refuse(file, format("%u query heads cannot share %u key heads", s.n_heads, s.n_kv_heads));
  if (uint64_t(s.n_heads) * s.head_dim > kMostColumns)
    refuse(file, format("%u heads of %u dimensions are more than %u columns", s.n_heads, s.head_dim, kMostColumns));
  if (s.rope_dim % 2) refuse(file, format("rope_dim is %u, which is odd", s.rope_dim));
  if (!(s.norm_eps >= 0.0f && s.norm_eps < 1.0f)) refuse(file, "norm_eps is not a small positive number");
  if (!(s.attn_scale > 0.0f && s.attn_scale < 1e6f)) refuse(file, "attn_scale is not a positive number");
  if (!(s.rope_dynamic_factor >= 0.0f && s.rope_dynamic_factor < 1e6f))
    refuse(file, "rope_dynamic_factor is not a number from 0");
  if (s.rope_dynamic_factor > 0.0f && (s.rope_original_context < 1 || s.rope_dim < 4))
    refuse(file, "rope_dynamic_factor needs rope_original_context and rope_dim of at least 4");
  if (s.rope_doubling && (s.rope_original_context < 1 || s.rope_dim < 4 || s.rope_dynamic_factor > 0.0f))
    refuse(file, "rope_doubling needs rope_original_context, rope_dim of at least 4 and no rope_dynamic_factor");
  if (s.rope_long && (s.rope_original_context < 1 || s.rope_doubling || s.rope_dynamic_factor > 0.0f))
    refuse(file, "rope_long needs rope_original_context and no dynamic NTK");
  if (s.logn_context == 1) refuse(file, "logn_context is 1, but must be 0 or at least 2");
  if (s.kv_lora_rank) {
    within("kv_lora_rank", s.kv_lora_rank, 4096);
    within("q_lora_rank", s.q_lora_rank, kMostColumns);
    within("v_head_dim", s.v_head_dim, 4096);
    if (s.kv_lora_rank % 16) refuse(file, format("kv_lora_rank is %u, no multiple of 16", s.kv_lora_rank));
    if (s.n_kv_heads != 1 || s.rope_dim >= s.head_dim)
      refuse(file, "latent attention needs n_kv_heads 1 and a part of each head that is not rotated");
    if (s.logn_context || s.qk_norms || s.rope_local || s.unrotated_layer_period)
      refuse(file, "latent attention has no logn_context, qk_norms, rope_local or unrotated_layer_period");
    if (uint64_t(s.n_heads) * std::max(s.v_head_dim, key_dim(s)) > kMostColumns)
      refuse(file, format("%u heads of latent attention are more than %u columns", s.n_heads, kMostColumns));
    if (!(s.lora_norm_eps >= 0.0f && s.lora_norm_eps < 1.0f))
      refuse(file, "lora_norm_eps is not a small positive number");
  }
  const auto within_f = [&](const char* name, float value, bool zero_too) {
    if (!((zero_too ? value >= 0.0f : value > 0.0f) && value < 1e6f))
      refuse(file, format("%s%s is %g, which is out of range", kPrefix, name, double(value)));
  };
  within_f("attn_softcap", s.attn_softcap, true);
  within_f("logit_softcap", s.logit_softcap, true);
  within_f("embed_scale", s.embed_scale, false);
  within_f("residual_scale", s.residual_scale, false);
  within_f("logit_scale", s.logit_scale, false);
  const auto is_switch = [&](const char* name, uint32_t value) {
    if (value > 1) refuse(file, format("%s%s is %u, but must be 0 or 1", kPrefix, name, value));
  };
  is_switch("post_norms", s.post_norms);
  is_switch("parallel_residual", s.parallel_residual);
  is_switch("ffn_gated", s.ffn_gated);
  is_switch("rope_doubling", s.rope_doubling);
  is_switch("rope_long", s.rope_long);
  within_f("rope_magnitude", s.rope_magnitude, false);
  is_switch("qk_norms", s.qk_norms);
  is_switch("rope_local", s.rope_local);
  if (s.rope_local && (s.rope_dynamic_factor > 0.0f || s.rope_doubling || s.rope_long))
    refuse(file, "rope_local needs frequencies that do not depend on the length");
  if (s.qk_norms && s.logn_context) refuse(file, "qk_norms undo what logn_context does");
  if (s.qk_norms && s.head_dim % 16)  // kernels work on 16 floats at once, and heads lie side by side
    throw Error(ErrorCode::UNSUPPORTED_MODEL, format("%s: head_dim is %u, but norms of heads need a multiple of 16",
                                                     file.path().c_str(), s.head_dim));
  const auto known = [&](const char* name, const std::string& value, const char* first, const char* second) {
    if (value != first && value != second)
      throw Error(ErrorCode::UNSUPPORTED_MODEL,
                  format("%s: the %s '%s' is not known to this version; known: %s, %s", file.path().c_str(), name,
                         value.c_str(), first, second));
  };
  known("activation", s.activation, "silu", "gelu");
  known("norm_type", s.norm_type, "rms", "layer");
  if (!s.ffn_gated && s.activation != "gelu")
    throw Error(ErrorCode::UNSUPPORTED_MODEL,
                file.path() + ": a feed-forward layer without gate needs activation gelu");
}

}  // namespace

const SpecField* spec_field_at(int index) {
  static const int count = int(sizeof kFields / sizeof *kFields);
  return index >= 0 && index < count ? &kFields[index] : nullptr;
}

Spec read_spec(const Container& file) {
  for (const Value& value : file.values()) {
    if (value.key.compare(0, sizeof kPrefix - 1, kPrefix)) continue;
    const std::string name = value.key.substr(sizeof kPrefix - 1);
    if (!find_field(name))
      throw Error(ErrorCode::UNSUPPORTED_MODEL,
                  format("%s: the model needs the feature '%s', which this version does not have; update rkllm_ext",
                         file.path().c_str(), name.c_str()));
  }
  Spec spec;
#define FIELD(type, name, default_value, meaning) read(file, *find_field(#name), spec.name);
#include "spec.def"
#undef FIELD
  check(file, spec);
  return spec;
}

}  // namespace rkllm
