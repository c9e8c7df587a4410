// SPDX-License-Identifier: Apache-2.0
// Runs through the C interface: their callbacks, abort, a busy handle, several threads, and inputs that are refused.
#include <atomic>
#include <cmath>
#include <limits>

#include "recorded_run.h"

namespace {

constexpr int kBusy = -5;

std::vector<int32_t> prefix(const std::vector<int32_t>& tokens, size_t n) {
  return {tokens.begin(), tokens.begin() + std::ptrdiff_t(std::min(n, tokens.size()))};
}

void every_format_runs_to_its_length() {
  for (int i = 0;; i++) {
    RKLLMExtFormat row = {};
    if (rkllm_ext_format(i, &row)) break;
    FILE* file = row.offered ? fopen(model_path(row.name).c_str(), "rb") : nullptr;
    if (!file) continue;  // groups wider than the small model
    fclose(file);
    const OpenModel model(9, row.name);
    Record sync, async;
    CHECK(run(model.handle, sync) == 0);
    CHECK(sync.ended_with(RKLLM_RUN_FINISH) && sync.tokens().size() == 9);
    CHECK(finish_of(model.handle) == RKLLM_EXT_FINISH_LENGTH);
    CHECK(run_async(model.handle, async) == 0);
    CHECK(async.wait_for_end() && async.ended_with(RKLLM_RUN_FINISH));
    CHECK(async.tokens() == sync.tokens() && async.text() == sync.text());
  }
}

void a_run_without_limit_ends_at_the_context() {
  const OpenModel model(-1, "fp32");
  const int32_t ids[] = {5, 6, 7};
  Record full;
  CHECK(run(model.handle, full, token_input(ids, 3)) == 0);
  CHECK(full.ended_with(RKLLM_RUN_FINISH) && full.tokens().size() == 253);
  CHECK(finish_of(model.handle) == RKLLM_EXT_FINISH_CONTEXT);
}

// A hot random model writes stray bytes: the rules for text are those that Record holds each callback against.
void broken_characters_wait_or_are_replaced() {
  OpenModel model(200);
  model.set("temperature", "1.5");
  model.set("top_k", "0");
  model.set("top_p", "1");
  int waited = 0;
  for (const char* seed : {"1", "2", "3"}) {
    model.set("seed", seed);
    Record hot;
    CHECK(run(model.handle, hot) == 0);
    CHECK(hot.ended_with(RKLLM_RUN_FINISH) && hot.tokens().size() == 200);
    waited += hot.waiting();
  }
  CHECK(waited > 0);
}

void an_asynchronous_model_returns_at_once_from_run() {
  const OpenModel model(24, "w4a16_g32", true);
  Flag returned;
  Record record_;
  record_.on_token = [&](int) { returned.wait(); };
  CHECK(run(model.handle, record_) == 0);
  CHECK(rkllm_is_running(model.handle) == 0);
  returned.raise();
  CHECK(record_.wait_for_end() && record_.ended_with(RKLLM_RUN_FINISH));
}

void is_running_is_zero_while_a_run_is_active() {
  const OpenModel model;
  CHECK(rkllm_is_running(model.handle) != 0);
  Record watched;
  watched.on_token = [&](int) { CHECK(rkllm_is_running(model.handle) == 0); };
  CHECK(run(model.handle, watched) == 0);
  CHECK(rkllm_is_running(model.handle) != 0);
}

void an_abort_ends_the_run_before_its_next_token() {
  for (const bool async : {false, true}) {
    const OpenModel model(-1);
    const std::vector<int32_t> alone = undisturbed(model.handle);
    Flag reached, aborted;
    std::thread other([&] {
      reached.wait();
      CHECK(rkllm_abort(model.handle) == 0);
      aborted.raise();
    });
    Record record_;
    record_.on_token = [&](int n) {
      if (n != 5) return;
      reached.raise();
      aborted.wait();
    };
    CHECK((async ? run_async : run)(model.handle, record_, prompt_input(kPrompt)) == 0);
    CHECK(record_.wait_for_end() && record_.ended_with(RKLLM_RUN_FINISH));
    other.join();
    CHECK(record_.tokens() == prefix(alone, 5));
    CHECK(finish_of(model.handle) == RKLLM_EXT_FINISH_ABORT);
    CHECK(undisturbed(model.handle) == alone);
  }
}

void an_abort_at_any_moment_leaves_one_end() {
  const OpenModel model(40);
  const std::vector<int32_t> alone = undisturbed(model.handle);
  for (int moment = 0; moment < 40; moment++) {
    Record record_;
    CHECK(run_async(model.handle, record_) == 0);
    std::this_thread::sleep_for(std::chrono::microseconds(100 * moment));
    CHECK(rkllm_abort(model.handle) == 0);
    CHECK(record_.wait_for_end() && record_.ended_with(RKLLM_RUN_FINISH));
    CHECK(record_.tokens() == prefix(alone, record_.tokens().size()));
  }
  CHECK(rkllm_abort(model.handle) == 0);  // nothing runs: not remembered for the next run
  CHECK(undisturbed(model.handle) == alone);
}

void a_busy_handle_refuses_and_is_undisturbed() {
  const OpenModel model;
  const std::vector<int32_t> alone = undisturbed(model.handle);
  Flag reached, tried;
  Record first, second;
  const RKLLMInput input = prompt_input(kPrompt);
  const auto try_everything = [&] {
    size_t n = 0;
    CHECK(run(model.handle, second) == kBusy);
    CHECK(run_async(model.handle, second) == kBusy);
    CHECK(rkllm_ext_set_option(model.handle, "top_k", "5") == kBusy);
    CHECK(rkllm_ext_logits(model.handle, &input, nullptr, 0, &n) == kBusy);
    CHECK(check::contains(rkllm_ext_last_error(nullptr), "a run is active"));
  };
  std::thread other([&] {
    reached.wait();
    try_everything();
    tried.raise();
  });
  first.on_token = [&](int n) {
    if (n != 4) return;
    try_everything();  // from the callback's own thread as well
    reached.raise();
    tried.wait();
  };
  CHECK(run(model.handle, first) == 0);
  other.join();
  CHECK(first.ended_with(RKLLM_RUN_FINISH) && first.tokens() == alone && second.nothing_came());
}

void the_end_callback_may_start_the_next_run() {
  const OpenModel model;
  const std::vector<int32_t> alone = undisturbed(model.handle);
  Record runs[5];
  for (int i = 0; i < 4; i++) runs[i].on_end = [&, i] { CHECK(run_async(model.handle, runs[i + 1]) == 0); };
  CHECK(run_async(model.handle, runs[0]) == 0);
  for (Record& one : runs) CHECK(one.wait_for_end() && one.ended_with(RKLLM_RUN_FINISH) && one.tokens() == alone);
}

void models_in_parallel_answer_as_alone() {
  const OpenModel a, b, other_file(24, "w8a8");
  const std::vector<int32_t> alone = undisturbed(a.handle), other_alone = undisturbed(other_file.handle);
  const auto many = [](LLMHandle handle, const std::vector<int32_t>& expected) {
    for (int i = 0; i < 8; i++) CHECK(undisturbed(handle) == expected);
  };
  std::thread first([&] { many(a.handle, alone); }), second([&] { many(b.handle, alone); });
  many(other_file.handle, other_alone);
  first.join();
  second.join();
}

void one_handle_shared_by_threads_runs_one_of_them_at_a_time() {
  const OpenModel model(6);
  const std::vector<int32_t> alone = undisturbed(model.handle);
  std::atomic<int> done{0};
  const auto worker = [&] {
    for (int i = 0; i < 30; i++) {
      Record record_;
      const int code = run(model.handle, record_);
      if (code) CHECK(code == kBusy && record_.nothing_came());
      else CHECK(record_.ended_with(RKLLM_RUN_FINISH) && record_.tokens() == alone), done++;
    }
  };
  std::thread threads[] = {std::thread(worker), std::thread(worker), std::thread(worker)};
  for (std::thread& thread : threads) thread.join();
  CHECK(done > 0);
}

// The run begins and ends with one ERROR; the handle keeps the sentence and answers afterwards as before.
void is_refused(const OpenModel& model, const RKLLMInput& input, const char* sentence) {
  const std::vector<int32_t> alone = undisturbed(model.handle);
  Record sync, async;
  CHECK(run(model.handle, sync, input) != 0);
  CHECK(sync.ended_with(RKLLM_RUN_ERROR) && sync.tokens().empty());
  CHECK(check::contains(rkllm_ext_last_error(model.handle), sentence));
  CHECK(finish_of(model.handle) == RKLLM_EXT_FINISH_ERROR);
  CHECK(run_async(model.handle, async, input) == 0);
  CHECK(async.wait_for_end() && async.ended_with(RKLLM_RUN_ERROR) && async.tokens().empty());
  CHECK(check::contains(rkllm_ext_last_error(model.handle), sentence));
  CHECK(undisturbed(model.handle) == alone);
}

void bad_inputs_end_in_an_error() {
  const OpenModel model;
  const int32_t negative[] = {1, -1}, beyond[] = {299, 300};
  is_refused(model, token_input(negative, 2), "token 1 of the input is -1, outside the vocabulary of 0 to 299");
  is_refused(model, token_input(beyond, 2), "token 1 of the input is 300, outside the vocabulary of 0 to 299");
  is_refused(model, token_input(beyond, 0), "empty");
  is_refused(model, token_input(beyond, std::numeric_limits<size_t>::max()), "tokens");
  is_refused(model, prompt_input(""), "the prompt is empty");
  std::vector<float> rows(64 * 3, 0.125f);
  for (const float bad : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
    rows[64 + 7] = bad;
    is_refused(model, embed_input(rows.data(), 3),
               "row 1 of the embeddings has a value that is not finite in column 7");
  }
  is_refused(model, embed_input(rows.data(), size_t{1} << 62), "but max_context_len is 256");
  const std::vector<int32_t> many(257, 3);
  is_refused(model, token_input(many.data(), many.size()), "the prompt has 257 tokens, but max_context_len is 256");
  const std::string long_text(100000, 'x');
  is_refused(model, prompt_input(long_text.c_str()), "but max_context_len is 256");
  Record full;  // exactly the context: legal, with no room for an answer
  CHECK(run(model.handle, full, token_input(many.data(), 256)) == 0);
  CHECK(full.ended_with(RKLLM_RUN_FINISH) && full.tokens().empty());
}

// A call that is wrong in itself starts no run: a code, a sentence, no callback.
void wrong_calls_start_nothing() {
  const OpenModel model;
  const std::vector<int32_t> alone = undisturbed(model.handle);
  Record none;
  RKLLMInferParam params = {};
  RKLLMInput input = prompt_input(kPrompt);
  CHECK(rkllm_run(model.handle, nullptr, &params, &none) != 0);
  CHECK(rkllm_run_async(model.handle, nullptr, &params, &none) != 0);
  for (const RKLLMInput& bad : {prompt_input(nullptr), token_input(nullptr, 3), embed_input(nullptr, 3)}) {
    CHECK(run(model.handle, none, bad) != 0);
    CHECK(run_async(model.handle, none, bad) != 0);
    CHECK(check::contains(rkllm_ext_last_error(model.handle), "is NULL"));
  }
  RKLLMInput unknown = input;
  unknown.input_type = RKLLMInputType(9);
  CHECK(run(model.handle, none, unknown) != 0);
  unknown.input_type = RKLLM_INPUT_MULTIMODAL;
  CHECK(run(model.handle, none, unknown) != 0);
  params.mode = RKLLMInferMode(7);
  CHECK(rkllm_run(model.handle, &input, &params, &none) != 0);
  CHECK(none.nothing_came());
  Record plain;
  CHECK(rkllm_run(model.handle, &input, nullptr, &plain) == 0);  // no settings: the usual ones
  CHECK(plain.tokens() == alone);
}

// The callbacks of a run that asks for hidden states: one with them, then one FINISH.
struct HiddenRecord {
  std::vector<float> states;
  int width = 0, positions = 0, ends = 0;
};

void record_hidden(RKLLMResult* result, void* userdata, LLMCallState state) {
  auto& seen = *static_cast<HiddenRecord*>(userdata);
  CHECK(result && result->text && seen.ends == 0);
  if (state == RKLLM_RUN_GET_LAST_HIDDEN_LAYER) {
    const RKLLMResultLastHiddenLayer& layer = result->last_hidden_layer;
    CHECK(seen.states.empty());
    seen.width = layer.embd_size;
    seen.positions = layer.num_tokens;
    seen.states.assign(layer.hidden_states, layer.hidden_states + size_t(layer.embd_size) * size_t(layer.num_tokens));
  } else {
    CHECK(state == RKLLM_RUN_FINISH || state == RKLLM_RUN_ERROR);
    seen.ends += state == RKLLM_RUN_FINISH;
  }
}

void hidden_states_come_in_one_callback() {
  const std::string path = model_path("fp32");
  RKLLMParam param = rkllm_createDefaultParam();
  param.model_path = path.c_str();
  LLMHandle handle = nullptr;
  CHECK(rkllm_init(&handle, &param, record_hidden) == 0);
  std::vector<int32_t> ids(70);
  for (size_t i = 0; i < ids.size(); i++) ids[i] = int32_t(i * 37 % 300);
  RKLLMInput input = token_input(ids.data(), ids.size());
  RKLLMInferParam params = {};
  params.mode = RKLLM_INFER_GET_LAST_HIDDEN_LAYER;
  HiddenRecord seen;
  CHECK(rkllm_run(handle, &input, &params, &seen) == 0);
  CHECK(seen.ends == 1 && seen.width == 64 && seen.positions == 70);
  size_t n = 0;
  CHECK(rkllm_ext_hidden_states(handle, &input, nullptr, 0, &n) == 0 && n == 70);
  std::vector<float> again(70 * 64);
  CHECK(rkllm_ext_hidden_states(handle, &input, again.data(), again.size() - 1, &n) != 0);
  CHECK(rkllm_ext_hidden_states(handle, &input, again.data(), again.size(), &n) == 0);
  CHECK(seen.states == again);
  ids[3] = 300;  // outside the vocabulary: no states, an error
  HiddenRecord failed;
  CHECK(rkllm_run(handle, &input, &params, &failed) != 0);
  CHECK(failed.states.empty() && failed.ends == 0);
  for (size_t too_many : {size_t(513), SIZE_MAX / 64, SIZE_MAX}) {  // refused before memory for the states is asked for
    const RKLLMInput longer = token_input(ids.data(), too_many);
    CHECK(rkllm_run(handle, const_cast<RKLLMInput*>(&longer), &params, &failed) != 0);
    CHECK(check::contains(rkllm_ext_last_error(handle), "max_context_len is 512"));
  }
  CHECK(rkllm_destroy(handle) == 0);
}

std::atomic<int> unnamed_ends{0};

void count_ends(RKLLMResult* result, void* userdata, LLMCallState state) {
  CHECK(!userdata && result && result->text);
  unnamed_ends += state == RKLLM_RUN_FINISH;
}

void userdata_may_be_null() {
  const std::string path = model_path("fp16");
  RKLLMParam param = rkllm_createDefaultParam();
  param.model_path = path.c_str();
  param.max_new_tokens = 3;
  LLMHandle handle = nullptr;
  CHECK(rkllm_init(&handle, &param, count_ends) == 0);
  RKLLMInput input = prompt_input(kPrompt);
  RKLLMInferParam params = {};
  CHECK(rkllm_run(handle, &input, &params, nullptr) == 0);
  CHECK(rkllm_destroy(handle) == 0);
  CHECK(unnamed_ends == 1);
}

}  // namespace

int main() {
  if (model_path("").empty()) return kSkipped;
  every_format_runs_to_its_length();
  a_run_without_limit_ends_at_the_context();
  broken_characters_wait_or_are_replaced();
  an_asynchronous_model_returns_at_once_from_run();
  is_running_is_zero_while_a_run_is_active();
  an_abort_ends_the_run_before_its_next_token();
  an_abort_at_any_moment_leaves_one_end();
  a_busy_handle_refuses_and_is_undisturbed();
  the_end_callback_may_start_the_next_run();
  models_in_parallel_answer_as_alone();
  one_handle_shared_by_threads_runs_one_of_them_at_a_time();
  bad_inputs_end_in_an_error();
  wrong_calls_start_nothing();
  hidden_states_come_in_one_callback();
  userdata_may_be_null();
  return check::result();
}
