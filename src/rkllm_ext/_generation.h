/* SPDX-License-Identifier: Apache-2.0
 *
 * One interface over the generations of librkllmrt.so. The vendor's releases share names and SONAME but neither
 * structs nor callbacks, so each generation has a translation unit with its own definitions (_generation_c.c: 1.1.x,
 * and rkllm_ext's own library, which has that interface; _generation_f.c: 1.2.1 - 1.2.3; _generation_g.c: 1.3.0). Here
 * the types of rkllm.h stand for what is meant, whatever it looks like in the library. docs/vendor.md says what each
 * generation can do.
 *
 * Which generation a library is of is found out by vendor.py; nothing of it is called before that. */
#ifndef RKLLM_EXT_GENERATION_H
#define RKLLM_EXT_GENERATION_H

#include "_queue.h"
#include "rkllm.h"

/* Layouts were measured on 64-bit platforms; a build for another one ends here. */
#define VENDOR_SIZE(type, size) typedef char type##_has_##size##_bytes[sizeof(type) == (size) ? 1 : -1]
#define VENDOR_FIELD(type, name, field, offset) \
  typedef char type##_##name##_is_at_##offset[offsetof(type, field) == (offset) ? 1 : -1]

/* What a generation can do beside what all of them can. */
enum {
  GENERATION_LOGITS = 1,       /* runs in the mode RUN_LOGITS */
  GENERATION_N_KEEP = 2,
  GENERATION_CPUS = 4,         /* n_threads */
  GENERATION_RUN_SETTINGS = 8, /* sampling and max_new_tokens of one run */
  GENERATION_CONVERSATION = 16 /* puts a chat template around prompts, unless raw_prompts are asked for; has role,
                                  thinking and keep_history of a run, tools, and a KV cache that can be asked */
};

#define RUN_LOGITS ((RKLLMInferMode)2) /* beside the modes of rkllm.h */

/* What a model is loaded with. */
typedef struct {
  RKLLMParam param;
  int32_t n_keep;    /* -1: a full context ends the run */
  int32_t n_threads; /* 0: the library's choice; else as many bits are set in cpus */
  uint32_t cpus;
  int raw_prompts;   /* 1: prompts are taken as they are */
} model_settings;

/* One run. All of it stays as it is until the run's end. */
typedef struct {
  const RKLLMInput* input;
  const RKLLMInferParam* how;
  const RKLLMParam* settings; /* of this run: sampling, max_new_tokens and the tags of images */
  size_t n_images;            /* of a multimodal input */
  const char* role;           /* who says the input: "user", "tool" */
  int thinking;               /* 1: the model may think before it answers */
  int keep_history;           /* 1: the input goes on behind the run before, and the next one may go on behind this */
} run_request;

typedef void* (*generation_symbol)(const char* name);

typedef struct {
  unsigned abilities;
  /* Look up its functions. Returns NULL, or the name of the one that is missing. */
  const char* (*bind)(generation_symbol symbol);
  RKLLMParam (*defaults)(void);
  /* Load a model whose runs report to the queue that they are given. Returns 0 or what the library returned. */
  int (*init)(LLMHandle* handle, const model_settings* settings);
  /* Run to the end on the calling thread. Returns 0 or what the library returned. */
  int (*run)(LLMHandle handle, const run_request* request, queue* q);
  /* With GENERATION_CONVERSATION, else NULL. They return 0 or what the library returned. */
  int (*set_tools)(LLMHandle handle, const char* system, const char* tools);
  int (*clear_cache)(LLMHandle handle);
  int (*cache_size)(LLMHandle handle, int* tokens);
} generation;

extern const generation generation_c;
extern const generation generation_f;
extern const generation generation_g;

/* A function of the library, and the pointer of its type that is to point to it. */
typedef struct {
  const char* name;
  void* pointer;
} generation_function;

/* Look up functions: what `bind` does. */
const char* generation_look_up(generation_symbol symbol, const generation_function* functions, size_t count);

/* Start a run on a thread of its own, which ends it in the queue when the library's blocking call has returned: the
 * vendor's rkllm_run_async is reported to hang (1.2.1) and to call nothing back (1.1.x), rkllm_is_running has changed
 * its meaning, and this way the end means that the library is idle. Takes over a reference to the queue. Returns 0, or
 * an errno. */
int generation_start(const generation* library, LLMHandle handle, const run_request* request, queue* q);

#endif /* RKLLM_EXT_GENERATION_H */
