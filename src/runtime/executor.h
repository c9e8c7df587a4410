// SPDX-License-Identifier: Apache-2.0
// Passes over one model's weights, for all sessions of a handle: the threads, the memory that a pass needs, and what is
// loaded beside the model.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>

#include "prompt_caches.h"
#include "transformer.h"

namespace rkllm {

// Lets threads in one by one, in the order in which they came: nobody waits for more than one pass of each other one.
class Turns {
 public:
  void take();
  void give();

 private:
  std::mutex mutex_;
  std::condition_variable next_;
  uint64_t given_ = 0, served_ = 0;
};

// Used by any threads.
class Executor {
 public:
  // n_threads 0: one per core. Throws Error(INVALID_ARGUMENT / OUT_OF_MEMORY).
  Executor(std::shared_ptr<const Model> model, int max_context, int n_threads);

  const Model& model() const { return *model_; }
  const std::shared_ptr<const Model>& shared_model() const { return model_; }
  int max_context() const { return max_context_; }
  int n_threads() const { return n_threads_; }
  // Rows of one pass at most.
  int chunk() const { return chunk_; }
  void set_threads(int n_threads);
  void set_chunk(int rows);
  void set_tap(Tap tap);
  // What later passes compute with. Throws Error(INVALID_ARGUMENT) for INT8 when the model has no 4-bit matrix.
  void set_activations(ActivationType type);
  ActivationType activations() const { return activations_; }
  Adapters& adapters() { return adapters_; }
  PromptCaches& caches() { return caches_; }

  // Run segments of chunk() rows together at most, then read(workspace, pool) what the pass has left there.
  template <class Read>
  void pass(const Segment* segments, int n_segments, const Read& read) {
    const Turn turn(turns_);
    forward(*model_, segments, n_segments, *workspace_, *pool_);
    read(*workspace_, *pool_);
  }

 private:
  struct Turn {
    explicit Turn(Turns& turns) : turns(turns) { turns.take(); }
    ~Turn() { turns.give(); }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    Turns& turns;
  };
  void use_workspace(std::unique_ptr<Workspace> workspace, int rows);

  std::shared_ptr<const Model> model_;
  int max_context_;
  Adapters adapters_;
  PromptCaches caches_;
  std::atomic<int> n_threads_{0};
  std::atomic<int> chunk_{0};
  std::atomic<ActivationType> activations_{ActivationType::AUTO};
  Turns turns_;  // for what follows
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Workspace> workspace_;
  int capacity_ = 0;  // rows of the workspace; never shrinks, since a session may have asked chunk() before
};

}  // namespace rkllm
