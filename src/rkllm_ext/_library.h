/* SPDX-License-Identifier: Apache-2.0
 *
 * The functions of the library, looked up when the module is imported: those of rkllm_ext.h, which are NULL on the
 * vendor's library, and those of rkllm.h that are the same in all generations that are driven. The others are looked up
 * by the generation's translation unit. Linked is rkllm_init alone, which every release has: it leads to the library's
 * file. */
#ifndef RKLLM_EXT_LIBRARY_H
#define RKLLM_EXT_LIBRARY_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 /* dladdr and RTLD_NOLOAD */
#endif
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

#include "rkllm_ext.h"

#define LIBRARY_FUNCTIONS(X)                                                                                          \
  X(rkllm_ext_version) X(rkllm_ext_last_error) X(rkllm_ext_last_error_code) X(rkllm_ext_error) X(rkllm_ext_format)    \
  X(rkllm_ext_spec_field) X(rkllm_ext_isa) X(rkllm_ext_active_isa) X(rkllm_ext_set_log) X(rkllm_ext_set_option)       \
  X(rkllm_ext_info) X(rkllm_ext_metadata) X(rkllm_ext_perf) X(rkllm_ext_logits) X(rkllm_ext_tokenizer_open)           \
  X(rkllm_ext_tokenizer_close) X(rkllm_ext_tokenizer) X(rkllm_ext_tokenize) X(rkllm_ext_detokenize)                   \
  X(rkllm_ext_vocab_size) X(rkllm_ext_token_id) X(rkllm_ext_packed_size) X(rkllm_ext_pack) X(rkllm_ext_unpack)        \
  X(rkllm_ext_checksum) X(rkllm_ext_matmul) X(rkllm_ext_gguf_open) X(rkllm_ext_gguf_close) X(rkllm_ext_gguf_value)    \
  X(rkllm_ext_gguf_tensor) X(rkllm_ext_hidden_states) X(rkllm_ext_set_mask) X(rkllm_ext_set_tap)                      \
  X(rkllm_ext_session_open) X(rkllm_ext_session_close) X(rkllm_ext_session_prefill) X(rkllm_ext_session_step)         \
  X(rkllm_ext_session_logits) X(rkllm_ext_session_sample) X(rkllm_ext_session_set_option)                             \
  X(rkllm_ext_session_truncate) X(rkllm_ext_session_fork) X(rkllm_ext_session_tokens) X(rkllm_ext_session_abort)      \
  X(rkllm_ext_token_logprobs) X(rkllm_ext_default_sampling) X(rkllm_ext_sampler_open) X(rkllm_ext_sampler_copy)       \
  X(rkllm_ext_sampler_close) X(rkllm_ext_sample) X(rkllm_ext_top_logprobs) X(rkllm_ext_quantize)                      \
  X(rkllm_ext_release_lora) X(rkllm_ext_session_hold_logits) X(rkllm_ext_logits_release) X(rkllm_ext_token_bytes)     \
  X(rkllm_ext_load_prompt_cache) X(rkllm_ext_release_prompt_cache) X(rkllm_ext_session_save)                          \
  X(rkllm_ext_session_restore) X(rkllm_ext_limits) X(rkllm_ext_session_prefill_part) X(rkllm_ext_session_decode)      \
  X(rkllm_run_async) X(rkllm_is_running) X(rkllm_abort) X(rkllm_destroy) X(rkllm_load_lora)                           \
  X(rkllm_load_prompt_cache) X(rkllm_release_prompt_cache)

/* One pointer of the declared type for each function. */
#define LIBRARY_POINTER(name) __typeof__(&name) name;
static struct {
  LIBRARY_FUNCTIONS(LIBRARY_POINTER)
} library;
#undef LIBRARY_POINTER

/* Path of the library that was linked; "" when the loader does not say. */
static const char* library_file(void) {
  Dl_info info;
  if (dladdr((const void*)(uintptr_t)&rkllm_init, &info) == 0 || info.dli_fname == NULL) return "";
  return info.dli_fname;
}

static void* library_symbol(const char* name) {
  /* Only the library itself is asked: RTLD_DEFAULT could find another one that the program has loaded. It is found when
   * the module is imported: its path may be relative to the folder that the program was started in. */
  static void* handle = NULL;
  if (handle == NULL) handle = dlopen(library_file(), RTLD_LAZY | RTLD_NOLOAD);
  return dlsym(handle != NULL ? handle : RTLD_DEFAULT, name);
}

/* Fill the table. memcpy, because ISO C has no cast from void* to a function pointer. */
static void library_resolve(void) {
  void* symbol;
#define LIBRARY_RESOLVE(name)   \
  symbol = library_symbol(#name); \
  memcpy(&library.name, &symbol, sizeof symbol);
  LIBRARY_FUNCTIONS(LIBRARY_RESOLVE)
#undef LIBRARY_RESOLVE
}

#endif /* RKLLM_EXT_LIBRARY_H */
