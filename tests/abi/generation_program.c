/* SPDX-License-Identifier: Apache-2.0
 *
 * The binding's interface to one generation of the vendor's library by itself, to be run under the thread sanitizer:
 * runs are read, and aborted at their beginning and in their middle.
 *   generation_program C|F|G librkllmrt.so */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "_generation.h"

#define CHECK(condition)                                              \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                        \
    }                                                                 \
  } while (0)

static void* opened;

static void* symbol(const char* name) { return dlsym(opened, name); }

static void* nothing(const char* name) { return strcmp(name, "rkllm_run") == 0 ? NULL : symbol(name); }

typedef struct {
  RKLLMInput input;
  RKLLMInferParam how;
  RKLLMParam settings;
  run_request request;
  queue* q;
} Run;

static void start(const generation* library, LLMHandle handle, Run* run, int32_t max_new_tokens) {
  memset(run, 0, sizeof *run);
  run->input.input_type = RKLLM_INPUT_PROMPT;
  run->input.prompt_input = "hello";
  run->settings = library->defaults();
  run->settings.max_new_tokens = max_new_tokens;
  run->request.input = &run->input;
  run->request.how = &run->how;
  run->request.settings = &run->settings;
  run->request.n_images = 1;
  run->q = queue_new();
  CHECK(run->q != NULL);
  queue_retain(run->q);
  CHECK(generation_start(library, handle, &run->request, run->q) == 0);
}

static void wait_for_the_end(queue* q) {
  while (!queue_wait(q, 50, 0)) continue;
  CHECK(queue_end(q) == RKLLM_RUN_FINISH);
}

int main(int argc, char** argv) {
  const generation* library = NULL;
  int (*abort_run)(LLMHandle);
  int (*destroy)(LLMHandle);
  model_settings settings;
  LLMHandle handle = NULL;
  void* function;
  Run run;
  int i;
  CHECK(argc == 3);
  library = argv[1][0] == 'C' ? &generation_c : argv[1][0] == 'F' ? &generation_f : &generation_g;
  opened = dlopen(argv[2], RTLD_NOW);
  CHECK(opened != NULL);
  CHECK(strcmp(library->bind(nothing), "rkllm_run") == 0 && library->bind(symbol) == NULL);
  function = symbol("rkllm_abort");
  memcpy(&abort_run, &function, sizeof function);
  function = symbol("rkllm_destroy");
  memcpy(&destroy, &function, sizeof function);
  memset(&settings, 0, sizeof settings);
  settings.param = library->defaults();
  CHECK(settings.param.top_k == 40 && settings.param.max_new_tokens == -1);
  settings.param.model_path = argv[2];
  settings.n_keep = -1;
  CHECK(library->init(&handle, &settings) == 0);

  start(library, handle, &run, 0); /* as the stub has it: 16 tokens */
  wait_for_the_end(run.q);
  CHECK(run.q->tokens == 16 && queue_take(run.q)->count == 16);
  CHECK(run.q->has_figures == (argv[1][0] != 'C'));
  queue_release(run.q);

  for (i = 0; i < 20; ++i) { /* aborted, sooner and later */
    start(library, handle, &run, 0);
    if (i > 0) queue_wait(run.q, i, 1);
    queue_let_run_out(run.q, 0);
    while (!queue_end(run.q)) {
      abort_run(handle);
      queue_wait(run.q, 1, 0);
    }
    queue_release(run.q);
  }
  CHECK(destroy(handle) == 0);
  puts("the generation keeps its promises");
  return 0;
}
