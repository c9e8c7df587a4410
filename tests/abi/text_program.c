/* SPDX-License-Identifier: Apache-2.0
 *
 * A plain C99 program on the library: text_program MODEL PROMPT [TOKENS]. Prints the answer, and to stderr what failed.
 * It uses what the vendor's interface has, and rkllm_ext.h for the sentence of an error and the figures of the run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rkllm_ext.h"

typedef struct {
  int tokens;
  int finished;
  int failed;
} Progress;

static void on_result(RKLLMResult* result, void* userdata, LLMCallState state) {
  Progress* progress = (Progress*)userdata;
  switch (state) {
    case RKLLM_RUN_NORMAL:
    case RKLLM_RUN_WAITING:
      fputs(result->text, stdout);
      ++progress->tokens;
      break;
    case RKLLM_RUN_FINISH:
      ++progress->finished;
      break;
    case RKLLM_RUN_ERROR:
      ++progress->failed;
      break;
    default:
      break;
  }
}

int main(int argc, char** argv) {
  RKLLMParam param = rkllm_createDefaultParam();
  RKLLMInput input;
  RKLLMInferParam infer;
  RKLLMExtPerf perf;
  Progress progress = {0, 0, 0};
  LLMHandle handle = NULL;
  int code;

  if (argc < 3) {
    fprintf(stderr, "usage: %s MODEL PROMPT [TOKENS]\n", argv[0]);
    return 2;
  }
  param.model_path = argv[1];
  param.max_context_len = 256;
  param.max_new_tokens = argc > 3 ? atoi(argv[3]) : 16;
  param.top_k = 1;
  param.skip_special_token = true;
  if (rkllm_init(&handle, &param, on_result) != 0) {
    fprintf(stderr, "%s\n", rkllm_ext_last_error(NULL));
    return 1;
  }
  rkllm_ext_set_option(handle, "ignore_eos", "1");

  memset(&input, 0, sizeof input);
  memset(&infer, 0, sizeof infer);
  input.input_type = RKLLM_INPUT_PROMPT;
  input.prompt_input = argv[2];
  infer.mode = RKLLM_INFER_GENERATE;
  code = rkllm_run(handle, &input, &infer, &progress);
  if (code != 0 || progress.failed) {
    fprintf(stderr, "%s\n", rkllm_ext_last_error(handle));
    rkllm_destroy(handle);
    return 1;
  }
  rkllm_ext_perf(handle, &perf);
  printf("\n");
  fprintf(stderr, "tokens %d, finished %d, prompt %d, finish %d\n", progress.tokens, progress.finished,
          (int)perf.prefill_tokens, (int)perf.finish);
  if (rkllm_destroy(handle) != 0 || rkllm_destroy(handle) == 0) {
    fprintf(stderr, "a model must be closed by the first rkllm_destroy and refused by the second\n");
    return 1;
  }
  return 0;
}
