// SPDX-License-Identifier: Apache-2.0
// Prompt caches of a handle: loading and releasing saved states that its runs and sessions may begin with.
#include "handle.h"
#include "log.h"
#include "run.h"

using namespace rkllm;

namespace {

void load_prompt_cache(Runtime& runtime, const char* path, const char* name) {
  need(path && *path, "the path of the prompt cache is empty; give the path of a file that a run has saved");
  const Occupied occupied(runtime);
  log(1, 'I', rkllm::format("load prompt cache from '%s'", path));
  const std::shared_ptr<const SavedState> state = runtime.session->open_saved(path);
  runtime.executor->caches().put(name, state);
  log(1, 'I', rkllm::format("loaded a prompt cache with prompt size of %d tokens", state->positions.length()));
}

void release_prompt_cache(Runtime& runtime, const char* name) {
  const Occupied occupied(runtime);
  if (name) runtime.executor->caches().release(name);
  else runtime.executor->caches().release_all();
}

}  // namespace

extern "C" {

int rkllm_load_prompt_cache(LLMHandle handle, const char* prompt_cache_path) {
  return guard_handle(handle, [&](Runtime& runtime) { load_prompt_cache(runtime, prompt_cache_path, ""); });
}

int rkllm_release_prompt_cache(LLMHandle handle) {
  return guard_handle(handle, [&](Runtime& runtime) { release_prompt_cache(runtime, ""); });
}

int rkllm_ext_load_prompt_cache(LLMHandle handle, const char* path, const char* name) {
  return guard_handle(handle, [&](Runtime& runtime) {
    need(name, "name is NULL");
    load_prompt_cache(runtime, path, name);
  });
}

int rkllm_ext_release_prompt_cache(LLMHandle handle, const char* name) {
  return guard_handle(handle, [&](Runtime& runtime) { release_prompt_cache(runtime, name); });
}

}  // extern "C"
