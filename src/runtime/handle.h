// SPDX-License-Identifier: Apache-2.0
// What an LLMHandle stands for. A handle is a slot number with a generation: a closed, foreign or NULL handle is
// recognised instead of followed, and a handle that is destroyed while it runs lives until its run has ended.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "api.h"
#include "api_tokenizer.h"
#include "log.h"
#include "multimodal.h"
#include "rkllm_ext.h"
#include "generate.h"

namespace rkllm {

// How a prompt becomes tokens.
struct PromptRules {
  int add_bos = -1;  // -1: as the tokenizer says
  ImageTags tags;
  std::vector<int64_t> image_tokens;  // of each image; empty: all have as many
};

// What a run of a handle, or a session, goes by.
struct RunSettings {
  Generation generation;
  bool random_seed = true;
  std::shared_ptr<const Adapter> adapter;  // or nullptr

  uint64_t choose_seed() const;
};

// One loaded model with its session, settings and last results. `busy` is owned by whoever runs; settings are changed
// only while it is held.
struct Runtime {
  std::shared_ptr<const Model> model;
  std::shared_ptr<Executor> executor;
  std::unique_ptr<Session> session;  // of the handle's own runs
  LLMResultCallback callback = nullptr;
  bool is_async = false;
  bool skip_special = false;
  PromptRules prompt;
  RunSettings settings;
  bool reuse_prefix = false;  // the next run keeps what it has in common with the one before
  bool keep_history = false;  // the next run goes on behind history, and is added to it
  std::vector<int32_t> history;  // inputs and answers of the runs before, back to the first one with keep_history
  RKLLMExtMask mask = nullptr;
  void* mask_userdata = nullptr;
  double load_ms = 0.0;
  RKLLMExtTokenizer tokenizer;

  std::atomic<bool> busy{false};
  std::mutex options_mutex;  // held while options change, and while a session that begins reads them during a run

  void keep_error(ErrorCode code, const char* sentence) noexcept;
  void read_error(int* code, char* sentence, size_t capacity) const;

  // Figures of the last run; a run sets them at its beginning and before its last callback.
  void set_perf(const RKLLMExtPerf& perf);
  RKLLMExtPerf perf() const;

  // Log-probabilities of the token that is being delivered; NULL when it has been. Copied while the pointer holds.
  void set_logprobs(const Logprobs* logprobs);
  // Throws Error(INVALID_ARGUMENT) when no token with log-probabilities is being delivered.
  Logprobs logprobs() const;

  // A text key of the model's file, nullptr when it has none. Stays until the handle is destroyed.
  const char* metadata(const std::string& key);

 private:
  mutable std::mutex mutex_;  // guards what follows
  int error_code_ = 0;
  char error_sentence_[1024] = "";  // plain memory: keeping a failure cannot fail
  RKLLMExtPerf perf_ = {};
  const Logprobs* logprobs_ = nullptr;
  std::map<std::string, std::string> metadata_;  // what was asked for
};

// Give out a handle. Throws Error(OUT_OF_MEMORY) when all slots are taken.
LLMHandle add_handle(std::unique_ptr<Runtime> runtime);

// Counts as a user of a handle; the runtime stays as long as one exists.
class HandleUse {
 public:
  // Throws Error(CLOSED) when the handle is not open.
  explicit HandleUse(LLMHandle handle);
  HandleUse(HandleUse&& other) noexcept;
  ~HandleUse();
  HandleUse(const HandleUse&) = delete;
  HandleUse& operator=(const HandleUse&) = delete;

  Runtime* operator->() const { return runtime_; }
  Runtime& operator*() const { return *runtime_; }

 private:
  friend void close_handle(LLMHandle handle);
  int slot_;
  Runtime* runtime_;
};

// Close a handle: end what is active on it and wait for that, but not when the calling thread is inside such a call
// itself (its callback, or a signal handler that interrupted it); the runtime then goes when that call ends. May be
// called in a signal handler. Throws Error(CLOSED).
void close_handle(LLMHandle handle);

// Marks the calling thread as being inside a call on a handle; see close_handle. Made before the HandleUse of the call
// and ended after it, so that no signal finds the thread using a handle without a mark.
class InsideCall {
 public:
  explicit InsideCall(LLMHandle handle);
  ~InsideCall();
  InsideCall(const InsideCall&) = delete;
  InsideCall& operator=(const InsideCall&) = delete;

 private:
  friend void close_handle(LLMHandle handle);
  LLMHandle handle_;
  const InsideCall* outer_;  // a callback may call with another handle
};

// guard() for a look at a handle: body gets its runtime.
template <class Body>
int guard_look(LLMHandle handle, const Body& body) noexcept {
  return guard([&] {
    const InsideCall mark(handle);
    const HandleUse use(handle);
    body(*use);
  });
}

// guard() for a call on a handle: as above, and a failure is kept in the runtime as well.
template <class Body>
int guard_handle(LLMHandle handle, const Body& body) noexcept {
  int code = 0;
  const int closed = guard_look(handle, [&](Runtime& runtime) {
    code = guard([&] { body(runtime); });
    if (!code) return;
    runtime.keep_error(ErrorCode(code), kept_sentence());
    log(1, 'E', kept_sentence());
  });
  return closed ? closed : code;
}

}  // namespace rkllm
