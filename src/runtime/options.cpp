// SPDX-License-Identifier: Apache-2.0
#include "options.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>

#include "numeric.h"

namespace rkllm {
namespace {

constexpr char kStopSeparator = '\x1f';  // the unit separator of ASCII

[[noreturn]] void refuse(const std::string& name, const std::string& value, const char* wanted) {
  throw Error(ErrorCode::INVALID_ARGUMENT, "the option " + name + " is '" + value + "', but must be " + wanted);
}

int64_t integer(const std::string& name, const std::string& value, int64_t least, int64_t most) {
  char* end = nullptr;
  errno = 0;
  const long long number = strtoll(value.c_str(), &end, 10);
  if (value.empty() || *end || errno || number < least || number > most)
    refuse(name, value, format("an integer from %lld to %lld", static_cast<long long>(least),
                                      static_cast<long long>(most)).c_str());
  return number;
}

float number(const std::string& name, const std::string& value) {
  float result = 0.0f;
  if (!read_float(value, &result)) refuse(name, value, "a number");
  return result;
}

void set_seed(RunSettings& settings, const std::string& value) {
  settings.random_seed = value == "random";
  if (settings.random_seed) return;
  char* end = nullptr;
  errno = 0;
  const unsigned long long seed = strtoull(value.c_str(), &end, 10);
  if (value.empty() || value[0] == '-' || *end || errno) refuse("seed", value, "0 to 18446744073709551615, or random");
  settings.generation.seed = seed;
}

// The parts of a text between separators; none of "".
std::vector<std::string> parts(const std::string& text, char separator) {
  std::vector<std::string> found;
  for (size_t at = 0; !text.empty() && at <= text.size();) {
    const size_t end = std::min(text.find(separator, at), text.size());
    found.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return found;
}

std::vector<int64_t> counts(const std::string& name, const std::string& value) {
  std::vector<int64_t> result;
  for (const std::string& part : parts(value, ',')) result.push_back(integer(name, part, 1, INT32_MAX));
  return result;
}

// "id:bias,id:bias"
void set_logit_bias(RunSettings& settings, Executor& executor, const std::string& name, const std::string& value) {
  std::vector<LogitBias> rows;
  for (const std::string& part : parts(value, ',')) {
    const size_t colon = part.find(':');
    if (colon == part.npos) refuse(name, value, "id:bias,id:bias");
    const int64_t id = integer(name, part.substr(0, colon), 0, int64_t(executor.model().spec.vocab_size) - 1);
    const std::string bias = part.substr(colon + 1);
    rows.push_back({int32_t(id), bias == "-inf" ? -INFINITY : number(name, bias)});
  }
  settings.generation.sampling.logit_bias = std::move(rows);
}

void set_kv_type(Runtime& runtime, const std::string& name, const std::string& value) {
  KvType type;
  if (!parse_kv_type(value.c_str(), &type)) refuse(name, value, "f16, f32 or int8");
  if (type != runtime.session->kv_type()) runtime.session->set_kv_type(type);
}

// Sessions would hold positions of both kinds.
void set_activations(Runtime& runtime, const std::string& name, const std::string& value) {
  ActivationType type;
  if (!parse_activation_type(value, &type)) refuse(name, value, "auto or int8");
  if (type == runtime.executor->activations()) return;
  constexpr long own = 2;  // owners of the executor: the handle and its own session
  if (runtime.executor.use_count() > own)
    throw Error(ErrorCode::BUSY, "activations cannot change while sessions of the handle are open; close them first");
  runtime.executor->set_activations(type);
  runtime.session->truncate(0);
}

struct RunOption {
  const char* name;
  void (*set)(RunSettings& settings, Executor& executor, const std::string& name, const std::string& value);
};

const RunOption kRunOptions[] = {
    {"max_new_tokens",
     [](RunSettings& s, auto&, auto& n, auto& v) {
       s.generation.max_new_tokens = int32_t(integer(n, v, -1, INT32_MAX));
     }},
    {"top_k",
     [](RunSettings& s, auto&, auto& n, auto& v) {
       s.generation.sampling.top_k = int32_t(integer(n, v, INT32_MIN, INT32_MAX));
     }},
    {"top_p", [](RunSettings& s, auto&, auto& n, auto& v) { s.generation.sampling.top_p = number(n, v); }},
    {"temperature", [](RunSettings& s, auto&, auto& n, auto& v) { s.generation.sampling.temperature = number(n, v); }},
    {"repeat_penalty",
     [](RunSettings& s, auto&, auto& n, auto& v) { s.generation.sampling.repeat_penalty = number(n, v); }},
    {"frequency_penalty",
     [](RunSettings& s, auto&, auto& n, auto& v) { s.generation.sampling.frequency_penalty = number(n, v); }},
    {"presence_penalty",
     [](RunSettings& s, auto&, auto& n, auto& v) { s.generation.sampling.presence_penalty = number(n, v); }},
    {"mirostat",
     [](RunSettings& s, auto&, auto& n, auto& v) { s.generation.sampling.mirostat = int32_t(integer(n, v, 0, 2)); }},
    {"mirostat_tau",
     [](RunSettings& s, auto&, auto& n, auto& v) { s.generation.sampling.mirostat_tau = number(n, v); }},
    {"mirostat_eta",
     [](RunSettings& s, auto&, auto& n, auto& v) { s.generation.sampling.mirostat_eta = number(n, v); }},
    {"min_p", [](RunSettings& s, auto&, auto& n, auto& v) { s.generation.sampling.min_p = number(n, v); }},
    {"logit_bias", set_logit_bias},
    {"stop", [](RunSettings& s, auto&, auto&, auto& v) { s.generation.stop = parts(v, kStopSeparator); }},
    {"logprobs",
     [](RunSettings& s, auto&, auto& n, auto& v) {
       s.generation.logprobs = int32_t(integer(n, v, -1, kMostLogprobs));
     }},
    {"ignore_eos", [](RunSettings& s, auto&, auto& n, auto& v) { s.generation.ignore_eos = integer(n, v, 0, 1) != 0; }},
    {"n_keep",
     [](RunSettings& s, auto&, auto& n, auto& v) { s.generation.n_keep = int32_t(integer(n, v, -1, INT32_MAX)); }},
    {"draft",
     [](RunSettings& s, auto&, auto& n, auto& v) { s.generation.draft = int32_t(integer(n, v, 0, kMostDraft)); }},
    {"seed", [](RunSettings& s, auto&, auto&, auto& v) { set_seed(s, v); }},
    {"lora", [](RunSettings& s, Executor& e, auto&, auto& v) { s.adapter = e.adapters().find(v); }},
};

struct PromptOption {
  const char* name;
  void (*set)(PromptRules& rules, const std::string& name, const std::string& value);
};

const PromptOption kPromptOptions[] = {
    {"add_bos", [](PromptRules& r, auto& n, auto& v) { r.add_bos = v == "auto" ? -1 : int(integer(n, v, 0, 1)); }},
    {"image_tokens", [](PromptRules& r, auto& n, auto& v) { r.image_tokens = counts(n, v); }},
};

void set_keep_history(Runtime& runtime, const std::string& name, const std::string& value) {
  runtime.keep_history = integer(name, value, 0, 1) != 0;
  if (runtime.keep_history) return;
  runtime.history.clear();
  runtime.session->truncate(0);
}

struct HandleOption {
  const char* name;
  void (*set)(Runtime& runtime, const std::string& name, const std::string& value);
};

const HandleOption kHandleOptions[] = {
    {"skip_special_token", [](Runtime& r, auto& n, auto& v) { r.skip_special = integer(n, v, 0, 1) != 0; }},
    {"reuse_prefix", [](Runtime& r, auto& n, auto& v) { r.reuse_prefix = integer(n, v, 0, 1) != 0; }},
    {"keep_history", [](Runtime& r, auto& n, auto& v) { set_keep_history(r, n, v); }},
    {"n_threads", [](Runtime& r, auto& n, auto& v) { r.executor->set_threads(int(integer(n, v, 0, 256))); }},
    {"prefill_chunk", [](Runtime& r, auto& n, auto& v) { r.executor->set_chunk(int(integer(n, v, 1, 512))); }},
    {"activations", [](Runtime& r, auto& n, auto& v) { set_activations(r, n, v); }},
    {"kv_type", [](Runtime& r, auto& n, auto& v) { set_kv_type(r, n, v); }},
};

template <class Options>
auto find(const Options& options, const std::string& name) {
  return std::find_if(std::begin(options), std::end(options), [&](const auto& option) { return option.name == name; });
}

template <class Options>
std::string names_of(const Options& options) {
  std::string names;
  for (const auto& option : options) names += std::string(names.empty() ? "" : ", ") + option.name;
  return names;
}

[[noreturn]] void refuse_name(const std::string& name, const std::string& names) {
  throw Error(ErrorCode::INVALID_ARGUMENT, "the option '" + name + "' does not exist; there are " + names);
}

}  // namespace

bool set_prompt_option(PromptRules& rules, const std::string& name, const std::string& value) {
  const auto option = find(kPromptOptions, name);
  if (option == std::end(kPromptOptions)) return false;
  option->set(rules, name, value);
  return true;
}

void set_run_option(RunSettings& settings, Executor& executor, const std::string& name, const std::string& value) {
  const auto option = find(kRunOptions, name);
  if (option == std::end(kRunOptions)) refuse_name(name, names_of(kRunOptions) + ", " + names_of(kPromptOptions));
  RunSettings changed = settings;  // a refused value changes nothing
  option->set(changed, executor, name, value);
  check_generation(changed.generation);
  settings = std::move(changed);
}

void set_option(Runtime& runtime, const std::string& name, const std::string& value) {
  if (set_prompt_option(runtime.prompt, name, value)) return;
  const auto option = find(kHandleOptions, name);
  if (option != std::end(kHandleOptions)) option->set(runtime, name, value);
  else if (find(kRunOptions, name) != std::end(kRunOptions))
    set_run_option(runtime.settings, *runtime.executor, name, value);
  else refuse_name(name, names_of(kRunOptions) + ", " + names_of(kPromptOptions) + ", " + names_of(kHandleOptions));
}

}  // namespace rkllm
