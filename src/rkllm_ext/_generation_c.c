/* SPDX-License-Identifier: Apache-2.0
 *
 * Generation C: releases 1.1.0 - 1.1.4, and rkllm_ext's own library. Its definitions are those of rkllm.h, where their
 * layout is asserted. */
#include "_generation.h"

static struct {
  RKLLMParam (*create_default_param)(void);
  int (*init)(LLMHandle* handle, RKLLMParam* param, LLMResultCallback callback);
  int (*run)(LLMHandle handle, RKLLMInput* input, RKLLMInferParam* how, void* userdata);
} library;

static const char* bind_c(generation_symbol symbol) {
  const generation_function functions[] = {
      {"rkllm_createDefaultParam", &library.create_default_param},
      {"rkllm_init", &library.init},
      {"rkllm_run", &library.run}};
  return generation_look_up(symbol, functions, sizeof functions / sizeof functions[0]);
}

static RKLLMParam defaults_c(void) { return library.create_default_param(); }

static void on_result_c(RKLLMResult* result, void* userdata, LLMCallState state) {
  queue* q = (queue*)userdata;
  if (q == NULL) return;
  if (state == RKLLM_RUN_NORMAL || state == RKLLM_RUN_WAITING) {
    if (result != NULL && !q->wants_rows) queue_put(q, result->token_id, result->text);
  } else if (state == RKLLM_RUN_GET_LAST_HIDDEN_LAYER) {
    if (result != NULL) {
      const RKLLMResultLastHiddenLayer* layer = &result->last_hidden_layer;
      queue_put_rows(q, layer->hidden_states, layer->num_tokens, layer->embd_size);
    }
  } else if (state == RKLLM_RUN_FINISH || state == RKLLM_RUN_ERROR) {
    queue_finish(q, (int)state, result != NULL ? result->text : NULL);
  }
}

static int init_c(LLMHandle* handle, const model_settings* settings) {
  RKLLMParam param = settings->param;
  param.is_async = false;
  return library.init(handle, &param, on_result_c);
}

static int run_c(LLMHandle handle, const run_request* request, queue* q) {
  RKLLMInput input = *request->input;
  RKLLMInferParam how = *request->how;
  return library.run(handle, &input, &how, q);
}

const generation generation_c = {0, bind_c, defaults_c, init_c, run_c, NULL, NULL, NULL};
