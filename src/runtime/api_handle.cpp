// SPDX-License-Identifier: Apache-2.0
// What rkllm_ext.h adds for a handle: options, facts, figures and logits.
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "handle.h"
#include "log.h"
#include "run.h"

using namespace rkllm;

namespace {

[[noreturn]] void refuse(const std::string& name, const std::string& value, const char* wanted) {
  throw Error(ErrorCode::INVALID_ARGUMENT, "the option " + name + " is '" + value + "', but must be " + wanted);
}

int64_t integer(const std::string& name, const std::string& value, int64_t least, int64_t most) {
  char* end = nullptr;
  errno = 0;
  const long long number = strtoll(value.c_str(), &end, 10);
  if (value.empty() || *end || errno || number < least || number > most)
    refuse(name, value, rkllm::format("an integer from %lld to %lld", static_cast<long long>(least),
                                      static_cast<long long>(most)).c_str());
  return number;
}

float number(const std::string& name, const std::string& value) {
  char* end = nullptr;
  const float result = strtof(value.c_str(), &end);
  if (value.empty() || *end || !std::isfinite(result)) refuse(name, value, "a number");
  return result;
}

void set_seed(Runtime& runtime, const std::string& value) {
  runtime.random_seed = value == "random";
  if (runtime.random_seed) return;
  char* end = nullptr;
  errno = 0;
  const unsigned long long seed = strtoull(value.c_str(), &end, 10);
  if (value.empty() || value[0] == '-' || *end || errno) refuse("seed", value, "0 to 18446744073709551615, or random");
  runtime.generation.seed = seed;
}

struct Option {
  const char* name;
  void (*set)(Runtime& runtime, const std::string& name, const std::string& value);
};

const Option kOptions[] = {
    {"max_new_tokens", [](Runtime& r, auto& n, auto& v) { r.generation.max_new_tokens = int32_t(integer(n, v, -1, INT32_MAX)); }},
    {"top_k", [](Runtime& r, auto& n, auto& v) { r.generation.sampling.top_k = int32_t(integer(n, v, INT32_MIN, INT32_MAX)); }},
    {"top_p", [](Runtime& r, auto& n, auto& v) { r.generation.sampling.top_p = number(n, v); }},
    {"temperature", [](Runtime& r, auto& n, auto& v) { r.generation.sampling.temperature = number(n, v); }},
    {"repeat_penalty", [](Runtime& r, auto& n, auto& v) { r.generation.sampling.repeat_penalty = number(n, v); }},
    {"frequency_penalty", [](Runtime& r, auto& n, auto& v) { r.generation.sampling.frequency_penalty = number(n, v); }},
    {"presence_penalty", [](Runtime& r, auto& n, auto& v) { r.generation.sampling.presence_penalty = number(n, v); }},
    {"ignore_eos", [](Runtime& r, auto& n, auto& v) { r.generation.ignore_eos = integer(n, v, 0, 1) != 0; }},
    {"skip_special_token", [](Runtime& r, auto& n, auto& v) { r.skip_special = integer(n, v, 0, 1) != 0; }},
    {"add_bos", [](Runtime& r, auto& n, auto& v) { r.add_bos = v == "auto" ? -1 : int(integer(n, v, 0, 1)); }},
    {"seed", [](Runtime& r, auto&, auto& v) { set_seed(r, v); }},
    {"n_threads", [](Runtime& r, auto& n, auto& v) { r.session->set_threads(int(integer(n, v, 0, 256))); }},
    {"prefill_chunk", [](Runtime& r, auto& n, auto& v) { r.session->set_prefill_chunk(int(integer(n, v, 1, 512))); }},
};

void set_option(Runtime& runtime, const char* name, const char* value) {
  std::string names;
  for (const Option& option : kOptions) {
    if (!strcmp(option.name, name)) {
      const Generation before = runtime.generation;
      option.set(runtime, name, value);
      try {
        check_generation(runtime.generation);
      } catch (const Error&) {
        runtime.generation = before;  // a refused value changes nothing
        throw;
      }
      return;
    }
    names += std::string(names.empty() ? "" : ", ") + option.name;
  }
  throw Error(ErrorCode::INVALID_ARGUMENT, std::string("the option '") + name + "' does not exist; there are " + names);
}

// Say how many positions an input has, and with out given compute a row of `width` floats for each.
template <class Compute>
void fill_rows(Runtime& runtime, const RKLLMInput* input, size_t width, float* out, size_t capacity, size_t* n_tokens,
               const Compute& compute) {
  need(input && n_tokens, "input and n_tokens must be given");
  const Occupied occupied(runtime);
  const RunInput run_input = read_input(*input);
  std::vector<int32_t> ids;
  SequenceInput sequence = run_input.sequence;
  if (run_input.type == RKLLM_INPUT_PROMPT) {
    ids = prompt_ids(runtime, run_input.prompt);
    sequence = {ids.data(), nullptr, int64_t(ids.size())};
  }
  *n_tokens = size_t(sequence.n);
  if (!out) return;
  const size_t needed = size_t(sequence.n) * width;
  if (capacity < needed)
    throw Error(ErrorCode::INVALID_ARGUMENT,
                rkllm::format("the results for %lld tokens are %zu floats, but capacity is %zu",
                              static_cast<long long>(sequence.n), needed, capacity));
  compute(sequence);
}

}  // namespace

extern "C" {

void rkllm_ext_set_log(RKLLMExtLog hook, void* userdata) {
  guard([&] { set_log_hook(hook, userdata); });
}

int rkllm_ext_set_option(LLMHandle handle, const char* name, const char* value) {
  return guard_handle(handle, [&](Runtime& runtime) {
    need(name && value, "name and value must be given");
    const Occupied occupied(runtime);
    set_option(runtime, name, value);
  });
}

int rkllm_ext_info(LLMHandle handle, RKLLMExtInfo* info) {
  return guard_handle(handle, [&](Runtime& runtime) {
    need(info, "info is NULL");
    const Model& model = *runtime.model;
    const Spec& s = model.spec;
    *info = {int32_t(s.vocab_size), int32_t(s.dim), int32_t(s.n_layers), int32_t(s.n_heads), int32_t(s.n_kv_heads),
             int32_t(s.head_dim), int32_t(s.max_context), runtime.session->max_context(), runtime.session->n_threads(),
             model.tokenizer->bos_id(), model.n_parameters, model.weight_bytes, int64_t(model.file->file_size()),
             runtime.session->kv_bytes(), runtime.load_ms, model.format.c_str(), active_kernels().isa};
  });
}

const char* rkllm_ext_metadata(LLMHandle handle, const char* key) {
  thread_local std::string text;
  bool found = false;
  guard_handle(handle, [&](Runtime& runtime) {
    need(key, "key is NULL");
    const Value* value = runtime.model->file->find_value(key);
    if (!value || value->type != ValueType::STRING) return;
    text = std::string(runtime.model->file->get_string(key));
    found = true;
  });
  return found ? text.c_str() : nullptr;
}

int rkllm_ext_perf(LLMHandle handle, RKLLMExtPerf* perf) {
  return guard_handle(handle, [&](Runtime& runtime) {
    need(perf, "perf is NULL");
    *perf = runtime.perf();
  });
}

RKLLMExtTokenizer* rkllm_ext_tokenizer(LLMHandle handle) {
  RKLLMExtTokenizer* tokenizer = nullptr;
  guard_handle(handle, [&](Runtime& runtime) { tokenizer = &runtime.tokenizer; });
  return tokenizer;
}

int rkllm_ext_logits(LLMHandle handle, const RKLLMInput* input, float* out, size_t capacity, size_t* n_tokens) {
  return guard_handle(handle, [&](Runtime& runtime) {
    const auto compute = [&](const SequenceInput& sequence) { runtime.session->logits(sequence, out); };
    fill_rows(runtime, input, runtime.model->spec.vocab_size, out, capacity, n_tokens, compute);
  });
}

int rkllm_ext_hidden_states(LLMHandle handle, const RKLLMInput* input, float* out, size_t capacity, size_t* n_tokens) {
  return guard_handle(handle, [&](Runtime& runtime) {
    const auto compute = [&](const SequenceInput& sequence) { runtime.session->hidden_states(sequence, out); };
    fill_rows(runtime, input, runtime.model->spec.dim, out, capacity, n_tokens, compute);
  });
}

}  // extern "C"
