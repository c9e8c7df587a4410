// SPDX-License-Identifier: Apache-2.0
// What the native tests of the C interface need: an opened small model, and a run whose callbacks are written down and
// held against the rules of docs/abi.md. Models come from the folder RKLLM_TEST_MODELS, one <format>.rkllm each.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "rkllm_ext.h"

// What a program returns when there are no models to test with.
constexpr int kSkipped = 77;

inline std::string model_path(const char* format) {
  const char* folder = getenv("RKLLM_TEST_MODELS");
  return folder ? std::string(folder) + "/" + format + ".rkllm" : "";
}

inline bool is_whole_utf8(const std::string& text) {
  for (size_t i = 0; i < text.size();) {
    const unsigned char lead = static_cast<unsigned char>(text[i]);
    const size_t length = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
    if (length == 0 || i + length > text.size()) return false;
    for (size_t k = 1; k < length; k++)
      if ((static_cast<unsigned char>(text[i + k]) & 0xc0) != 0x80) return false;
    i += length;
  }
  return true;
}

// The callbacks of one run. Callbacks come from the running thread; any thread may wait for them.
class Record {
 public:
  // Called inside the callback of a token, with the number of tokens so far.
  std::function<void(int)> on_token;
  // Called inside the callback that ends the run.
  std::function<void()> on_end;

  void add(const RKLLMResult* result, LLMCallState state) {
    CHECK(result && result->text);
    if (!result || !result->text) return;
    const std::string text = result->text;
    const bool is_token = state == RKLLM_RUN_NORMAL || state == RKLLM_RUN_WAITING;
    CHECK(is_token || state == RKLLM_RUN_FINISH || state == RKLLM_RUN_ERROR);
    CHECK(is_whole_utf8(text));
    CHECK(state != RKLLM_RUN_WAITING || text.empty());
    CHECK(!is_token || (result->token_id >= 0 && result->token_id < 300));
    size_t n_tokens = 0;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      CHECK(ends_ == 0);  // nothing follows the end
      text_ += text;
      if (is_token) tokens_.push_back(result->token_id);
      n_waiting_ += state == RKLLM_RUN_WAITING;
      n_tokens = tokens_.size();
    }
    if (is_token && on_token) on_token(int(n_tokens));
    if (is_token) return;
    if (on_end) on_end();
    std::lock_guard<std::mutex> lock(mutex_);
    ends_++;
    last_ = state;
    changed_.notify_all();
  }

  // Wait for the callback that ends the run; false after a minute.
  bool wait_for_end() {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, std::chrono::minutes(1), [&] { return ends_ > 0; });
  }

  std::vector<int32_t> tokens() const { return locked(tokens_); }
  std::string text() const { return locked(text_); }
  int waiting() const { return locked(n_waiting_); }
  // Whether the run ended, once, in this state.
  bool ended_with(LLMCallState state) const { return locked(ends_) == 1 && locked(last_) == state; }
  bool nothing_came() const { return locked(ends_) == 0 && locked(tokens_).empty(); }

 private:
  template <class T>
  T locked(const T& value) const {
    std::lock_guard<std::mutex> lock(mutex_);
    return value;
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int32_t> tokens_;
  std::string text_;
  int n_waiting_ = 0;
  int ends_ = 0;
  LLMCallState last_ = RKLLM_RUN_NORMAL;
};

inline void record(RKLLMResult* result, void* userdata, LLMCallState state) {
  static_cast<Record*>(userdata)->add(result, state);
}

// A flag that one thread raises and others wait for.
class Flag {
 public:
  void raise() {
    std::lock_guard<std::mutex> lock(mutex_);
    raised_ = true;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    CHECK(changed_.wait_for(lock, std::chrono::minutes(1), [&] { return raised_; }));
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool raised_ = false;
};

// An open model that decodes greedily, unless its parameters say otherwise, and never stops by itself before
// max_new_tokens.
struct OpenModel {
  LLMHandle handle = nullptr;

  explicit OpenModel(int max_new_tokens = 24, const char* format = "w4a16_g32", bool is_async = false)
      : OpenModel(greedy(max_new_tokens, is_async), format) {}
  explicit OpenModel(RKLLMParam param, const char* format = "w4a16_g32") {
    const std::string path = model_path(format);
    param.model_path = path.c_str();
    CHECK(rkllm_init(&handle, &param, record) == 0);
    set("ignore_eos", "1");
    set("n_threads", "2");
  }
  ~OpenModel() {
    if (handle) CHECK(rkllm_destroy(handle) == 0);
  }
  OpenModel(const OpenModel&) = delete;
  OpenModel& operator=(const OpenModel&) = delete;

  void set(const char* name, const char* value) { CHECK(rkllm_ext_set_option(handle, name, value) == 0); }
  // The handle, which the caller now has to destroy.
  LLMHandle release() { return std::exchange(handle, nullptr); }

 private:
  static RKLLMParam greedy(int max_new_tokens, bool is_async) {
    RKLLMParam param = rkllm_createDefaultParam();
    param.max_context_len = 256;
    param.max_new_tokens = max_new_tokens;
    param.top_k = 1;
    param.repeat_penalty = 1.0f;
    param.is_async = is_async;
    return param;
  }
};

inline RKLLMInput prompt_input(const char* text) {
  RKLLMInput input = {};
  input.input_type = RKLLM_INPUT_PROMPT;
  input.prompt_input = text;
  return input;
}

inline RKLLMInput token_input(const int32_t* ids, size_t n) {
  RKLLMInput input = {};
  input.input_type = RKLLM_INPUT_TOKEN;
  input.token_input = {const_cast<int32_t*>(ids), n};
  return input;
}

inline RKLLMInput embed_input(const float* rows, size_t n) {
  RKLLMInput input = {};
  input.input_type = RKLLM_INPUT_EMBED;
  input.embed_input = {const_cast<float*>(rows), n};
  return input;
}

constexpr char kPrompt[] = "The three robots went home.";

inline int run(LLMHandle handle, Record& run_record, RKLLMInput input = prompt_input(kPrompt)) {
  RKLLMInferParam params = {};
  return rkllm_run(handle, &input, &params, &run_record);
}

inline int run_async(LLMHandle handle, Record& run_record, RKLLMInput input = prompt_input(kPrompt)) {
  RKLLMInferParam params = {};
  return rkllm_run_async(handle, &input, &params, &run_record);
}

// The tokens that a model answers kPrompt with when nothing disturbs it.
inline std::vector<int32_t> undisturbed(LLMHandle handle) {
  Record alone;
  CHECK(run(handle, alone) == 0);
  CHECK(alone.ended_with(RKLLM_RUN_FINISH));
  return alone.tokens();
}

inline int finish_of(LLMHandle handle) {
  RKLLMExtPerf perf = {};
  CHECK(rkllm_ext_perf(handle, &perf) == 0);
  return perf.finish;
}
