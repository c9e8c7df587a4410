/* SPDX-License-Identifier: Apache-2.0
 *
 * Talk to a model: each line of stdin is a prompt, its answer is printed as it comes. The end of stdin, or the line
 * "exit", ends the program. Ctrl-C stops an answer; a second one, or one while nothing is answered, ends the program.
 *
 * Shows the whole life of a model with nothing but rkllm.h: parameters, init, callback, run, abort, destroy;
 * adapters, prompt caches and hidden states. It runs on this project's library and on the vendor's.
 */
#define _POSIX_C_SOURCE 200809L

#include "demo.h"

typedef struct {
  const char* model;
  const char* prefix; /* put before and after each line: the model's prompt format */
  const char* suffix;
  const char* lora;
  float lora_scale;
  const char* load_cache;
  const char* save_cache;
  const char* hidden; /* file for hidden states; then nothing is generated */
  const char* options[16];
  int n_options;
  int greedy;
  int async;
  int new_tokens;
  int context;
} Settings;

static int usage(const char* program) {
  fprintf(stderr,
          "usage: %s MODEL MAX_NEW_TOKENS MAX_CONTEXT_LEN [options]\n"
          "  --prefix TEXT        put before each line, for example '<|im_start|>user\\n'\n"
          "  --suffix TEXT        put after it\n"
          "  --greedy             always take the most probable token\n"
          "  --async              run in a thread of the library\n"
          "  --lora FILE          answer with this LoRA adapter\n"
          "  --lora-scale NUMBER  how strongly, 1\n"
          "  --save-cache FILE    save the state of the first prompt\n"
          "  --load-cache FILE    start from a saved state\n"
          "  --hidden FILE        write each prompt's hidden states, raw float32, instead of answering\n"
          "  --option NAME=VALUE  of rkllm_ext_set_option, where the library has it\n",
          program);
  return 2;
}

static int parse(int argc, char** argv, Settings* s) {
  int i;
  if (argc < 4) return -1;
  s->model = argv[1];
  s->new_tokens = demo_number("MAX_NEW_TOKENS", argv[2]);
  s->context = demo_number("MAX_CONTEXT_LEN", argv[3]);
  for (i = 4; i < argc; i++) {
    const char* name = argv[i];
    if (!strcmp(name, "--greedy")) s->greedy = 1;
    else if (!strcmp(name, "--async")) s->async = 1;
    else if (i + 1 == argc) return -1;
    else if (!strcmp(name, "--prefix")) s->prefix = argv[++i];
    else if (!strcmp(name, "--suffix")) s->suffix = argv[++i];
    else if (!strcmp(name, "--lora")) s->lora = argv[++i];
    else if (!strcmp(name, "--lora-scale")) s->lora_scale = strtof(argv[++i], NULL);
    else if (!strcmp(name, "--save-cache")) s->save_cache = argv[++i];
    else if (!strcmp(name, "--load-cache")) s->load_cache = argv[++i];
    else if (!strcmp(name, "--hidden")) s->hidden = argv[++i];
    else if (!strcmp(name, "--option") && s->n_options < 16) s->options[s->n_options++] = argv[++i];
    else return -1;
  }
  return 0;
}

/* Called from the thread that runs the model, once for each token and once at the end. What result points to is valid
 * only inside the call. */
static void on_result(RKLLMResult* result, void* userdata, LLMCallState state) {
  const Settings* settings = (const Settings*)userdata;
  switch (state) {
    case RKLLM_RUN_NORMAL: /* a token; its text is whole UTF-8 */
      fputs(result->text, stdout);
      fflush(stdout);
      break;
    case RKLLM_RUN_WAITING: /* a token that ends inside a character; the next NORMAL brings it whole */
      break;
    case RKLLM_RUN_GET_LAST_HIDDEN_LAYER: {
      const RKLLMResultLastHiddenLayer* layer = &result->last_hidden_layer;
      const size_t count = (size_t)layer->embd_size * (size_t)layer->num_tokens;
      FILE* file = fopen(settings->hidden, "ab");
      if (!file || fwrite(layer->hidden_states, sizeof(float), count, file) != count) perror(settings->hidden);
      else printf("%d x %d hidden states -> %s", layer->num_tokens, layer->embd_size, settings->hidden);
      if (file && fclose(file) != 0) perror(settings->hidden);
      break;
    }
    case RKLLM_RUN_FINISH:
      fputs(result->text, stdout); /* what was left of a broken character */
      fputs("\n", stdout);
      fflush(stdout);
      demo_run_ended(0);
      break;
    case RKLLM_RUN_ERROR:
      demo_run_ended(1);
      break;
  }
}

/* Load the model, and what belongs beside it. Return 0, or say what is wrong. */
static int begin(const Settings* s) {
  RKLLMParam param = rkllm_createDefaultParam();
  int i;
  param.model_path = s->model;
  param.max_new_tokens = s->new_tokens;
  param.max_context_len = s->context;
  param.skip_special_token = true;
  if (s->greedy) param.top_k = 1;
  if (rkllm_init(&demo_handle, &param, on_result) != 0) {
    fprintf(stderr, "the model cannot be loaded: %s\n", demo_reason(NULL));
    return -1;
  }
  for (i = 0; i < s->n_options; i++)
    if (demo_set_option(demo_handle, s->options[i]) != 0) return -1;
  if (s->lora) {
    RKLLMLoraAdapter adapter;
    adapter.lora_adapter_path = s->lora;
    adapter.lora_adapter_name = "demo";
    adapter.scale = s->lora_scale;
    if (rkllm_load_lora(demo_handle, &adapter) != 0) {
      fprintf(stderr, "the adapter cannot be loaded: %s\n", demo_reason(demo_handle));
      return -1;
    }
  }
  if (s->load_cache && rkllm_load_prompt_cache(demo_handle, s->load_cache) != 0) {
    fprintf(stderr, "the prompt cache cannot be loaded: %s\n", demo_reason(demo_handle));
    return -1;
  }
  return 0;
}

/* Answer a line. A failed run is told and does not end the program. */
static void answer(Settings* s, const char* line) {
  RKLLMInput input;
  RKLLMInferParam params;
  RKLLMLoraParam lora;
  RKLLMPromptCacheParam cache;
  char* prompt = demo_prompt(s->prefix, line, s->suffix);
  if (!prompt) return;
  memset(&input, 0, sizeof input);
  input.input_type = RKLLM_INPUT_PROMPT;
  input.prompt_input = prompt;
  memset(&params, 0, sizeof params);
  params.mode = s->hidden ? RKLLM_INFER_GET_LAST_HIDDEN_LAYER : RKLLM_INFER_GENERATE;
  if (s->lora) {
    lora.lora_adapter_name = "demo";
    params.lora_params = &lora;
  }
  if (s->save_cache) {
    cache.save_prompt_cache = 1;
    cache.prompt_cache_path = s->save_cache;
    params.prompt_cache_params = &cache;
  }
  if (demo_run(&input, &params, s, s->async) == 0) s->save_cache = NULL; /* once is enough */
  free(prompt);
}

int main(int argc, char** argv) {
  Settings settings;
  char* line = NULL;
  size_t capacity = 0;
  memset(&settings, 0, sizeof settings);
  settings.prefix = settings.suffix = "";
  settings.lora_scale = 1.0f;
  if (parse(argc, argv, &settings) != 0) return usage(argv[0]);
  if (settings.async && pipe(demo_pipe) != 0) {
    perror("pipe");
    return 1;
  }
  if (begin(&settings) != 0) {
    demo_destroy();
    return 1;
  }
  demo_handle_interrupts();
  while (!demo_leave && demo_read_line("> ", &line, &capacity)) {
    if (!strcmp(line, "exit")) break;
    if (*line) answer(&settings, line);
  }
  free(line);
  demo_destroy();
  return 0;
}
