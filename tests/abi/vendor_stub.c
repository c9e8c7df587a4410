/* SPDX-License-Identifier: Apache-2.0
 *
 * A stand-in for the vendor's library of one generation of the interface, -DGENERATION='C', 'D', 'F' or 'G', with the
 * functions that this generation has and its text VERSION. It shares no struct with the binding: fields are read and
 * written at the offsets that were measured from the vendor's headers, every other byte is rubbish.
 *
 * Each call is a line of JSON in the file STUB_LOG. A run calls back from a thread of its own: tokens 100, 101, ...
 * with the texts "tok0 ", "tok1 " ..., every fourth without text (WAITING), the one behind it with "\xc3\xa9 ".
 * Environment:
 *   STUB_TOKENS    tokens of a run when max_new_tokens is -1 (default 16)
 *   STUB_DELAY_US  time for a token (default 0), and before the first one
 *   STUB_FAIL      init: rkllm_init fails; error: a run ends with ERROR; return: it calls nothing back and returns -7;
 *                  silent: it calls nothing back at its end; template: rkllm_set_chat_template fails */
#define _DEFAULT_SOURCE 1
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))

/* Offsets in bytes; -1: there is no such field. */
#if GENERATION == 'C'
enum { PARAM = 200, N_KEEP = -1, TOP_P = 20, MIROSTAT = 40, SKIP = 52, EOS = -1, ASYNC = 53, IMG = 56, EXTEND = 80 };
enum { ROLE = -1, INPUT_TYPE = 0, UNION = 8, SAMPLING = -1, HISTORY = -1, RUN_TOKENS = -1 };
enum { RESULT = 32, LOGITS = -1, PERF = -1, CPUS = -1 };
#elif GENERATION == 'D'
enum { PARAM = 208, N_KEEP = 20, TOP_P = 24, MIROSTAT = 44, SKIP = 56, EOS = -1, ASYNC = 57, IMG = 64, EXTEND = 88 };
enum { ROLE = -1, INPUT_TYPE = 0, UNION = 8, SAMPLING = -1, HISTORY = 24, RUN_TOKENS = -1 };
enum { RESULT = 48, LOGITS = 32, PERF = -1, CPUS = 4 };
#elif GENERATION == 'F'
enum { PARAM = 208, N_KEEP = 20, TOP_P = 24, MIROSTAT = 44, SKIP = 56, EOS = -1, ASYNC = 57, IMG = 64, EXTEND = 88 };
enum { ROLE = 0, INPUT_TYPE = 12, UNION = 16, SAMPLING = -1, HISTORY = 24, RUN_TOKENS = -1 };
enum { RESULT = 72, LOGITS = 32, PERF = 48, CPUS = 4 };
#else
enum { PARAM = 184, N_KEEP = 20, TOP_P = 24, MIROSTAT = 44, SKIP = 56, EOS = 57, ASYNC = 58, IMG = -1, EXTEND = 60 };
enum { ROLE = 0, INPUT_TYPE = 12, UNION = 16, SAMPLING = 24, HISTORY = 32, RUN_TOKENS = 36 };
enum { RESULT = 72, LOGITS = 32, PERF = 48, CPUS = 4 };
#endif
enum { NORMAL, WAITING, FINISH, ERROR, HIDDEN };

#if GENERATION == 'C' || GENERATION == 'D'
typedef void (*Callback)(void* result, void* userdata, int state);
#else
typedef int (*Callback)(void* result, void* userdata, int state);
#endif

typedef struct {
  unsigned char bytes[PARAM];
} Param;

typedef struct {
  Callback callback;
  int32_t max_new_tokens;
  int stop; /* of several threads: __atomic */
  /* the run */
  void* userdata;
  int32_t mode;
  int32_t count;
  const float* embed;
} Model;

API const char* stub_version(void);
API const char* stub_version(void) { return VERSION; } /* the text that is looked for: "... version: X" or "X" */

static int32_t int_at(const void* base, int offset) {
  int32_t value;
  memcpy(&value, (const char*)base + offset, 4);
  return value;
}

static float float_at(const void* base, int offset) {
  float value;
  memcpy(&value, (const char*)base + offset, 4);
  return value;
}

static size_t size_at(const void* base, int offset) {
  size_t value;
  memcpy(&value, (const char*)base + offset, 8);
  return value;
}

static void* pointer_at(const void* base, int offset) {
  void* value;
  memcpy(&value, (const char*)base + offset, 8);
  return value;
}

static void put(void* base, int offset, const void* value, size_t size) { memcpy((char*)base + offset, value, size); }

static void put_int(void* base, int offset, int32_t value) { put(base, offset, &value, 4); }

static void put_float(void* base, int offset, float value) { put(base, offset, &value, 4); }

static int fails(const char* how) {
  const char* asked = getenv("STUB_FAIL");
  return asked != NULL && strcmp(asked, how) == 0;
}

static int number(const char* name, int otherwise) {
  const char* text = getenv(name);
  return text != NULL ? atoi(text) : otherwise;
}

static FILE* log_line(const char* call) {
  FILE* file = fopen(getenv("STUB_LOG"), "a");
  fprintf(file, "{\"call\": \"%s\"", call);
  return file;
}

static void log_text(FILE* file, const char* name, const char* text) {
  if (text == NULL) {
    fprintf(file, ", \"%s\": null", name);
  } else {
    fprintf(file, ", \"%s\": \"%s\"", name, text);
  }
}

static void log_int(FILE* file, const char* name, long long value) { fprintf(file, ", \"%s\": %lld", name, value); }

static void log_float(FILE* file, const char* name, float value) {
  fprintf(file, ", \"%s\": %.9g", name, (double)value);
}

static void log_end(FILE* file) {
  fputs("}\n", file);
  fclose(file);
}

/* top_k, then at another offset the rest, as they follow each other in all generations. */
static void log_sampling(FILE* file, const void* base, int top_k, int top_p) {
  static const char* const names[] = {"top_p", "temperature", "repeat_penalty", "frequency_penalty",
                                      "presence_penalty"};
  int i;
  log_int(file, "top_k", int_at(base, top_k));
  for (i = 0; i < 5; ++i) log_float(file, names[i], float_at(base, top_p + 4 * i));
  log_int(file, "mirostat", int_at(base, top_p + 20));
  log_float(file, "mirostat_tau", float_at(base, top_p + 24));
  log_float(file, "mirostat_eta", float_at(base, top_p + 28));
}

API Param rkllm_createDefaultParam(void);
API Param rkllm_createDefaultParam(void) {
  Param param;
  memset(&param, 0, sizeof param);
  put_int(&param, 8, 512);
  put_int(&param, 12, -1);
  put_int(&param, 16, 40);
  put_float(&param, TOP_P, 0.9f);
  put_float(&param, TOP_P + 4, 0.8f);
  put_float(&param, TOP_P + 8, 1.1f);
  put_float(&param, MIROSTAT + 4, 5.0f);
  put_float(&param, MIROSTAT + 8, 0.1f);
  if (N_KEEP >= 0) put_int(&param, N_KEEP, -1);
  put_int(&param, EXTEND, 7);             /* base_domain_id: nobody asks for it, so it comes back */
  memset(&param.bytes[PARAM - 8], 90, 8); /* the last reserved bytes */
  log_end(log_line("createDefaultParam"));
  return param;
}

API int rkllm_init(void** handle, Param* param, void* callback);
API int rkllm_init(void** handle, Param* param, void* callback) {
  FILE* file = log_line("init");
  FILE* given = fopen(pointer_at(param, 0), "rb");
  Model* model;
  log_text(file, "model_path", pointer_at(param, 0));
  log_int(file, "max_context_len", int_at(param, 8));
  log_int(file, "max_new_tokens", int_at(param, 12));
  log_sampling(file, param, 16, TOP_P);
  if (N_KEEP >= 0) log_int(file, "n_keep", int_at(param, N_KEEP));
  log_int(file, "skip_special_token", param->bytes[SKIP]);
  if (EOS >= 0) log_int(file, "ignore_eos_token", param->bytes[EOS < 0 ? 0 : EOS]);
  log_int(file, "is_async", param->bytes[ASYNC]);
  if (IMG >= 0) {
    log_text(file, "img_start", pointer_at(param, IMG));
    log_text(file, "img_end", pointer_at(param, IMG + 8));
    log_text(file, "img_content", pointer_at(param, IMG + 16));
  }
  log_int(file, "base_domain_id", int_at(param, EXTEND));
  if (CPUS >= 0) {
    log_int(file, "embed_flash", param->bytes[EXTEND + CPUS]);
    log_int(file, "enabled_cpus_num", param->bytes[EXTEND + CPUS + 1]);
    log_int(file, "enabled_cpus_mask", (uint32_t)int_at(param, EXTEND + CPUS + 4));
  }
  log_int(file, "last_byte", param->bytes[EXTEND + (GENERATION == 'C' ? 115 : 117)]);
  log_end(file);
  if (given == NULL || fails("init")) return -3;
  fclose(given);
  model = calloc(1, sizeof *model);
  model->max_new_tokens = int_at(param, 12);
#if GENERATION == 'G'
  /* A struct of six pointers: result, its userdata, tokenizer, its userdata, embed, its userdata. */
  put(&model->callback, 0, callback, 8);
  if (pointer_at(callback, 16) != NULL || pointer_at(callback, 32) != NULL) return -4;
#else
  memcpy(&model->callback, &callback, 8);
#endif
  *handle = model;
  return 0;
}

static void say(Model* model, int state, const char* text, int32_t id) {
  unsigned char result[RESULT];
  memset(result, 0xAA, sizeof result);
  put(result, 0, &text, 8);
  put_int(result, 8, id);
  if (PERF >= 0 && state == FINISH) {
    put_float(result, PERF, 12.5f);
    put_int(result, PERF + 4, 21);
    put_float(result, PERF + 8, 250.0f);
    put_int(result, PERF + 12, 33);
    put_float(result, PERF + 16, 640.5f);
  }
#if GENERATION == 'C' || GENERATION == 'D'
  model->callback(state == FINISH ? NULL : result, model->userdata, state);
#else
  if (model->callback(result, model->userdata, state) != 0) log_end(log_line("callback did not return 0"));
#endif
}

/* Two rows of three floats for hidden states, of five for logits; then others, of a token that comes next. */
static void say_rows(Model* model) {
  const int offset = model->mode == 1 ? 16 : LOGITS;
  const int32_t cols = model->mode == 1 ? 3 : 5;
  const char* const empty = "";
  unsigned char result[RESULT];
  float data[10];
  const float* pointer = data;
  int i, more;
  for (i = 0; i < 10; ++i) data[i] = (float)i + 0.5f * (float)model->mode;
  for (more = 0; more < 2; ++more) {
    memset(result, 0, sizeof result);
    put(result, 0, &empty, 8);
    put(result, offset, &pointer, 8);
    put_int(result, offset + 8, cols);
    put_int(result, offset + 12, more ? 1 : 2);
    model->callback(result, model->userdata, GENERATION == 'C' ? HIDDEN : NORMAL);
    for (i = 0; i < 10; ++i) data[i] = -1; /* valid inside the callback only */
  }
}

static void* generate(void* argument) {
  Model* model = argument;
  const int delay = number("STUB_DELAY_US", 0);
  char text[32];
  int32_t i;
  usleep((useconds_t)delay);
  if (model->mode != 0) say_rows(model);
  for (i = 0; model->mode == 0 && i < model->count && !__atomic_load_n(&model->stop, __ATOMIC_SEQ_CST); ++i) {
    usleep((useconds_t)delay);
    snprintf(text, sizeof text, i > 0 && i % 4 == 0 ? "\xc3\xa9 " : "tok%d ", (int)i);
    if (i == 2 && fails("error")) break;
    if (i % 4 == 3 && i + 1 < model->count) {
      say(model, WAITING, "", 100 + i);
    } else {
      say(model, NORMAL, text, 100 + i);
    }
  }
  if (fails("silent")) return NULL;
  say(model, fails("error") ? ERROR : FINISH, GENERATION == 'G' ? NULL : "", 0);
  return NULL;
}

static void log_image(FILE* file, const void* given) {
  log_text(file, "prompt", pointer_at(given, 0));
  log_float(file, "image_embed", float_at(pointer_at(given, 8), 0));
  log_int(file, "n_image_tokens", (long long)size_at(given, 16));
  if (GENERATION == 'C') return;
  log_int(file, "n_image", (long long)size_at(given, 24));
#if GENERATION == 'G'
  {
    int i, rest = 0;
    log_text(file, "img_start", pointer_at(given, 32));
    log_text(file, "img_end", pointer_at(given, 40));
    log_text(file, "img_content", pointer_at(given, 48));
    for (i = 56; i < 144; ++i) rest |= ((const unsigned char*)given)[i];
    log_int(file, "rest", rest);
  }
#else
  log_int(file, "image_width", (long long)size_at(given, 32));
  log_int(file, "image_height", (long long)size_at(given, 40));
#endif
}

static void log_input(FILE* file, const void* input) {
  const int type = int_at(input, INPUT_TYPE);
  const char* given = (const char*)input + UNION;
  log_int(file, "input_type", type);
  if (ROLE >= 0) {
    log_text(file, "role", pointer_at(input, 0));
    log_int(file, "enable_thinking", ((const unsigned char*)input)[8]);
  }
  if (type == 0) log_text(file, "prompt", pointer_at(given, 0));
  if (type == 1) log_int(file, "input_ids", int_at(pointer_at(given, 0), 0));
  if (type == 2) log_float(file, "embed", float_at(pointer_at(given, 0), 0));
  if (type == 1 || type == 2) log_int(file, "n_tokens", (long long)size_at(given, 8));
  if (type == 3) log_image(file, given);
}

API int rkllm_run(void* handle, void* input, void* how, void* userdata);
API int rkllm_run(void* handle, void* input, void* how, void* userdata) {
  Model* model = handle;
  FILE* file = log_line("run");
  const void* lora = pointer_at(how, 8);
  const void* cache = pointer_at(how, 16);
  pthread_t thread;
  log_input(file, input);
  model->mode = int_at(how, 0);
  log_int(file, "mode", model->mode);
  if (lora != NULL) log_text(file, "lora", pointer_at(lora, 0));
  if (cache != NULL) {
    log_int(file, "save_prompt_cache", int_at(cache, 0));
    log_text(file, "prompt_cache_path", pointer_at(cache, 8));
  }
  if (HISTORY >= 0) log_int(file, "keep_history", int_at(how, HISTORY));
  model->count = model->max_new_tokens;
  if (RUN_TOKENS >= 0) {
    const int32_t asked = int_at(how, RUN_TOKENS);
    log_int(file, "max_new_tokens", asked);
    log_sampling(file, pointer_at(how, SAMPLING), 0, 4);
    if (asked != 0) model->count = asked;
  }
  log_end(file);
  if (model->count < 0) model->count = number("STUB_TOKENS", 16);
  model->userdata = userdata;
  __atomic_store_n(&model->stop, 0, __ATOMIC_SEQ_CST);
  if (fails("return")) return -7;
  pthread_create(&thread, NULL, generate, model);
  pthread_join(thread, NULL);
  return 0;
}

API int rkllm_abort(void* handle);
API int rkllm_abort(void* handle) {
  __atomic_store_n(&((Model*)handle)->stop, 1, __ATOMIC_SEQ_CST);
  return 0;
}

API int rkllm_destroy(void* handle);
API int rkllm_destroy(void* handle) {
  log_end(log_line("destroy"));
  free(handle);
  return 0;
}

API int rkllm_load_lora(void* handle, void* adapter);
API int rkllm_load_lora(void* handle, void* adapter) {
  FILE* file = log_line("load_lora");
  log_text(file, "path", pointer_at(adapter, 0));
  log_text(file, "name", pointer_at(adapter, 8));
  log_float(file, "scale", float_at(adapter, 16));
  log_end(file);
  return handle == NULL ? -1 : 0;
}

API int rkllm_load_prompt_cache(void* handle, const char* path);
API int rkllm_load_prompt_cache(void* handle, const char* path) {
  FILE* file = log_line("load_prompt_cache");
  log_text(file, "path", path);
  log_end(file);
  return handle == NULL ? -1 : 0;
}

API int rkllm_release_prompt_cache(void* handle);
API int rkllm_release_prompt_cache(void* handle) {
  log_end(log_line("release_prompt_cache"));
  return handle == NULL ? -1 : 0;
}

/* Nobody is to call these two: one hangs, the other means what it likes. */
API int rkllm_run_async(void* handle);
API int rkllm_run_async(void* handle) {
  log_end(log_line("run_async"));
  return handle == NULL ? -1 : -1;
}

API int rkllm_is_running(void* handle);
API int rkllm_is_running(void* handle) {
  log_end(log_line("is_running"));
  return handle == NULL ? 0 : 1;
}

#if GENERATION != 'C'
API int rkllm_set_chat_template(void* handle, const char* system, const char* prefix, const char* postfix);
API int rkllm_set_chat_template(void* handle, const char* system, const char* prefix, const char* postfix) {
  FILE* file = log_line("set_chat_template");
  log_text(file, "system", system);
  log_text(file, "prefix", prefix);
  log_text(file, "postfix", postfix);
  log_end(file);
  return handle == NULL || fails("template") ? -1 : 0;
}
#endif
#if GENERATION == 'F' || GENERATION == 'G'
API int rkllm_set_function_tools(void* handle, const char* system, const char* tools, const char* response_tag);
API int rkllm_set_function_tools(void* handle, const char* system, const char* tools, const char* response_tag) {
  FILE* file = log_line("set_function_tools");
  log_text(file, "system", system);
  log_int(file, "tools_bytes", (long long)strlen(tools)); /* JSON in a line of JSON is hard to read */
  log_text(file, "response_tag", response_tag);
  log_end(file);
  return handle == NULL || fails("tools") ? -1 : 0;
}

API int rkllm_clear_kv_cache(void* handle, int keep_system, int* starts, int* ends);
API int rkllm_clear_kv_cache(void* handle, int keep_system, int* starts, int* ends) {
  FILE* file = log_line("clear_kv_cache");
  log_int(file, "keep_system", keep_system);
  log_int(file, "ranges", starts != NULL || ends != NULL);
  log_end(file);
  return handle == NULL ? -1 : 0;
}

/* One size for each sequence of a batch; there is one. */
API int rkllm_get_kv_cache_size(void* handle, int* sizes);
API int rkllm_get_kv_cache_size(void* handle, int* sizes) {
  sizes[0] = 77;
  return handle == NULL ? -1 : 0;
}
#endif
