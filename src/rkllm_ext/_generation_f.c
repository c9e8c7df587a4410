/* SPDX-License-Identifier: Apache-2.0
 *
 * Generation F: releases 1.2.1 - 1.2.3. Of its settings those that rkllm.h lacks stay as the library has them, except
 * where they are asked for. */
#include <string.h>

#include "_generation_fg.h"

typedef struct {
  const char* model_path;
  int32_t max_context_len;
  int32_t max_new_tokens;
  int32_t top_k;
  int32_t n_keep;
  float top_p;
  float temperature;
  float repeat_penalty;
  float frequency_penalty;
  float presence_penalty;
  int32_t mirostat;
  float mirostat_tau;
  float mirostat_eta;
  bool skip_special_token;
  bool is_async;
  const char* img_start;
  const char* img_end;
  const char* img_content;
  extend_fg extend;
} param_f;

typedef struct {
  const char* prompt;
  float* image_embed;
  size_t n_image_tokens; /* of one image */
  size_t n_image;
  size_t image_width;
  size_t image_height;
} multimodal_f;

typedef struct {
  const char* role;
  bool enable_thinking;
  int32_t input_type;
  union {
    const char* prompt;
    RKLLMEmbedInput embed;
    RKLLMTokenInput token;
    multimodal_f multimodal;
  } of;
} input_f;

typedef struct {
  int32_t mode;
  RKLLMLoraParam* lora_params;
  RKLLMPromptCacheParam* prompt_cache_params;
  int32_t keep_history;
} infer_f;

VENDOR_SIZE(param_f, 208);
VENDOR_FIELD(param_f, context, max_context_len, 8);
VENDOR_FIELD(param_f, new_tokens, max_new_tokens, 12);
VENDOR_FIELD(param_f, top_k, top_k, 16);
VENDOR_FIELD(param_f, n_keep, n_keep, 20);
VENDOR_FIELD(param_f, top_p, top_p, 24);
VENDOR_FIELD(param_f, temperature, temperature, 28);
VENDOR_FIELD(param_f, repeat, repeat_penalty, 32);
VENDOR_FIELD(param_f, frequency, frequency_penalty, 36);
VENDOR_FIELD(param_f, presence, presence_penalty, 40);
VENDOR_FIELD(param_f, mirostat, mirostat, 44);
VENDOR_FIELD(param_f, tau, mirostat_tau, 48);
VENDOR_FIELD(param_f, eta, mirostat_eta, 52);
VENDOR_FIELD(param_f, skip, skip_special_token, 56);
VENDOR_FIELD(param_f, async, is_async, 57);
VENDOR_FIELD(param_f, start, img_start, 64);
VENDOR_FIELD(param_f, end, img_end, 72);
VENDOR_FIELD(param_f, content, img_content, 80);
VENDOR_FIELD(param_f, extend, extend, 88);
VENDOR_SIZE(multimodal_f, 48);
VENDOR_FIELD(multimodal_f, embed, image_embed, 8);
VENDOR_FIELD(multimodal_f, tokens, n_image_tokens, 16);
VENDOR_FIELD(multimodal_f, images, n_image, 24);
VENDOR_FIELD(multimodal_f, width, image_width, 32);
VENDOR_FIELD(multimodal_f, height, image_height, 40);
VENDOR_SIZE(input_f, 64);
VENDOR_FIELD(input_f, thinking, enable_thinking, 8);
VENDOR_FIELD(input_f, type, input_type, 12);
VENDOR_FIELD(input_f, of, of, 16);
VENDOR_SIZE(infer_f, 32);
VENDOR_FIELD(infer_f, lora, lora_params, 8);
VENDOR_FIELD(infer_f, cache, prompt_cache_params, 16);
VENDOR_FIELD(infer_f, history, keep_history, 24);

static struct {
  param_f (*create_default_param)(void);
  int (*init)(LLMHandle* handle, param_f* param, int (*callback)(result_fg*, void*, int));
  int (*run)(LLMHandle handle, input_f* input, infer_f* how, void* userdata);
} library;

static const char* bind_f(generation_symbol symbol) {
  const generation_function functions[] = {
      {"rkllm_createDefaultParam", &library.create_default_param},
      {"rkllm_init", &library.init},
      {"rkllm_run", &library.run},
      FUNCTIONS_FG};
  return generation_look_up(symbol, functions, sizeof functions / sizeof functions[0]);
}

static RKLLMParam defaults_f(void) {
  const param_f from = library.create_default_param();
  RKLLMParam to;
  memset(&to, 0, sizeof to);
  COPY_SETTINGS(to, from);
  return to;
}

static int init_f(LLMHandle* handle, const model_settings* settings) {
  const RKLLMParam* from = &settings->param;
  param_f to = library.create_default_param();
  int code;
  to.model_path = from->model_path;
  COPY_SETTINGS(to, *from);
  to.n_keep = settings->n_keep;
  to.is_async = false;
  to.img_start = from->img_start;
  to.img_end = from->img_end;
  to.img_content = from->img_content;
  set_cpus(&to.extend, settings);
  code = library.init(handle, &to, on_result_fg);
  return code != 0 ? code : begin_fg(*handle, settings);
}

static int run_f(LLMHandle handle, const run_request* request, queue* q) {
  const RKLLMInput* from = request->input;
  input_f input;
  infer_f how;
  memset(&input, 0, sizeof input);
  memset(&how, 0, sizeof how);
  input.role = request->role;
  input.enable_thinking = request->thinking != 0;
  input.input_type = (int32_t)from->input_type;
  switch (from->input_type) {
    case RKLLM_INPUT_PROMPT: input.of.prompt = from->prompt_input; break;
    case RKLLM_INPUT_TOKEN: input.of.token = from->token_input; break;
    case RKLLM_INPUT_EMBED: input.of.embed = from->embed_input; break;
    case RKLLM_INPUT_MULTIMODAL:
      input.of.multimodal.prompt = from->multimodal_input.prompt;
      input.of.multimodal.image_embed = from->multimodal_input.image_embed;
      input.of.multimodal.n_image_tokens = from->multimodal_input.n_image_tokens / request->n_images;
      input.of.multimodal.n_image = request->n_images;
      break;
  }
  how.mode = (int32_t)request->how->mode;
  how.lora_params = request->how->lora_params;
  how.prompt_cache_params = request->how->prompt_cache_params;
  how.keep_history = request->keep_history;
  return library.run(handle, &input, &how, q);
}

const generation generation_f = {
    GENERATION_LOGITS | GENERATION_N_KEEP | GENERATION_CPUS | GENERATION_CONVERSATION, bind_f,
    defaults_f, init_f, run_f, set_tools_fg, clear_cache_fg, cache_size_fg};
