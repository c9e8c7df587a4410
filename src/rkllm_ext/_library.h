/* SPDX-License-Identifier: Apache-2.0
 *
 * The functions of rkllm_ext.h, looked up when the module is imported, so that the module also loads on the vendor's
 * library, which lacks them: there every entry is NULL. The vendor's own functions are linked directly. */
#ifndef RKLLM_EXT_LIBRARY_H
#define RKLLM_EXT_LIBRARY_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 /* dladdr and RTLD_NOLOAD */
#endif
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

#include "rkllm_ext.h"

#define RKLLM_EXT_FUNCTIONS(X)                                                                                        \
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
  X(rkllm_ext_session_restore) X(rkllm_ext_limits) X(rkllm_ext_session_prefill_part)

/* One pointer of the declared type for each function. */
#define RKLLM_EXT_POINTER(name) __typeof__(&name) name;
static struct {
  RKLLM_EXT_FUNCTIONS(RKLLM_EXT_POINTER)
} library;
#undef RKLLM_EXT_POINTER

/* Path of the library that the vendor's functions were linked to; "" when the loader does not say. */
static const char* library_file(void) {
  Dl_info info;
  if (dladdr((const void*)(uintptr_t)&rkllm_init, &info) == 0 || info.dli_fname == NULL) return "";
  return info.dli_fname;
}

static void* library_symbol(const char* name) {
  /* Only the library itself is asked: RTLD_DEFAULT could find another one that the program has loaded. */
  void* handle = dlopen(library_file(), RTLD_LAZY | RTLD_NOLOAD);
  void* symbol = dlsym(handle != NULL ? handle : RTLD_DEFAULT, name);
  if (handle != NULL) dlclose(handle); /* the module keeps its own reference */
  return symbol;
}

/* Fill the table. memcpy, because ISO C has no cast from void* to a function pointer. */
static void library_resolve(void) {
  void* symbol;
#define RKLLM_EXT_RESOLVE(name)   \
  symbol = library_symbol(#name); \
  memcpy(&library.name, &symbol, sizeof symbol);
  RKLLM_EXT_FUNCTIONS(RKLLM_EXT_RESOLVE)
#undef RKLLM_EXT_RESOLVE
}

/* SDK 1.2.0 and later changed the structs but not the SONAME. They are told by a function that 1.1 does not have. */
static int library_is_newer(void) {
  return library.rkllm_ext_version == NULL && library_symbol("rkllm_set_chat_template") != NULL;
}

#endif /* RKLLM_EXT_LIBRARY_H */
