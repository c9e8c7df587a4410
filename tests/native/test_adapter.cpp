// SPDX-License-Identifier: Apache-2.0
// LoRA adapters through the C interface: chosen by name, switched, released, in sessions that share a pass. The files
// are lora_a.rkllm and lora_b.rkllm of the folder RKLLM_TEST_MODELS.
#include <cmath>
#include <cstring>
#include <memory>

#include "recorded_run.h"

namespace {

constexpr int kInvalid = -1, kModelFile = -2, kBusy = -5;

int load(LLMHandle handle, const char* name, const char* file, float scale = 1.0f) {
  const std::string path = model_path(file);
  RKLLMLoraAdapter adapter = {path.c_str(), name, scale};
  return rkllm_load_lora(handle, &adapter);
}

int run_with(LLMHandle handle, const char* name, Record& record, bool async = false) {
  RKLLMLoraParam lora = {name};
  RKLLMInferParam params = {};
  params.lora_params = &lora;
  RKLLMInput input = prompt_input(kPrompt);
  return async ? rkllm_run_async(handle, &input, &params, &record) : rkllm_run(handle, &input, &params, &record);
}

std::vector<int32_t> answer(LLMHandle handle, const char* name) {
  Record run_record;
  CHECK(run_with(handle, name, run_record) == 0);
  CHECK(run_record.ended_with(RKLLM_RUN_FINISH));
  return run_record.tokens();
}

std::string sentence(LLMHandle handle) { return rkllm_ext_last_error(handle); }

void each_run_has_the_adapter_that_it_names() {
  for (const char* format : {"fp32", "w8a8", "w4a16_g32"}) {
    const OpenModel model(24, format);
    const std::vector<int32_t> plain = undisturbed(model.handle);
    CHECK(load(model.handle, "a", "lora_a") == 0);
    CHECK(load(model.handle, "b", "lora_b") == 0);
    CHECK(load(model.handle, "off", "lora_b", 0.0f) == 0);
    CHECK(load(model.handle, "minus", "lora_b", -0.5f) == 0);
    const std::vector<int32_t> a = answer(model.handle, "a"), b = answer(model.handle, "b");
    CHECK(a != plain && b != plain && a != b);
    CHECK(answer(model.handle, "minus") != b);
    CHECK(answer(model.handle, "off") == plain);
    CHECK(undisturbed(model.handle) == plain);
    CHECK(answer(model.handle, "") == plain);
    CHECK(answer(model.handle, "b") == b && answer(model.handle, "a") == a);
    Record async;
    CHECK(run_with(model.handle, "b", async, true) == 0);
    CHECK(async.wait_for_end() && async.tokens() == b);
  }
}

void the_option_is_for_what_names_none() {
  OpenModel model(24, "fp32");
  CHECK(load(model.handle, "a", "lora_a") == 0);
  CHECK(load(model.handle, "b", "lora_b") == 0);
  const std::vector<int32_t> plain = undisturbed(model.handle), a = answer(model.handle, "a");
  model.set("lora", "a");
  CHECK(undisturbed(model.handle) == a);
  CHECK(answer(model.handle, "b") != a);
  CHECK(answer(model.handle, "") == plain);
  CHECK(rkllm_ext_set_option(model.handle, "lora", "c") == kInvalid);
  CHECK(check::contains(sentence(model.handle), "no adapter 'c' is loaded; loaded: a, b"));
  CHECK(undisturbed(model.handle) == a);
  CHECK(rkllm_ext_release_lora(model.handle, "a") == 0);
  CHECK(undisturbed(model.handle) == plain);
}

void a_prefix_of_another_adapter_is_not_reused() {
  OpenModel model(24, "fp32");
  CHECK(load(model.handle, "a", "lora_a") == 0);
  const std::vector<int32_t> plain = undisturbed(model.handle), a = answer(model.handle, "a");
  model.set("reuse_prefix", "1");
  for (int i = 0; i < 2; i++) {
    CHECK(answer(model.handle, "a") == a);
    CHECK(undisturbed(model.handle) == plain);
    CHECK(undisturbed(model.handle) == plain);
    RKLLMExtPerf perf = {};
    CHECK(rkllm_ext_perf(model.handle, &perf) == 0 && perf.reused_tokens > 0);
  }
}

void what_cannot_be_is_refused_and_changes_nothing() {
  OpenModel model(24, "fp32");
  CHECK(load(model.handle, "a", "lora_a") == 0);
  const std::vector<int32_t> a = answer(model.handle, "a");
  Record refused;
  CHECK(run_with(model.handle, "z", refused) == kInvalid && refused.nothing_came());
  CHECK(check::contains(sentence(model.handle), "no adapter 'z' is loaded; loaded: a"));
  CHECK(run_with(model.handle, nullptr, refused) == kInvalid && refused.nothing_came());
  CHECK(load(model.handle, "a", "lora_b") == kInvalid);
  CHECK(check::contains(sentence(model.handle), "an adapter 'a' is loaded already"));
  CHECK(load(model.handle, "", "lora_b") == kInvalid);
  CHECK(load(model.handle, "n", "lora_b", NAN) == kInvalid);
  CHECK(load(model.handle, "n", "lora_b", INFINITY) == kInvalid);
  CHECK(load(model.handle, "n", "nothing") == kModelFile);
  CHECK(load(model.handle, "n", "fp32") == kModelFile);
  CHECK(check::contains(sentence(model.handle), "is of the type 'model', not 'adapter'"));
  RKLLMLoraAdapter incomplete = {nullptr, "n", 1.0f};
  CHECK(rkllm_load_lora(model.handle, &incomplete) == kInvalid);
  CHECK(rkllm_load_lora(model.handle, nullptr) == kInvalid);
  CHECK(rkllm_ext_release_lora(model.handle, "n") == kInvalid);
  CHECK(rkllm_ext_release_lora(model.handle, "") == kInvalid);
  CHECK(rkllm_ext_release_lora(model.handle, nullptr) == kInvalid);
  CHECK(answer(model.handle, "a") == a);
  CHECK(rkllm_ext_release_lora(model.handle, "a") == 0);
  CHECK(run_with(model.handle, "a", refused) == kInvalid);
  CHECK(check::contains(sentence(model.handle), "loaded: none"));
}

void a_run_keeps_others_from_changing_the_adapters() {
  OpenModel model(24, "fp32");
  CHECK(load(model.handle, "a", "lora_a") == 0);
  const std::vector<int32_t> expected = answer(model.handle, "a");
  Record busy;
  busy.on_token = [&](int n) {
    if (n != 3) return;
    CHECK(load(model.handle, "b", "lora_b") == kBusy);
    CHECK(rkllm_ext_release_lora(model.handle, "a") == kBusy);
    CHECK(rkllm_ext_set_option(model.handle, "lora", "a") == kBusy);
  };
  CHECK(run_with(model.handle, "a", busy) == 0);
  CHECK(busy.tokens() == expected);
  CHECK(run_with(model.handle, "b", busy) == kInvalid);
  CHECK(load(model.handle, "b", "lora_b") == 0);
}

// A session, its greedy tokens and the logits behind each.
struct Walk {
  Walk(const OpenModel& model, const char* lora, const char* text) {
    CHECK(rkllm_ext_session_open(model.handle, &session) == 0);
    CHECK(rkllm_ext_session_set_option(session, "lora", lora) == 0);
    const RKLLMInput input = prompt_input(text);
    CHECK(rkllm_ext_session_prefill(session, &input, 0, nullptr) == 0);
    note();
  }
  ~Walk() { rkllm_ext_session_close(session); }
  Walk(const Walk&) = delete;
  Walk& operator=(const Walk&) = delete;

  void note() {
    const float* found = rkllm_ext_session_logits(session);
    CHECK(found);
    logits.insert(logits.end(), found, found + 300);
    CHECK(rkllm_ext_session_sample(session, nullptr, &next) == 0);
  }

  RKLLMExtSession* session = nullptr;
  int32_t next = 0;
  std::vector<float> logits;
};

void sequences_with_different_adapters_share_a_pass() {
  const OpenModel model(24, "fp32");
  CHECK(load(model.handle, "a", "lora_a") == 0);
  CHECK(load(model.handle, "b", "lora_b") == 0);
  const char* choices[] = {"a", "", "b", "b", "a", ""};
  std::vector<std::unique_ptr<Walk>> alone, together;
  for (const char* choice : choices) {
    alone.push_back(std::make_unique<Walk>(model, choice, kPrompt));
    together.push_back(std::make_unique<Walk>(model, choice, kPrompt));
  }
  CHECK(rkllm_ext_release_lora(model.handle, "b") == 0);  // sessions keep what they compute with
  for (int i = 0; i < 12; i++) {
    std::vector<RKLLMExtSession*> sessions;
    std::vector<int32_t> tokens;
    for (const auto& walk : together) {
      sessions.push_back(walk->session);
      tokens.push_back(walk->next);
    }
    CHECK(rkllm_ext_session_step(sessions.data(), tokens.data(), sessions.size()) == 0);
    for (const auto& walk : together) walk->note();
    for (const auto& walk : alone) {
      CHECK(rkllm_ext_session_step(&walk->session, &walk->next, 1) == 0);
      walk->note();
    }
  }
  for (size_t i = 0; i < alone.size(); i++) {
    CHECK(alone[i]->logits.size() == 13 * 300);
    CHECK(!memcmp(alone[i]->logits.data(), together[i]->logits.data(), 13 * 300 * sizeof(float)));
  }
  CHECK(alone[0]->logits != alone[1]->logits && alone[0]->logits != alone[2]->logits);
  CHECK(alone[2]->logits == alone[3]->logits);
}

void handles_on_threads_have_adapters_of_their_own() {
  const OpenModel first(24, "w8a8"), second(24, "w8a8");
  CHECK(load(first.handle, "it", "lora_a") == 0);
  CHECK(load(second.handle, "it", "lora_b") == 0);
  const std::vector<int32_t> a = answer(first.handle, "it"), b = answer(second.handle, "it");
  CHECK(a != b);
  std::thread other([&] {
    for (int i = 0; i < 5; i++) {
      CHECK(load(second.handle, "more", "lora_a", 0.5f) == 0);
      CHECK(answer(second.handle, "it") == b);
      CHECK(rkllm_ext_release_lora(second.handle, "more") == 0);
    }
  });
  for (int i = 0; i < 5; i++) CHECK(answer(first.handle, "it") == a);
  other.join();
}

}  // namespace

int main() {
  FILE* file = fopen(model_path("lora_a").c_str(), "rb");
  if (!file) return kSkipped;
  fclose(file);
  each_run_has_the_adapter_that_it_names();
  the_option_is_for_what_names_none();
  a_prefix_of_another_adapter_is_not_reused();
  what_cannot_be_is_refused_and_changes_nothing();
  a_run_keeps_others_from_changing_the_adapters();
  sequences_with_different_adapters_share_a_pass();
  handles_on_threads_have_adapters_of_their_own();
  return check::result();
}
