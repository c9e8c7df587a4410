// SPDX-License-Identifier: Apache-2.0
#include "executor.h"

#include <algorithm>

#include "cores.h"
#include "error.h"

namespace rkllm {
namespace {

constexpr int kDefaultChunk = 64;  // an abort of a prefill waits for at most one
constexpr int kMostChunk = 512;

// So many threads, or (0) those of the machine's cores and where to keep them.
Cores check_threads(int n_threads) {
  if (n_threads < 0 || n_threads > kMostThreads)
    throw Error(ErrorCode::INVALID_ARGUMENT,
                format("n_threads is %d, but must be 0 (automatic) to %d", n_threads, kMostThreads));
  return n_threads ? Cores{n_threads, {}} : default_cores();
}

// The calling thread is one of the pool's, but stays where its program put it.
std::unique_ptr<ThreadPool> start_threads(const Cores& cores) {
  const KeptOn kept(cores.cpus);
  return std::make_unique<ThreadPool>(cores.count);
}

}  // namespace

void Turns::take() {
  std::unique_lock<std::mutex> lock(mutex_);
  const uint64_t mine = given_++;
  next_.wait(lock, [&] { return served_ == mine; });
}

void Turns::give() {
  std::lock_guard<std::mutex> lock(mutex_);
  served_++;
  if (given_ != served_) next_.notify_all();
}

Executor::Executor(std::shared_ptr<const Model> model, int max_context, int n_threads)
    : model_(std::move(model)), max_context_(max_context), adapters_(model_),
      chunk_(std::min(kDefaultChunk, max_context)), pool_(start_threads(check_threads(n_threads))) {
  n_threads_ = pool_->size();
  use_workspace(std::make_unique<Workspace>(*model_, chunk_, max_context_, pool_->size()), chunk_);
}

void Executor::use_workspace(std::unique_ptr<Workspace> workspace, int rows) {
  if (workspace_) workspace->tap = std::move(workspace_->tap);
  workspace->activations.use_type(activations_);
  workspace_ = std::move(workspace);
  capacity_ = rows;
}

void Executor::set_threads(int n_threads) {
  const Cores cores = check_threads(n_threads);
  const Turn turn(turns_);
  auto pool = start_threads(cores);
  // Whatever fails, fails before the two part: a pass has memory for each thread.
  use_workspace(std::make_unique<Workspace>(*model_, capacity_, max_context_, pool->size()), capacity_);
  pool_ = std::move(pool);
  n_threads_ = cores.count;
}

void Executor::set_chunk(int rows) {
  if (rows < 1 || rows > kMostChunk)
    throw Error(ErrorCode::INVALID_ARGUMENT, format("prefill_chunk is %d, but must be 1 to %d", rows, kMostChunk));
  const Turn turn(turns_);
  if (rows > capacity_) use_workspace(std::make_unique<Workspace>(*model_, rows, max_context_, pool_->size()), rows);
  chunk_ = rows;
}

void Executor::set_activations(ActivationType type) {
  if (type == ActivationType::INT8 && !has_4_bit_matrix(*model_))
    throw Error(ErrorCode::INVALID_ARGUMENT, "activations int8 are for 4-bit weights, but " + model_->file->path() +
                                                 " is in " + model_->format + "; leave activations at auto");
  const Turn turn(turns_);
  workspace_->activations.use_type(type);
  activations_ = type;
}

void Executor::set_tap(Tap tap) {
  const Turn turn(turns_);
  workspace_->tap = std::move(tap);
}

}  // namespace rkllm
