/* SPDX-License-Identifier: Apache-2.0
 *
 * A stand-in for another librkllmrt.so, such as the vendor's: the ten functions of rkllm.h and none of rkllm_ext.h.
 * It "generates" a fixed text: one token per word of "tok0 tok1 ...", and every fourth token starts a two-byte
 * character that the token after it completes. Set by environment variables:
 *   STANDIN_TOKENS    tokens of a run when max_new_tokens is -1 (default 16)
 *   STANDIN_DELAY_US  time per token (default 0)
 *   STANDIN_SILENT    1: an aborted run ends without a FINISH callback
 *   STANDIN_FAIL      1: a run ends with ERROR after two tokens
 *   STANDIN_LOOP      a file; the nanoseconds of a run's tokens are written there */
#define _DEFAULT_SOURCE 1
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "rkllm.h"

typedef struct {
  LLMResultCallback callback;
  int max_new_tokens;
  pthread_t thread;
  int started; /* thread is to be joined */
  volatile int running;
  volatile int stop;
  void* userdata;
  int32_t first_id;
} Model;

static int setting(const char* name, int otherwise) {
  const char* text = getenv(name);
  return text != NULL ? atoi(text) : otherwise;
}

RKLLMParam rkllm_createDefaultParam(void) {
  RKLLMParam param;
  memset(&param, 0, sizeof param);
  param.max_context_len = 512;
  param.max_new_tokens = -1;
  param.top_k = 40;
  param.top_p = 0.9f;
  param.temperature = 0.8f;
  param.repeat_penalty = 1.1f;
  param.mirostat_tau = 5.0f;
  param.mirostat_eta = 0.1f;
  param.img_start = param.img_end = param.img_content = "";
  return param;
}

int rkllm_init(LLMHandle* handle, RKLLMParam* param, LLMResultCallback callback) {
  FILE* file = param->model_path != NULL ? fopen(param->model_path, "rb") : NULL;
  Model* model;
  if (file == NULL) return -1;
  fclose(file);
  model = (Model*)calloc(1, sizeof *model);
  if (model == NULL) return -1;
  model->callback = callback;
  model->max_new_tokens = param->max_new_tokens;
  *handle = model;
  return 0;
}

static void say(Model* model, int32_t id, const char* text, LLMCallState state) {
  RKLLMResult result;
  memset(&result, 0, sizeof result);
  result.text = text;
  result.token_id = id;
  model->callback(&result, model->userdata, state);
}

static void write_time_since(const struct timespec* begun, const char* path) {
  struct timespec now;
  FILE* file = fopen(path, "w");
  clock_gettime(CLOCK_MONOTONIC, &now);
  if (file == NULL) return;
  fprintf(file, "%lld", (now.tv_sec - begun->tv_sec) * 1000000000LL + (now.tv_nsec - begun->tv_nsec));
  fclose(file);
}

static void* generate(void* argument) {
  Model* model = (Model*)argument;
  const int count = model->max_new_tokens >= 0 ? model->max_new_tokens : setting("STANDIN_TOKENS", 16);
  const int delay = setting("STANDIN_DELAY_US", 0);
  struct timespec begun;
  int i;
  clock_gettime(CLOCK_MONOTONIC, &begun);
  for (i = 0; i < count && !model->stop; ++i) {
    char text[32];
    if (delay > 0) usleep((useconds_t)delay);
    if (i == 2 && setting("STANDIN_FAIL", 0)) break;
    if (i % 4 == 3 && i + 1 < count) {
      say(model, model->first_id + i, "", RKLLM_RUN_WAITING);
    } else {
      snprintf(text, sizeof text, i > 0 && i % 4 == 0 ? "\xc3\xa9 " : "tok%d ", i);
      say(model, model->first_id + i, text, RKLLM_RUN_NORMAL);
    }
  }
  if (getenv("STANDIN_LOOP") != NULL) write_time_since(&begun, getenv("STANDIN_LOOP"));
  if (i == 2 && setting("STANDIN_FAIL", 0)) {
    say(model, 0, "", RKLLM_RUN_ERROR);
  } else if (!(model->stop && setting("STANDIN_SILENT", 0))) {
    model->callback(NULL, model->userdata, RKLLM_RUN_FINISH);
  }
  model->running = 0;
  return NULL;
}

int rkllm_run_async(LLMHandle handle, RKLLMInput* input, RKLLMInferParam* params, void* userdata) {
  Model* model = (Model*)handle;
  if (model->running || params->mode != RKLLM_INFER_GENERATE) return -1;
  if (model->started) pthread_join(model->thread, NULL);
  model->started = 0;
  model->userdata = userdata;
  model->stop = 0;
  /* Token ids continue those of the input; a prompt counts as its bytes. */
  model->first_id = input->input_type == RKLLM_INPUT_PROMPT  ? (int32_t)strlen(input->prompt_input)
                    : input->input_type == RKLLM_INPUT_TOKEN ? input->token_input.input_ids[0] + 1
                                                             : (int32_t)input->embed_input.embed[0];
  model->running = 1;
  if (pthread_create(&model->thread, NULL, generate, model) != 0) {
    model->running = 0;
    return -1;
  }
  model->started = 1;
  return 0;
}

int rkllm_run(LLMHandle handle, RKLLMInput* input, RKLLMInferParam* params, void* userdata) {
  Model* model = (Model*)handle;
  const int code = rkllm_run_async(handle, input, params, userdata);
  if (code != 0) return code;
  pthread_join(model->thread, NULL);
  model->started = 0;
  return 0;
}

int rkllm_abort(LLMHandle handle) {
  ((Model*)handle)->stop = 1;
  return 0;
}

int rkllm_is_running(LLMHandle handle) { return ((Model*)handle)->running ? 0 : 1; }

int rkllm_destroy(LLMHandle handle) {
  Model* model = (Model*)handle;
  model->stop = 1;
  if (model->started) pthread_join(model->thread, NULL);
  free(model);
  return 0;
}

int rkllm_load_lora(LLMHandle handle, RKLLMLoraAdapter* adapter) { return handle == NULL || adapter == NULL ? -1 : -1; }

int rkllm_load_prompt_cache(LLMHandle handle, const char* path) { return handle == NULL || path == NULL ? -1 : -1; }

int rkllm_release_prompt_cache(LLMHandle handle) { return handle == NULL ? -1 : -1; }
