// SPDX-License-Identifier: Apache-2.0
// The life of a handle: how it opens, who may end it and when, and what is left of it afterwards.
#include <pthread.h>

#include <atomic>
#include <csignal>
#include <utility>

#include "recorded_run.h"

namespace {

constexpr int kClosed = -8;

// Every function refuses the handle and none follows it.
void is_refused_everywhere(LLMHandle handle) {
  Record none;
  RKLLMInput input = prompt_input(kPrompt);
  RKLLMLoraAdapter adapter = {"a", "b", 1.0f};
  RKLLMExtInfo info = {};
  RKLLMExtPerf perf = {};
  size_t n = 0;
  CHECK(run(handle, none) == kClosed);
  CHECK(check::contains(rkllm_ext_last_error(nullptr), handle ? "handle" : "the handle is NULL"));
  CHECK(run_async(handle, none) == kClosed);
  CHECK(rkllm_abort(handle) == kClosed);
  CHECK(rkllm_destroy(handle) == kClosed);
  CHECK(rkllm_is_running(handle) != 0);
  CHECK(rkllm_load_lora(handle, &adapter) == kClosed);
  CHECK(rkllm_load_prompt_cache(handle, "a") == kClosed);
  CHECK(rkllm_release_prompt_cache(handle) == kClosed);
  CHECK(rkllm_ext_set_option(handle, "top_k", "1") == kClosed);
  CHECK(rkllm_ext_info(handle, &info) == kClosed);
  CHECK(rkllm_ext_perf(handle, &perf) == kClosed);
  CHECK(rkllm_ext_logits(handle, &input, nullptr, 0, &n) == kClosed);
  CHECK(!rkllm_ext_metadata(handle, "general.name"));
  CHECK(!rkllm_ext_tokenizer(handle));
  CHECK(rkllm_ext_last_error_code(handle) == kClosed);
  CHECK(check::contains(rkllm_ext_last_error(handle), "handle"));
  CHECK(none.nothing_came());
}

void what_is_no_handle_is_refused() {
  int on_the_stack = 0;
  is_refused_everywhere(nullptr);
  is_refused_everywhere(&on_the_stack);
  const uintptr_t numbers[] = {1, 2, 0xffff, 0x10001, 0x1234567890, ~uintptr_t{0}};
  for (const uintptr_t number : numbers) is_refused_everywhere(reinterpret_cast<LLMHandle>(number));
}

void a_destroyed_handle_stays_refused_when_its_place_is_taken() {
  const LLMHandle old = OpenModel().release();
  CHECK(rkllm_destroy(old) == 0);
  is_refused_everywhere(old);
  const OpenModel next;
  CHECK(next.handle != old);
  is_refused_everywhere(old);
  CHECK(undisturbed(next.handle).size() == 24);
}

void init_refuses_with_a_sentence() {
  const std::string path = model_path("w4a16_g32");
  RKLLMParam param = rkllm_createDefaultParam();
  LLMHandle handle = &param;
  CHECK(rkllm_init(nullptr, &param, record) != 0);
  CHECK(rkllm_init(&handle, nullptr, record) != 0 && !handle);
  const auto refused = [&](LLMResultCallback callback, const char* sentence) {
    handle = &param;
    CHECK(rkllm_init(&handle, &param, callback) != 0);
    CHECK(!handle && check::contains(rkllm_ext_last_error(nullptr), sentence));
  };
  refused(record, "model_path is empty");
  param.model_path = "";
  refused(record, "model_path is empty");
  param.model_path = "/nowhere/model.rkllm";
  refused(record, "/nowhere/model.rkllm");
  param.model_path = "/";
  refused(record, "/: ");
  param.model_path = path.c_str();
  refused(nullptr, "callback is NULL");
  param.max_context_len = 513;
  refused(record, "max_context_len is 513");
  param.max_context_len = -1;
  refused(record, "max_context_len is -1");
  param.max_context_len = 0;  // as many as the model has
  param.max_new_tokens = 0;
  refused(record, "max_new_tokens is 0");
  param.max_new_tokens = -1;
  param.temperature = -1.0f;
  refused(record, "temperature");
  param.temperature = 1.0f;
  CHECK(rkllm_init(&handle, &param, record) == 0);
  CHECK(rkllm_destroy(handle) == 0);
}

// The callback holds the run until the handle is seen closed, so destroy certainly comes while the run is active.
void wait_until_closed(LLMHandle handle) {
  for (int i = 0; i < 60000 && rkllm_is_running(handle) == 0; i++)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK(rkllm_is_running(handle) != 0);
}

void destroy_from_other_threads_ends_the_run_and_waits_for_it() {
  for (const bool async : {false, true}) {
    const LLMHandle handle = OpenModel(-1).release();
    Flag reached;
    std::atomic<int> destroyed{0};
    Record record_;
    record_.on_token = [&](int n) {
      if (n != 3) return;
      reached.raise();
      wait_until_closed(handle);
    };
    const auto destroy = [&] {
      reached.wait();
      if (rkllm_destroy(handle)) return;
      destroyed++;
      CHECK(record_.ended_with(RKLLM_RUN_FINISH));
    };
    std::thread first(destroy), second(destroy);  // one of them does it
    CHECK((async ? run_async : run)(handle, record_, prompt_input(kPrompt)) == 0);
    first.join();
    second.join();
    CHECK(destroyed == 1 && record_.wait_for_end());
    CHECK(record_.ended_with(RKLLM_RUN_FINISH) && record_.tokens().size() == 3);
    is_refused_everywhere(handle);
  }
}

void destroy_at_any_moment_leaves_one_end() {
  for (int moment = 0; moment < 25; moment++) {
    const LLMHandle handle = OpenModel(-1).release();
    Record record_;
    CHECK(run_async(handle, record_) == 0);
    std::this_thread::sleep_for(std::chrono::microseconds(150 * moment));
    CHECK(rkllm_destroy(handle) == 0);
    CHECK(record_.ended_with(RKLLM_RUN_FINISH));
    is_refused_everywhere(handle);
  }
}

void destroy_from_the_callback_ends_the_run() {
  for (const bool async : {false, true}) {
    const LLMHandle handle = OpenModel(-1).release();
    Record record_;
    record_.on_token = [&](int n) {
      if (n == 3) CHECK(rkllm_destroy(handle) == 0 && rkllm_destroy(handle) == kClosed);
    };
    CHECK((async ? run_async : run)(handle, record_, prompt_input(kPrompt)) == 0);
    CHECK(record_.wait_for_end() && record_.ended_with(RKLLM_RUN_FINISH));
    CHECK(record_.tokens().size() == 3);
    is_refused_everywhere(handle);
  }
}

void destroy_from_the_last_callback_is_the_end() {
  for (const bool async : {false, true}) {
    const LLMHandle handle = OpenModel(4).release();
    Record record_;
    record_.on_end = [&] { CHECK(rkllm_destroy(handle) == 0); };
    CHECK((async ? run_async : run)(handle, record_, prompt_input(kPrompt)) == 0);
    CHECK(record_.wait_for_end() && record_.ended_with(RKLLM_RUN_FINISH) && record_.tokens().size() == 4);
    is_refused_everywhere(handle);
  }
}

// A callback may run another model, whose callback may end the outer one.
void destroy_from_a_run_inside_a_run_does_not_wait_for_itself() {
  const OpenModel inner(4);
  const LLMHandle outer = OpenModel(-1).release();
  Record inner_record, outer_record;
  inner_record.on_token = [&](int n) {
    if (n == 2) CHECK(rkllm_destroy(outer) == 0);
  };
  outer_record.on_token = [&](int n) {
    if (n == 3) CHECK(run(inner.handle, inner_record) == 0);
  };
  CHECK(run(outer, outer_record) == 0);
  CHECK(inner_record.ended_with(RKLLM_RUN_FINISH) && inner_record.tokens().size() == 4);
  CHECK(outer_record.ended_with(RKLLM_RUN_FINISH) && outer_record.tokens().size() == 3);
  is_refused_everywhere(outer);
}

// ---- a signal handler, as the vendor's demo has it ------------------------------------------------------------------

std::atomic<LLMHandle> interrupted{nullptr};
std::atomic<int> handler_code{1};

void destroy_in_handler(int) { handler_code = rkllm_destroy(interrupted); }

struct Handler {
  struct sigaction before = {};

  explicit Handler(LLMHandle handle) {
    interrupted = handle;
    handler_code = 1;
    struct sigaction action = {};
    action.sa_handler = destroy_in_handler;
    sigaction(SIGINT, &action, &before);
  }
  ~Handler() { sigaction(SIGINT, &before, nullptr); }
};

// Interrupt the calling thread a little later, wherever it is then.
std::thread interrupt_after(Flag& start, std::chrono::microseconds delay) {
  const pthread_t target = pthread_self();
  return std::thread([&start, delay, target] {
    start.wait();
    std::this_thread::sleep_for(delay);
    pthread_kill(target, SIGINT);
  });
}

void a_signal_handler_may_destroy_what_its_thread_runs() {
  for (int moment = 0; moment < 20; moment++) {
    const LLMHandle handle = OpenModel(-1).release();
    const Handler handler(handle);
    Flag reached;
    std::thread other = interrupt_after(reached, std::chrono::microseconds(70 * moment));
    Record record_;
    record_.on_token = [&](int n) {
      if (n == 2) reached.raise();
      if (n == 200) wait_until_closed(handle);  // on a slow machine the run would end before the signal comes
    };
    CHECK(run(handle, record_) == 0);
    other.join();
    CHECK(handler_code == 0);
    CHECK(record_.ended_with(RKLLM_RUN_FINISH) && record_.tokens().size() >= 2);
    is_refused_everywhere(handle);
  }
}

void a_signal_in_the_callback_may_destroy_the_handle() {
  const LLMHandle handle = OpenModel(-1).release();
  const Handler handler(handle);
  Record record_;
  record_.on_token = [&](int n) {
    if (n == 3) raise(SIGINT);
  };
  CHECK(run(handle, record_) == 0);
  CHECK(handler_code == 0);
  CHECK(record_.ended_with(RKLLM_RUN_FINISH) && record_.tokens().size() == 3);
  is_refused_everywhere(handle);
}

// Logits have no callback, but the thread is inside the library all the same.
void a_signal_handler_may_destroy_what_computes_logits() {
  const LLMHandle handle = OpenModel().release();
  const Handler handler(handle);
  Flag started;
  std::thread other = interrupt_after(started, std::chrono::microseconds(500));
  const std::vector<int32_t> ids(256, 3);
  std::vector<float> logits(256 * 300);
  const RKLLMInput input = token_input(ids.data(), ids.size());
  size_t n = 0;
  started.raise();
  int code = 0;
  while (code == 0) code = rkllm_ext_logits(handle, &input, logits.data(), logits.size(), &n);
  other.join();
  CHECK(handler_code == 0);
  CHECK(code == -6 || code == kClosed);  // aborted inside the call, or refused at its next one
  is_refused_everywhere(handle);
}

}  // namespace

int main() {
  if (model_path("").empty()) return kSkipped;
  what_is_no_handle_is_refused();
  a_destroyed_handle_stays_refused_when_its_place_is_taken();
  init_refuses_with_a_sentence();
  destroy_from_other_threads_ends_the_run_and_waits_for_it();
  destroy_at_any_moment_leaves_one_end();
  destroy_from_the_callback_ends_the_run();
  destroy_from_the_last_callback_is_the_end();
  destroy_from_a_run_inside_a_run_does_not_wait_for_itself();
  a_signal_handler_may_destroy_what_its_thread_runs();
  a_signal_in_the_callback_may_destroy_the_handle();
  a_signal_handler_may_destroy_what_computes_logits();
  return check::result();
}
