// SPDX-License-Identifier: Apache-2.0
// Both headers from C++: names, linkage and the layout assertions.
#include "rkllm.h"
#include "rkllm_ext.h"

extern "C" LLMHandle header_from_cpp(const char* path) {
  RKLLMParam param = rkllm_createDefaultParam();
  param.model_path = path;
  LLMHandle handle = nullptr;
  const LLMResultCallback callback = [](RKLLMResult*, void*, LLMCallState) {};
  return rkllm_init(&handle, &param, callback) == 0 ? handle : nullptr;
}
