/* SPDX-License-Identifier: Apache-2.0
 *
 * Print the instruction set and a checksum of the logits of fixed tokens for each model named on the command line. */
#include <stdio.h>
#include <stdlib.h>

#include "rkllm_ext.h"

enum { TOKENS = 40 };

static void ignore(RKLLMResult* result, void* userdata, LLMCallState state) {
  (void)result, (void)userdata, (void)state;
}

static int print_logits(const char* path) {
  RKLLMParam param = rkllm_createDefaultParam();
  RKLLMExtInfo info;
  RKLLMInput input = {0};
  LLMHandle handle;
  int32_t ids[TOKENS];
  size_t n = 0, capacity;
  float* logits;
  int i, failed;
  param.model_path = path;
  param.max_context_len = 64;
  if (rkllm_init(&handle, &param, ignore) != 0 || rkllm_ext_info(handle, &info) != 0) {
    fprintf(stderr, "%s\n", rkllm_ext_last_error(NULL));
    return 1;
  }
  for (i = 0; i < TOKENS; i++) ids[i] = (i * 7919 + 13) % info.vocab_size;
  input.input_type = RKLLM_INPUT_TOKEN;
  input.token_input.input_ids = ids;
  input.token_input.n_tokens = TOKENS;
  capacity = (size_t)TOKENS * (size_t)info.vocab_size;
  logits = malloc(capacity * sizeof *logits);
  failed = !logits || rkllm_ext_logits(handle, &input, logits, capacity, &n) != 0;
  if (failed) {
    fprintf(stderr, "%s\n", rkllm_ext_last_error(handle));
  } else {
    const unsigned long long sum = rkllm_ext_checksum(logits, capacity * sizeof *logits);
    printf("%s %s %016llx\n", info.isa, info.format, sum);
  }
  free(logits);
  rkllm_destroy(handle);
  return failed;
}

int main(int argc, char** argv) {
  int i, failed = 0;
  for (i = 1; i < argc; i++) failed |= print_logits(argv[i]);
  return failed;
}
