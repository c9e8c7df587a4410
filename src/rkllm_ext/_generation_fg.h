/* SPDX-License-Identifier: Apache-2.0
 *
 * What the generations F (1.2.1 - 1.2.3) and G (1.3.0) share: the extended settings, results, and what is made of them.
 * Included by their translation units only. */
#ifndef RKLLM_EXT_GENERATION_FG_H
#define RKLLM_EXT_GENERATION_FG_H

#include "_generation.h"

typedef struct {
  int32_t base_domain_id;
  int8_t embed_flash;
  int8_t enabled_cpus_num;
  uint32_t enabled_cpus_mask;
  uint8_t n_batch;
  int8_t use_cross_attn;
  uint8_t reserved[104];
} extend_fg;

typedef struct {
  const float* data;
  int32_t cols;
  int32_t rows;
} rows_fg;

typedef struct {
  float prefill_ms;
  int32_t prefill_tokens;
  float generate_ms;
  int32_t generate_tokens;
  float memory_mb;
} perf_fg;

typedef struct {
  const char* text;
  int32_t token_id;
  rows_fg last_hidden_layer;
  rows_fg logits;
  perf_fg perf;
} result_fg;

VENDOR_SIZE(extend_fg, 120);
VENDOR_FIELD(extend_fg, embed_flash, embed_flash, 4);
VENDOR_FIELD(extend_fg, cpus_num, enabled_cpus_num, 5);
VENDOR_FIELD(extend_fg, cpus_mask, enabled_cpus_mask, 8);
VENDOR_FIELD(extend_fg, n_batch, n_batch, 12);
VENDOR_FIELD(extend_fg, cross, use_cross_attn, 13);
VENDOR_FIELD(extend_fg, reserved, reserved, 14);
VENDOR_SIZE(result_fg, 72);
VENDOR_FIELD(result_fg, token, token_id, 8);
VENDOR_FIELD(result_fg, hidden, last_hidden_layer, 16);
VENDOR_FIELD(result_fg, logits, logits, 32);
VENDOR_FIELD(result_fg, perf, perf, 48);


/* Sampling, between any two structs that name its fields as rkllm.h does. */
#define COPY_SAMPLING(to, from)                      \
  (to).top_k = (from).top_k;                         \
  (to).top_p = (from).top_p;                         \
  (to).temperature = (from).temperature;             \
  (to).repeat_penalty = (from).repeat_penalty;       \
  (to).frequency_penalty = (from).frequency_penalty; \
  (to).presence_penalty = (from).presence_penalty;   \
  (to).mirostat = (from).mirostat;                   \
  (to).mirostat_tau = (from).mirostat_tau;           \
  (to).mirostat_eta = (from).mirostat_eta

/* What the settings of a model have in all generations. */
#define COPY_SETTINGS(to, from)                \
  (to).max_context_len = (from).max_context_len; \
  (to).max_new_tokens = (from).max_new_tokens;   \
  (to).skip_special_token = (from).skip_special_token; \
  COPY_SAMPLING(to, from)

static inline void set_cpus(extend_fg* extend, const model_settings* settings) {
  if (settings->n_threads <= 0) return;
  extend->enabled_cpus_num = (int8_t)settings->n_threads;
  extend->enabled_cpus_mask = settings->cpus;
}

/* Functions that both have, beside those of _library.h; `bind` of each looks them up. */
static struct {
  int (*set_chat_template)(LLMHandle handle, const char* system, const char* prefix, const char* postfix);
  int (*set_function_tools)(LLMHandle handle, const char* system, const char* tools, const char* response_tag);
  int (*clear_kv_cache)(LLMHandle handle, int keep_system, int* starts, int* ends);
  int (*get_kv_cache_size)(LLMHandle handle, int* sizes);
  int (*destroy)(LLMHandle handle);
} library_fg;

#define FUNCTIONS_FG                                                 \
  {"rkllm_set_chat_template", &library_fg.set_chat_template},       \
  {"rkllm_set_function_tools", &library_fg.set_function_tools},     \
  {"rkllm_clear_kv_cache", &library_fg.clear_kv_cache},             \
  {"rkllm_get_kv_cache_size", &library_fg.get_kv_cache_size},       \
  {"rkllm_destroy", &library_fg.destroy}

/* What is to be done with a handle that has just been made; one that fails is destroyed. */
static inline int begin_fg(LLMHandle handle, const model_settings* settings) {
  int code = 0;
  if (settings->raw_prompts) code = library_fg.set_chat_template(handle, "", "", "");
  if (code != 0) library_fg.destroy(handle);
  return code;
}

/* The tag is what the vendor's server gives: answers of tools are told apart by it. */
static int set_tools_fg(LLMHandle handle, const char* system, const char* tools) {
  return library_fg.set_function_tools(handle, system, tools, "tool_response");
}

/* All but the system prompt, which belongs to the model's template. */
static int clear_cache_fg(LLMHandle handle) { return library_fg.clear_kv_cache(handle, 1, NULL, NULL); }

/* One size for each sequence of n_batch, which is 1: the rest is room, should a library think otherwise. */
static int cache_size_fg(LLMHandle handle, int* tokens) {
  int sizes[256] = {0};
  const int code = library_fg.get_kv_cache_size(handle, sizes);
  *tokens = sizes[0];
  return code;
}

/* 0: go on. */
static int on_result_fg(result_fg* result, void* userdata, int state) {
  queue* q = (queue*)userdata;
  if (q == NULL) return 0;
  if (state == RKLLM_RUN_NORMAL || state == RKLLM_RUN_WAITING) {
    if (result == NULL) return 0;
    if (q->wants_rows) { /* they come as NORMAL, in the member of the mode */
      const rows_fg* rows = q->wants_rows == (int)RUN_LOGITS ? &result->logits : &result->last_hidden_layer;
      queue_put_rows(q, rows->data, rows->rows, rows->cols);
    } else {
      queue_put(q, result->token_id, result->text);
    }
  } else if (state == RKLLM_RUN_FINISH || state == RKLLM_RUN_ERROR) {
    if (result != NULL && state == RKLLM_RUN_FINISH) { /* valid at FINISH only */
      const perf_fg* perf = &result->perf;
      const queue_figures figures = {perf->prefill_ms, perf->generate_ms, perf->memory_mb, perf->prefill_tokens,
                                     perf->generate_tokens};
      queue_put_figures(q, &figures);
    }
    queue_finish(q, state, NULL);
  }
  return 0;
}

#endif /* RKLLM_EXT_GENERATION_FG_H */
