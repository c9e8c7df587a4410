// SPDX-License-Identifier: Apache-2.0
// Sessions of rkllm_ext.h on many threads: aborted, shared, beside runs, and behind the end of their handle.
#include <atomic>

#include "open_session.h"

namespace {

void an_aborted_prefill_keeps_what_was_computed_and_can_go_on() {
  OpenModel model;
  model.set("prefill_chunk", "1");
  const Ids ids = some_ids(200);
  const Rows expected = fresh(model.handle, ids);
  int aborted = 0;
  // Some moments are before the prefill or behind it; on a busy machine many are.
  for (int moment = 0; moment < 12 || (aborted == 0 && moment < 2000); moment++) {
    Session session(model.handle);
    Flag started;
    std::thread other([&] {
      started.wait();
      std::this_thread::sleep_for(std::chrono::microseconds(150 * (moment % 12)));
      CHECK(rkllm_ext_session_abort(session.get()) == 0);
    });
    const RKLLMInput input = token_input(ids.data(), ids.size());
    size_t computed = 0;
    started.raise();
    const int code = rkllm_ext_session_prefill(session.get(), &input, 0, &computed);
    other.join();
    CHECK(code == 0 || code == kAborted);
    CHECK(session.tokens() == part(ids, 0, computed));
    aborted += code == kAborted;
    if (code == kAborted) CHECK(session.logits().empty());
    if (computed < ids.size()) session.prefill(part(ids, computed, ids.size()));
    else if (code) session.prefill(ids, RKLLM_EXT_WHOLE);
    CHECK(session.logits() == expected);
  }
  CHECK(aborted > 0);
}

void sessions_on_many_threads_beside_a_run_answer_as_alone() {
  const OpenModel model, second_handle;
  const Ids alone = undisturbed(model.handle);
  const auto by_steps = [&](LLMHandle handle) {
    for (int i = 0; i < 4; i++) {
      Session session(handle);
      session.prefill(prompt_input(kPrompt));
      for (const int32_t token : alone) {
        CHECK(session.best() == token);
        session.step(token);
      }
    }
  };
  const auto in_batches = [&] {
    for (int i = 0; i < 4; i++) {
      Session a(model.handle), b(model.handle), c(model.handle);
      for (Session* each : {&a, &b, &c}) each->prefill(prompt_input(kPrompt));
      RKLLMExtSession* all[] = {a.get(), b.get(), c.get()};
      for (const int32_t token : alone) {
        CHECK(a.best() == token && b.best() == token && c.best() == token);
        const int32_t tokens[] = {token, token, token};
        CHECK(rkllm_ext_session_step(all, tokens, 3) == 0);
      }
    }
  };
  const auto by_runs = [&] {
    for (int i = 0; i < 4; i++) CHECK(undisturbed(model.handle) == alone);
  };
  std::thread threads[] = {std::thread(by_steps, model.handle), std::thread(by_steps, second_handle.handle),
                           std::thread(in_batches), std::thread(by_runs)};
  for (std::thread& thread : threads) thread.join();
}

void two_threads_on_one_session_take_turns_or_are_refused() {
  const OpenModel model;
  Session session(model.handle);
  const Ids ids = some_ids(8);
  session.prefill(ids);
  std::atomic<int> done{0};
  const auto worker = [&] {
    for (int i = 0; i < 40; i++) {
      RKLLMExtSession* one = session.get();
      const int32_t token = 9;
      const int code = rkllm_ext_session_step(&one, &token, 1);
      CHECK(code == 0 || code == kBusy);
      done += code == 0;
    }
  };
  std::thread first(worker), second(worker);
  first.join();
  second.join();
  CHECK(session.tokens().size() == 8 + size_t(done));
  Ids expected = ids;
  expected.insert(expected.end(), size_t(done), 9);
  CHECK(session.logits() == fresh(model.handle, expected));
}

void a_handle_destroyed_beside_its_sessions_leaves_them_whole() {
  const OpenModel reference;
  const Ids ids = some_ids(30);
  const Rows expected = fresh(reference.handle, ids);
  for (int moment = 0; moment < 6; moment++) {
    const LLMHandle handle = OpenModel(-1).release();
    Record record_;
    CHECK(run_async(handle, record_) == 0);
    Flag opened;
    std::thread user([&] {
      Session session(handle);
      opened.raise();
      for (int i = 0; i < 5; i++) {
        session.truncate(0);
        session.prefill(ids);
        CHECK(session.logits() == expected);
      }
    });
    opened.wait();
    std::this_thread::sleep_for(std::chrono::microseconds(200 * moment));
    std::thread other([&] { CHECK(rkllm_destroy(handle) == 0); });
    other.join();
    user.join();
    CHECK(record_.ended_with(RKLLM_RUN_FINISH));
  }
}

void models_begin_run_and_end_on_different_threads() {
  std::atomic<LLMHandle> handle{nullptr};
  for (int i = 0; i < 4; i++) {
    std::thread([&] { handle = OpenModel().release(); }).join();
    std::thread([&] { CHECK(undisturbed(handle).size() == 24); }).join();
    Record record_;
    std::thread([&] { CHECK(run_async(handle, record_) == 0); }).join();
    std::thread([&] { CHECK(rkllm_abort(handle) == 0); }).join();
    std::thread([&] { CHECK(rkllm_destroy(handle) == 0); }).join();
    CHECK(record_.ended_with(RKLLM_RUN_FINISH));
  }
}

}  // namespace

int main() {
  if (model_path("").empty()) return kSkipped;
  an_aborted_prefill_keeps_what_was_computed_and_can_go_on();
  sessions_on_many_threads_beside_a_run_answer_as_alone();
  two_threads_on_one_session_take_turns_or_are_refused();
  a_handle_destroyed_beside_its_sessions_leaves_them_whole();
  models_begin_run_and_end_on_different_threads();
  return check::result();
}
