// SPDX-License-Identifier: Apache-2.0
// The lines of RKLLM_LOG_LEVEL: what each level prints, how, and where to.
#include <regex.h>
#include <unistd.h>

#include <cstring>

#include "recorded_run.h"

namespace {

using Lines = std::vector<std::string>;

void keep_line(const char* line, void* userdata) { static_cast<Lines*>(userdata)->push_back(line); }

void set_level(const char* level) { level ? setenv("RKLLM_LOG_LEVEL", level, 1) : unsetenv("RKLLM_LOG_LEVEL"); }

// The lines of one init, one run of 4 tokens and one that fails, and the end.
Lines lines_at(const char* level) {
  Lines lines;
  set_level(level);
  rkllm_ext_set_log(keep_line, &lines);
  const std::string path = model_path("w8a8");
  RKLLMParam param = rkllm_createDefaultParam();
  param.model_path = path.c_str();
  param.max_new_tokens = 4;
  param.top_k = 1;
  param.img_start = "<i>";
  LLMHandle handle = nullptr;
  CHECK(rkllm_init(&handle, &param, record) == 0);
  rkllm_ext_set_option(handle, "ignore_eos", "1");
  Record good, bad;
  const int32_t ids[] = {5, 6, 7};
  CHECK(run(handle, good, prompt_input("hello")) == 0);
  CHECK(run(handle, bad, token_input(ids, 0)) != 0);
  Record tokens;
  CHECK(run(handle, tokens, token_input(ids, 3)) == 0);
  CHECK(rkllm_destroy(handle) == 0);
  rkllm_ext_set_log(nullptr, nullptr);
  set_level(nullptr);
  return lines;
}

bool matches(const std::string& line, const std::string& pattern) {
  regex_t compiled;
  CHECK(regcomp(&compiled, ("^(" + pattern + ")$").c_str(), REG_EXTENDED | REG_NOSUB) == 0);
  const bool found = regexec(&compiled, line.c_str(), 0, nullptr, 0) == 0;
  regfree(&compiled);
  return found;
}

// Each pattern is met by the next line, and nothing is left over.
void are(const Lines& lines, const Lines& patterns) {
  CHECK(lines.size() == patterns.size());
  for (size_t i = 0; i < std::min(lines.size(), patterns.size()); i++) {
    if (matches(lines[i], patterns[i])) continue;
    fprintf(stderr, "line %zu is '%s', but should be '%s'\n", i, lines[i].c_str(), patterns[i].c_str());
    CHECK(false);
  }
}

const char kVersion[] =
    R"(I rkllm: rkllm-runtime version: [0-9]+\.[0-9]+\.[0-9]+, rknpu driver version: [^,]+, platform: [^ ]+ [^ ]+)";
const char kHead[] = R"(I rkllm: Stage      +Total Time \(ms\)   Tokens  Time per Token \(ms\)  Tokens per Second)";
const char kPrefill[] = R"(I rkllm: Prefill  +[0-9]+\.[0-9][0-9] +[0-9]+ +[0-9]+\.[0-9][0-9] +[0-9]+\.[0-9][0-9])";
const char kGenerate[] = R"(I rkllm: Generate +[0-9]+\.[0-9][0-9] +3 +[0-9]+\.[0-9][0-9] +[0-9]+\.[0-9][0-9])";
const char kError[] = "E rkllm: the input is empty; give at least one token";

void level_0_prints_nothing() {
  for (const char* level : {static_cast<const char*>(nullptr), "0", "-3", "nonsense", ""}) are(lines_at(level), {});
}

void level_1_prints_the_version_errors_and_a_table_after_each_run() {
  are(lines_at("1"), {kVersion, kHead, kPrefill, kGenerate, kError, kHead, kPrefill, kGenerate});
}

void level_2_prints_parameters_prompts_and_tokens_as_well() {
  const std::string token = R"(I rkllm: token [0-9]+: .*)";
  are(lines_at("2"),
      {kVersion,
       R"(I rkllm: model_path: .*w8a8\.rkllm, max_context_len: 512, max_new_tokens: 4, top_k: 1, top_p: 0\.9, )"
       R"(temperature: 0\.8, repeat_penalty: 1\.1, frequency_penalty: 0, presence_penalty: 0, mirostat: 0, )"
       R"(mirostat_tau: 5, mirostat_eta: 0\.1, skip_special_token: 0, is_async: 0, threads: [0-9]+, isa: [a-z0-9]+)",
       R"(I rkllm: img_start: '<i>', img_end: '', img_content: '')",
       R"(I rkllm: kv cache: f16, 2 layers, 512 positions, [0-9]+\.[0-9][0-9] MB)",
       "I rkllm: prompt: hello", R"(I rkllm: prompt token ids \([0-9]+\): [0-9]+( [0-9]+)*)", token, token, token,
       token, kHead, kPrefill, kGenerate, kError, R"(I rkllm: prompt token ids \(3\): 5 6 7)", token, token, token,
       token, kHead, kPrefill, kGenerate});
}

void an_init_that_fails_says_so() {
  Lines lines;
  set_level("1");
  rkllm_ext_set_log(keep_line, &lines);
  RKLLMParam param = rkllm_createDefaultParam();
  param.model_path = "/nowhere/model.rkllm";
  LLMHandle handle = nullptr;
  CHECK(rkllm_init(&handle, &param, record) != 0);
  are(lines, {kVersion, "E rkllm: /nowhere/model\\.rkllm: .+"});
  rkllm_ext_set_log(nullptr, nullptr);
  set_level(nullptr);
}

void prompt_caches_are_named_as_the_vendors_library_names_them() {
  const std::string file = "/tmp/rkllm-log-" + std::to_string(getpid()) + ".bin";
  Lines lines;
  set_level("1");
  rkllm_ext_set_log(keep_line, &lines);
  const OpenModel model(2);
  const int32_t ids[] = {5, 6, 7};
  RKLLMInput input = token_input(ids, 3);
  RKLLMPromptCacheParam save = {1, file.c_str()};
  RKLLMInferParam params = {RKLLM_INFER_GENERATE, nullptr, &save};
  Record saved;
  CHECK(rkllm_run(model.handle, &input, &params, &saved) == 0);
  lines.clear();
  CHECK(rkllm_load_prompt_cache(model.handle, file.c_str()) == 0);
  are(lines, {"I rkllm: load prompt cache from '" + file + "'",
              "I rkllm: loaded a prompt cache with prompt size of 3 tokens"});
  rkllm_ext_set_log(nullptr, nullptr);
  set_level(nullptr);
  CHECK(unlink(file.c_str()) == 0);
}

// A hook that calls what logs itself.
void call_back(const char* line, void* userdata) {
  keep_line(line, userdata);
  if (static_cast<Lines*>(userdata)->size() < 3) rkllm_ext_set_option(nullptr, "top_k", "1");
  if (static_cast<Lines*>(userdata)->size() == 2) rkllm_ext_set_log(keep_line, userdata);
}

void a_hook_may_call_the_library() {
  Lines lines;
  set_level("1");
  rkllm_ext_set_log(call_back, &lines);
  { const OpenModel model(2); }
  CHECK(lines.size() == 1);
  rkllm_ext_set_log(nullptr, nullptr);
  set_level(nullptr);
}

void without_a_hook_lines_go_to_stderr() {
  int ends[2];
  CHECK(pipe(ends) == 0);
  fflush(stderr);
  const int before = dup(STDERR_FILENO);
  dup2(ends[1], STDERR_FILENO);
  set_level("1");
  { const OpenModel model(2); }
  set_level(nullptr);
  { const OpenModel silent(2); }
  fflush(stderr);
  dup2(before, STDERR_FILENO);
  close(before);
  close(ends[1]);
  char text[4096] = "";
  const ssize_t n = read(ends[0], text, sizeof text - 1);
  close(ends[0]);
  CHECK(n > 0 && matches(text, std::string(kVersion) + "\n"));
}

}  // namespace

int main() {
  if (model_path("").empty()) return kSkipped;
  level_0_prints_nothing();
  level_1_prints_the_version_errors_and_a_table_after_each_run();
  level_2_prints_parameters_prompts_and_tokens_as_well();
  an_init_that_fails_says_so();
  prompt_caches_are_named_as_the_vendors_library_names_them();
  a_hook_may_call_the_library();
  without_a_hook_lines_go_to_stderr();
  return check::result();
}
