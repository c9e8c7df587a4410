// SPDX-License-Identifier: Apache-2.0
// What the vendor's conversation program of 1.1.0 does with the library, call by call: the raw line is the prompt, an
// input whose other bytes were never set, no userdata, and Ctrl-C that destroys the model inside the signal handler,
// run or no run, and leaves from there: vendor_flow MODEL MAX_NEW_TOKENS MAX_CONTEXT_LEN.
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>

#include "rkllm.h"

static LLMHandle handle = nullptr;

static void leave(int number) {
  if (handle != nullptr) {
    LLMHandle last = handle;
    handle = nullptr;
    rkllm_destroy(last);
  }
  exit(number);
}

static void callback(RKLLMResult* result, void* userdata, LLMCallState state) {
  (void)userdata;
  if (state == RKLLM_RUN_FINISH) std::cout << "\n";
  else if (state == RKLLM_RUN_ERROR) std::cout << "\\run error\n";
  else if (state == RKLLM_RUN_NORMAL) std::cout << result->text;
  std::cout.flush();
}

int main(int argc, char** argv) {
  if (argc != 4) return 1;
  signal(SIGINT, leave);
  RKLLMParam param = rkllm_createDefaultParam();
  param.model_path = argv[1];
  param.top_k = 1;
  param.max_new_tokens = atoi(argv[2]);
  param.max_context_len = atoi(argv[3]);
  param.skip_special_token = true;
  param.extend_param.base_domain_id = 0;
  if (rkllm_init(&handle, &param, callback) != 0) {
    std::cout << "rkllm init failed\n";
    leave(-1);
  }
  RKLLMInput input;
  memset(&input, 0xa5, sizeof input);  // what lay on the stack
  RKLLMInferParam infer;
  memset(&infer, 0, sizeof infer);
  std::string line;
  while (std::getline(std::cin, line) && line != "exit") {
    input.input_type = RKLLM_INPUT_PROMPT;
    input.prompt_input = line.c_str();
    infer.mode = RKLLM_INFER_GENERATE;
    rkllm_run(handle, &input, &infer, nullptr);
  }
  rkllm_destroy(handle);
  return 0;
}
