// SPDX-License-Identifier: Apache-2.0
// Prompt caches through the C interface: saved by a run or a session, loaded under names, refused when they do not fit
// or are damaged.
#include <sys/resource.h>

#include <algorithm>
#include <cstring>

#include "recorded_run.h"
#include "scratch_folder.h"

namespace {

constexpr int kInvalidArgument = -1, kModelFile = -2, kContextFull = -4, kBusy = -5;

std::vector<int32_t> some_tokens(int n, int seed = 1) {
  std::vector<int32_t> ids;
  for (int i = 0; i < n; i++) ids.push_back(3 + (i * i * 7 + i * seed * 13) % 290);
  return ids;
}

RKLLMInput input_of(const std::vector<int32_t>& ids) { return token_input(ids.data(), ids.size()); }

int run_and_save(LLMHandle handle, Record& record_, const std::vector<int32_t>& ids, const char* path) {
  RKLLMInput input = input_of(ids);
  RKLLMPromptCacheParam cache = {1, path};
  RKLLMInferParam params = {};
  params.prompt_cache_params = &cache;
  return rkllm_run(handle, &input, &params, &record_);
}

void save(LLMHandle handle, const std::vector<int32_t>& ids, const std::string& path) {
  Record saved;
  CHECK(run_and_save(handle, saved, ids, path.c_str()) == 0);
  CHECK(saved.ended_with(RKLLM_RUN_FINISH));
}

RKLLMExtPerf perf_of(LLMHandle handle) {
  RKLLMExtPerf perf = {};
  CHECK(rkllm_ext_perf(handle, &perf) == 0);
  return perf;
}

std::vector<int32_t> answer(LLMHandle handle, const std::vector<int32_t>& ids) {
  Record answered;
  CHECK(run(handle, answered, input_of(ids)) == 0);
  CHECK(answered.ended_with(RKLLM_RUN_FINISH));
  return answered.tokens();
}

int reused(LLMHandle handle, const std::vector<int32_t>& ids) {
  answer(handle, ids);
  CHECK(perf_of(handle).reused_tokens + perf_of(handle).prefill_tokens == int32_t(ids.size()));
  return perf_of(handle).reused_tokens;
}

std::vector<float> logits_of(LLMHandle handle, const std::vector<int32_t>& ids) {
  RKLLMExtInfo info = {};
  CHECK(rkllm_ext_info(handle, &info) == 0);
  std::vector<float> rows(ids.size() * size_t(info.vocab_size));
  const RKLLMInput input = input_of(ids);
  size_t n = 0;
  CHECK(rkllm_ext_logits(handle, &input, rows.data(), rows.size(), &n) == 0 && n == ids.size());
  return rows;
}

bool last_error_says(LLMHandle handle, const char* part) {
  const std::string sentence = rkllm_ext_last_error(handle);
  if (!check::contains(sentence, part)) fprintf(stderr, "the sentence is: %s\n", sentence.c_str());
  return check::contains(sentence, part);
}

// A session of a handle.
struct OpenSession {
  RKLLMExtSession* session = nullptr;
  explicit OpenSession(LLMHandle handle) { CHECK(rkllm_ext_session_open(handle, &session) == 0); }
  OpenSession(LLMHandle handle, const std::string& path) {
    CHECK(rkllm_ext_session_restore(handle, path.c_str(), &session) == 0);
  }
  ~OpenSession() { rkllm_ext_session_close(session); }
  OpenSession(const OpenSession&) = delete;
  OpenSession& operator=(const OpenSession&) = delete;

  void prefill(const std::vector<int32_t>& ids, int flags = 0, size_t* computed = nullptr) {
    const RKLLMInput input = input_of(ids);
    CHECK(rkllm_ext_session_prefill(session, &input, flags, computed) == 0);
  }
  void step(int32_t token) { CHECK(rkllm_ext_session_step(&session, &token, 1) == 0); }
  std::vector<float> logits() const {
    const float* logits = rkllm_ext_session_logits(session);
    CHECK(logits != nullptr);
    return logits ? std::vector<float>(logits, logits + 300) : std::vector<float>();
  }
  std::vector<int32_t> tokens() const {
    std::vector<int32_t> ids(256);
    size_t n = 0;
    CHECK(rkllm_ext_session_tokens(session, ids.data(), ids.size(), &n) == 0);
    ids.resize(n);
    return ids;
  }
};

void a_run_begins_with_what_a_loaded_cache_has(const char* format) {
  FILE* file = fopen(model_path(format).c_str(), "rb");
  if (!file) return;
  fclose(file);
  const ScratchFolder folder;
  const OpenModel model(12, format);
  const std::vector<int32_t> ids = some_tokens(70);
  for (int n : {1, 15, 16, 17, 64, 70}) {
    save(model.handle, {ids.begin(), ids.begin() + n}, folder / "cache");
    CHECK(rkllm_load_prompt_cache(model.handle, (folder / "cache").c_str()) == 0);
    for (int wanted : {1, 10, 17, 70}) {
      const std::vector<int32_t> input(ids.begin(), ids.begin() + wanted);
      const std::vector<int32_t> cached = answer(model.handle, input);
      CHECK(perf_of(model.handle).reused_tokens == std::min(n, wanted - 1));
      CHECK(rkllm_release_prompt_cache(model.handle) == 0);
      CHECK(answer(model.handle, input) == cached);
      CHECK(perf_of(model.handle).reused_tokens == 0);
      CHECK(rkllm_load_prompt_cache(model.handle, (folder / "cache").c_str()) == 0);
    }
  }
}

void a_cache_without_a_path_is_prompt_cache_bin() {
  const ScratchFolder folder;
  char before[4096];
  CHECK(getcwd(before, sizeof before) && chdir(folder.path().c_str()) == 0);
  const OpenModel model(1);
  for (const char* none : {static_cast<const char*>(nullptr), ""}) {
    Record saved;
    CHECK(run_and_save(model.handle, saved, some_tokens(9), none) == 0);
    CHECK(folder.names() == std::vector<std::string>{"prompt_cache.bin"});
    CHECK(rkllm_load_prompt_cache(model.handle, "./prompt_cache.bin") == 0);
    CHECK(reused(model.handle, some_tokens(9)) == 8);
    CHECK(rkllm_release_prompt_cache(model.handle) == 0);
    CHECK(unlink("prompt_cache.bin") == 0);
  }
  CHECK(chdir(before) == 0);
}

void of_several_caches_the_longest_prefix_is_taken() {
  const ScratchFolder folder;
  OpenModel model(2);
  const LLMHandle handle = model.handle;
  std::vector<int32_t> ids = some_tokens(60), other = ids;
  other[30]++;
  save(handle, {ids.begin(), ids.begin() + 20}, folder / "short");
  save(handle, {ids.begin(), ids.begin() + 50}, folder / "long");
  save(handle, other, folder / "other");
  CHECK(rkllm_ext_load_prompt_cache(handle, (folder / "short").c_str(), "short") == 0);
  CHECK(reused(handle, ids) == 20);
  CHECK(rkllm_ext_load_prompt_cache(handle, (folder / "long").c_str(), "long") == 0);
  CHECK(rkllm_load_prompt_cache(handle, (folder / "other").c_str()) == 0);
  CHECK(reused(handle, ids) == 50);
  CHECK(reused(handle, other) == 59);
  CHECK(reused(handle, some_tokens(60, 2)) == 1);  // the first token is the same
  CHECK(rkllm_ext_release_prompt_cache(handle, "long") == 0);
  CHECK(reused(handle, ids) == 30);
  CHECK(rkllm_ext_load_prompt_cache(handle, (folder / "long").c_str(), "short") == 0);  // replaced
  CHECK(reused(handle, ids) == 50);
  CHECK(rkllm_ext_release_prompt_cache(handle, "long") == kInvalidArgument);
  CHECK(last_error_says(handle, "no prompt cache 'long' is loaded; loaded: '', 'short'"));
  CHECK(rkllm_ext_release_prompt_cache(handle, nullptr) == 0 && rkllm_ext_release_prompt_cache(handle, nullptr) == 0);
  CHECK(reused(handle, ids) == 0);
  CHECK(rkllm_release_prompt_cache(handle) == kInvalidArgument);
  CHECK(last_error_says(handle, "no prompt cache '' is loaded; loaded: none"));
}

void the_run_before_serves_when_it_has_more_than_the_caches() {
  const ScratchFolder folder;
  OpenModel model(2);
  const std::vector<int32_t> ids = some_tokens(60), begin(ids.begin(), ids.begin() + 20);
  save(model.handle, begin, folder / "cache");
  CHECK(rkllm_load_prompt_cache(model.handle, (folder / "cache").c_str()) == 0);
  CHECK(reused(model.handle, ids) == 20 && reused(model.handle, ids) == 20);
  model.set("reuse_prefix", "1");
  CHECK(reused(model.handle, ids) == 59);
  CHECK(reused(model.handle, some_tokens(60, 3)) == 1);
  CHECK(reused(model.handle, ids) == 20);
}

void sessions_begin_with_the_caches_of_their_handle() {
  const ScratchFolder folder;
  const std::vector<int32_t> ids = some_tokens(40);
  RKLLMExtSession* outlived = nullptr;
  {
    OpenModel model(1);
    OpenSession whole(model.handle), appended(model.handle), anew(model.handle);
    anew.prefill(ids);
    save(model.handle, {ids.begin(), ids.begin() + 33}, folder / "cache");
    CHECK(rkllm_ext_load_prompt_cache(model.handle, (folder / "cache").c_str(), "a") == 0);
    size_t computed = 0;
    whole.prefill(ids, RKLLM_EXT_WHOLE, &computed);
    CHECK(computed == 7 && whole.logits() == anew.logits());
    appended.prefill(ids, 0, &computed);
    CHECK(computed == 40);
    CHECK(rkllm_ext_session_fork(anew.session, &outlived) == 0);
  }
  const RKLLMInput input = input_of(ids);
  CHECK(rkllm_ext_session_truncate(outlived, 0) == 0);
  size_t computed = 0;
  CHECK(rkllm_ext_session_prefill(outlived, &input, RKLLM_EXT_WHOLE, &computed) == 0 && computed == 7);
  rkllm_ext_session_close(outlived);
}

void a_session_goes_on_where_it_was_saved() {
  const ScratchFolder folder;
  const OpenModel model(1);
  OpenSession saved(model.handle);
  saved.prefill(some_tokens(21));
  saved.step(5);
  CHECK(rkllm_ext_session_save(saved.session, (folder / "state").c_str()) == 0);
  OpenSession restored(model.handle, folder / "state");
  CHECK(restored.tokens() == saved.tokens() && restored.logits() == saved.logits());
  for (int32_t token : {7, 9}) {
    saved.step(token);
    restored.step(token);
    CHECK(restored.logits() == saved.logits());
  }
  // Logits go with the last position.
  CHECK(rkllm_ext_session_truncate(saved.session, 11) == 0);
  CHECK(rkllm_ext_session_save(saved.session, (folder / "state").c_str()) == 0);
  OpenSession shorter(model.handle, folder / "state");
  CHECK(shorter.tokens().size() == 11 && !rkllm_ext_session_logits(shorter.session));
}

void a_state_longer_than_the_context_serves_runs_but_makes_no_session() {
  const ScratchFolder folder;
  const OpenModel model(1);
  const std::string path = model_path("w4a16_g32");
  RKLLMParam param = rkllm_createDefaultParam();
  param.model_path = path.c_str();
  param.max_context_len = 32;
  param.max_new_tokens = 1;
  LLMHandle small = nullptr;
  CHECK(rkllm_init(&small, &param, record) == 0);
  save(model.handle, some_tokens(40), folder / "cache");
  RKLLMExtSession* session = nullptr;
  CHECK(rkllm_ext_session_restore(small, (folder / "cache").c_str(), &session) == kContextFull && !session);
  CHECK(last_error_says(small, "has 40 positions, but max_context_len is 32"));
  CHECK(rkllm_load_prompt_cache(small, (folder / "cache").c_str()) == 0);
  CHECK(reused(small, some_tokens(30)) == 29);
  CHECK(rkllm_destroy(small) == 0);
}

void a_cache_of_something_else_is_refused() {
  const ScratchFolder folder;
  OpenModel model(1), half(1, "fp16");
  save(half.handle, some_tokens(5), folder / "half");
  CHECK(rkllm_load_prompt_cache(model.handle, (folder / "half").c_str()) == kModelFile);
  CHECK(last_error_says(model.handle, "half: was saved with this model in the format fp16, but "));
  CHECK(last_error_says(model.handle, "w4a16_g32.rkllm is in w4a16_g32"));
  save(model.handle, some_tokens(5), folder / "f16");
  model.set("kv_type", "int8");
  CHECK(rkllm_load_prompt_cache(model.handle, (folder / "f16").c_str()) == kModelFile);
  CHECK(last_error_says(model.handle, "holds keys and values as f16, but kv_type is int8"));
  CHECK(rkllm_load_prompt_cache(model.handle, model_path("w4a16_g32").c_str()) == kModelFile);
  CHECK(last_error_says(model.handle, "is of the type 'model', not 'prompt_cache'"));
  CHECK(rkllm_load_prompt_cache(model.handle, (folder / "none").c_str()) == kModelFile);
  CHECK(rkllm_load_prompt_cache(model.handle, "") == kInvalidArgument);
  CHECK(rkllm_load_prompt_cache(model.handle, nullptr) == kInvalidArgument);
  CHECK(rkllm_ext_load_prompt_cache(model.handle, (folder / "f16").c_str(), nullptr) == kInvalidArgument);
}

// What 8-bit activations have computed is no beginning of what 16-bit ones compute, in files, caches and sessions.
void states_of_other_activations_are_kept_apart() {
  const ScratchFolder folder;
  OpenModel model(4);
  const std::vector<int32_t> ids = some_tokens(30);
  save(model.handle, ids, folder / "auto");
  CHECK(rkllm_load_prompt_cache(model.handle, (folder / "auto").c_str()) == 0);
  const std::vector<float> precise = logits_of(model.handle, ids);
  {
    const OpenSession open(model.handle);
    CHECK(rkllm_ext_set_option(model.handle, "activations", "int8") == kBusy);
    CHECK(last_error_says(model.handle, "while sessions of the handle are open"));
    model.set("activations", "auto");  // which it is
  }
  model.set("reuse_prefix", "1");
  CHECK(reused(model.handle, ids) == 29);
  model.set("activations", "int8");
  CHECK(reused(model.handle, ids) == 0);
  CHECK(reused(model.handle, ids) == 29);  // now the run before has it
  CHECK(logits_of(model.handle, ids) != precise);
  CHECK(rkllm_load_prompt_cache(model.handle, (folder / "auto").c_str()) == kModelFile);
  CHECK(last_error_says(model.handle, "was computed with activations auto, but activations is int8; save it again"));
  save(model.handle, ids, folder / "int8");
  CHECK(rkllm_load_prompt_cache(model.handle, (folder / "int8").c_str()) == 0);
  model.set("reuse_prefix", "0");
  const std::vector<int32_t> fast = answer(model.handle, ids);
  CHECK(perf_of(model.handle).reused_tokens == 29);
  CHECK(rkllm_release_prompt_cache(model.handle) == 0);
  CHECK(answer(model.handle, ids) == fast && perf_of(model.handle).reused_tokens == 0);
  model.set("activations", "auto");
  CHECK(logits_of(model.handle, ids) == precise);
  CHECK(rkllm_ext_set_option(model.handle, "activations", "int4") == kInvalidArgument);
  CHECK(last_error_says(model.handle, "the option activations is 'int4', but must be auto or int8"));
}

void models_without_4_bit_weights_refuse_8_bit_activations_by_name() {
  OpenModel model(4, "w8a8");
  CHECK(rkllm_ext_set_option(model.handle, "activations", "int8") == kInvalidArgument);
  CHECK(last_error_says(model.handle, "activations int8 are for 4-bit weights"));
  CHECK(answer(model.handle, some_tokens(8)).size() == 4);
}

void a_cache_of_another_kv_type_is_left_alone_when_the_type_changes_later() {
  const ScratchFolder folder;
  OpenModel model(1);
  save(model.handle, some_tokens(20), folder / "f16");
  CHECK(rkllm_load_prompt_cache(model.handle, (folder / "f16").c_str()) == 0);
  model.set("kv_type", "int8");
  CHECK(reused(model.handle, some_tokens(20)) == 0);
  model.set("kv_type", "f16");
  CHECK(reused(model.handle, some_tokens(20)) == 19);
}

void truncated_and_altered_files_are_refused() {
  const ScratchFolder folder;
  const OpenModel model(1);
  save(model.handle, some_tokens(3), folder / "whole");
  const std::string bytes = bytes_of_file(folder / "whole"), path = folder / "damaged";
  const auto refused = [&](const std::string& damaged) {
    write_file(path, damaged);
    const int code = rkllm_load_prompt_cache(model.handle, path.c_str());
    return code == kModelFile && last_error_says(model.handle, "damaged: ");
  };
  for (size_t n = 0; n < bytes.size(); n += n < 2048 ? 1 : 61) CHECK(refused(bytes.substr(0, n)));
  CHECK(refused(bytes.substr(0, bytes.size() - 1)));
  size_t padding = 0;
  for (size_t i = 0; i < bytes.size(); i += i < 2048 ? 1 : 7) {
    std::string damaged = bytes;
    damaged[i] = char(damaged[i] ^ (1 << (i % 8)));
    write_file(path, damaged);
    const int code = rkllm_load_prompt_cache(model.handle, path.c_str());
    CHECK(code == kModelFile || code == -3 || (code == 0 && bytes[i] == 0));
    padding += code == 0;
  }
  CHECK(padding < 64);  // between two tensors: bytes that nothing reads
  CHECK(rkllm_load_prompt_cache(model.handle, (folder / "whole").c_str()) == 0);
  CHECK(reused(model.handle, some_tokens(3)) == 2);
}

void a_cache_that_cannot_be_saved_is_the_error_of_its_run() {
  const ScratchFolder folder;
  const OpenModel model(4);
  Record nowhere, folder_itself, full;
  CHECK(run_and_save(model.handle, nowhere, some_tokens(9), (folder / "none/cache").c_str()) == kInvalidArgument);
  CHECK(nowhere.ended_with(RKLLM_RUN_ERROR) && nowhere.tokens().empty());
  CHECK(last_error_says(model.handle, "none/ does not exist; make it first"));
  CHECK(run_and_save(model.handle, folder_itself, some_tokens(9), folder.path().c_str()) == kInvalidArgument);
  save(model.handle, some_tokens(9), folder / "cache");
  const std::string before = bytes_of_file(folder / "cache");
  rlimit usual = {}, small = {};
  CHECK(getrlimit(RLIMIT_FSIZE, &usual) == 0);
  small = {1000, usual.rlim_max};
  CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
  CHECK(run_and_save(model.handle, full, some_tokens(70), (folder / "cache").c_str()) == kModelFile);
  CHECK(setrlimit(RLIMIT_FSIZE, &usual) == 0);
  CHECK(full.ended_with(RKLLM_RUN_ERROR) && full.tokens().empty());
  CHECK(last_error_says(model.handle, "cannot be written: File too large"));
  CHECK(folder.names() == std::vector<std::string>{"cache"} && bytes_of_file(folder / "cache") == before);
  CHECK(answer(model.handle, some_tokens(9)).size() == 4);
}

void a_run_for_hidden_states_saves_as_well() {
  const ScratchFolder folder;
  const OpenModel model(1);
  const std::vector<int32_t> ids = some_tokens(12);
  RKLLMInput input = input_of(ids);
  const std::string path = folder / "cache";
  RKLLMPromptCacheParam cache = {1, path.c_str()};
  RKLLMInferParam params = {RKLLM_INFER_GET_LAST_HIDDEN_LAYER, nullptr, &cache};
  struct Counted {
    static void count(RKLLMResult*, void*, LLMCallState) {}
  };
  LLMHandle handle = nullptr;
  RKLLMParam param = rkllm_createDefaultParam();
  const std::string model_file = model_path("w4a16_g32");
  param.model_path = model_file.c_str();
  CHECK(rkllm_init(&handle, &param, Counted::count) == 0);
  CHECK(rkllm_run(handle, &input, &params, nullptr) == 0);
  CHECK(rkllm_destroy(handle) == 0);
  CHECK(rkllm_load_prompt_cache(model.handle, path.c_str()) == 0);
  CHECK(reused(model.handle, ids) == 11);
}

void an_empty_session_cannot_be_saved() {
  const ScratchFolder folder;
  const OpenModel model(1);
  const OpenSession session(model.handle);
  CHECK(rkllm_ext_session_save(session.session, (folder / "state").c_str()) == kInvalidArgument);
  CHECK(last_error_says(nullptr, "nothing can be saved: the sequence is empty"));
  CHECK(folder.names().empty());
}

void loading_and_releasing_during_a_run_is_refused_and_changes_nothing() {
  const ScratchFolder folder;
  const OpenModel model(3);
  save(model.handle, some_tokens(20), folder / "cache");
  Record busy;
  busy.on_token = [&](int) {
    CHECK(rkllm_load_prompt_cache(model.handle, (folder / "cache").c_str()) == kBusy);
    CHECK(rkllm_ext_release_prompt_cache(model.handle, nullptr) == kBusy);
  };
  CHECK(run(model.handle, busy) == 0);
  CHECK(reused(model.handle, some_tokens(20)) == 0);
}

// Sessions run while the handle's caches change.
void caches_change_under_running_sessions() {
  const ScratchFolder folder;
  const OpenModel model(1);
  const std::vector<int32_t> ids = some_tokens(40);
  save(model.handle, {ids.begin(), ids.begin() + 30}, folder / "cache");
  OpenSession expected(model.handle);
  expected.prefill(ids);
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; t++)
    threads.emplace_back([&] {
      OpenSession session(model.handle);
      for (int i = 0; i < 10; i++) {
        CHECK(rkllm_ext_session_truncate(session.session, 0) == 0);
        session.prefill(ids, RKLLM_EXT_WHOLE);
        CHECK(session.logits() == expected.logits());
      }
    });
  for (int i = 0; i < 10; i++) {
    CHECK(rkllm_load_prompt_cache(model.handle, (folder / "cache").c_str()) == 0);
    CHECK(rkllm_release_prompt_cache(model.handle) == 0);
  }
  for (std::thread& thread : threads) thread.join();
}

void what_happens_to_a_cache_is_logged_as_the_vendor_has_it() {
  const ScratchFolder folder;
  const std::string path = folder / "cache";
  std::string lines;
  CHECK(setenv("RKLLM_LOG_LEVEL", "1", 1) == 0);
  rkllm_ext_set_log(
      [](const char* line, void* userdata) { *static_cast<std::string*>(userdata) += std::string(line) + "\n"; },
      &lines);
  {
    const OpenModel model(1);
    save(model.handle, some_tokens(17), path);
    CHECK(rkllm_load_prompt_cache(model.handle, path.c_str()) == 0);
  }
  rkllm_ext_set_log(nullptr, nullptr);
  CHECK(unsetenv("RKLLM_LOG_LEVEL") == 0);
  { const OpenModel quiet(1); }  // reads the level again
  CHECK(check::contains(lines, ("load prompt cache from '" + path + "'\n").c_str()));
  CHECK(check::contains(lines, "loaded a prompt cache with prompt size of 17 tokens\n"));
}

}  // namespace

int main() {
  if (model_path("fp32").empty()) return kSkipped;
  for (int i = 0;; i++) {
    RKLLMExtFormat row = {};
    if (rkllm_ext_format(i, &row)) break;
    if (row.offered) a_run_begins_with_what_a_loaded_cache_has(row.name);
  }
  a_cache_without_a_path_is_prompt_cache_bin();
  of_several_caches_the_longest_prefix_is_taken();
  the_run_before_serves_when_it_has_more_than_the_caches();
  sessions_begin_with_the_caches_of_their_handle();
  a_session_goes_on_where_it_was_saved();
  a_state_longer_than_the_context_serves_runs_but_makes_no_session();
  a_cache_of_something_else_is_refused();
  a_cache_of_another_kv_type_is_left_alone_when_the_type_changes_later();
  states_of_other_activations_are_kept_apart();
  models_without_4_bit_weights_refuse_8_bit_activations_by_name();
  truncated_and_altered_files_are_refused();
  a_cache_that_cannot_be_saved_is_the_error_of_its_run();
  a_run_for_hidden_states_saves_as_well();
  an_empty_session_cannot_be_saved();
  loading_and_releasing_during_a_run_is_refused_and_changes_nothing();
  caches_change_under_running_sessions();
  what_happens_to_a_cache_is_logged_as_the_vendor_has_it();
  return check::result();
}
