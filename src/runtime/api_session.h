// SPDX-License-Identifier: Apache-2.0
// What stands behind an RKLLMExtSession, and how a call takes hold of it.
#pragma once

#include <atomic>
#include <memory>

#include "handle.h"
#include "options.h"
#include "run.h"

// `busy` is held by the thread that uses the session; abort needs it not.
struct RKLLMExtSession {
  explicit RKLLMExtSession(const rkllm::Runtime& runtime)
      : executor(runtime.executor), session(runtime.executor, runtime.session->kv_type()), prompt(runtime.prompt),
        settings(runtime.settings), sampler(settings.generation.sampling, settings.choose_seed()) {
    session.use_adapter(settings.adapter);
  }
  RKLLMExtSession(const RKLLMExtSession& other)
      : executor(other.executor), session(other.executor, other.session.kv_type()), prompt(other.prompt),
        settings(other.settings), sampler(other.sampler) {
    session.copy(other.session);
  }
  RKLLMExtSession& operator=(const RKLLMExtSession&) = delete;

  // Choose a token from the logits. Throws Error(INVALID_ARGUMENT / INTERNAL).
  int32_t choose(const uint32_t* mask);

  std::shared_ptr<rkllm::Executor> executor;
  rkllm::Session session;
  rkllm::PromptRules prompt;
  rkllm::RunSettings settings;
  rkllm::Sampler sampler;
  rkllm::Buffer<float> scratch;  // logits, for the sampler to change
  std::atomic<bool> busy{false};
};

namespace rkllm {

// Holds sessions for one call; all of them or none.
class Held {
 public:
  Held(RKLLMExtSession* const* sessions, size_t n) : sessions_(sessions) {
    for (; count_ < n; count_++)
      if (sessions[count_]->busy.exchange(true)) {
        release();
        throw Error(ErrorCode::BUSY, "the session is in use: by another thread, or it is named twice in this call");
      }
  }
  ~Held() { release(); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

 private:
  void release() {
    while (count_ > 0) sessions_[--count_]->busy = false;
  }
  RKLLMExtSession* const* sessions_;
  size_t count_ = 0;
};

// guard() for a call on one session.
template <class Body>
int guard_session(RKLLMExtSession* session, const Body& body) noexcept {
  return guard([&] {
    need(session, "the session is NULL");
    const Held held(&session, 1);
    body(*session);
  });
}

// Throws Error(INVALID_ARGUMENT / CONTEXT_FULL) naming the session unless the token can be appended to it.
void check_step(const RKLLMExtSession& s, int32_t token, size_t index, const Executor* executor);

}  // namespace rkllm
