// SPDX-License-Identifier: Apache-2.0
// Options of a run through the C interface: stop strings, log-probabilities, mirostat, min-p and logit bias.
#include <algorithm>
#include <atomic>

#include "recorded_run.h"

namespace {

constexpr int kInvalid = -1;

using Settings = std::initializer_list<std::pair<const char*, const char*>>;

void set_all(OpenModel& model, const Settings& settings) {
  for (const auto& [name, value] : settings) model.set(name, value);
}

// Where characters of a text begin, and its end.
std::vector<size_t> boundaries(const std::string& text) {
  std::vector<size_t> found;
  for (size_t i = 0; i <= text.size(); i++)
    if (i == text.size() || (static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) found.push_back(i);
  return found;
}

void a_stop_string_ends_the_run_before_it_wherever_tokens_cut_it() {
  OpenModel model(60);
  Record whole;
  CHECK(run(model.handle, whole) == 0);
  const std::string text = whole.text();
  const std::vector<size_t> at = boundaries(text);
  CHECK(at.size() > 20);
  for (size_t first = 0; first + 6 < at.size(); first += 3) {
    const std::string stop = text.substr(at[first], at[first + 6] - at[first]);
    model.set("stop", ("never\x1f" + stop).c_str());
    Record stopped;
    CHECK(run(model.handle, stopped) == 0);
    CHECK(stopped.ended_with(RKLLM_RUN_FINISH));
    CHECK(stopped.text() == text.substr(0, text.find(stop)));
    const std::vector<int32_t> ids = stopped.tokens(), all = whole.tokens();
    CHECK(ids.size() <= all.size() && std::equal(ids.begin(), ids.end(), all.begin()));
    const bool at_end = text.find(stop) + stop.size() == text.size();  // may come with FINISH only
    CHECK(at_end || finish_of(model.handle) == RKLLM_EXT_FINISH_STOP);
  }
  model.set("stop", "");
  CHECK(undisturbed(model.handle) == whole.tokens());
}

void text_that_is_held_back_comes_when_the_run_ends_otherwise() {
  OpenModel model(60);
  Record whole;
  CHECK(run(model.handle, whole) == 0);
  const std::string text = whole.text();
  const std::vector<size_t> at = boundaries(text);
  model.set("stop", (text.substr(at[at.size() - 4]) + "...").c_str());
  Record held;
  CHECK(run(model.handle, held) == 0);
  CHECK(held.ended_with(RKLLM_RUN_FINISH) && held.text() == text && held.tokens() == whole.tokens());
  CHECK(held.waiting() > whole.waiting());
  CHECK(finish_of(model.handle) == RKLLM_EXT_FINISH_LENGTH);
}

struct Asked {
  std::vector<float> chosen;
  std::vector<std::vector<int32_t>> ids;
  std::vector<std::vector<float>> logprobs;
};

void ask(LLMHandle handle, size_t capacity, Asked& asked) {
  float chosen = 1.0f;
  std::vector<int32_t> ids(capacity);
  std::vector<float> logprobs(capacity);
  size_t count = 0;
  CHECK(rkllm_ext_token_logprobs(handle, &chosen, ids.data(), logprobs.data(), capacity, &count) == 0);
  ids.resize(count);
  logprobs.resize(count);
  asked.chosen.push_back(chosen);
  asked.ids.push_back(ids);
  asked.logprobs.push_back(logprobs);
}

void log_probabilities_are_those_of_the_models_own_logits() {
  OpenModel model(12);
  set_all(model, {{"top_k", "0"}, {"temperature", "2"}, {"repeat_penalty", "1.5"}, {"logit_bias", "9:3,10:-inf"},
                  {"seed", "4"}, {"logprobs", "5"}});
  std::vector<int32_t> ids = {5, 6, 7};
  Asked asked;
  Record sampled;
  sampled.on_token = [&](int) { ask(model.handle, 5, asked); };
  CHECK(run(model.handle, sampled, token_input(ids.data(), ids.size())) == 0);
  const std::vector<int32_t> tokens = sampled.tokens();
  CHECK(tokens.size() == 12 && asked.chosen.size() == 12);
  ids.insert(ids.end(), tokens.begin(), tokens.end());

  RKLLMExtInfo info = {};
  CHECK(rkllm_ext_info(model.handle, &info) == 0);
  const size_t vocab = size_t(info.vocab_size);
  std::vector<float> logits(ids.size() * vocab);
  size_t n = 0;
  const RKLLMInput input = token_input(ids.data(), ids.size());
  CHECK(rkllm_ext_logits(model.handle, &input, logits.data(), logits.size(), &n) == 0);
  for (size_t i = 0; i < tokens.size(); i++) {
    float chosen = 0.0f;
    std::vector<int32_t> best(5);
    std::vector<float> values(5);
    const float* row = &logits[(i + 2) * vocab];
    CHECK(rkllm_ext_top_logprobs(row, int32_t(vocab), tokens[i], 5, &chosen, best.data(), values.data(), &n) == 0);
    CHECK(n == 5);
    CHECK(asked.chosen[i] == chosen && asked.ids[i] == best && asked.logprobs[i] == values);
  }
}

void log_probabilities_are_there_inside_the_callback_of_a_token_only() {
  OpenModel model(4);
  size_t count = 0;
  const auto ask_nothing = [&] { return rkllm_ext_token_logprobs(model.handle, nullptr, nullptr, nullptr, 0, &count); };
  Record without;
  without.on_token = [&](int) { CHECK(ask_nothing() == kInvalid); };  // the option is not set
  CHECK(run(model.handle, without) == 0);
  model.set("logprobs", "3");
  CHECK(ask_nothing() == kInvalid && check::contains(rkllm_ext_last_error(nullptr), "no token with log-probabilities"));
  Record with;
  with.on_token = [&](int) {
    int32_t ids[2];
    CHECK(ask_nothing() == 0 && count == 3);
    CHECK(rkllm_ext_token_logprobs(model.handle, nullptr, ids, nullptr, 2, &count) == kInvalid);
    CHECK(rkllm_ext_token_logprobs(model.handle, nullptr, nullptr, nullptr, 0, nullptr) == kInvalid);
  };
  with.on_end = [&] { CHECK(ask_nothing() == kInvalid); };
  CHECK(run(model.handle, with) == 0 && with.tokens() == without.tokens());
  CHECK(rkllm_ext_token_logprobs(nullptr, nullptr, nullptr, nullptr, 0, &count) != 0);
  Asked own_only;
  model.set("logprobs", "0");
  Record own;
  own.on_token = [&](int) { ask(model.handle, 0, own_only); };
  CHECK(run(model.handle, own) == 0);
  for (size_t i = 0; i < own_only.chosen.size(); i++) CHECK(own_only.chosen[i] <= 0.0f && own_only.ids[i].empty());
}

// Whoever asks from another thread gets the log-probabilities of one token or a refusal, nothing in between.
void log_probabilities_may_be_asked_for_by_any_thread() {
  OpenModel model(200);
  model.set("logprobs", "4");
  std::atomic<bool> ended{false};
  std::thread other([&] {
    while (!ended) {
      float own = 1.0f, values[4] = {};
      size_t count = 0;
      if (rkllm_ext_token_logprobs(model.handle, &own, nullptr, values, 4, &count) != 0) continue;
      CHECK(count == 4 && own == values[0]);  // the run is greedy
    }
  });
  Record sampled;
  CHECK(run(model.handle, sampled) == 0 && sampled.tokens().size() == 200);
  ended = true;
  other.join();
}

std::vector<int32_t> tokens_of(LLMHandle handle) {
  Record record_;
  CHECK(run(handle, record_) == 0 && record_.ended_with(RKLLM_RUN_FINISH));
  return record_.tokens();
}

void mirostat_is_set_by_the_vendors_parameters_as_by_the_options() {
  for (const int version : {1, 2}) {
    RKLLMParam param = rkllm_createDefaultParam();
    param.max_new_tokens = 40;
    param.mirostat = version;
    param.mirostat_tau = 3.0f;
    param.mirostat_eta = 0.5f;
    OpenModel configured(param);
    configured.set("seed", "11");
    const std::vector<int32_t> by_param = tokens_of(configured.handle);
    CHECK(by_param.size() == 40);

    OpenModel model(40);
    set_all(model, {{"repeat_penalty", "1.1"}, {"temperature", "0.8"}, {"seed", "11"}, {"mirostat_tau", "3"},
                    {"mirostat_eta", "0.5"}});
    CHECK(tokens_of(model.handle) != by_param);  // top_k 1
    model.set("mirostat", version == 1 ? "1" : "2");
    CHECK(tokens_of(model.handle) == by_param);
  }
  const std::string path = model_path("w4a16_g32");
  RKLLMParam wrong = rkllm_createDefaultParam();
  wrong.model_path = path.c_str();
  wrong.mirostat = 3;
  LLMHandle handle = nullptr;
  CHECK(rkllm_init(&handle, &wrong, record) == kInvalid);
  CHECK(check::contains(rkllm_ext_last_error(nullptr), "mirostat is 3"));
}

void a_bias_forces_and_forbids_tokens() {
  OpenModel model(10);
  const std::vector<int32_t> alone = undisturbed(model.handle);
  model.set("logit_bias", "65:1000");
  CHECK(tokens_of(model.handle) == std::vector<int32_t>(10, 65));
  std::string forbidden;
  for (int32_t id : alone) forbidden += (forbidden.empty() ? "" : ",") + std::to_string(id) + ":-inf";
  model.set("logit_bias", forbidden.c_str());
  for (int32_t id : tokens_of(model.handle)) CHECK(std::find(alone.begin(), alone.end(), id) == alone.end());
  model.set("logit_bias", "");
  CHECK(undisturbed(model.handle) == alone);
}

void a_min_p_of_one_is_greedy() {
  OpenModel model(10);
  const std::vector<int32_t> alone = undisturbed(model.handle);
  set_all(model, {{"top_k", "0"}, {"top_p", "1"}, {"temperature", "5"}, {"seed", "1"}});
  CHECK(tokens_of(model.handle) != alone);
  model.set("min_p", "1");
  CHECK(tokens_of(model.handle) == alone);
}

void wrong_values_are_refused_and_change_nothing() {
  OpenModel model(6);
  const std::vector<int32_t> alone = undisturbed(model.handle);
  const std::string many(65 * 2 - 1, '\x1f'), too_long(1025, 'x');
  const std::pair<const char*, const char*> wrong[] = {
      {"mirostat", "3"}, {"mirostat", "-1"}, {"mirostat_tau", "-1"}, {"mirostat_eta", "nan"}, {"min_p", "1.1"},
      {"min_p", "-0.1"}, {"logit_bias", "5"}, {"logit_bias", "5:"}, {"logit_bias", ":1"}, {"logit_bias", "-1:1"},
      {"logit_bias", "300:1"}, {"logit_bias", "99999999999:1"}, {"logit_bias", "5:1,"}, {"logit_bias", "5:inf"},
      {"logit_bias", "5:nan"}, {"logit_bias", "5:1 6:1"}, {"stop", "\x1f"}, {"stop", "a\x1f"},
      {"stop", "a\x1f\x1f" "b"}, {"stop", too_long.c_str()}, {"stop", many.c_str()}, {"logprobs", "21"},
      {"logprobs", "-2"}, {"logprobs", "few"}};
  for (const auto& [name, value] : wrong) {
    const bool refused = rkllm_ext_set_option(model.handle, name, value) == kInvalid;
    if (!refused) fprintf(stderr, "%s = %s was taken\n", name, value);
    CHECK(refused);
  }
  CHECK(undisturbed(model.handle) == alone);
}

}  // namespace

int main() {
  if (model_path("").empty()) return kSkipped;
  a_stop_string_ends_the_run_before_it_wherever_tokens_cut_it();
  text_that_is_held_back_comes_when_the_run_ends_otherwise();
  log_probabilities_are_those_of_the_models_own_logits();
  log_probabilities_are_there_inside_the_callback_of_a_token_only();
  log_probabilities_may_be_asked_for_by_any_thread();
  mirostat_is_set_by_the_vendors_parameters_as_by_the_options();
  a_bias_forces_and_forbids_tokens();
  a_min_p_of_one_is_greedy();
  wrong_values_are_refused_and_change_nothing();
  return check::result();
}
