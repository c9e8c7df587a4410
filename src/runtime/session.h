// SPDX-License-Identifier: Apache-2.0
// One sequence over a shared model that grows by inputs and tokens, and the logits behind its last position.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "executor.h"
#include "sequence.h"

namespace rkllm {

// f32 for fp32 models, else f16.
KvType default_kv_type(const Model& model);

// Throws Error(INVALID_ARGUMENT) unless the model can have a context of this length.
void check_context(const Model& model, int max_context);

// Used by one thread at a time, but for request_abort and request_end.
class Session {
 public:
  Session(std::shared_ptr<Executor> executor, KvType type);

  const Model& model() const { return executor_->model(); }
  Executor& executor() const { return *executor_; }
  int max_context() const { return executor_->max_context(); }
  const Sequence& sequence() const { return *sequence_; }
  int64_t kv_bytes() const { return sequence_->cache().n_bytes(); }
  KvType kv_type() const { return sequence_->cache().type(); }
  // Keep keys and values in another form; the sequence becomes empty.
  void set_kv_type(KvType type);

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
  bool is_aborted() const { return abort_ != kNoAbort; }

  // Throws Error(INVALID_ARGUMENT / CONTEXT_FULL) when the input cannot be run behind `at` positions.
  void check(const SequenceInput& input, int64_t at) const;

  // Compute with this adapter from now on. Another one than before: the sequence becomes empty.
  void use_adapter(std::shared_ptr<const Adapter> adapter);
  const std::shared_ptr<const Adapter>& adapter() const { return adapter_; }

  // Keep the longest prefix of the whole sequence `input` that the session or (with_loaded) a loaded prompt cache has,
  // but so much less that a row is left to run. Returns its length.
  int keep_common(const SequenceInput& input, bool with_loaded = true);

  // Write the state to a prompt cache file. Throws Error(INVALID_ARGUMENT / MODEL_FILE).
  void save(const std::string& path) const;

  // A prompt cache file whose model, type of KV cache, activations and adapter are here. Throws as open_state.
  std::shared_ptr<const SavedState> open_saved(const std::string& path) const;

  // Become what was saved, adapter included. Throws as open_saved, and Error(CONTEXT_FULL) when it is too long.
  void restore(const std::string& path);
  void truncate(int n);
  void copy(const Session& other);

  // The length to decode the next token at: that of the prompt where the rotary base follows prompts only.
  int next_length() const;

  // Append rows of a sequence that will be `length` long as far as it is known. Rows must have been checked. all:
  // nullptr, or room for the logits behind each row, [input.n, vocab_size]. False when aborted; what has been computed
  // stays.
  bool append(const SequenceInput& input, int length, float* all = nullptr);

  // Append n tokens, chunk() at most, in one pass; out = [n, padded(vocab_size)] logits behind each.
  void decode(const int32_t* ids, int n, int length, float* out);

  // Append one token to each of n sessions of one executor in one pass, or as few as chunk() allows. Ids and the room
  // for them must have been checked. after: called at the end of a pass, whose threads are still its own, when sessions
  // first ... first + count - 1 have their new logits.
  using AfterStep = std::function<void(int first, int count, ThreadPool& pool)>;
  static void step(Session* const* sessions, const int32_t* ids, int n, const AfterStep& after = {});

  // [padded(vocab_size)] behind the last position; nullptr: there are none.
  const float* logits() const { return has_logits_ ? logits_->values.data() : nullptr; }
  // The same, for somebody who goes on reading them: what is computed later goes elsewhere.
  std::shared_ptr<const Buffer<float>> hold_logits() const;

  // Start anew with the input; out = [input.n, vocab_size], or [input.n, dim] final hidden states behind the last norm.
  // Throw Error(ABORTED) when aborted.
  void all_logits(const SequenceInput& input, float* out);
  void hidden_states(const SequenceInput& input, float* out);

 private:
  template <class AfterChunk>
  bool run(const SequenceInput& input, int length, const AfterChunk& after_chunk);
  Segment segment(const SequenceInput& rows, int length);
  void compute_anew(int length);
  void copy_logits(Workspace& workspace, int n, float* out, ThreadPool& pool) const;
  struct Logits {
    explicit Logits(int64_t n) : values(n) {}
    Buffer<float> values;
    std::atomic<int> readers{0};
  };
  float* room_for_logits();
  std::shared_ptr<const Adapter> adapter_of(const SavedState& state) const;
  uint64_t adapter_fingerprint() const { return adapter_ ? adapter_->fingerprint : 0; }

  std::shared_ptr<Executor> executor_;
  std::shared_ptr<const Adapter> adapter_;
  std::unique_ptr<Sequence> sequence_;
  int prompt_length_ = 0;  // of the last input that was appended
  std::shared_ptr<Logits> logits_;
  bool has_logits_ = false;
  static constexpr int kNoAbort = 0, kAbort = 1, kEnd = 2;
  std::atomic<int> abort_{kNoAbort};
};

}  // namespace rkllm
