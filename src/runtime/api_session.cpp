// SPDX-License-Identifier: Apache-2.0
// Sessions of rkllm_ext.h: sequences over a handle's model whose tokens the caller chooses.
#include "api_session.h"

#include <algorithm>

using namespace rkllm;

struct RKLLMExtLogits {
  std::shared_ptr<const Buffer<float>> logits;
};

int32_t RKLLMExtSession::choose(const uint32_t* mask) {
  const float* logits = session.logits();
  need(logits, "the session has no logits to sample from; prefill or step it first");
  const int32_t vocab = int32_t(session.model().spec.vocab_size);
  if (!scratch.size()) scratch.resize(padded(vocab));
  memcpy(scratch.data(), logits, size_t(vocab) * sizeof(float));
  const std::vector<uint64_t>& keys = session.sequence().keys();
  std::vector<int32_t> history;
  for (size_t i = keys.size() - std::min(keys.size(), size_t(kPenaltyWindow)); i < keys.size(); i++)
    history.push_back(token_of(keys[i]));
  return sampler.sample(scratch.data(), vocab, history, mask);
}

namespace rkllm {

void check_step(const RKLLMExtSession& s, int32_t token, size_t index, const Executor* executor) {
  if (s.executor.get() != executor)
    throw Error(ErrorCode::INVALID_ARGUMENT,
                rkllm::format("session %zu belongs to another model than session 0", index));
  try {
    s.session.check({&token, nullptr, 1}, s.session.sequence().length());
  } catch (const Error& error) {
    throw Error(error.code(), rkllm::format("session %zu: %s", index, error.sentence().c_str()));
  }
}

}  // namespace rkllm

extern "C" {

int rkllm_ext_session_open(LLMHandle handle, RKLLMExtSession** session) {
  return guard_handle(handle, [&](Runtime& runtime) {
    need(session, "session is NULL");
    *session = nullptr;
    const std::lock_guard<std::mutex> lock(runtime.options_mutex);
    *session = new RKLLMExtSession(runtime);
  });
}

void rkllm_ext_session_close(RKLLMExtSession* session) { delete session; }

int rkllm_ext_session_prefill(RKLLMExtSession* session, const RKLLMInput* input, int flags, size_t* computed) {
  if (computed) *computed = 0;
  return guard_session(session, [&](RKLLMExtSession& s) {
    need(input, "input is NULL");
    s.session.clear_abort();
    const bool whole = flags & RKLLM_EXT_WHOLE;
    RunInput run_input = read_input(*input);
    prepare(run_input, s.session, s.prompt, whole || s.session.sequence().length() == 0);
    const SequenceInput& given = run_input.sequence;
    s.session.check(given, whole ? 0 : s.session.sequence().length());
    const int kept = whole ? s.session.keep_common(given) : 0, before = s.session.sequence().length();
    const SequenceInput rest = part(given, kept, given.n - kept, s.session.model().spec.dim);
    const bool done = s.session.append(rest, before + int(rest.n));
    if (computed) *computed = size_t(s.session.sequence().length() - before);
    if (!done) throw Error(ErrorCode::ABORTED, "the prefill was aborted; the session keeps what was computed");
  });
}

int rkllm_ext_session_prefill_part(RKLLMExtSession* session, const RKLLMInput* input, size_t most, float* logits,
                                   size_t* computed, size_t* left) {
  if (computed) *computed = 0;
  return guard_session(session, [&](RKLLMExtSession& s) {
    need(input && most > 0, "input must be given, and most be at least 1");
    s.session.clear_abort();
    RunInput run_input = read_input(*input);
    prepare(run_input, s.session, s.prompt, true);
    const SequenceInput& given = run_input.sequence;
    s.session.check(given, 0);
    const int kept = s.session.keep_common(given, !logits);
    const int64_t n = int64_t(std::min<uint64_t>(most, uint64_t(given.n - kept)));
    const bool done = s.session.append(part(given, kept, n, s.session.model().spec.dim), int(given.n), logits);
    if (computed) *computed = size_t(s.session.sequence().length() - kept);
    if (left) *left = size_t(given.n - s.session.sequence().length());
    if (!done) throw Error(ErrorCode::ABORTED, "the prefill was aborted; the session keeps what was computed");
  });
}

int rkllm_ext_session_step(RKLLMExtSession* const* sessions, const int32_t* tokens, size_t n) {
  return guard([&] {
    need(sessions && tokens && n > 0 && n <= 65536, "sessions and tokens must be given, 1 to 65536 of them");
    for (size_t i = 0; i < n; i++) need(sessions[i], "a session is NULL");
    const Held held(sessions, n);
    std::vector<Session*> all;
    for (size_t i = 0; i < n; i++) {
      check_step(*sessions[i], tokens[i], i, sessions[0]->executor.get());
      sessions[i]->session.clear_abort();
      all.push_back(&sessions[i]->session);
    }
    Session::step(all.data(), tokens, int(n));
  });
}

const float* rkllm_ext_session_logits(RKLLMExtSession* session) {
  return session ? session->session.logits() : nullptr;
}

const float* rkllm_ext_session_hold_logits(RKLLMExtSession* session, RKLLMExtLogits** hold) {
  const float* data = nullptr;
  guard_session(session, [&](RKLLMExtSession& s) {
    need(hold, "hold is NULL");
    *hold = nullptr;
    std::shared_ptr<const Buffer<float>> logits = s.session.hold_logits();
    need(logits != nullptr, "the session has no logits; prefill or step it first");
    *hold = new RKLLMExtLogits{logits};
    data = logits->data();
  });
  return data;
}

void rkllm_ext_logits_release(RKLLMExtLogits* hold) { delete hold; }

int rkllm_ext_session_sample(RKLLMExtSession* session, const uint32_t* mask, int32_t* token) {
  return guard_session(session, [&](RKLLMExtSession& s) {
    need(token, "token is NULL");
    *token = s.choose(mask);
  });
}

int rkllm_ext_session_set_option(RKLLMExtSession* session, const char* name, const char* value) {
  return guard_session(session, [&](RKLLMExtSession& s) {
    need(name && value, "name and value must be given");
    if (set_prompt_option(s.prompt, name, value)) return;
    set_run_option(s.settings, *s.executor, name, value);
    s.session.use_adapter(s.settings.adapter);
    if (!strcmp(name, "seed")) s.sampler = Sampler(s.settings.generation.sampling, s.settings.choose_seed());
    else s.sampler.set(s.settings.generation.sampling);
  });
}

int rkllm_ext_session_truncate(RKLLMExtSession* session, size_t n) {
  return guard_session(session, [&](RKLLMExtSession& s) {
    const size_t length = size_t(s.session.sequence().length());
    if (n > length)
      throw Error(ErrorCode::INVALID_ARGUMENT,
                  rkllm::format("the session has %zu positions; it cannot be truncated to %zu", length, n));
    s.session.truncate(int(n));
  });
}

int rkllm_ext_session_fork(RKLLMExtSession* session, RKLLMExtSession** fork) {
  return guard_session(session, [&](RKLLMExtSession& s) {
    need(fork, "fork is NULL");
    *fork = nullptr;
    *fork = new RKLLMExtSession(s);
  });
}

int rkllm_ext_session_save(RKLLMExtSession* session, const char* path) {
  return guard_session(session, [&](RKLLMExtSession& s) {
    need(path, "path is NULL");
    s.session.save(path);
  });
}

int rkllm_ext_session_restore(LLMHandle handle, const char* path, RKLLMExtSession** session) {
  return guard_handle(handle, [&](Runtime& runtime) {
    need(path && session, "path and session must be given");
    *session = nullptr;
    std::unique_ptr<RKLLMExtSession> restored;
    {
      const std::lock_guard<std::mutex> lock(runtime.options_mutex);
      restored = std::make_unique<RKLLMExtSession>(runtime);
    }
    restored->session.restore(path);
    restored->settings.adapter = restored->session.adapter();
    *session = restored.release();
  });
}

int rkllm_ext_session_tokens(RKLLMExtSession* session, int32_t* out, size_t capacity, size_t* count) {
  return guard_session(session, [&](RKLLMExtSession& s) {
    need(count, "count is NULL");
    const std::vector<uint64_t>& keys = s.session.sequence().keys();
    *count = keys.size();
    for (size_t i = 0; out && i < std::min(capacity, keys.size()); i++) out[i] = token_of(keys[i]);
  });
}

int rkllm_ext_session_abort(RKLLMExtSession* session) {
  return guard([&] {
    need(session, "the session is NULL");
    session->session.request_abort();
  });
}

}  // extern "C"
