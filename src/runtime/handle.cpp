// SPDX-License-Identifier: Apache-2.0
#include "handle.h"

#include <ctime>
#include <cstring>

namespace rkllm {
namespace {

constexpr int kSlots = 4096;
constexpr uint64_t kOpen = 1;         // bit 0
constexpr uint64_t kUser = 2;         // bits 1 to 31 count users
constexpr uint64_t kUsers = 0xfffffffe;
constexpr int kGenerationShift = 32;  // bits 32 to 47: changes each time a slot is given out

struct Slot {
  std::atomic<uint64_t> state{0};
  std::atomic<Runtime*> runtime{nullptr};
};

Slot slots[kSlots];

thread_local const InsideCall* innermost = nullptr;

uint64_t generation_of(uint64_t state) { return state >> kGenerationShift & 0xffff; }

// Slot number + 1 in the low bits, so that no handle is NULL.
LLMHandle make_handle(int slot, uint64_t generation) {
  return reinterpret_cast<LLMHandle>(uintptr_t(generation << 16 | uint64_t(slot + 1)));
}

void drop_user(int slot) {
  const uint64_t before = slots[slot].state.fetch_sub(kUser);
  if ((before & kUsers) == kUser && !(before & kOpen)) delete slots[slot].runtime.exchange(nullptr);
}

}  // namespace

void Runtime::keep_error(ErrorCode code, const char* sentence) noexcept {
  std::lock_guard<std::mutex> lock(mutex_);
  error_code_ = int(code);
  strncpy(error_sentence_, sentence, sizeof error_sentence_ - 1);
}

void Runtime::read_error(int* code, char* sentence, size_t capacity) const {
  std::lock_guard<std::mutex> lock(mutex_);
  *code = error_code_;
  strncpy(sentence, error_sentence_, capacity - 1);
  sentence[capacity - 1] = 0;
}

void Runtime::set_perf(const RKLLMExtPerf& perf) {
  std::lock_guard<std::mutex> lock(mutex_);
  perf_ = perf;
}

RKLLMExtPerf Runtime::perf() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return perf_;
}

void Runtime::set_logprobs(const Logprobs* logprobs) {
  std::lock_guard<std::mutex> lock(mutex_);
  logprobs_ = logprobs;
}

Logprobs Runtime::logprobs() const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!logprobs_)
    throw Error(
        ErrorCode::INVALID_ARGUMENT,
        "no token with log-probabilities is being delivered; set the option logprobs and ask inside the callback");
  return *logprobs_;
}

const char* Runtime::metadata(const std::string& key) {
  const Value* value = model->file->find_value(key);
  if (!value || value->type != ValueType::STRING) return nullptr;
  std::lock_guard<std::mutex> lock(mutex_);
  return metadata_.emplace(key, model->file->get_string(key)).first->second.c_str();
}

LLMHandle add_handle(std::unique_ptr<Runtime> runtime) {
  for (int i = 0; i < kSlots; i++) {
    // The pointer claims a free slot; until the state says open, nobody looks at it.
    Runtime* none = nullptr;
    if (!slots[i].runtime.compare_exchange_strong(none, runtime.get())) continue;
    runtime.release();
    const uint64_t generation = (generation_of(slots[i].state) + 1) & 0xffff;
    slots[i].state = generation << kGenerationShift | kOpen;
    return make_handle(i, generation);
  }
  throw Error(ErrorCode::OUT_OF_MEMORY, format("%d models are open; close some", kSlots));
}

HandleUse::HandleUse(LLMHandle handle) {
  const uint64_t bits = reinterpret_cast<uintptr_t>(handle);
  slot_ = int(bits & 0xffff) - 1;
  if (slot_ < 0 || slot_ >= kSlots || bits >> 32)
    throw Error(ErrorCode::CLOSED, "the handle is NULL or was not made by rkllm_init");
  uint64_t state = slots[slot_].state;
  do {
    if (!(state & kOpen) || generation_of(state) != bits >> 16)
      throw Error(ErrorCode::CLOSED, "the handle is closed; rkllm_destroy was called on it");
  } while (!slots[slot_].state.compare_exchange_weak(state, state + kUser));
  runtime_ = slots[slot_].runtime;
}

HandleUse::HandleUse(HandleUse&& other) noexcept : slot_(other.slot_), runtime_(other.runtime_) { other.slot_ = -1; }

HandleUse::~HandleUse() {
  if (slot_ >= 0) drop_user(slot_);
}

void close_handle(LLMHandle handle) {
  const HandleUse use(handle);
  std::atomic<uint64_t>& state = slots[use.slot_].state;
  if (!(state.fetch_and(~kOpen) & kOpen)) throw Error(ErrorCode::CLOSED, "the handle is closed already");
  use->session->request_end();
  for (const InsideCall* call = innermost; call; call = call->outer_)
    if (call->handle_ == handle) return;
  const timespec pause = {0, 200000};
  while ((state & kUsers) > kUser) nanosleep(&pause, nullptr);
}

InsideCall::InsideCall(LLMHandle handle) : handle_(handle), outer_(innermost) { innermost = this; }

InsideCall::~InsideCall() { innermost = outer_; }

}  // namespace rkllm
