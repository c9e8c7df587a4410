// SPDX-License-Identifier: Apache-2.0
// The decode loop of several sessions: the tokens of sessions that are stepped and sampled one by one, whatever their
// settings, company and threads; and how it ends.
#include <cstring>
#include <string>

#include "open_session.h"

namespace {

using Sessions = std::vector<std::unique_ptr<Session>>;

constexpr size_t kSessions = 5;
constexpr int kPasses = 24;

// Sessions with prompts and settings of their own, all kinds of them.
Sessions some_sessions(LLMHandle handle) {
  const char* options[kSessions][2] = {
      {"temperature", "0"}, {"top_k", "0"}, {"repeat_penalty", "1.4"}, {"mirostat", "2"}, {"logit_bias", "7:5,9:-inf"}};
  Sessions sessions;
  for (size_t i = 0; i < kSessions; i++) {
    sessions.push_back(std::make_unique<Session>(handle));
    CHECK(rkllm_ext_session_set_option(sessions[i]->get(), options[i][0], options[i][1]) == 0);
    CHECK(rkllm_ext_session_set_option(sessions[i]->get(), "seed", std::to_string(i + 1).c_str()) == 0);
    sessions[i]->prefill(some_ids(5 + 7 * i, int(i)));
  }
  return sessions;
}

std::vector<RKLLMExtSession*> pointers(const Sessions& sessions) {
  std::vector<RKLLMExtSession*> found;
  for (const auto& session : sessions) found.push_back(session->get());
  return found;
}

int32_t sampled(Session& session, const uint32_t* mask = nullptr) {
  int32_t token = -1;
  CHECK(rkllm_ext_session_sample(session.get(), mask, &token) == 0);
  return token;
}

Ids first_tokens(const Sessions& sessions) {
  Ids tokens;
  for (const auto& session : sessions) tokens.push_back(sampled(*session));
  return tokens;
}

// What each session chooses alone, pass by pass.
std::vector<Ids> alone(LLMHandle handle) {
  const Sessions sessions = some_sessions(handle);
  std::vector<Ids> rows = {first_tokens(sessions)};
  for (int pass = 0; pass < kPasses; pass++) {
    rows.push_back(Ids(kSessions));
    for (size_t i = 0; i < kSessions; i++) {
      sessions[i]->step(rows[size_t(pass)][i]);
      rows.back()[i] = sampled(*sessions[i]);
    }
  }
  return rows;
}

// Writes down what the loop chooses, and ends it after so many passes.
struct Watch {
  std::vector<Ids> rows;
  int left = kPasses;
  std::function<void()> each = [] {};

  static int called(const int32_t* tokens, size_t n, void* userdata) {
    Watch& self = *static_cast<Watch*>(userdata);
    self.rows.push_back(Ids(tokens, tokens + n));
    self.each();
    return --self.left <= 0;
  }
};

int decode(const Sessions& sessions, Ids& tokens, Watch* watch = nullptr) {
  const auto all = pointers(sessions);
  return rkllm_ext_session_decode(all.data(), tokens.data(), all.size(), nullptr, watch ? Watch::called : nullptr,
                                  watch);
}

// ---- tokens ---------------------------------------------------------------------------------------------------------

void a_loop_chooses_the_tokens_of_single_sessions() {
  for (const char* format : {"fp32", "w4a16_g32"}) {
    for (const char* threads : {"1", "2", "3"}) {
      OpenModel model(24, format);
      model.set("n_threads", threads);
      const std::vector<Ids> expected = alone(model.handle);
      const Sessions sessions = some_sessions(model.handle);
      Watch watch;
      watch.rows.push_back(first_tokens(sessions));
      Ids tokens = watch.rows[0];
      CHECK(decode(sessions, tokens, &watch) == 0);
      CHECK(watch.rows == expected && tokens == expected.back());
    }
  }
}

void without_a_function_it_is_one_pass() {
  const OpenModel model;
  const std::vector<Ids> expected = alone(model.handle);
  const Sessions sessions = some_sessions(model.handle);
  Ids tokens = first_tokens(sessions);
  for (int pass = 1; pass <= kPasses; pass++) {
    CHECK(decode(sessions, tokens) == 0);
    CHECK(tokens == expected[size_t(pass)]);
  }
}

void more_sessions_than_a_pass_holds_are_decoded() {
  OpenModel model;
  model.set("prefill_chunk", "2");
  const std::vector<Ids> expected = alone(model.handle);
  const Sessions sessions = some_sessions(model.handle);
  Ids tokens = first_tokens(sessions);
  CHECK(decode(sessions, tokens) == 0);
  CHECK(tokens == expected[1]);
}

void masks_are_for_the_first_pass() {
  const OpenModel model;
  const Sessions one = some_sessions(model.handle), other = some_sessions(model.handle);
  std::vector<uint32_t> mask((kVocab + 31) / 32, 0);
  mask[1] = 1u << 3;  // token 35 alone
  const uint32_t* masks[kSessions] = {mask.data(), nullptr, mask.data(), nullptr, nullptr};
  Ids tokens = first_tokens(one), expected = first_tokens(other);
  for (int pass = 0; pass < 2; pass++)
    for (size_t i = 0; i < kSessions; i++) {
      other[i]->step(expected[i]);
      expected[i] = sampled(*other[i], pass == 0 ? masks[i] : nullptr);
    }
  const auto all = pointers(one);
  Watch watch;
  watch.left = 2;
  CHECK(rkllm_ext_session_decode(all.data(), tokens.data(), kSessions, masks, Watch::called, &watch) == 0);
  CHECK(watch.rows[0][0] == 35 && watch.rows[0][2] == 35 && tokens == expected);
}

void the_function_sees_the_logits_that_were_chosen_from() {
  const OpenModel model;
  const Sessions sessions = some_sessions(model.handle);
  Watch watch;
  watch.each = [&] { CHECK(watch.rows.back()[0] == sessions[0]->best()); };  // the greedy one
  Ids tokens = first_tokens(sessions);
  CHECK(decode(sessions, tokens, &watch) == 0);
  CHECK(watch.rows.size() == size_t(kPasses));
}

// ---- ends -----------------------------------------------------------------------------------------------------------

void a_choice_that_fails_is_told_and_the_others_have_theirs() {
  const OpenModel model;
  const std::vector<Ids> expected = alone(model.handle);
  const Sessions sessions = some_sessions(model.handle);
  Ids tokens = first_tokens(sessions);
  std::string none;
  for (int id = 0; id < kVocab; id++) none += (id ? "," : "") + std::to_string(id) + ":-inf";
  CHECK(rkllm_ext_session_set_option(sessions[3]->get(), "logit_bias", none.c_str()) == 0);
  Watch watch;
  refused(decode(sessions, tokens, &watch), kInvalid, "session 3: ");
  CHECK(watch.rows.empty());
  for (size_t i = 0; i < kSessions; i++) CHECK(tokens[i] == (i == 3 ? -1 : expected[1][i]));
  CHECK(sessions[3]->tokens().back() == expected[0][3]);  // it has been stepped
  refused(decode(sessions, tokens), kInvalid, "session 3: token 0 of the input is -1");
}

void an_abort_ends_it_before_the_next_pass() {
  const OpenModel model;
  const std::vector<Ids> expected = alone(model.handle);
  const Sessions sessions = some_sessions(model.handle);
  Ids tokens = first_tokens(sessions);
  Watch watch;
  watch.each = [&] {
    if (watch.rows.size() == 3) CHECK(rkllm_ext_session_abort(sessions[2]->get()) == 0);
  };
  refused(decode(sessions, tokens, &watch), kAborted, "session 2 was aborted");
  CHECK(watch.rows.size() == 3 && tokens == expected[3]);
  CHECK(decode(sessions, tokens) == 0 && tokens == expected[4]);  // it goes on
}

void a_full_context_leaves_everything_as_it_is() {
  const OpenModel model;
  const Sessions sessions = some_sessions(model.handle);
  RKLLMExtInfo info;
  CHECK(rkllm_ext_info(model.handle, &info) == 0);
  sessions[1]->prefill(some_ids(size_t(info.max_context_len) - sessions[1]->tokens().size() - 1));
  Ids tokens = first_tokens(sessions);
  Watch watch;
  refused(decode(sessions, tokens, &watch), kContextFull, "session 1: ");
  CHECK(watch.rows.size() == 1 && watch.rows[0] == tokens);
  CHECK(sessions[0]->tokens().size() == 6);
}

void wrong_calls_are_refused_and_change_nothing() {
  const OpenModel model, other;
  const Sessions sessions = some_sessions(model.handle);
  const Ids first = first_tokens(sessions);
  Ids tokens = first;
  auto all = pointers(sessions);
  refused(rkllm_ext_session_decode(nullptr, tokens.data(), 1, nullptr, nullptr, nullptr), kInvalid, "must be given");
  refused(rkllm_ext_session_decode(all.data(), nullptr, 1, nullptr, nullptr, nullptr), kInvalid, "must be given");
  refused(rkllm_ext_session_decode(all.data(), tokens.data(), 0, nullptr, nullptr, nullptr), kInvalid, "1 to 65536");
  all[1] = nullptr;
  refused(rkllm_ext_session_decode(all.data(), tokens.data(), 2, nullptr, nullptr, nullptr), kInvalid, "NULL");
  all[1] = all[0];
  refused(rkllm_ext_session_decode(all.data(), tokens.data(), 2, nullptr, nullptr, nullptr), kBusy, "named twice");
  Session foreign(other.handle);
  foreign.prefill(some_ids(3));
  all[1] = foreign.get();
  refused(rkllm_ext_session_decode(all.data(), tokens.data(), 2, nullptr, nullptr, nullptr), kInvalid,
          "another model");
  tokens[0] = kVocab;
  refused(rkllm_ext_session_decode(all.data(), tokens.data(), 1, nullptr, nullptr, nullptr), kInvalid, "vocabulary");
  tokens[0] = first[0];
  CHECK(sessions[0]->tokens().size() == 5 && tokens == first);
}

void loops_on_several_threads_choose_what_they_choose_alone() {
  const OpenModel model;
  const std::vector<Ids> expected = alone(model.handle);
  const auto user = [&] {
    const Sessions sessions = some_sessions(model.handle);
    Watch watch;
    watch.rows.push_back(first_tokens(sessions));
    Ids tokens = watch.rows[0];
    CHECK(decode(sessions, tokens, &watch) == 0);
    CHECK(watch.rows == expected);
  };
  std::thread one(user), two(user);
  CHECK(undisturbed(model.handle).size() == 24);
  one.join();
  two.join();
}

}  // namespace

int main() {
  if (model_path("").empty()) return kSkipped;
  a_loop_chooses_the_tokens_of_single_sessions();
  without_a_function_it_is_one_pass();
  more_sessions_than_a_pass_holds_are_decoded();
  masks_are_for_the_first_pass();
  the_function_sees_the_logits_that_were_chosen_from();
  a_choice_that_fails_is_told_and_the_others_have_theirs();
  an_abort_ends_it_before_the_next_pass();
  a_full_context_leaves_everything_as_it_is();
  wrong_calls_are_refused_and_change_nothing();
  loops_on_several_threads_choose_what_they_choose_alone();
  return check::result();
}
