/* SPDX-License-Identifier: Apache-2.0
 *
 * rkllm.h - the RKLLM runtime interface, SDK 1.1.0 (releases 1.1.0 - 1.1.4), 64-bit platforms.
 *
 * Names, order and sizes are those of the vendor's library, so that programs compiled against either header run on
 * either library. The wording is ours. Plain C99 and C++11; needs no other header. What the vendor's interface lacks
 * (error texts, options, logits, tokens) is in rkllm_ext.h.
 */
#ifndef RKLLM_H
#define RKLLM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define RKLLM_API __attribute__((visibility("default")))
#else
#define RKLLM_API
#endif

/* Anonymous unions are C11; compilers have them in C99 as an extension that -Wpedantic need not mention. */
#if defined(__GNUC__)
#define RKLLM_ANONYMOUS_UNION __extension__ union
#else
#define RKLLM_ANONYMOUS_UNION union
#endif

/* A loaded model with one conversation state. Opaque; made by rkllm_init, ended by rkllm_destroy. */
typedef void* LLMHandle;

/* What a callback reports. */
typedef enum {
    RKLLM_RUN_NORMAL = 0,                /* one token; text is whole UTF-8 */
    RKLLM_RUN_WAITING = 1,               /* one token whose bytes do not complete a character yet; text is "" */
    RKLLM_RUN_FINISH = 2,                /* the run ended: end token, length, context or abort */
    RKLLM_RUN_ERROR = 3,                 /* the run failed; see rkllm_ext_last_error */
    RKLLM_RUN_GET_LAST_HIDDEN_LAYER = 4  /* last_hidden_layer is set, valid only inside the callback */
} LLMCallState;

/* Which member of RKLLMInput's union is set. */
typedef enum {
    RKLLM_INPUT_PROMPT = 0,     /* UTF-8 text; special tokens written in it are parsed as such */
    RKLLM_INPUT_TOKEN = 1,      /* token ids */
    RKLLM_INPUT_EMBED = 2,      /* rows of input embeddings */
    RKLLM_INPUT_MULTIMODAL = 3  /* text with image embeddings */
} RKLLMInputType;

/* What a run is to produce. */
typedef enum {
    RKLLM_INFER_GENERATE = 0,             /* text */
    RKLLM_INFER_GET_LAST_HIDDEN_LAYER = 1 /* the final hidden states of the input */
} RKLLMInferMode;

/* Rarely used settings inside RKLLMParam. */
typedef struct {
    int32_t base_domain_id; /* memory domain of the NPU; ignored on a CPU */
    uint8_t reserved[112];
} RKLLMExtendParam;

/* Everything rkllm_init needs; start from rkllm_createDefaultParam(). */
typedef struct {
    const char* model_path;     /* path of a .rkllm file */
    int32_t max_context_len;    /* tokens of prompt and answer together; 0: as the model allows, 4096 at most */
    int32_t max_new_tokens;     /* tokens of one answer; -1: until an end token or a full context */
    int32_t top_k;              /* keep the k most probable tokens; 1: greedy; 0 or less: all */
    float top_p;                /* keep the smallest set of tokens with this probability mass */
    float temperature;          /* 0: greedy */
    float repeat_penalty;       /* 1: off */
    float frequency_penalty;    /* 0: off */
    float presence_penalty;     /* 0: off */
    int32_t mirostat;           /* 0: off, 1 or 2: version */
    float mirostat_tau;         /* target surprise, bits */
    float mirostat_eta;         /* learning rate */
    bool skip_special_token;    /* leave special tokens out of the text */
    bool is_async;              /* rkllm_run returns at once, as rkllm_run_async does */
    const char* img_start;      /* text put before image embeddings; "" for none */
    const char* img_end;        /* text put after them */
    const char* img_content;    /* token text that each image embedding replaces */
    RKLLMExtendParam extend_param;
} RKLLMParam;

/* A LoRA adapter to load. */
typedef struct {
    const char* lora_adapter_path;
    const char* lora_adapter_name; /* the name RKLLMLoraParam chooses it by */
    float scale;
} RKLLMLoraAdapter;

/* Input embeddings, [n_tokens, dim] float32, row-major. */
typedef struct {
    float* embed;
    size_t n_tokens;
} RKLLMEmbedInput;

/* Input token ids. */
typedef struct {
    int32_t* input_ids;
    size_t n_tokens;
} RKLLMTokenInput;

/* Text with an <image> placeholder and the embeddings that go there, [n_image_tokens, dim] float32. */
typedef struct {
    char* prompt;
    float* image_embed;
    size_t n_image_tokens;
} RKLLMMultiModelInput;

/* One input of any kind. Token and embedding arrays are used where they lie: they must stay unchanged until rkllm_run
 * returns, or, for an asynchronous run, until its FINISH or ERROR callback. */
typedef struct {
    RKLLMInputType input_type;
    RKLLM_ANONYMOUS_UNION {
        const char* prompt_input;
        RKLLMEmbedInput embed_input;
        RKLLMTokenInput token_input;
        RKLLMMultiModelInput multimodal_input;
    };
} RKLLMInput;

/* Chooses a loaded LoRA adapter for one run. */
typedef struct {
    const char* lora_adapter_name;
} RKLLMLoraParam;

/* Asks a run to save the state of its prompt. */
typedef struct {
    int save_prompt_cache;         /* 0: no */
    const char* prompt_cache_path; /* NULL: "./prompt_cache.bin" */
} RKLLMPromptCacheParam;

/* Settings of one run. */
typedef struct {
    RKLLMInferMode mode;
    RKLLMLoraParam* lora_params;                /* NULL: no adapter */
    RKLLMPromptCacheParam* prompt_cache_params; /* NULL: nothing is saved */
} RKLLMInferParam;

/* Final hidden states, [num_tokens, embd_size] float32; valid only inside the callback. */
typedef struct {
    const float* hidden_states;
    int embd_size;
    int num_tokens;
} RKLLMResultLastHiddenLayer;

/* What a callback is handed; never NULL, and text is never NULL. */
typedef struct {
    const char* text;
    int32_t token_id;
    RKLLMResultLastHiddenLayer last_hidden_layer;
} RKLLMResult;

/* Called from the thread that runs the model: zero or more NORMAL or WAITING, then exactly one FINISH or ERROR. */
typedef void (*LLMResultCallback)(RKLLMResult* result, void* userdata, LLMCallState state);

/* Return the documented defaults. model_path is NULL. */
RKLLM_API RKLLMParam rkllm_createDefaultParam(void);

/* Load a model. Returns 0 and sets *handle, or non-zero with a sentence in rkllm_ext_last_error(NULL). */
RKLLM_API int rkllm_init(LLMHandle* handle, RKLLMParam* param, LLMResultCallback callback);

/* Load a LoRA adapter beside the model. Returns 0 or non-zero. */
RKLLM_API int rkllm_load_lora(LLMHandle handle, RKLLMLoraAdapter* lora_adapter);

/* Load a saved prompt state; later runs reuse its longest common prefix. Returns 0 or non-zero. */
RKLLM_API int rkllm_load_prompt_cache(LLMHandle handle, const char* prompt_cache_path);

/* Forget the loaded prompt state. Returns 0 or non-zero. */
RKLLM_API int rkllm_release_prompt_cache(LLMHandle handle);

/* End the model. A run that is active is aborted first. A second call returns non-zero and does nothing. */
RKLLM_API int rkllm_destroy(LLMHandle handle);

/* Run one input and block until its FINISH or ERROR callback has returned. Returns 0 or non-zero. */
RKLLM_API int rkllm_run(LLMHandle handle, RKLLMInput* rkllm_input, RKLLMInferParam* rkllm_infer_params, void* userdata);

/* Start one input and return at once; the callback comes from a thread of the library. Returns 0 or non-zero. */
RKLLM_API int rkllm_run_async(LLMHandle handle, RKLLMInput* rkllm_input, RKLLMInferParam* rkllm_infer_params,
                              void* userdata);

/* End the active run before its next token. From any thread. Returns 0 or non-zero. */
RKLLM_API int rkllm_abort(LLMHandle handle);

/* Return 0 while a run is active and non-zero otherwise, as the 1.1.0 interface has it. */
RKLLM_API int rkllm_is_running(LLMHandle handle);

/* The layout, checked where the header is compiled (LP64: x86-64 and aarch64). */
#if defined(__cplusplus)
#define RKLLM_STATIC_ASSERT(name, condition) static_assert(condition, #name)
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define RKLLM_STATIC_ASSERT(name, condition) _Static_assert(condition, #name)
#else
#define RKLLM_STATIC_ASSERT(name, condition) typedef char rkllm_assert_##name[(condition) ? 1 : -1]
#endif

#if defined(__LP64__)
RKLLM_STATIC_ASSERT(enum_size, sizeof(LLMCallState) == 4 && sizeof(RKLLMInputType) == 4 && sizeof(RKLLMInferMode) == 4);
RKLLM_STATIC_ASSERT(extend_size, sizeof(RKLLMExtendParam) == 116 && offsetof(RKLLMExtendParam, reserved) == 4);
RKLLM_STATIC_ASSERT(param_size, sizeof(RKLLMParam) == 200);
RKLLM_STATIC_ASSERT(param_context, offsetof(RKLLMParam, max_context_len) == 8);
RKLLM_STATIC_ASSERT(param_new_tokens, offsetof(RKLLMParam, max_new_tokens) == 12);
RKLLM_STATIC_ASSERT(param_top_k, offsetof(RKLLMParam, top_k) == 16);
RKLLM_STATIC_ASSERT(param_top_p, offsetof(RKLLMParam, top_p) == 20);
RKLLM_STATIC_ASSERT(param_temperature, offsetof(RKLLMParam, temperature) == 24);
RKLLM_STATIC_ASSERT(param_repeat, offsetof(RKLLMParam, repeat_penalty) == 28);
RKLLM_STATIC_ASSERT(param_frequency, offsetof(RKLLMParam, frequency_penalty) == 32);
RKLLM_STATIC_ASSERT(param_presence, offsetof(RKLLMParam, presence_penalty) == 36);
RKLLM_STATIC_ASSERT(param_mirostat, offsetof(RKLLMParam, mirostat) == 40);
RKLLM_STATIC_ASSERT(param_tau, offsetof(RKLLMParam, mirostat_tau) == 44);
RKLLM_STATIC_ASSERT(param_eta, offsetof(RKLLMParam, mirostat_eta) == 48);
RKLLM_STATIC_ASSERT(param_skip, offsetof(RKLLMParam, skip_special_token) == 52);
RKLLM_STATIC_ASSERT(param_async, offsetof(RKLLMParam, is_async) == 53);
RKLLM_STATIC_ASSERT(param_img_start, offsetof(RKLLMParam, img_start) == 56);
RKLLM_STATIC_ASSERT(param_img_end, offsetof(RKLLMParam, img_end) == 64);
RKLLM_STATIC_ASSERT(param_img_content, offsetof(RKLLMParam, img_content) == 72);
RKLLM_STATIC_ASSERT(param_extend, offsetof(RKLLMParam, extend_param) == 80);
RKLLM_STATIC_ASSERT(lora_size, sizeof(RKLLMLoraAdapter) == 24 && offsetof(RKLLMLoraAdapter, scale) == 16);
RKLLM_STATIC_ASSERT(multimodal_size, sizeof(RKLLMMultiModelInput) == 24);
RKLLM_STATIC_ASSERT(input_size, sizeof(RKLLMInput) == 32 && offsetof(RKLLMInput, prompt_input) == 8);
RKLLM_STATIC_ASSERT(lora_param_size, sizeof(RKLLMLoraParam) == 8);
RKLLM_STATIC_ASSERT(cache_param_size, sizeof(RKLLMPromptCacheParam) == 16);
RKLLM_STATIC_ASSERT(infer_param_size, sizeof(RKLLMInferParam) == 24 && offsetof(RKLLMInferParam, lora_params) == 8);
RKLLM_STATIC_ASSERT(hidden_size, sizeof(RKLLMResultLastHiddenLayer) == 16);
RKLLM_STATIC_ASSERT(result_size, sizeof(RKLLMResult) == 32 && offsetof(RKLLMResult, token_id) == 8);
RKLLM_STATIC_ASSERT(result_hidden, offsetof(RKLLMResult, last_hidden_layer) == 16);
#endif

#ifdef __cplusplus
}
#endif

#endif /* RKLLM_H */
