// SPDX-License-Identifier: Apache-2.0
#include "session.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "error.h"
#include "kernels/cpu.h"

namespace rkllm {
namespace {

constexpr int kDefaultChunk = 64;  // rows per prefill pass; an abort waits for at most one
constexpr int kMostChunk = 512;
constexpr int kMostThreads = 256;

int check_threads(int n_threads) {
  if (n_threads < 0 || n_threads > kMostThreads)
    throw Error(ErrorCode::INVALID_ARGUMENT, format("n_threads is %d, but must be 0 (automatic) to %d", n_threads, kMostThreads));
  return n_threads ? n_threads : std::min(cpu_cores(), kMostThreads);
}

int check_context(const Model& model, int max_context) {
  if (max_context < 1)
    throw Error(ErrorCode::INVALID_ARGUMENT, format("max_context_len is %d, but must be at least 1", max_context));
  if (max_context > int(model.spec.max_context))
    throw Error(ErrorCode::INVALID_ARGUMENT,
                format("max_context_len is %d, but %s was made for %u; use %u or less", max_context,
                       model.file->path().c_str(), model.spec.max_context, model.spec.max_context));
  return max_context;
}

using Clock = std::chrono::steady_clock;

double milliseconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

}  // namespace

void check_generation(const Generation& settings) {
  check_sampling(settings.sampling);
  if (settings.max_new_tokens < -1 || settings.max_new_tokens == 0)
    throw Error(ErrorCode::INVALID_ARGUMENT, format("max_new_tokens is %d, but must be at least 1, or -1 for no limit",
                                                    settings.max_new_tokens));
}

Session::Session(std::shared_ptr<const Model> model, int max_context, int n_threads)
    : model_(std::move(model)),
      cache_(int(model_->spec.n_layers), int(model_->spec.n_kv_heads), int(key_dim(model_->spec)), int(value_dim(model_->spec)),
             check_context(*model_, max_context), model_->format == "fp32" ? KvType::F32 : KvType::F16),
      chunk_(std::min(kDefaultChunk, max_context)), logits_(padded(model_->spec.vocab_size)) {
  set_threads(n_threads);
}

void Session::set_threads(int n_threads) {
  pool_ = std::make_unique<ThreadPool>(check_threads(n_threads));
  set_prefill_chunk(chunk_);
}

void Session::set_prefill_chunk(int rows) {
  if (rows < 1 || rows > kMostChunk)
    throw Error(ErrorCode::INVALID_ARGUMENT, format("prefill_chunk is %d, but must be 1 to %d", rows, kMostChunk));
  workspace_ = std::make_unique<Workspace>(*model_, rows, max_context(), pool_->size());
  chunk_ = rows;
}

void Session::check(const SequenceInput& input) const {
  const Spec& spec = model_->spec;
  if (input.n < 1 || (!input.ids && !input.embed))
    throw Error(ErrorCode::INVALID_ARGUMENT, "the input is empty; give at least one token");
  if (input.n > max_context())
    throw Error(ErrorCode::CONTEXT_FULL,
                format("the prompt has %lld tokens, but max_context_len is %d; shorten the prompt or raise max_context_len",
                       static_cast<long long>(input.n), max_context()));
  for (int64_t i = 0; input.ids && i < input.n; i++)
    if (input.ids[i] < 0 || input.ids[i] >= int32_t(spec.vocab_size))
      throw Error(ErrorCode::INVALID_ARGUMENT,
                  format("token %lld of the input is %d, outside the vocabulary of 0 to %u", static_cast<long long>(i),
                         input.ids[i], spec.vocab_size - 1));
  for (int64_t i = 0; !input.ids && i < input.n * spec.dim; i++)
    if (!std::isfinite(input.embed[i]))
      throw Error(ErrorCode::INVALID_ARGUMENT,
                  format("row %lld of the embeddings has a value that is not finite in column %lld",
                         static_cast<long long>(i / spec.dim), static_cast<long long>(i % spec.dim)));
}

// Run the input in chunks at positions from `first` on, as part of a sequence of `length`; after_chunk(row, rows) sees the
// hidden states in the workspace. False when aborted.
template <class AfterChunk>
bool Session::prefill(const SequenceInput& input, int first, int length, const AfterChunk& after_chunk) {
  for (int64_t at = 0; at < input.n; at += chunk_) {
    if (abort_) return false;
    const int n = int(std::min<int64_t>(chunk_, input.n - at));
    const Rows rows = {input.ids ? input.ids + at : nullptr, input.ids ? nullptr : input.embed + at * model_->spec.dim,
                       n, first + int(at), length};
    forward(*model_, rows, cache_, *workspace_, *pool_);
    after_chunk(at, n);
  }
  return !abort_;
}

Finish Session::generate(const SequenceInput& input, const Generation& settings,
                         const std::function<void(int32_t)>& on_token, Timing& timing) {
  check(input);
  check_generation(settings);
  timing = {};
  const auto start = Clock::now();
  int last_row = 0;
  if (!prefill(input, 0, int(input.n), [&](int64_t, int n) { last_row = n - 1; })) return Finish::ABORT;
  timing.prefill_tokens = int32_t(input.n);
  Sampler sampler(settings.sampling, settings.seed);
  std::vector<int32_t> history;
  if (input.ids) history.assign(input.ids + std::max<int64_t>(0, input.n - kPenaltyWindow), input.ids + input.n);
  const int32_t vocab = int32_t(model_->spec.vocab_size);
  const auto prefilled = Clock::now();
  timing.prefill_ms = milliseconds(start, prefilled);
  for (int32_t produced = 0;; produced++) {
    timing.generate_ms = milliseconds(prefilled, Clock::now());
    if (abort_) return Finish::ABORT;
    if (settings.max_new_tokens >= 0 && produced >= settings.max_new_tokens) return Finish::LENGTH;
    if (input.n + produced >= max_context()) return Finish::CONTEXT;
    if (produced > 0) {
      const int position = int(input.n) + produced - 1;
      const int length = model_->spec.rope_doubling ? int(input.n) : position + 1;
      if (model_->rope.restarts_at(length)) {
        const int before = produced - 1;
        const SequenceInput answer = {&history.back() - before, nullptr, before};
        const auto nothing = [](int64_t, int) {};
        if (!prefill(input, 0, length, nothing) || !prefill(answer, int(input.n), length, nothing)) return Finish::ABORT;
      }
      forward(*model_, {&history.back(), nullptr, 1, position, length}, cache_, *workspace_, *pool_);
      last_row = 0;
      timing.generate_tokens++;
    }
    project(*model_, *workspace_, last_row, 1, logits_.data(), *pool_);
    const int32_t token = sampler.sample(logits_.data(), vocab, history);
    if (!settings.ignore_eos && model_->is_end(token)) {
      timing.generate_ms = milliseconds(prefilled, Clock::now());
      return Finish::STOP;
    }
    if (abort_) return Finish::ABORT;
    history.push_back(token);
    on_token(token);
  }
}

void Session::logits(const SequenceInput& input, float* out) {
  check(input);
  const int64_t vocab = model_->spec.vocab_size, stride = padded(vocab);
  Buffer<float> rows(chunk_ * stride);
  const bool done = prefill(input, 0, int(input.n), [&](int64_t first, int n) {
    project(*model_, *workspace_, 0, n, rows.data(), *pool_);
    for (int i = 0; i < n; i++) memcpy(out + (first + i) * vocab, &rows[i * stride], size_t(vocab) * sizeof(float));
  });
  if (!done) throw Error(ErrorCode::ABORTED, "the run was aborted");
}

void Session::hidden_states(const SequenceInput& input, float* out) {
  check(input);
  const int64_t dim = model_->spec.dim, stride = workspace_->dim_stride;
  const bool done = prefill(input, 0, int(input.n), [&](int64_t first, int n) {
    for (int i = 0; i < n; i++)
      memcpy(out + (first + i) * dim, &workspace_->normed[i * stride], size_t(dim) * sizeof(float));
  });
  if (!done) throw Error(ErrorCode::ABORTED, "the run was aborted");
}

}  // namespace rkllm
