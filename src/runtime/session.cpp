// SPDX-License-Identifier: Apache-2.0
#include "session.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "error.h"

namespace rkllm {

void check_context(const Model& model, int max_context) {
  if (max_context < 1)
    throw Error(ErrorCode::INVALID_ARGUMENT, format("max_context_len is %d, but must be at least 1", max_context));
  if (max_context > int(model.spec.max_context))
    throw Error(ErrorCode::INVALID_ARGUMENT,
                format("max_context_len is %d, but %s was made for %u; use %u or less", max_context,
                       model.file->path().c_str(), model.spec.max_context, model.spec.max_context));
}

KvType default_kv_type(const Model& model) { return model.format == "fp32" ? KvType::F32 : KvType::F16; }

Session::Session(std::shared_ptr<Executor> executor, KvType type)
    : executor_(std::move(executor)), logits_(std::make_shared<Logits>(padded(executor_->model().spec.vocab_size))) {
  set_kv_type(type);
}

void Session::set_kv_type(KvType type) {
  sequence_ = std::make_unique<Sequence>(model(), max_context(), type);
  has_logits_ = false;
}

void Session::check(const SequenceInput& input, int64_t at) const {
  const Spec& spec = model().spec;
  if (input.n < 1 || (!input.ids && !input.embed))
    throw Error(ErrorCode::INVALID_ARGUMENT, "the input is empty; give at least one token");
  if (input.n > max_context() - at)
    throw Error(ErrorCode::CONTEXT_FULL,
                at ? format("the input has %lld tokens behind %lld, but max_context_len is %d; truncate the session or "
                            "raise max_context_len",
                            static_cast<long long>(input.n), static_cast<long long>(at), max_context())
                   : format("the prompt has %lld tokens, but max_context_len is %d; shorten the prompt or raise "
                            "max_context_len", static_cast<long long>(input.n), max_context()));
  int64_t n_embedded = input.ids ? 0 : input.n;
  for (int64_t i = 0; input.ids && i < input.n; i++) {
    if (input.ids[i] < 0 && input.embed) n_embedded++;
    else if (input.ids[i] < 0 || input.ids[i] >= int32_t(spec.vocab_size))
      throw Error(ErrorCode::INVALID_ARGUMENT,
                  format("token %lld of the input is %d, outside the vocabulary of 0 to %u", static_cast<long long>(i),
                         input.ids[i], spec.vocab_size - 1));
  }
  for (int64_t i = 0; i < n_embedded * spec.dim; i++)
    if (!std::isfinite(input.embed[i]))
      throw Error(ErrorCode::INVALID_ARGUMENT,
                  format("row %lld of the embeddings has a value that is not finite in column %lld",
                         static_cast<long long>(i / spec.dim), static_cast<long long>(i % spec.dim)));
}

void Session::use_adapter(std::shared_ptr<const Adapter> adapter) {
  if (adapter != adapter_) truncate(0);
  adapter_ = std::move(adapter);
}

int Session::keep_common(const SequenceInput& input, bool with_loaded) {
  const std::vector<uint64_t> keys = keys_of(input, model().spec.dim);
  const double variant = model().rope.variant(int(input.n));
  const int most = int(input.n) - 1, own = std::min(sequence_->positions().common_prefix(keys, variant), most);
  Prefix cached;
  if (with_loaded)
    cached = executor_->caches().longest(keys, variant, adapter_fingerprint(), kv_type(), executor_->activations());
  const int loaded = std::min(cached.length, most);
  if (loaded > own) {
    restore_state(*cached.state, loaded, *sequence_);
    has_logits_ = false;
  }
  truncate(std::max(own, loaded));
  return sequence_->length();
}

void Session::save(const std::string& path) const {
  save_state(path, model(), *sequence_, {executor_->activations(), adapter_fingerprint(), prompt_length_, logits()});
}

std::shared_ptr<const Adapter> Session::adapter_of(const SavedState& state) const {
  if (!state.adapter) return nullptr;
  std::shared_ptr<const Adapter> adapter = executor_->adapters().find_fingerprint(state.adapter);
  if (!adapter)
    throw Error(ErrorCode::MODEL_FILE,
                state.file->path() + ": was saved with a LoRA adapter that is not loaded, or not with that scale; load "
                                     "the adapter first");
  return adapter;
}

std::shared_ptr<const SavedState> Session::open_saved(const std::string& path) const {
  std::shared_ptr<const SavedState> state = open_state(path, model(), sequence_->cache(), executor_->activations());
  adapter_of(*state);
  return state;
}

void Session::restore(const std::string& path) {
  const std::shared_ptr<const SavedState> state =
      open_state(path, model(), sequence_->cache(), executor_->activations());
  const int n = state->positions.length();
  if (n > max_context())
    throw Error(ErrorCode::CONTEXT_FULL,
                format("%s: has %d positions, but max_context_len is %d; raise max_context_len", path.c_str(), n,
                       max_context()));
  use_adapter(adapter_of(*state));
  restore_state(*state, n, *sequence_);
  prompt_length_ = state->prompt_length;
  has_logits_ = !state->logits.empty();
  std::copy(state->logits.begin(), state->logits.end(), room_for_logits());
}

void Session::truncate(int n) {
  if (n < sequence_->length()) has_logits_ = false;
  sequence_->truncate(n);
}

void Session::copy(const Session& other) {
  sequence_->copy(*other.sequence_);
  adapter_ = other.adapter_;
  prompt_length_ = other.prompt_length_;
  has_logits_ = other.has_logits_;
  memcpy(room_for_logits(), other.logits_->values.data(), size_t(logits_->values.size()) * sizeof(float));
}

std::shared_ptr<const Buffer<float>> Session::hold_logits() const {
  if (!has_logits_) return nullptr;
  logits_->readers++;
  const auto let_go = [held = logits_](const Buffer<float>*) { held->readers.fetch_sub(1, std::memory_order_release); };
  return {&logits_->values, let_go};
}

// Where new logits go: not where somebody still reads the last ones.
float* Session::room_for_logits() {
  if (logits_->readers.load(std::memory_order_acquire) > 0) logits_ = std::make_shared<Logits>(logits_->values.size());
  return logits_->values.data();
}

int Session::next_length() const { return model().spec.rope_doubling ? prompt_length_ : sequence_->length() + 1; }

Segment Session::segment(const SequenceInput& rows, int length) {
  return {&sequence_->cache(), adapter_.get(), rows.ids, rows.embed, int(rows.n), sequence_->length(), length};
}

// Append the rows in chunks; after_chunk(row, rows, workspace, pool) sees the hidden states of each. Returns false when
// aborted.
template <class AfterChunk>
bool Session::run(const SequenceInput& input, int length, const AfterChunk& after_chunk) {
  const int64_t dim = model().spec.dim;
  const double variant = model().rope.variant(length);
  has_logits_ = false;
  prompt_length_ = length;
  for (int64_t at = 0; at < input.n;) {
    if (abort_) return false;
    const int64_t n = std::min<int64_t>(executor_->chunk(), input.n - at);
    const SequenceInput rows = part(input, at, n, dim);
    const Segment one = segment(rows, length);
    executor_->pass(&one, 1, [&](Workspace& w, ThreadPool& pool) { after_chunk(at, int(n), w, pool); });
    sequence_->append(keys_of(rows, dim), variant);
    at += n;
  }
  return !abort_;
}

// The logits behind the n rows of a pass, without the padding of the vocabulary.
void Session::copy_logits(Workspace& w, int n, float* out, ThreadPool& pool) const {
  const int64_t vocab = model().spec.vocab_size, stride = padded(vocab);
  const float* rows = project(model(), w, n, pool);
  for (int i = 0; i < n; i++) memcpy(out + i * vocab, rows + i * stride, size_t(vocab) * sizeof(float));
}

bool Session::append(const SequenceInput& input, int length, float* all) {
  const bool done = run(input, length, [&](int64_t at, int n, Workspace& w, ThreadPool& pool) {
    if (all) copy_logits(w, n, all + at * int64_t(model().spec.vocab_size), pool);
    if (at + n == input.n) project(model(), w, n - 1, 1, room_for_logits(), pool);
  });
  has_logits_ = done;
  return done;
}

void Session::decode(const int32_t* ids, int n, int length, float* out) {
  const SequenceInput rows = {ids, nullptr, n};
  const Segment one = segment(rows, length);
  executor_->pass(&one, 1, [&](Workspace& w, ThreadPool& pool) { project(model(), w, 0, n, out, pool); });
  sequence_->append(keys_of(rows, 0), model().rope.variant(length));
  has_logits_ = false;
}

// Run all tokens again, as part of a sequence of another length.
void Session::compute_anew(int length) {
  std::vector<int32_t> ids;
  for (uint64_t key : sequence_->keys()) ids.push_back(token_of(key));
  if (std::count(ids.begin(), ids.end(), -1))
    throw Error(ErrorCode::UNSUPPORTED_MODEL,
                format("a session with embeddings cannot grow beyond %d positions with this model, whose keys change "
                       "there", sequence_->length()));
  truncate(0);
  if (!run({ids.data(), nullptr, int64_t(ids.size())}, length, [](int64_t, int, Workspace&, ThreadPool&) {}))
    throw Error(ErrorCode::ABORTED, "the step was aborted");
}

void Session::step(Session* const* sessions, const int32_t* ids, int n, const AfterStep& after) {
  if (n < 1) return;
  Executor& executor = *sessions[0]->executor_;
  const Model& model = executor.model();
  const int64_t stride = padded(model.spec.vocab_size);
  const int most = std::min(n, executor.chunk());
  std::vector<Segment> segments;
  std::vector<float*> rooms;
  for (int i = 0; i < n; i++)
    if (model.rope.restarts_at(sessions[i]->next_length())) sessions[i]->compute_anew(sessions[i]->next_length());
  for (int at = 0; at < n; at += most) {
    const int count = std::min(most, n - at);
    segments.clear();
    rooms.clear();
    for (int i = at; i < at + count; i++) {
      segments.push_back(sessions[i]->segment({ids + i, nullptr, 1}, sessions[i]->next_length()));
      rooms.push_back(sessions[i]->room_for_logits());
    }
    executor.pass(segments.data(), count, [&](Workspace& w, ThreadPool& pool) {
      const float* rows = project(model, w, count, pool);
      pool.run(count, [&](int i, int) { memcpy(rooms[size_t(i)], rows + i * stride, size_t(stride) * sizeof(float)); });
      for (int i = at; i < at + count; i++) {
        sessions[i]->sequence_->append({uint64_t(ids[i])}, model.rope.variant(sessions[i]->next_length()));
        sessions[i]->has_logits_ = true;
      }
      if (after) after(at, count, pool);
    });
  }
}

void Session::all_logits(const SequenceInput& input, float* out) {
  check(input, 0);
  truncate(0);
  const bool done = run(input, int(input.n), [&](int64_t first, int n, Workspace& w, ThreadPool& pool) {
    copy_logits(w, n, out + first * int64_t(model().spec.vocab_size), pool);
  });
  if (!done) throw Error(ErrorCode::ABORTED, "the run was aborted");
}

void Session::hidden_states(const SequenceInput& input, float* out) {
  check(input, 0);
  truncate(0);
  const int64_t dim = model().spec.dim;
  const bool done = run(input, int(input.n), [&](int64_t first, int n, Workspace& w, ThreadPool&) {
    for (int i = 0; i < n; i++)
      memcpy(out + (first + i) * dim, &w.normed[i * w.dim_stride], size_t(dim) * sizeof(float));
  });
  if (!done) throw Error(ErrorCode::ABORTED, "the run was aborted");
}

}  // namespace rkllm
