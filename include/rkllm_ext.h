/* SPDX-License-Identifier: Apache-2.0
 *
 * rkllm_ext.h - what the vendor's interface lacks: error sentences, options of a run, tokens, logits, sampling, figures
 * of the last run, packing of weights, and a safe GGUF reader.
 *
 * Only this project's library has these functions. A program that is also to run on the vendor's library looks them
 * up with dlsym. Strings are UTF-8; a returned string is owned by the library.
 */
#ifndef RKLLM_EXT_H
#define RKLLM_EXT_H

#include "rkllm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- the library ------------------------------------------------------------------------------------------------ */

/* Return the version, "MAJOR.MINOR.PATCH". */
RKLLM_API const char* rkllm_ext_version(void);

/* Return the sentence of the last failure: of the handle, or with NULL of the calling thread. "" when there is none.
 * Valid until the next call on the same handle or thread. */
RKLLM_API const char* rkllm_ext_last_error(LLMHandle handle);

/* Return the code of the same failure: 0, or a value of rkllm_ext_error. */
RKLLM_API int rkllm_ext_last_error_code(LLMHandle handle);

/* One row of the list of error codes. */
typedef struct {
    int32_t code;
    const char* name;      /* "MODEL_FILE" */
    const char* exception; /* the Python exception it becomes */
    const char* sentence;  /* used when nothing better is known */
} RKLLMExtError;

/* One weight format. */
typedef struct {
    const char* name;        /* "w4a16_g32" */
    int32_t bits;            /* of a weight: 4, 8, 16 or 32 */
    int32_t group;           /* weights along the input dimension that share a scale; 0: a whole row */
    int32_t scale_bits;      /* 0 (float formats), 16 or 32 */
    int32_t activation_bits; /* 8, 16 or 32 */
    int32_t offered;         /* 1: can be asked for by name; 0: used for embeddings and output matrices only */
} RKLLMExtFormat;

/* One field of a model's spec. */
typedef struct {
    const char* type;          /* "u32", "f32" or "string" */
    const char* name;
    const char* default_value; /* NULL: required */
    const char* meaning;
} RKLLMExtSpecField;

/* Fill row number index of a list. Return 0, or non-zero past its end. */
RKLLM_API int rkllm_ext_error(int index, RKLLMExtError* row);
RKLLM_API int rkllm_ext_format(int index, RKLLMExtFormat* row);
RKLLM_API int rkllm_ext_spec_field(int index, RKLLMExtSpecField* row);

/* Return the name of instruction set number index that this CPU runs, weakest first; NULL past the end. */
RKLLM_API const char* rkllm_ext_isa(int index);

/* Return the name of the instruction set in use: the last one of the list, or the one that the environment variable
 * RKLLM_EXT_ISA names. NULL when that name is unknown or not supported here; rkllm_init then fails and says so. */
RKLLM_API const char* rkllm_ext_active_isa(void);

/* Receive log lines instead of stderr. NULL restores stderr. */
typedef void (*RKLLMExtLog)(const char* line, void* userdata);
RKLLM_API void rkllm_ext_set_log(RKLLMExtLog log, void* userdata);

/* ---- a handle --------------------------------------------------------------------------------------------------- */

/* Set an option for later runs; busy handles refuse. Value is text. Returns 0 or a negative error code.
 *   max_new_tokens, top_k, top_p, temperature, repeat_penalty, frequency_penalty, presence_penalty,
 *   mirostat, mirostat_tau, mirostat_eta, skip_special_token (0 or 1)   as in RKLLMParam
 *   min_p           keep tokens at least so many times as probable as the best one, 0 (the default: all) ... 1
 *   logit_bias      "id:bias,id:bias": added to the logits of these tokens; -inf forbids one; "" (the default): none
 *   stop            strings that end a run, separated by the byte 0x1f; they are not delivered; "" (the default): none
 *   logprobs        0 ... 20: alternatives whose log-probabilities rkllm_ext_token_logprobs gives beside the token's
 *                   own; -1 (the default): no log-probabilities
 *   seed            0 ... 2^64-1, or "random" (the default: a new one for each run)
 *   n_threads       1 ... 256; 0 (the default): the environment's RKLLM_EXT_THREADS, else the physical cores that the
 *                   process may use, on big.LITTLE processors the big ones, as far as a control group's quota goes
 *   prefill_chunk   prompt tokens per pass, 1 ... 512; results do not depend on it
 *   add_bos         "auto" (the default: as the model's tokenizer says), 0 or 1: put the begin token before a prompt
 *   ignore_eos      1: end tokens do not end a run
 *   n_keep          what a full context does: -1 (the default) ends the run; n >= 0 keeps the first n tokens, drops the
 *                   older half of the others and goes on, in the state of a prompt of the tokens that are left
 *   reuse_prefix    1: a run keeps what it has in common with the one before from token 0 on; 0 (the default) starts
 *                   anew
 *   keep_history    1: runs go on behind one another, tokens behind tokens, from the first one after 0 (the default)
 *                   on; the begin token comes once. What is not tokens alone is refused. Setting 0 forgets them
 *   draft           tokens that a pass looks ahead, guessed from earlier text (prompt lookup), 0 (the default) ... 16;
 *                   changes the speed, never the tokens
 *   kv_type         "f16" (the default; "f32" where the model is fp32), "f32" or "int8": how keys and values are kept
 *   activations     "auto" (the default): products have the activations that the formats of the weights name, 16-bit
 *                   ones with 4-bit weights; "int8": 8-bit ones there, faster and less precise. For all sessions of the
 *                   handle; refused while any is open, and where no matrix has 4 bits
 *   lora            name of a loaded LoRA adapter for runs without lora_params, logits and hidden states; "" (the
 *                   default): none
 *   image_tokens    embeddings of each image of a multimodal prompt, "64,32"; "" (the default): all have as many */
RKLLM_API int rkllm_ext_set_option(LLMHandle handle, const char* name, const char* value);

/* Forget a LoRA adapter that rkllm_load_lora has loaded. Sessions that compute with it keep it. */
RKLLM_API int rkllm_ext_release_lora(LLMHandle handle, const char* name);

/* Prompt caches beside the one of rkllm_load_prompt_cache (whose name is ""), under names of the caller's. A run starts
 * from the longest prefix that any of them, or with reuse_prefix the run before, has in common with its input. A name
 * that is taken is replaced. release: NULL releases all; a name that is not taken is an error. */
RKLLM_API int rkllm_ext_load_prompt_cache(LLMHandle handle, const char* path, const char* name);
RKLLM_API int rkllm_ext_release_prompt_cache(LLMHandle handle, const char* name);

/* Facts about a loaded model. */
typedef struct {
    int32_t vocab_size;
    int32_t dim;
    int32_t n_layers;
    int32_t n_heads;
    int32_t n_kv_heads;
    int32_t head_dim;
    int32_t max_context;     /* of the model */
    int32_t max_context_len; /* of this handle */
    int32_t n_threads;
    int32_t bos_token_id;    /* -1: none */
    int64_t n_parameters;
    int64_t weight_bytes;    /* bytes of weights that one decoded token reads */
    int64_t file_bytes;
    int64_t kv_bytes;        /* size of a full KV cache */
    double load_ms;          /* time rkllm_init took */
    const char* format;      /* the format that was asked for at conversion */
    const char* isa;
} RKLLMExtInfo;
RKLLM_API int rkllm_ext_info(LLMHandle handle, RKLLMExtInfo* info);

/* Return a text key of the model's file ("tokenizer.chat_template"), or NULL when it has none. It stays until the
 * handle is destroyed. */
RKLLM_API const char* rkllm_ext_metadata(LLMHandle handle, const char* key);

/* Why a run ended. */
typedef enum {
    RKLLM_EXT_FINISH_NONE = 0,    /* no run yet, or it is active */
    RKLLM_EXT_FINISH_STOP = 1,    /* an end token or a stop string */
    RKLLM_EXT_FINISH_LENGTH = 2,  /* max_new_tokens */
    RKLLM_EXT_FINISH_CONTEXT = 3, /* the context is full */
    RKLLM_EXT_FINISH_ABORT = 4,   /* rkllm_abort or rkllm_destroy */
    RKLLM_EXT_FINISH_ERROR = 5
} RKLLMExtFinish;

/* Figures of the last run; valid from its FINISH or ERROR callback on. */
typedef struct {
    double prefill_ms;
    double generate_ms;
    int32_t prefill_tokens;
    int32_t generate_tokens;
    int32_t finish;             /* an RKLLMExtFinish */
    uint64_t seed;              /* that the run used */
    const void* input_address;  /* token or embedding array that was read, where the caller keeps it; else NULL */
    double peak_memory_mb;      /* of the process */
    int32_t reused_tokens;      /* of the input, whose state was there already; prefill_tokens are those computed */
    int32_t drafted_tokens;     /* guessed ahead by the option draft */
    int32_t accepted_tokens;    /* of these, how many were right */
} RKLLMExtPerf;
RKLLM_API int rkllm_ext_perf(LLMHandle handle, RKLLMExtPerf* perf);

/* Compute the logits of every position of an input (prompt, tokens or embeddings), [n_tokens, vocab_size] float32.
 * n_tokens receives the positions; out may be NULL to ask for their number only. capacity is in floats.
 * The handle must be idle; its callback is not called. Returns 0 or a negative error code. */
RKLLM_API int rkllm_ext_logits(LLMHandle handle, const RKLLMInput* input, float* out, size_t capacity,
                               size_t* n_tokens);

/* The same for the final hidden states behind the last norm, [n_tokens, dim] float32. */
RKLLM_API int rkllm_ext_hidden_states(LLMHandle handle, const RKLLMInput* input, float* out, size_t capacity,
                                      size_t* n_tokens);

/* Constrain what is sampled. Before each token of a run the function is called on the run's thread with the tokens
 * chosen since its last call (none before the first) and a mask of n_words = (vocab_size + 31) / 32 words, all ones:
 * bit i % 32 of word i / 32 stands for token i, 0 forbids it. It returns 0, or 1: nothing may follow, the run ends as
 * with an end token; a negative number ends the run with an error. NULL: no constraint. The handle must be idle. */
typedef int (*RKLLMExtMask)(const int32_t* tokens, size_t n_tokens, uint32_t* mask, size_t n_words, void* userdata);
RKLLM_API int rkllm_ext_set_mask(LLMHandle handle, RKLLMExtMask function, void* userdata);

/* Watch the inputs of linear layers. The function is called during passes, on the thread that asked for them, with the
 * rows that enter the linear layer whose weight has this name (of layers with the same input, the first); rows are
 * stride floats apart. For calibration. NULL ends it. The handle must be idle. */
typedef void (*RKLLMExtTap)(const char* name, const float* x, int64_t rows, int64_t cols, int64_t stride,
                            void* userdata);
RKLLM_API int rkllm_ext_set_tap(LLMHandle handle, RKLLMExtTap function, void* userdata);

/* Log-probabilities (natural) of the token that is being delivered, in the model's own distribution: before bias, mask,
 * penalties and temperature. To be called inside the callback of a token, with the option logprobs set. chosen (or
 * NULL) receives the token's own; ids and logprobs (or NULL) the most probable tokens, best first; count their number;
 * capacity is that of both arrays. Returns 0 or a negative error code. */
RKLLM_API int rkllm_ext_token_logprobs(LLMHandle handle, float* chosen, int32_t* ids, float* logprobs, size_t capacity,
                                       size_t* count);

/* ---- sessions --------------------------------------------------------------------------------------------------- */

/* One sequence of tokens with its own keys and values, over the model of a handle: for programs that choose the tokens
 * themselves, or work on several sequences at once. Sessions share the handle's threads with its runs and with each
 * other, pass by pass. A session is used by one thread at a time (another gets BUSY), different ones by any threads. A
 * session outlives rkllm_destroy. */
typedef struct RKLLMExtSession RKLLMExtSession;
/* The handle's options at this time are the session's first. */
RKLLM_API int rkllm_ext_session_open(LLMHandle handle, RKLLMExtSession** session);
RKLLM_API void rkllm_ext_session_close(RKLLMExtSession* session);

/* Append an input (prompt, tokens, embeddings, multimodal) and compute it; logits are then those of its last position.
 * With RKLLM_EXT_WHOLE the input is the whole sequence: what the session has in common with it from token 0 on is kept,
 * the rest dropped. A prompt gets the begin token only where the sequence begins. computed (may be NULL) receives the
 * positions that were run. After an abort or a failure the session keeps what was computed. */
#define RKLLM_EXT_WHOLE 1
RKLLM_API int rkllm_ext_session_prefill(RKLLMExtSession* session, const RKLLMInput* input, int flags, size_t* computed);

/* Compute at most `most` positions of an input that is the whole sequence (as with RKLLM_EXT_WHOLE), so that whoever
 * serves several sequences can do something else in between; to be called with the same input until left, the positions
 * still to be computed, is 0. The bits are those of one call. logits: NULL, or room for [most, vocab_size], which
 * receives those behind each position that was computed; loaded prompt caches, which have none, are then passed over.
 * computed and left may be NULL. */
RKLLM_API int rkllm_ext_session_prefill_part(RKLLMExtSession* session, const RKLLMInput* input, size_t most,
                                             float* logits, size_t* computed, size_t* left);

/* Append one token to each of n sessions of one handle, in one pass over the weights; the bits are those of single
 * steps. */
RKLLM_API int rkllm_ext_session_step(RKLLMExtSession* const* sessions, const int32_t* tokens, size_t n);

/* Return the logits behind the last position, [vocab_size], valid until the session's next call but
 * rkllm_ext_session_sample; or NULL when there are none (an empty session, or after truncate). */
RKLLM_API const float* rkllm_ext_session_logits(RKLLMExtSession* session);

/* The same, held: they stay as they are, and are not copied, until rkllm_ext_logits_release, also behind later calls
 * and the session's end. NULL when there are none or another thread uses the session. */
typedef struct RKLLMExtLogits RKLLMExtLogits;
RKLLM_API const float* rkllm_ext_session_hold_logits(RKLLMExtSession* session, RKLLMExtLogits** hold);
RKLLM_API void rkllm_ext_logits_release(RKLLMExtLogits* hold);

/* Choose a token from the logits by the session's sampling options; mask as for rkllm_ext_set_mask, or NULL. The token
 * is not appended. The session's own tokens are the history that penalties look at. */
RKLLM_API int rkllm_ext_session_sample(RKLLMExtSession* session, const uint32_t* mask, int32_t* token);

/* Append a token to each of n sessions of one handle and choose what follows, as rkllm_ext_session_step and _sample do
 * and with their bits: one pass over the weights, and choices by the handle's threads at the same time. tokens, [n]:
 * what is appended; then what has been chosen, which is not appended. masks: NULL, or a mask (or NULL) for each
 * session, for the choices of the first pass.
 * With a function, it is called on this thread after each pass, with what has been chosen. It returns 0: another pass
 * appends that, or another number: the call returns. Inside, rkllm_ext_session_logits and _abort of these sessions may
 * be called. NULL: one pass. An abort of one session ends the call before its next pass, with ABORTED.
 * Failures before a pass (a full context, an abort) leave the sessions and tokens as they are. Where a choice fails,
 * its token is -1, all sessions have been stepped, and the call returns the failure. */
typedef int (*RKLLMExtChosen)(const int32_t* tokens, size_t n, void* userdata);
RKLLM_API int rkllm_ext_session_decode(RKLLMExtSession* const* sessions, int32_t* tokens, size_t n,
                                       const uint32_t* const* masks, RKLLMExtChosen function, void* userdata);

/* Set a sampling option (and seed, lora, add_bos, image_tokens) of this session, as rkllm_ext_set_option. A seed
 * restarts the random numbers. */
RKLLM_API int rkllm_ext_session_set_option(RKLLMExtSession* session, const char* name, const char* value);

/* Keep the first n positions. */
RKLLM_API int rkllm_ext_session_truncate(RKLLMExtSession* session, size_t n);

/* Make a second session in the same state, random numbers included. */
RKLLM_API int rkllm_ext_session_fork(RKLLMExtSession* session, RKLLMExtSession** fork);

/* Write the state to a prompt cache file, and make a session from one: with its tokens, its logits and its adapter,
 * which must be loaded, and with the handle's options otherwise. */
RKLLM_API int rkllm_ext_session_save(RKLLMExtSession* session, const char* path);
RKLLM_API int rkllm_ext_session_restore(LLMHandle handle, const char* path, RKLLMExtSession** session);

/* Tokens of the sequence, -1 where an embedding stands; count receives their number, at most capacity are written. */
RKLLM_API int rkllm_ext_session_tokens(RKLLMExtSession* session, int32_t* out, size_t capacity, size_t* count);

/* End a prefill of another thread within one chunk; it returns ABORTED. */
RKLLM_API int rkllm_ext_session_abort(RKLLMExtSession* session);

/* ---- sampling without a handle ---------------------------------------------------------------------------------- */

/* What each field does and in which order: docs/abi.md. */
typedef struct {
    int32_t top_k;
    float top_p;
    float min_p;
    float temperature;
    float repeat_penalty;
    float frequency_penalty;
    float presence_penalty;
    int32_t mirostat;
    float mirostat_tau;
    float mirostat_eta;
    const int32_t* bias_ids; /* n_bias tokens and what is added to their logits; read when the sampler is opened */
    const float* biases;
    size_t n_bias;
} RKLLMExtSampling;
/* The values that a handle begins with. */
RKLLM_API RKLLMExtSampling rkllm_ext_default_sampling(void);

/* Settings with the state of the random numbers and of mirostat. Opaque; used by one thread at a time. A copy goes on
 * from the same state. */
typedef struct RKLLMExtSampler RKLLMExtSampler;
RKLLM_API int rkllm_ext_sampler_open(const RKLLMExtSampling* settings, uint64_t seed, RKLLMExtSampler** sampler);
RKLLM_API int rkllm_ext_sampler_copy(const RKLLMExtSampler* sampler, RKLLMExtSampler** copy);
RKLLM_API void rkllm_ext_sampler_close(RKLLMExtSampler* sampler);

/* Choose a token from n logits, which stay as they are. history: the tokens so far, of which the penalties look at the
 * last 64; ids outside 0 ... n - 1 are passed over. mask: (n + 31) / 32 words, bit i % 32 of word i / 32 is 0 where
 * token i is forbidden; NULL: none is. Returns 0 or a negative error code (no token is left to choose from). */
RKLLM_API int rkllm_ext_sample(RKLLMExtSampler* sampler, const float* logits, int32_t n, const int32_t* history,
                               size_t n_history, const uint32_t* mask, int32_t* token);

/* Compute what rkllm_ext_token_logprobs gives from n logits: of the token (chosen may be NULL) and of the k (0 ... 20)
 * most probable ones, for which ids and logprobs have room. */
RKLLM_API int rkllm_ext_top_logprobs(const float* logits, int32_t n, int32_t token, int32_t k, float* chosen,
                                     int32_t* ids, float* logprobs, size_t* count);

/* ---- tokens ----------------------------------------------------------------------------------------------------- */

/* The tokenizer of a .rkllm file (a model's, or one written alone). Opaque; used from any number of threads. */
typedef struct RKLLMExtTokenizer RKLLMExtTokenizer;
RKLLM_API int rkllm_ext_tokenizer_open(const char* path, RKLLMExtTokenizer** tokenizer);
RKLLM_API void rkllm_ext_tokenizer_close(RKLLMExtTokenizer* tokenizer);

/* Return the tokenizer of a handle; valid as long as the handle. NULL when the handle is closed. */
RKLLM_API RKLLMExtTokenizer* rkllm_ext_tokenizer(LLMHandle handle);

/* flags */
#define RKLLM_EXT_PARSE_SPECIAL 1 /* tokenize: special tokens written in the text become their ids */
#define RKLLM_EXT_ADD_BOS 2       /* tokenize: put the begin token first if the tokenizer asks for one */
#define RKLLM_EXT_SKIP_SPECIAL 4  /* detokenize: leave special tokens out */

/* Turn UTF-8 text of n_bytes into ids. count receives the number of ids; at most capacity are written. Invalid UTF-8
 * is read as U+FFFD. Returns 0 or a negative error code (INVALID_ARGUMENT when capacity is too small and out is
 * given). */
RKLLM_API int rkllm_ext_tokenize(const RKLLMExtTokenizer* tokenizer, const char* text, size_t n_bytes, int flags,
                                 int32_t* out, size_t capacity, size_t* count);

/* Turn ids into text. n_bytes receives its length; at most capacity bytes are written, without a final NUL. Incomplete
 * characters become U+FFFD. */
RKLLM_API int rkllm_ext_detokenize(const RKLLMExtTokenizer* tokenizer, const int32_t* ids, size_t count, int flags,
                                   char* out, size_t capacity, size_t* n_bytes);

/* Return the number of ids, and the id of a token's text (-1: none). */
RKLLM_API int32_t rkllm_ext_vocab_size(const RKLLMExtTokenizer* tokenizer);
RKLLM_API int32_t rkllm_ext_token_id(const RKLLMExtTokenizer* tokenizer, const char* text);

/* Return the n_bytes bytes that a token stands for, not NUL-terminated, valid as long as the tokenizer; of a special
 * token (special becomes 1) its text. NULL when there is no such id. */
RKLLM_API const char* rkllm_ext_token_bytes(const RKLLMExtTokenizer* tokenizer, int32_t id, size_t* n_bytes,
                                            int* special);

/* ---- packing weights -------------------------------------------------------------------------------------------- */

/* Return the bytes of a [rows, cols] matrix in a format, or 0 when the format does not exist or cannot hold it. */
RKLLM_API uint64_t rkllm_ext_packed_size(const char* format, int64_t rows, int64_t cols);

/* Pack codes and scales into the tile layout of docs/format.md.
 * Quantized formats: codes is int8 [rows, cols] (4-bit codes 0 ... 15, 8-bit codes -127 ... 127), scales is float32
 * [rows, cols / group] or [rows]. Float formats: codes is float32 [rows, cols], scales is NULL.
 * Returns 0 or a negative error code that names what does not fit. */
RKLLM_API int rkllm_ext_pack(const char* format, int64_t rows, int64_t cols, const void* codes, const float* scales,
                             void* out, uint64_t out_bytes);

/* Quantize a matrix by rounding to the nearest, and pack it; for float formats, pack it only. type is that of data,
 * [rows, cols]: "f32", "f16" or "bf16". n_threads 0: the default; the result does not depend on it.
 * Returns 0 or a negative error code: MODEL_FILE for a NaN, an infinity or a number that fp16 cannot hold, with the
 * row. */
RKLLM_API int rkllm_ext_quantize(const char* format, int64_t rows, int64_t cols, const char* type, const void* data,
                                 uint64_t data_bytes, int n_threads, void* out, uint64_t out_bytes);

/* The reverse: packed bytes to float32 [rows, cols]. */
RKLLM_API int rkllm_ext_unpack(const char* format, int64_t rows, int64_t cols, const void* packed,
                               uint64_t packed_bytes, float* out);

/* Return the 64-bit checksum of docs/format.md. */
RKLLM_API uint64_t rkllm_ext_checksum(const void* data, uint64_t n_bytes);

/* Compute y = x * w^T with the kernels of the engine: x float32 [n, cols], packed w [rows, cols], y float32 [n, rows].
 * n_threads 0: the default. For tests, benchmarks and calibration. */
RKLLM_API int rkllm_ext_matmul(const char* format, int64_t rows, int64_t cols, const void* packed,
                               uint64_t packed_bytes, const float* x, int64_t n, int n_threads, float* y);

/* Measure what this machine can do at most with n_threads threads (0: the default) and the instruction set in use:
 * memory read in order in 10^9 bytes per second, 8-bit multiplications and additions as the kernels do them and those
 * of 32-bit floats, both in 10^9 per second. Takes about a quarter of a second and 256 MB. Returns 0 or a negative
 * error code. */
RKLLM_API int rkllm_ext_limits(int n_threads, double* read_gbs, double* integer_gops, double* float_gflops);

/* ---- GGUF files ------------------------------------------------------------------------------------------------- */

/* A mapped and validated GGUF file. */
typedef struct RKLLMExtGGUF RKLLMExtGGUF;

typedef struct {
    const char* key;
    uint32_t type;    /* GGUF value type; 9: array */
    uint32_t element; /* element type of an array, else type */
    uint64_t count;   /* elements */
    const void* data; /* first element, unaligned; strings are a 64-bit length and bytes each */
    uint64_t n_bytes;
} RKLLMExtGGUFValue;

typedef struct {
    const char* name;
    uint32_t type;    /* GGML type */
    uint32_t n_dims;  /* 1 ... 4 */
    uint64_t dims[4]; /* fastest first */
    const void* data;
    uint64_t n_bytes;
} RKLLMExtGGUFTensor;

RKLLM_API int rkllm_ext_gguf_open(const char* path, RKLLMExtGGUF** file);
RKLLM_API void rkllm_ext_gguf_close(RKLLMExtGGUF* file);
/* Fill row number index. Return 0, or non-zero past the end. Pointers live as long as the file. */
RKLLM_API int rkllm_ext_gguf_value(const RKLLMExtGGUF* file, uint64_t index, RKLLMExtGGUFValue* row);
RKLLM_API int rkllm_ext_gguf_tensor(const RKLLMExtGGUF* file, uint64_t index, RKLLMExtGGUFTensor* row);

#ifdef __cplusplus
}
#endif

#endif /* RKLLM_EXT_H */
