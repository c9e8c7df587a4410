// SPDX-License-Identifier: Apache-2.0
// One sequence over a shared model: feeds an input, then samples and appends tokens one by one.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "sampler.h"
#include "transformer.h"

namespace rkllm {

// Token ids or embeddings, which stay where the caller keeps them.
struct SequenceInput {
  const int32_t* ids = nullptr;
  const float* embed = nullptr;  // [n, dim]
  int64_t n = 0;
};

enum class Finish : int { NONE = 0, STOP = 1, LENGTH = 2, CONTEXT = 3, ABORT = 4, ERROR = 5 };

struct Generation {
  Sampling sampling;
  uint64_t seed = 0;
  int32_t max_new_tokens = -1;  // -1: until an end token or a full context
  bool ignore_eos = false;
};

// Throws Error(INVALID_ARGUMENT) naming the setting that is out of range.
void check_generation(const Generation& settings);

struct Timing {
  double prefill_ms = 0.0;
  double generate_ms = 0.0;
  int32_t prefill_tokens = 0;
  int32_t generate_tokens = 0;  // passes of the decode loop
};

// Used by one thread at a time, but for request_abort.
class Session {
 public:
  // n_threads 0: one per physical core. Throws Error(INVALID_ARGUMENT / OUT_OF_MEMORY).
  Session(std::shared_ptr<const Model> model, int max_context, int n_threads);

  const Model& model() const { return *model_; }
  int max_context() const { return cache_.max_positions(); }
  int n_threads() const { return pool_->size(); }
  int64_t kv_bytes() const { return cache_.n_bytes(); }
  void set_threads(int n_threads);
  void set_prefill_chunk(int rows);

  // From any thread, also a signal handler: the active call ends within one pass.
  void request_abort() {
    int none = kNoAbort;
    abort_.compare_exchange_strong(none, kAbort);
  }
  // The same, for the active call and all later ones.
  void request_end() { abort_ = kEnd; }
  void clear_abort() {
    int once = kAbort;
    abort_.compare_exchange_strong(once, kNoAbort);
  }

  // Throws Error(INVALID_ARGUMENT / CONTEXT_FULL) when the input cannot be run, as every call below does first.
  void check(const SequenceInput& input) const;

  // Start anew with the input and pass each sampled token to on_token until something ends the run. End tokens are not
  // passed on. Throws Error(INVALID_ARGUMENT / CONTEXT_FULL) before anything is computed.
  Finish generate(const SequenceInput& input, const Generation& settings,
                  const std::function<void(int32_t)>& on_token, Timing& timing);

  // out = [input.n, vocab_size]. Throws Error(ABORTED) when aborted.
  void logits(const SequenceInput& input, float* out);

  // out = [input.n, dim], the final hidden states behind the last norm. Throws Error(ABORTED) when aborted.
  void hidden_states(const SequenceInput& input, float* out);

 private:
  template <class AfterChunk>
  bool prefill(const SequenceInput& input, int first, int length, const AfterChunk& after_chunk);

  std::shared_ptr<const Model> model_;
  KvCache cache_;
  std::unique_ptr<ThreadPool> pool_;
  int chunk_;
  std::unique_ptr<Workspace> workspace_;
  Buffer<float> logits_;
  static constexpr int kNoAbort = 0, kAbort = 1, kEnd = 2;
  std::atomic<int> abort_{kNoAbort};
};

}  // namespace rkllm
