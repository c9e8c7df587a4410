// SPDX-License-Identifier: Apache-2.0
// Held logits of rkllm_ext.h: they stay as they are, whatever becomes of their session; another thread may read them.
#include <atomic>
#include <thread>

#include "open_session.h"

namespace {

// Logits that are held; let go at the end.
class Held {
 public:
  explicit Held(RKLLMExtSession* session) : data_(rkllm_ext_session_hold_logits(session, &hold_)) {}
  ~Held() { rkllm_ext_logits_release(hold_); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

  const float* data() const { return data_; }
  Rows rows() const { return data_ ? Rows(data_, data_ + kVocab) : Rows(); }

 private:
  RKLLMExtLogits* hold_ = nullptr;
  const float* data_ = nullptr;
};

void held_logits_are_those_of_the_session_and_no_copy() {
  const OpenModel model;
  Session session(model.handle);
  session.prefill(some_ids(20));
  const Held one(session.get()), two(session.get());
  CHECK(one.data() == rkllm_ext_session_logits(session.get()) && two.data() == one.data());
  CHECK(one.rows() == fresh(model.handle, some_ids(20)));
}

void held_logits_stay_as_they_are_behind_every_later_call() {
  const OpenModel model;
  Session session(model.handle);
  session.prefill(some_ids(20));
  const Held held(session.get());
  const Rows before = held.rows();
  session.step(5);
  CHECK(held.rows() == before && session.logits() != before);
  session.prefill(some_ids(70));
  session.truncate(3);
  session.step(6);
  const std::unique_ptr<Session> fork = session.fork();
  fork->step(7);
  CHECK(held.rows() == before);
}

void memory_is_used_again_when_nobody_holds_it() {
  const OpenModel model;
  Session session(model.handle);
  session.prefill(some_ids(20));
  const float* first = rkllm_ext_session_logits(session.get());
  session.step(5);
  CHECK(rkllm_ext_session_logits(session.get()) == first);
  { const Held held(session.get()); }
  session.step(6);
  CHECK(rkllm_ext_session_logits(session.get()) == first);
  const Held held(session.get());
  session.step(7);
  CHECK(rkllm_ext_session_logits(session.get()) != first);
}

void held_logits_outlive_their_session_and_its_handle() {
  auto model = std::make_unique<OpenModel>();
  auto session = std::make_unique<Session>(model->handle);
  session->prefill(some_ids(20));
  const Held held(session->get());
  const Rows before = held.rows();
  session.reset();
  model.reset();
  CHECK(held.rows() == before);
}

void a_thread_may_read_them_while_the_session_goes_on() {
  const OpenModel model;
  Session session(model.handle);
  session.prefill(some_ids(20));
  const Held held(session.get());
  const Rows before = held.rows();
  std::atomic<bool> over{false};
  bool same = true;
  std::thread reader([&] {
    do same = same && held.rows() == before;
    while (!over);
  });
  for (const int32_t token : some_ids(20)) session.step(token);
  over = true;
  reader.join();
  CHECK(same);
}

void where_there_are_none_nothing_is_held() {
  const OpenModel model;
  Session session(model.handle);
  const Held empty(session.get());
  CHECK(empty.data() == nullptr);
  session.prefill(some_ids(20));
  session.truncate(10);
  const Held truncated(session.get());
  CHECK(truncated.data() == nullptr);
  RKLLMExtLogits* hold = nullptr;
  CHECK(rkllm_ext_session_hold_logits(nullptr, &hold) == nullptr && hold == nullptr);
  session.step(1);
  CHECK(rkllm_ext_session_hold_logits(session.get(), nullptr) == nullptr);
  rkllm_ext_logits_release(nullptr);
}

}  // namespace

int main() {
  if (model_path("").empty()) return kSkipped;
  held_logits_are_those_of_the_session_and_no_copy();
  held_logits_stay_as_they_are_behind_every_later_call();
  memory_is_used_again_when_nobody_holds_it();
  held_logits_outlive_their_session_and_its_handle();
  a_thread_may_read_them_while_the_session_goes_on();
  where_there_are_none_nothing_is_held();
  return check::result();
}
