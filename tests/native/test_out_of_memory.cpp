// SPDX-License-Identifier: Apache-2.0
// Every allocation of every call fails once: the call then returns a code with a sentence, or does without; nothing
// crashes, a run still ends with one callback, and what is open answers afterwards as before.
#include <dlfcn.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>

#include "recorded_run.h"

// ---- what can fail: memory of the engine's own, mapped files, threads
// ------------------------------------------------

namespace {

std::atomic<long> until_failure{-1};  // allocations that still succeed; negative: all do
std::atomic<bool> has_failed{false};

bool fails_now() {
  if (until_failure < 0 || until_failure.fetch_sub(1) != 0) return false;
  has_failed = true;
  return true;
}

void* allocate(size_t n) {
  void* memory = fails_now() ? nullptr : malloc(n ? n : 1);
  if (!memory) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(size_t n) { return allocate(n); }
void* operator new[](size_t n) { return allocate(n); }
void operator delete(void* memory) noexcept { free(memory); }
void operator delete[](void* memory) noexcept { free(memory); }
void operator delete(void* memory, size_t) noexcept { free(memory); }
void operator delete[](void* memory, size_t) noexcept { free(memory); }

extern "C" {

int posix_memalign(void** out, size_t alignment, size_t n) {
  *out = fails_now() ? nullptr : aligned_alloc(alignment, (n + alignment - 1) / alignment * alignment);
  return *out ? 0 : ENOMEM;
}

void* mmap(void* address, size_t length, int protection, int flags, int fd, off_t offset) {
  // Anonymous maps are those of C libraries and sanitizers.
  if (!(flags & MAP_ANONYMOUS) && fails_now()) {
    errno = ENOMEM;
    return MAP_FAILED;
  }
  return reinterpret_cast<void*>(syscall(SYS_mmap, address, length, protection, flags, fd, offset));
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*), void* argument) {
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const Create create = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  return fails_now() ? EAGAIN : create(thread, attributes, start, argument);
}

}  // extern "C"

namespace {

// ---- runs that are recorded without memory
// ---------------------------------------------------------------------------

struct Seen {
  std::atomic<int> tokens{0}, ends{0}, errors{0};
  int32_t ids[64] = {};
};

void see(RKLLMResult* result, void* userdata, LLMCallState state) {
  auto& seen = *static_cast<Seen*>(userdata);
  CHECK(result && result->text && seen.ends == 0);
  if (state == RKLLM_RUN_NORMAL || state == RKLLM_RUN_WAITING) {
    if (seen.tokens < 64) seen.ids[seen.tokens] = result->token_id;
    seen.tokens++;
  }
  seen.errors += state == RKLLM_RUN_ERROR;
  seen.ends += state == RKLLM_RUN_ERROR || state == RKLLM_RUN_FINISH;
}

constexpr int kTokens = 6;

const std::string path = model_path("w4a16_g32");

LLMHandle open_model(int* code) {
  RKLLMParam param = rkllm_createDefaultParam();
  param.model_path = path.c_str();
  param.max_context_len = 128;
  param.max_new_tokens = kTokens;
  param.top_k = 1;
  LLMHandle handle = nullptr;
  *code = rkllm_init(&handle, &param, see);
  return handle;
}

struct Model {
  LLMHandle handle = nullptr;
  int32_t expected[kTokens] = {};

  Model() {
    int code = 0;
    handle = open_model(&code);
    CHECK(code == 0 && rkllm_ext_set_option(handle, "ignore_eos", "1") == 0);
    CHECK(rkllm_ext_set_option(handle, "n_threads", "2") == 0);
    Seen seen;
    CHECK(run(seen) == 0 && seen.tokens == kTokens);
    memcpy(expected, seen.ids, sizeof expected);
  }
  ~Model() { CHECK(rkllm_destroy(handle) == 0); }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  int run(Seen& seen, bool async = false) const {
    RKLLMInput input = prompt_input(kPrompt);
    RKLLMInferParam params = {};
    return (async ? rkllm_run_async : rkllm_run)(handle, &input, &params, &seen);
  }
  void answers_as_before() const {
    Seen seen;
    CHECK(run(seen) == 0 && seen.ends == 1 && seen.errors == 0);
    CHECK(seen.tokens == kTokens && !memcmp(seen.ids, expected, sizeof expected));
  }
};

// Call attempt(n) with the n-th allocation failing, for every n until nothing fails any more; the later ones in
// growing strides. attempt returns the code of the call.
template <class Attempt>
void with_each_failure(const char* what, const Attempt& attempt) {
  long failures = 0;
  for (long n = 0;; n += 1 + n / 40) {
    has_failed = false;
    until_failure = n;
    const int code = attempt();
    until_failure = -1;
    if (!has_failed) {
      CHECK(code == 0);
      break;
    }
    failures++;
    if (code) CHECK(code < 0 && strlen(rkllm_ext_last_error(nullptr)) > 5);
  }
  if (failures < 1) fprintf(stderr, "%s: nothing failed\n", what);
  CHECK(failures > 0);
}

// ---- the calls
// -------------------------------------------------------------------------------------------------------

void init_fails_cleanly() {
  with_each_failure("init", [] {
    int code = 0;
    const LLMHandle handle = open_model(&code);
    until_failure = -1;
    CHECK((code == 0) == (handle != nullptr));
    if (handle) CHECK(rkllm_destroy(handle) == 0);
    return code;
  });
  Model().answers_as_before();
}

void a_run_fails_with_one_callback_and_the_next_one_is_whole() {
  const Model model;
  with_each_failure("run", [&] {
    Seen seen;
    const int code = model.run(seen);
    until_failure = -1;
    CHECK(seen.ends == (code == 0 || seen.errors ? 1 : 0));  // refused before it began: no callback
    CHECK(!seen.errors || (code != 0 && strlen(rkllm_ext_last_error(model.handle)) > 5));
    if (code == 0) CHECK(seen.tokens == kTokens && !memcmp(seen.ids, model.expected, sizeof seen.ids[0] * kTokens));
    model.answers_as_before();
    return code;
  });
}

void an_asynchronous_run_ends_whatever_fails() {
  const Model model;
  with_each_failure("run_async", [&] {
    Seen seen;
    const int code = model.run(seen, true);
    for (int i = 0; code == 0 && seen.ends == 0 && i < 60000; i++) usleep(1000);
    until_failure = -1;
    CHECK(seen.ends == (code == 0));
    const int result = code ? code : seen.errors ? rkllm_ext_last_error_code(model.handle) : 0;
    if (result) CHECK(strlen(rkllm_ext_last_error(model.handle)) > 5);
    model.answers_as_before();
    return code;
  });
}

void options_that_take_memory_leave_the_model_whole() {
  const Model model;
  const char* const options[][2] = {{"n_threads", "3"}, {"n_threads", "1"}, {"prefill_chunk", "100"},
                                    {"kv_type", "int8"}, {"kv_type", "f16"}, {"stop", "never"}, {"stop", ""}};
  for (const auto& option : options) {
    with_each_failure(option[0], [&] {
      const int code = rkllm_ext_set_option(model.handle, option[0], option[1]);
      until_failure = -1;
      if (strcmp(option[0], "kv_type") != 0) model.answers_as_before();
      return code;
    });
  }
  model.answers_as_before();
}

void sessions_fail_cleanly() {
  const Model model;
  RKLLMExtSession* steady = nullptr;
  CHECK(rkllm_ext_session_open(model.handle, &steady) == 0);
  const RKLLMInput input = prompt_input(kPrompt);
  CHECK(rkllm_ext_session_prefill(steady, &input, 0, nullptr) == 0);
  with_each_failure("session_open", [&] {
    RKLLMExtSession* session = nullptr;
    const int code = rkllm_ext_session_open(model.handle, &session);
    until_failure = -1;
    CHECK((code == 0) == (session != nullptr));
    rkllm_ext_session_close(session);
    return code;
  });
  with_each_failure("session_fork", [&] {
    RKLLMExtSession* session = nullptr;
    const int code = rkllm_ext_session_fork(steady, &session);
    until_failure = -1;
    CHECK((code == 0) == (session != nullptr));
    rkllm_ext_session_close(session);
    return code;
  });
  with_each_failure("session_prefill", [&] {
    const int code = rkllm_ext_session_prefill(steady, &input, RKLLM_EXT_WHOLE, nullptr);
    until_failure = -1;
    CHECK(rkllm_ext_session_truncate(steady, 0) == 0);
    return code;
  });
  CHECK(rkllm_ext_session_prefill(steady, &input, RKLLM_EXT_WHOLE, nullptr) == 0);
  for (const bool sample : {true, false}) {
    with_each_failure(sample ? "session_sample" : "session_step", [&] {
      int32_t token = 0;
      const int code = sample ? rkllm_ext_session_sample(steady, nullptr, &token)
                              : rkllm_ext_session_step(&steady, model.expected, 1);
      until_failure = -1;
      if (code == 0 && sample) CHECK(token == model.expected[0]);
      return code;
    });
    RKLLMExtSession* again = nullptr;  // a session opened now has fewer allocations behind it
    CHECK(rkllm_ext_session_open(model.handle, &again) == 0);
    rkllm_ext_session_close(again);
  }
  with_each_failure("session_decode", [&] {
    int32_t token = model.expected[0];
    const int code = rkllm_ext_session_decode(&steady, &token, 1, nullptr, nullptr, nullptr);
    until_failure = -1;
    CHECK(code == 0 || token == -1 || token == model.expected[0]);
    return code;
  });
  rkllm_ext_session_close(steady);
  model.answers_as_before();
}

// A run that may fail: it ends once, if it began, and the model answers on.
int run_once(const Model& model, RKLLMInput& input, RKLLMInferParam& params) {
  Seen seen;
  const int code = rkllm_run(model.handle, &input, &params, &seen);
  until_failure = -1;
  CHECK(seen.ends == (code == 0 || seen.errors ? 1 : 0));
  model.answers_as_before();
  return code;
}

void an_adapter_fails_cleanly() {
  const std::string path = model_path("lora_a");
  if (access(path.c_str(), R_OK) != 0) return;  // a folder without it
  const Model model;
  RKLLMLoraAdapter adapter = {path.c_str(), "a", 1.0f};
  with_each_failure("load_lora", [&] {
    const int code = rkllm_load_lora(model.handle, &adapter);
    until_failure = -1;
    model.answers_as_before();
    return code;
  });
  RKLLMInput input = prompt_input(kPrompt);
  RKLLMLoraParam lora = {"a"};
  RKLLMInferParam params = {RKLLM_INFER_GENERATE, &lora, nullptr};
  with_each_failure("run with an adapter", [&] { return run_once(model, input, params); });
}

void a_prompt_cache_fails_cleanly() {
  const std::string file = "/tmp/rkllm-oom-" + std::to_string(getpid()) + ".bin";
  const Model model;
  RKLLMInput input = prompt_input(kPrompt);
  RKLLMPromptCacheParam save = {1, file.c_str()};
  RKLLMInferParam params = {RKLLM_INFER_GENERATE, nullptr, &save};
  with_each_failure("save", [&] { return run_once(model, input, params); });
  with_each_failure("load", [&] {
    const int code = rkllm_load_prompt_cache(model.handle, file.c_str());
    until_failure = -1;
    model.answers_as_before();
    return code;
  });
  with_each_failure("run behind a cache", [&] {
    Seen seen;
    const int code = model.run(seen);
    until_failure = -1;
    CHECK(code != 0 || !memcmp(seen.ids, model.expected, sizeof model.expected));
    return code;
  });
  CHECK(unlink(file.c_str()) == 0);
}

}  // namespace

int main() {
  if (model_path("").empty()) return kSkipped;
  init_fails_cleanly();
  a_run_fails_with_one_callback_and_the_next_one_is_whole();
  an_asynchronous_run_ends_whatever_fails();
  options_that_take_memory_leave_the_model_whole();
  sessions_fail_cleanly();
  an_adapter_fails_cleanly();
  a_prompt_cache_fails_cleanly();
  return check::result();
}
