// SPDX-License-Identifier: Apache-2.0
// What the tests of sessions share: an open session, its logits and tokens, and inputs for it.
#pragma once

#include <algorithm>
#include <memory>

#include "recorded_run.h"

constexpr int kInvalid = -1, kContextFull = -4, kBusy = -5, kAborted = -6;
constexpr int kVocab = 300, kDim = 64;  // of the small model

using Ids = std::vector<int32_t>;
using Rows = std::vector<float>;

// Tokens that look random and are the same each time.
inline Ids some_ids(size_t n, int first = 1) {
  Ids ids(n);
  for (size_t i = 0; i < n; i++) ids[i] = int32_t((i * 71 + size_t(first) * 37 + i * i * 13) % kVocab);
  return ids;
}

inline Rows some_vectors(size_t n) {
  Rows rows(n * kDim);
  for (size_t i = 0; i < rows.size(); i++) rows[i] = float((i * 7919) % 1000) / 2500.0f - 0.2f;
  return rows;
}

inline Ids part(const Ids& ids, size_t from, size_t to) {
  return {ids.begin() + std::ptrdiff_t(from), ids.begin() + std::ptrdiff_t(to)};
}

inline RKLLMInput multimodal_input(const char* prompt, const Rows& vectors) {
  RKLLMInput input = {};
  input.input_type = RKLLM_INPUT_MULTIMODAL;
  input.multimodal_input = {const_cast<char*>(prompt), const_cast<float*>(vectors.data()), vectors.size() / kDim};
  return input;
}

class Session {
 public:
  explicit Session(LLMHandle handle) { CHECK(rkllm_ext_session_open(handle, &session_) == 0 && session_); }
  explicit Session(RKLLMExtSession* session) : session_(session) {}
  ~Session() { rkllm_ext_session_close(session_); }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  RKLLMExtSession* get() const { return session_; }

  // Positions that were computed.
  size_t prefill(const RKLLMInput& input, int flags = 0) {
    size_t computed = 0;
    CHECK(rkllm_ext_session_prefill(session_, &input, flags, &computed) == 0);
    return computed;
  }
  size_t prefill(const Ids& ids, int flags = 0) { return prefill(token_input(ids.data(), ids.size()), flags); }
  void step(int32_t token) { CHECK(rkllm_ext_session_step(&session_, &token, 1) == 0); }
  void truncate(size_t n) { CHECK(rkllm_ext_session_truncate(session_, n) == 0); }
  std::unique_ptr<Session> fork() {
    RKLLMExtSession* other = nullptr;
    CHECK(rkllm_ext_session_fork(session_, &other) == 0 && other);
    return std::make_unique<Session>(other);
  }
  Rows logits() const {
    const float* found = rkllm_ext_session_logits(session_);
    return found ? Rows(found, found + kVocab) : Rows();
  }
  int32_t best() const {
    const Rows found = logits();
    return int32_t(std::max_element(found.begin(), found.end()) - found.begin());
  }
  Ids tokens() const {
    size_t n = 0;
    CHECK(rkllm_ext_session_tokens(session_, nullptr, 0, &n) == 0);
    Ids ids(n);
    CHECK(rkllm_ext_session_tokens(session_, ids.data(), ids.size(), &n) == 0);
    return ids;
  }

 private:
  RKLLMExtSession* session_ = nullptr;
};

// Logits behind the last token of a sequence that a session of its own computed at once.
inline Rows fresh(LLMHandle handle, const Ids& ids) {
  Session session(handle);
  session.prefill(ids);
  return session.logits();
}

// Logits of all positions, a row each.
inline Rows one_run(LLMHandle handle, const RKLLMInput& input, size_t n) {
  Rows rows(n * kVocab);
  size_t found = 0;
  CHECK(rkllm_ext_logits(handle, &input, rows.data(), rows.size(), &found) == 0 && found == n);
  return rows;
}

inline Rows row(const Rows& rows, size_t i) {
  return {rows.begin() + std::ptrdiff_t(i * kVocab), rows.begin() + std::ptrdiff_t((i + 1) * kVocab)};
}

inline void refused(int code, int expected, const char* sentence) {
  CHECK(code == expected);
  CHECK(check::contains(rkllm_ext_last_error(nullptr), sentence));
}
