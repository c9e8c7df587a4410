// SPDX-License-Identifier: Apache-2.0
// The vendor's interface: init, run, abort, destroy. Behaviour as docs/abi.md states it.
#include "api.h"

#include <sys/utsname.h>

#include <chrono>
#include <cstring>
#include <string>
#include <system_error>
#include <thread>

#include "handle.h"
#include "log.h"
#include "run.h"
#include "signals.h"

namespace rkllm {
namespace {

constexpr int kDefaultContext = 512;
constexpr int kLargestAutomaticContext = 4096;
constexpr char kDefaultPromptCache[] = "./prompt_cache.bin";

// The last failure of a thread. Plain memory: reporting an error cannot fail.
thread_local int last_code = 0;
thread_local char last_sentence[1024] = "";

// A sentence that rkllm_ext_last_error took from a handle.
thread_local char handle_sentence[1024] = "";

std::string platform() {
  utsname name = {};
  uname(&name);
  return std::string(name.sysname) + " " + name.machine;
}

// The first line of every init, as the vendor's library has it.
void log_version() {
  log(1, 'I', format("rkllm-runtime version: %s, rknpu driver version: none (CPU), platform: %s", RKLLM_EXT_VERSION,
                     platform().c_str()));
}

void log_parameters(const RKLLMParam& p, const Runtime& runtime) {
  log(2, 'I', format("model_path: %s, max_context_len: %d, max_new_tokens: %d, top_k: %d, top_p: %g, temperature: %g, "
                     "repeat_penalty: %g, frequency_penalty: %g, presence_penalty: %g, mirostat: %d, mirostat_tau: %g, "
                     "mirostat_eta: %g, skip_special_token: %d, is_async: %d, threads: %d, isa: %s",
                     p.model_path, runtime.session->max_context(), p.max_new_tokens, p.top_k, p.top_p, p.temperature,
                     p.repeat_penalty, p.frequency_penalty, p.presence_penalty, p.mirostat, p.mirostat_tau,
                     p.mirostat_eta, p.skip_special_token, p.is_async, runtime.executor->n_threads(),
                     active_kernels().isa));
  log(2, 'I', format("img_start: '%s', img_end: '%s', img_content: '%s'", runtime.prompt.tags.start.c_str(),
                     runtime.prompt.tags.end.c_str(), runtime.prompt.tags.content.c_str()));
  log(2, 'I', format("kv cache: %s, %u layers, %d positions, %.2f MB", kv_type_name(runtime.session->kv_type()),
                     runtime.model->spec.n_layers, runtime.session->max_context(),
                     double(runtime.session->kv_bytes()) / (1 << 20)));
}

std::unique_ptr<Runtime> make_runtime(const RKLLMParam& p, LLMResultCallback callback) {
  const auto start = std::chrono::steady_clock::now();
  need(p.model_path && *p.model_path, "model_path is empty; give the path of a .rkllm file");
  need(callback, "callback is NULL; rkllm_init needs a function to deliver results to");
  kernels();  // a wrong RKLLM_EXT_ISA is reported before a large file is read
  auto runtime = std::make_unique<Runtime>();
  runtime->model = open_model(p.model_path);
  int context = p.max_context_len;
  if (context == 0) context = std::min(kLargestAutomaticContext, int(runtime->model->spec.max_context));
  check_context(*runtime->model, context);
  runtime->executor = std::make_shared<Executor>(runtime->model, context, 0);
  runtime->session = std::make_unique<Session>(runtime->executor, default_kv_type(*runtime->model));
  runtime->callback = callback;
  runtime->is_async = p.is_async;
  runtime->skip_special = p.skip_special_token;
  runtime->tokenizer.tokenizer = runtime->model->tokenizer;
  const auto text = [](const char* tag) { return std::string(tag ? tag : ""); };
  runtime->prompt.tags = {text(p.img_start), text(p.img_end), text(p.img_content)};
  Generation& g = runtime->settings.generation;
  g.sampling = {p.top_k, p.top_p, p.temperature, p.repeat_penalty, p.frequency_penalty, p.presence_penalty,
                p.mirostat, p.mirostat_tau, p.mirostat_eta};
  g.max_new_tokens = p.max_new_tokens;
  check_generation(g);
  runtime->load_ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  return runtime;
}

void check_infer_params(const RKLLMInferParam* params) {
  if (!params) return;
  const int mode = number_of(params->mode);
  if (mode != RKLLM_INFER_GENERATE && mode != RKLLM_INFER_GET_LAST_HIDDEN_LAYER)
    throw Error(ErrorCode::INVALID_ARGUMENT, format("mode is %d, but there are 0 and 1", mode));
  if (params->lora_params) need(params->lora_params->lora_adapter_name, "lora_params->lora_adapter_name is NULL");
}

// Where a run is to save the state of its prompt, "" when it is not to.
std::string save_path(const RKLLMInferParam* params) {
  const RKLLMPromptCacheParam* cache = params ? params->prompt_cache_params : nullptr;
  if (!cache || !cache->save_prompt_cache) return "";
  return cache->prompt_cache_path && *cache->prompt_cache_path ? cache->prompt_cache_path : kDefaultPromptCache;
}

int start(LLMHandle handle, const RKLLMInput* input, const RKLLMInferParam* params, void* userdata, bool async) {
  HandleUse use(handle);
  need(input, "rkllm_input is NULL");
  check_infer_params(params);
  RunInput run_input = read_input(*input);
  if (params) run_input.mode = RKLLMInferMode(number_of(params->mode));
  run_input.save_path = save_path(params);
  auto occupied = std::make_unique<Occupied>(*use);
  run_input.adapter = params && params->lora_params
                          ? use->executor->adapters().find(params->lora_params->lora_adapter_name)
                          : use->settings.adapter;
  if (!async) return run(*use, *occupied, run_input, userdata);
  try {
    const SignalsBlocked blocked;
    std::thread([handle, use = std::move(use), occupied = std::move(occupied), run_input = std::move(run_input),
                 userdata]() mutable {
      const InsideCall mark(handle);
      const HandleUse own = std::move(use);
      const std::unique_ptr<Occupied> held = std::move(occupied);  // goes before what it points into
      run(*own, *held, run_input, userdata);
    }).detach();
  } catch (const std::system_error&) {
    throw Error(ErrorCode::OUT_OF_MEMORY, "a thread for the run cannot be started");
  }
  return 0;
}

}  // namespace

int keep_error(ErrorCode code, const char* sentence) noexcept {
  last_code = int(code);
  if (sentence != last_sentence) strncpy(last_sentence, sentence, sizeof last_sentence - 1);
  return last_code;
}

const char* kept_sentence() noexcept { return last_sentence; }

}  // namespace rkllm

using namespace rkllm;

extern "C" {

RKLLMParam rkllm_createDefaultParam(void) {
  RKLLMParam p = {};
  const Sampling sampling;
  p.max_context_len = kDefaultContext;
  p.max_new_tokens = -1;
  p.top_k = sampling.top_k;
  p.top_p = sampling.top_p;
  p.temperature = sampling.temperature;
  p.repeat_penalty = sampling.repeat_penalty;
  p.frequency_penalty = sampling.frequency_penalty;
  p.presence_penalty = sampling.presence_penalty;
  p.mirostat = sampling.mirostat;
  p.mirostat_tau = sampling.mirostat_tau;
  p.mirostat_eta = sampling.mirostat_eta;
  p.img_start = p.img_end = p.img_content = "";
  return p;
}

int rkllm_init(LLMHandle* handle, RKLLMParam* param, LLMResultCallback callback) {
  const int code = guard([&] {
    read_log_level();
    log_version();
    need(handle, "handle is NULL");
    *handle = nullptr;
    need(param, "param is NULL");
    std::unique_ptr<Runtime> runtime = make_runtime(*param, callback);
    log_parameters(*param, *runtime);
    *handle = add_handle(std::move(runtime));
  });
  if (code) log(1, 'E', last_sentence);
  return code;
}

int rkllm_destroy(LLMHandle handle) {
  return guard([&] { close_handle(handle); });
}

int rkllm_run(LLMHandle handle, RKLLMInput* rkllm_input, RKLLMInferParam* rkllm_infer_params, void* userdata) {
  int run_code = 0;
  const int code = guard_handle(handle, [&](Runtime& runtime) {
    run_code = start(handle, rkllm_input, rkllm_infer_params, userdata, runtime.is_async);
  });
  return code ? code : run_code;
}

int rkllm_run_async(LLMHandle handle, RKLLMInput* rkllm_input, RKLLMInferParam* rkllm_infer_params, void* userdata) {
  return guard_handle(handle,
                      [&](Runtime&) { start(handle, rkllm_input, rkllm_infer_params, userdata, true); });
}

int rkllm_abort(LLMHandle handle) {
  return guard_look(handle, [](Runtime& runtime) { runtime.session->request_abort(); });
}

int rkllm_is_running(LLMHandle handle) {
  bool running = false;
  guard_look(handle, [&](Runtime& runtime) { running = runtime.busy; });
  return running ? 0 : 1;
}

int rkllm_load_lora(LLMHandle handle, RKLLMLoraAdapter* lora_adapter) {
  return guard_handle(handle, [&](Runtime& runtime) {
    need(lora_adapter, "lora_adapter is NULL");
    need(lora_adapter->lora_adapter_path && lora_adapter->lora_adapter_name,
         "lora_adapter_path and lora_adapter_name must be given");
    const Occupied occupied(runtime);
    runtime.executor->adapters().load(lora_adapter->lora_adapter_name, lora_adapter->lora_adapter_path,
                                      lora_adapter->scale);
  });
}

const char* rkllm_ext_last_error(LLMHandle handle) {
  if (!handle) return last_sentence;
  int code = 0;
  const auto read = [&](Runtime& runtime) { runtime.read_error(&code, handle_sentence, sizeof handle_sentence); };
  return guard_look(handle, read) ? last_sentence : handle_sentence;
}

int rkllm_ext_last_error_code(LLMHandle handle) {
  if (!handle) return last_code;
  int code = 0;
  char sentence[1024];
  const auto read = [&](Runtime& runtime) { runtime.read_error(&code, sentence, sizeof sentence); };
  return guard_look(handle, read) ? last_code : code;
}

}  // extern "C"
