/* SPDX-License-Identifier: Apache-2.0
 *
 * Generation G: release 1.3.0. Of its settings those that rkllm.h lacks stay as the library has them, except
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
  bool ignore_eos_token;
  bool is_async;
  extend_fg extend;
} param_g;

typedef struct {
  float* embed;
  size_t n_tokens; /* of one image */
  size_t n_image;
  const char* start;
  const char* end;
  const char* content;
  size_t width;
  size_t height;
} image_g;

typedef struct {
  float* embed;
  size_t n_frame_tokens;
  size_t n_frame_per_video;
  size_t n_video;
  const char* start;
  const char* end;
  const char* content;
  size_t width;
  size_t height;
} video_g;

typedef struct {
  const char* prompt;
  image_g image;
  video_g video;
} multimodal_g;

typedef struct {
  const char* role;
  bool enable_thinking;
  int32_t input_type;
  union {
    const char* prompt;
    RKLLMEmbedInput embed;
    RKLLMTokenInput token;
    multimodal_g multimodal;
  } of;
} input_g;

typedef struct {
  int32_t top_k;
  float top_p;
  float temperature;
  float repeat_penalty;
  float frequency_penalty;
  float presence_penalty;
  int32_t mirostat;
  float mirostat_tau;
  float mirostat_eta;
} sampling_g;

typedef struct {
  int32_t mode;
  RKLLMLoraParam* lora_params;
  RKLLMPromptCacheParam* prompt_cache_params;
  sampling_g* sampling_params; /* NULL: those of the model */
  int32_t keep_history;
  int32_t max_new_tokens; /* 0: that of the model */
} infer_g;

typedef struct {
  int (*result)(result_fg* result, void* userdata, int state);
  void* result_userdata; /* of runs that bring none */
  void* tokenizer;       /* NULL: the file's */
  void* tokenizer_userdata;
  void* embed; /* NULL: the file's */
  void* embed_userdata;
} callback_g;

VENDOR_SIZE(param_g, 184);
VENDOR_FIELD(param_g, context, max_context_len, 8);
VENDOR_FIELD(param_g, new_tokens, max_new_tokens, 12);
VENDOR_FIELD(param_g, top_k, top_k, 16);
VENDOR_FIELD(param_g, n_keep, n_keep, 20);
VENDOR_FIELD(param_g, top_p, top_p, 24);
VENDOR_FIELD(param_g, temperature, temperature, 28);
VENDOR_FIELD(param_g, repeat, repeat_penalty, 32);
VENDOR_FIELD(param_g, frequency, frequency_penalty, 36);
VENDOR_FIELD(param_g, presence, presence_penalty, 40);
VENDOR_FIELD(param_g, mirostat, mirostat, 44);
VENDOR_FIELD(param_g, tau, mirostat_tau, 48);
VENDOR_FIELD(param_g, eta, mirostat_eta, 52);
VENDOR_FIELD(param_g, skip, skip_special_token, 56);
VENDOR_FIELD(param_g, eos, ignore_eos_token, 57);
VENDOR_FIELD(param_g, async, is_async, 58);
VENDOR_FIELD(param_g, extend, extend, 60);
VENDOR_SIZE(image_g, 64);
VENDOR_FIELD(image_g, tokens, n_tokens, 8);
VENDOR_FIELD(image_g, images, n_image, 16);
VENDOR_FIELD(image_g, start, start, 24);
VENDOR_FIELD(image_g, end, end, 32);
VENDOR_FIELD(image_g, content, content, 40);
VENDOR_FIELD(image_g, width, width, 48);
VENDOR_FIELD(image_g, height, height, 56);
VENDOR_SIZE(video_g, 72);
VENDOR_FIELD(video_g, frame_tokens, n_frame_tokens, 8);
VENDOR_FIELD(video_g, frames, n_frame_per_video, 16);
VENDOR_FIELD(video_g, videos, n_video, 24);
VENDOR_FIELD(video_g, start, start, 32);
VENDOR_FIELD(video_g, end, end, 40);
VENDOR_FIELD(video_g, content, content, 48);
VENDOR_FIELD(video_g, width, width, 56);
VENDOR_FIELD(video_g, height, height, 64);
VENDOR_SIZE(multimodal_g, 144);
VENDOR_FIELD(multimodal_g, image, image, 8);
VENDOR_FIELD(multimodal_g, video, video, 72);
VENDOR_SIZE(input_g, 160);
VENDOR_FIELD(input_g, thinking, enable_thinking, 8);
VENDOR_FIELD(input_g, type, input_type, 12);
VENDOR_FIELD(input_g, of, of, 16);
VENDOR_SIZE(sampling_g, 36);
VENDOR_SIZE(infer_g, 40);
VENDOR_FIELD(infer_g, lora, lora_params, 8);
VENDOR_FIELD(infer_g, cache, prompt_cache_params, 16);
VENDOR_FIELD(infer_g, sampling, sampling_params, 24);
VENDOR_FIELD(infer_g, history, keep_history, 32);
VENDOR_FIELD(infer_g, new_tokens, max_new_tokens, 36);
VENDOR_SIZE(callback_g, 48);

static struct {
  param_g (*create_default_param)(void);
  int (*init)(LLMHandle* handle, param_g* param, callback_g* callback);
  int (*run)(LLMHandle handle, input_g* input, infer_g* how, void* userdata);
} library;

static const char* bind_g(generation_symbol symbol) {
  const generation_function functions[] = {
      {"rkllm_createDefaultParam", &library.create_default_param},
      {"rkllm_init", &library.init},
      {"rkllm_run", &library.run},
      FUNCTIONS_FG};
  return generation_look_up(symbol, functions, sizeof functions / sizeof functions[0]);
}

static RKLLMParam defaults_g(void) {
  const param_g from = library.create_default_param();
  RKLLMParam to;
  memset(&to, 0, sizeof to);
  COPY_SETTINGS(to, from);
  return to;
}

static int init_g(LLMHandle* handle, const model_settings* settings) {
  const RKLLMParam* from = &settings->param;
  param_g to = library.create_default_param();
  callback_g callback;
  int code;
  memset(&callback, 0, sizeof callback);
  callback.result = on_result_fg;
  to.model_path = from->model_path;
  COPY_SETTINGS(to, *from);
  to.n_keep = settings->n_keep;
  to.is_async = false;
  set_cpus(&to.extend, settings);
  code = library.init(handle, &to, &callback);
  return code != 0 ? code : begin_fg(*handle, settings);
}

static int run_g(LLMHandle handle, const run_request* request, queue* q) {
  const RKLLMInput* from = request->input;
  sampling_g sampling;
  input_g input;
  infer_g how;
  memset(&input, 0, sizeof input);
  memset(&how, 0, sizeof how);
  input.role = request->role;
  input.enable_thinking = request->thinking != 0;
  input.input_type = (int32_t)from->input_type;
  switch (from->input_type) {
    case RKLLM_INPUT_PROMPT: input.of.prompt = from->prompt_input; break;
    case RKLLM_INPUT_TOKEN: input.of.token = from->token_input; break;
    case RKLLM_INPUT_EMBED: input.of.embed = from->embed_input; break;
    case RKLLM_INPUT_MULTIMODAL: {
      image_g* image = &input.of.multimodal.image;
      input.of.multimodal.prompt = from->multimodal_input.prompt;
      image->embed = from->multimodal_input.image_embed;
      image->n_tokens = from->multimodal_input.n_image_tokens / request->n_images;
      image->n_image = request->n_images;
      image->start = request->settings->img_start;
      image->end = request->settings->img_end;
      image->content = request->settings->img_content;
      break;
    }
  }
  COPY_SAMPLING(sampling, *request->settings);
  how.mode = (int32_t)request->how->mode;
  how.lora_params = request->how->lora_params;
  how.prompt_cache_params = request->how->prompt_cache_params;
  how.sampling_params = &sampling;
  how.keep_history = request->keep_history;
  how.max_new_tokens = request->settings->max_new_tokens;
  return library.run(handle, &input, &how, q);
}

const generation generation_g = {
    GENERATION_LOGITS | GENERATION_N_KEEP | GENERATION_CPUS | GENERATION_RUN_SETTINGS | GENERATION_CONVERSATION,
    bind_g, defaults_g, init_g, run_g, set_tools_fg, clear_cache_fg, cache_size_fg};
