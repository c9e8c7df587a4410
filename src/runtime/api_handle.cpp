// SPDX-License-Identifier: Apache-2.0
// What rkllm_ext.h adds for a handle: options, facts, figures and logits.
#include "api_sampler.h"
#include "handle.h"
#include "log.h"
#include "options.h"
#include "run.h"

using namespace rkllm;

namespace {

// Say how many positions an input has, and with out given compute a row of `width` floats for each.
template <class Compute>
void fill_rows(Runtime& runtime, const RKLLMInput* input, size_t width, float* out, size_t capacity, size_t* n_tokens,
               const Compute& compute) {
  need(input && n_tokens, "input and n_tokens must be given");
  const Occupied occupied(runtime);
  RunInput run_input = read_input(*input);
  prepare(run_input, *runtime.session, runtime.prompt, true);
  const SequenceInput& sequence = run_input.sequence;
  *n_tokens = size_t(sequence.n);
  if (!out) return;
  const size_t needed = size_t(sequence.n) * width;
  if (capacity < needed)
    throw Error(ErrorCode::INVALID_ARGUMENT,
                rkllm::format("the results for %lld tokens are %zu floats, but capacity is %zu",
                              static_cast<long long>(sequence.n), needed, capacity));
  runtime.session->use_adapter(runtime.settings.adapter);
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
    const std::lock_guard<std::mutex> lock(runtime.options_mutex);
    set_option(runtime, name, value);
  });
}

int rkllm_ext_release_lora(LLMHandle handle, const char* name) {
  return guard_handle(handle, [&](Runtime& runtime) {
    need(name, "name is NULL");
    const Occupied occupied(runtime);
    const std::lock_guard<std::mutex> lock(runtime.options_mutex);
    const std::shared_ptr<const Adapter> released = runtime.executor->adapters().release(name);
    if (runtime.settings.adapter == released) runtime.settings.adapter = nullptr;
    runtime.session->use_adapter(nullptr);
  });
}

int rkllm_ext_set_mask(LLMHandle handle, RKLLMExtMask function, void* userdata) {
  return guard_handle(handle, [&](Runtime& runtime) {
    const Occupied occupied(runtime);
    runtime.mask = function;
    runtime.mask_userdata = userdata;
  });
}

int rkllm_ext_set_tap(LLMHandle handle, RKLLMExtTap function, void* userdata) {
  return guard_handle(handle, [&](Runtime& runtime) {
    const Occupied occupied(runtime);
    Tap tap;
    if (function)
      tap = [function, userdata](const std::string& name, const float* x, int64_t rows, int64_t cols, int64_t stride) {
        function(name.c_str(), x, rows, cols, stride, userdata);
      };
    runtime.executor->set_tap(std::move(tap));
  });
}

int rkllm_ext_info(LLMHandle handle, RKLLMExtInfo* info) {
  return guard_handle(handle, [&](Runtime& runtime) {
    need(info, "info is NULL");
    const Model& model = *runtime.model;
    const Spec& s = model.spec;
    *info = {int32_t(s.vocab_size), int32_t(s.dim), int32_t(s.n_layers), int32_t(s.n_heads), int32_t(s.n_kv_heads),
             int32_t(s.head_dim), int32_t(s.max_context), runtime.session->max_context(), runtime.executor->n_threads(),
             model.tokenizer->bos_id(), model.n_parameters, model.weight_bytes, int64_t(model.file->file_size()),
             runtime.session->kv_bytes(), runtime.load_ms, model.format.c_str(), active_kernels().isa};
  });
}

const char* rkllm_ext_metadata(LLMHandle handle, const char* key) {
  const char* text = nullptr;
  guard_handle(handle, [&](Runtime& runtime) {
    need(key, "key is NULL");
    text = runtime.metadata(key);
  });
  return text;
}

int rkllm_ext_perf(LLMHandle handle, RKLLMExtPerf* perf) {
  return guard_handle(handle, [&](Runtime& runtime) {
    need(perf, "perf is NULL");
    *perf = runtime.perf();
  });
}

int rkllm_ext_token_logprobs(LLMHandle handle, float* chosen, int32_t* ids, float* logprobs, size_t capacity,
                             size_t* count) {
  return guard_handle(handle, [&](Runtime& runtime) {
    need(count, "count is NULL");
    const Logprobs found = runtime.logprobs();
    if (chosen) *chosen = found.chosen.logprob;
    hand_over(found.top, ids, logprobs, capacity, count);
  });
}

RKLLMExtTokenizer* rkllm_ext_tokenizer(LLMHandle handle) {
  RKLLMExtTokenizer* tokenizer = nullptr;
  guard_handle(handle, [&](Runtime& runtime) { tokenizer = &runtime.tokenizer; });
  return tokenizer;
}

int rkllm_ext_logits(LLMHandle handle, const RKLLMInput* input, float* out, size_t capacity, size_t* n_tokens) {
  return guard_handle(handle, [&](Runtime& runtime) {
    const auto compute = [&](const SequenceInput& sequence) { runtime.session->all_logits(sequence, out); };
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
