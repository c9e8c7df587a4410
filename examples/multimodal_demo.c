/* SPDX-License-Identifier: Apache-2.0
 *
 * Ask a model about an image: an image encoder has written the image's vectors, one row of float32 for each image
 * token, into a file. Each line of stdin is a prompt; <image> in it is where the vectors go. Lines without it are
 * prompts of text alone.
 *
 * Needs nothing but rkllm.h, and runs on this project's library and on the vendor's.
 */
#define _POSIX_C_SOURCE 200809L

#include <sys/stat.h>

#include "demo.h"

static const char kPlaceholder[] = "<image>";

typedef struct {
  const char* model;
  const char* vectors_path;
  int new_tokens;
  int context;
  const char* start; /* texts around the vectors, and for each of them: what the model was trained with */
  const char* end;
  const char* content;
  const char* prefix;
  const char* suffix;
  const char* options[16];
  int n_options;
  int dim;        /* floats of a vector; 0: ask the model */
  float* vectors; /* [n_vectors, dim] */
  size_t n_vectors;
} Settings;

static int usage(const char* program) {
  fprintf(stderr,
          "usage: %s MODEL VECTORS MAX_NEW_TOKENS MAX_CONTEXT_LEN [options]\n"
          "  VECTORS              a file of raw float32, one row for each image token\n"
          "  --img-start TEXT     put before the vectors, for example '<image>'\n"
          "  --img-end TEXT       put after them\n"
          "  --img-content TEXT   the token that each vector replaces, for example '<unk>'\n"
          "  --prefix TEXT        put before each line\n"
          "  --suffix TEXT        put after it\n"
          "  --dim NUMBER         floats of a vector, where the library cannot tell\n"
          "  --option NAME=VALUE  of rkllm_ext_set_option, where the library has it; for two images\n"
          "                       image_tokens=64,32\n",
          program);
  return 2;
}

static int parse(int argc, char** argv, Settings* s) {
  int i;
  if (argc < 5) return -1;
  s->model = argv[1];
  s->vectors_path = argv[2];
  s->new_tokens = demo_number("MAX_NEW_TOKENS", argv[3]);
  s->context = demo_number("MAX_CONTEXT_LEN", argv[4]);
  for (i = 5; i + 1 < argc; i += 2) {
    if (!strcmp(argv[i], "--img-start")) s->start = argv[i + 1];
    else if (!strcmp(argv[i], "--img-end")) s->end = argv[i + 1];
    else if (!strcmp(argv[i], "--img-content")) s->content = argv[i + 1];
    else if (!strcmp(argv[i], "--prefix")) s->prefix = argv[i + 1];
    else if (!strcmp(argv[i], "--suffix")) s->suffix = argv[i + 1];
    else if (!strcmp(argv[i], "--dim")) s->dim = demo_number("--dim", argv[i + 1]);
    else if (!strcmp(argv[i], "--option") && s->n_options < 16) s->options[s->n_options++] = argv[i + 1];
    else return -1;
  }
  return i == argc ? 0 : -1;
}

static void on_result(RKLLMResult* result, void* userdata, LLMCallState state) {
  Settings* settings = (Settings*)userdata;
  switch (state) {
    case RKLLM_RUN_NORMAL:
      fputs(result->text, stdout);
      fflush(stdout);
      break;
    case RKLLM_RUN_GET_LAST_HIDDEN_LAYER: /* only asked for by ask_dim */
      settings->dim = result->last_hidden_layer.embd_size;
      break;
    case RKLLM_RUN_FINISH:
      fputs(result->text, stdout);
      demo_run_ended(0);
      break;
    case RKLLM_RUN_ERROR:
      demo_run_ended(1);
      break;
    default:
      break;
  }
}

/* The interface does not tell how wide a model is, but hidden states are as wide as embeddings. The library reads
 * n_image_tokens rows of that width, so a file of another one must not get there. */
static int ask_dim(Settings* s) {
  RKLLMInput input;
  RKLLMInferParam params;
  memset(&input, 0, sizeof input);
  input.input_type = RKLLM_INPUT_PROMPT;
  input.prompt_input = "a";
  memset(&params, 0, sizeof params);
  params.mode = RKLLM_INFER_GET_LAST_HIDDEN_LAYER;
  if (demo_run(&input, &params, s, 0) == 0 && s->dim > 0) return 0;
  fprintf(stderr, "the library does not tell the width of the model's vectors; give it with --dim\n");
  return -1;
}

/* Read the file of vectors. Return 0, or say what is wrong with it. */
static int read_vectors(Settings* s) {
  struct stat info;
  FILE* file = fopen(s->vectors_path, "rb");
  const size_t row = (size_t)s->dim * sizeof(float);
  size_t size = 0;
  if (!file || fstat(fileno(file), &info) != 0) {
    perror(s->vectors_path);
    if (file) fclose(file);
    return -1;
  }
  size = (size_t)info.st_size;
  if (size == 0 || size % row != 0) {
    fprintf(stderr, "%s has %zu bytes, no whole number of vectors of %d float32 (%zu bytes each)\n", s->vectors_path,
            size, s->dim, row);
  } else {
    s->n_vectors = size / row;
    s->vectors = (float*)malloc(size);
    if (!s->vectors || fread(s->vectors, row, s->n_vectors, file) != s->n_vectors) {
      fprintf(stderr, "%s: %zu bytes cannot be read\n", s->vectors_path, size);
      free(s->vectors);
      s->vectors = NULL;
    }
  }
  fclose(file);
  return s->vectors ? 0 : -1;
}

static int begin(Settings* s) {
  RKLLMParam param = rkllm_createDefaultParam();
  int i;
  param.model_path = s->model;
  param.max_new_tokens = s->new_tokens;
  param.max_context_len = s->context;
  param.top_k = 1;
  param.skip_special_token = true;
  param.img_start = s->start;
  param.img_end = s->end;
  param.img_content = s->content;
  if (rkllm_init(&demo_handle, &param, on_result) != 0) {
    fprintf(stderr, "the model cannot be loaded: %s\n", demo_reason(NULL));
    return -1;
  }
  for (i = 0; i < s->n_options; i++)
    if (demo_set_option(demo_handle, s->options[i]) != 0) return -1;
  if (s->dim <= 0 && ask_dim(s) != 0) return -1;
  return read_vectors(s);
}

static void answer(Settings* s, const char* line) {
  RKLLMInput input;
  RKLLMInferParam params;
  char* prompt = demo_prompt(s->prefix, line, s->suffix);
  if (!prompt) return;
  memset(&input, 0, sizeof input);
  memset(&params, 0, sizeof params);
  params.mode = RKLLM_INFER_GENERATE;
  if (strstr(line, kPlaceholder)) {
    input.input_type = RKLLM_INPUT_MULTIMODAL;
    input.multimodal_input.prompt = prompt;
    input.multimodal_input.image_embed = s->vectors;
    input.multimodal_input.n_image_tokens = s->n_vectors;
  } else {
    input.input_type = RKLLM_INPUT_PROMPT;
    input.prompt_input = prompt;
  }
  if (demo_run(&input, &params, s, 0) == 0) {
    fputs("\n", stdout);
    fflush(stdout);
  }
  free(prompt);
}

int main(int argc, char** argv) {
  Settings settings;
  char* line = NULL;
  size_t capacity = 0;
  int code;
  memset(&settings, 0, sizeof settings);
  settings.start = settings.end = settings.content = settings.prefix = settings.suffix = "";
  if (parse(argc, argv, &settings) != 0) return usage(argv[0]);
  demo_handle_interrupts();
  code = begin(&settings);
  if (code == 0) fprintf(stderr, "%zu image tokens of %d floats\n", settings.n_vectors, settings.dim);
  while (code == 0 && !demo_leave && demo_read_line("> ", &line, &capacity)) {
    if (!strcmp(line, "exit")) break;
    if (*line) answer(&settings, line);
  }
  free(line);
  demo_destroy();
  free(settings.vectors);
  return code == 0 ? 0 : 1;
}
