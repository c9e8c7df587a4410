# SPDX-License-Identifier: Apache-2.0
# The C side: both public headers. A name of rkllm_ext.h stands for the pointer that _library.h looked up.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "_py_buffer.h":
    pass  # Py_buffer itself is cpython.buffer's


cdef extern from "_library.h" nogil:
    ctypedef void* LLMHandle

    ctypedef enum LLMCallState:
        RKLLM_RUN_NORMAL
        RKLLM_RUN_WAITING
        RKLLM_RUN_FINISH
        RKLLM_RUN_ERROR

    ctypedef enum RKLLMInputType:
        RKLLM_INPUT_PROMPT
        RKLLM_INPUT_TOKEN
        RKLLM_INPUT_EMBED
        RKLLM_INPUT_MULTIMODAL

    ctypedef enum RKLLMInferMode:
        RKLLM_INFER_GENERATE
        RKLLM_INFER_GET_LAST_HIDDEN_LAYER

    ctypedef struct RKLLMParam:
        const char* model_path
        int32_t max_context_len
        int32_t max_new_tokens
        int32_t top_k
        float top_p
        float temperature
        float repeat_penalty
        float frequency_penalty
        float presence_penalty
        int32_t mirostat
        float mirostat_tau
        float mirostat_eta
        bint skip_special_token
        bint is_async
        const char* img_start
        const char* img_end
        const char* img_content

    ctypedef struct RKLLMLoraAdapter:
        const char* lora_adapter_path
        const char* lora_adapter_name
        float scale

    ctypedef struct RKLLMEmbedInput:
        float* embed
        size_t n_tokens

    ctypedef struct RKLLMTokenInput:
        int32_t* input_ids
        size_t n_tokens

    ctypedef struct RKLLMMultiModelInput:
        char* prompt
        float* image_embed
        size_t n_image_tokens

    ctypedef struct RKLLMInput:
        RKLLMInputType input_type
        const char* prompt_input
        RKLLMEmbedInput embed_input
        RKLLMTokenInput token_input
        RKLLMMultiModelInput multimodal_input

    ctypedef struct RKLLMLoraParam:
        const char* lora_adapter_name

    ctypedef struct RKLLMPromptCacheParam:
        int save_prompt_cache
        const char* prompt_cache_path

    ctypedef struct RKLLMInferParam:
        RKLLMInferMode mode
        RKLLMLoraParam* lora_params
        RKLLMPromptCacheParam* prompt_cache_params

    int rkllm_load_lora "library.rkllm_load_lora"(LLMHandle handle, RKLLMLoraAdapter* adapter)
    int rkllm_load_prompt_cache "library.rkllm_load_prompt_cache"(LLMHandle handle, const char* path)
    int rkllm_release_prompt_cache "library.rkllm_release_prompt_cache"(LLMHandle handle)
    int rkllm_destroy "library.rkllm_destroy"(LLMHandle handle)
    int rkllm_run_async "library.rkllm_run_async"(LLMHandle handle, RKLLMInput* given, RKLLMInferParam* params,
                                                   void* userdata)
    int rkllm_abort "library.rkllm_abort"(LLMHandle handle)
    int rkllm_is_running "library.rkllm_is_running"(LLMHandle handle)

    const char* library_file()
    void library_resolve()
    void* library_symbol(const char* name)

    ctypedef struct RKLLMExtError:
        int32_t code
        const char* name
        const char* exception
        const char* sentence

    ctypedef struct RKLLMExtFormat:
        const char* name
        int32_t bits
        int32_t group
        int32_t scale_bits
        int32_t activation_bits
        int32_t offered

    ctypedef struct RKLLMExtSpecField:
        const char* type
        const char* name
        const char* default_value
        const char* meaning

    ctypedef struct RKLLMExtInfo:
        int32_t vocab_size
        int32_t dim
        int32_t n_layers
        int32_t n_heads
        int32_t n_kv_heads
        int32_t head_dim
        int32_t max_context
        int32_t max_context_len
        int32_t n_threads
        int32_t bos_token_id
        int64_t n_parameters
        int64_t weight_bytes
        int64_t file_bytes
        int64_t kv_bytes
        double load_ms
        const char* format
        const char* isa

    ctypedef struct RKLLMExtPerf:
        double prefill_ms
        double generate_ms
        int32_t prefill_tokens
        int32_t generate_tokens
        int32_t finish
        uint64_t seed
        const void* input_address
        double peak_memory_mb
        int32_t reused_tokens
        int32_t drafted_tokens
        int32_t accepted_tokens

    ctypedef enum RKLLMExtFinish:
        RKLLM_EXT_FINISH_STOP
        RKLLM_EXT_FINISH_LENGTH
        RKLLM_EXT_FINISH_CONTEXT
        RKLLM_EXT_FINISH_ABORT
        RKLLM_EXT_FINISH_ERROR

    ctypedef int (*RKLLMExtChosen)(const int32_t* tokens, size_t n, void* userdata) noexcept
    ctypedef int (*RKLLMExtMask)(const int32_t* tokens, size_t n_tokens, uint32_t* mask, size_t n_words,
                                 void* userdata) noexcept
    ctypedef void (*RKLLMExtTap)(const char* name, const float* x, int64_t rows, int64_t cols, int64_t stride,
                                 void* userdata)

    ctypedef struct RKLLMExtSession:
        pass

    ctypedef struct RKLLMExtLogits:
        pass

    int RKLLM_EXT_WHOLE

    ctypedef struct RKLLMExtTokenizer:
        pass

    int RKLLM_EXT_PARSE_SPECIAL
    int RKLLM_EXT_ADD_BOS
    int RKLLM_EXT_SKIP_SPECIAL

    ctypedef struct RKLLMExtGGUF:
        pass

    ctypedef struct RKLLMExtGGUFValue:
        const char* key
        uint32_t type
        uint32_t element
        uint64_t count
        const void* data
        uint64_t n_bytes

    ctypedef struct RKLLMExtGGUFTensor:
        const char* name
        uint32_t type
        uint32_t n_dims
        uint64_t dims[4]
        const void* data
        uint64_t n_bytes

    const char* ext_version "library.rkllm_ext_version"()
    const char* ext_last_error "library.rkllm_ext_last_error"(LLMHandle handle)
    int ext_last_error_code "library.rkllm_ext_last_error_code"(LLMHandle handle)
    int ext_error "library.rkllm_ext_error"(int index, RKLLMExtError* row)
    int ext_format "library.rkllm_ext_format"(int index, RKLLMExtFormat* row)
    int ext_spec_field "library.rkllm_ext_spec_field"(int index, RKLLMExtSpecField* row)
    const char* ext_isa "library.rkllm_ext_isa"(int index)
    const char* ext_active_isa "library.rkllm_ext_active_isa"()
    int ext_limits "library.rkllm_ext_limits"(int n_threads, double* read_gbs, double* integer_gops,
                                              double* float_gflops) nogil
    int ext_set_option "library.rkllm_ext_set_option"(LLMHandle handle, const char* name, const char* value)
    int ext_release_lora "library.rkllm_ext_release_lora"(LLMHandle handle, const char* name)
    int ext_load_prompt_cache "library.rkllm_ext_load_prompt_cache"(LLMHandle handle, const char* path,
                                                                         const char* name)
    int ext_release_prompt_cache "library.rkllm_ext_release_prompt_cache"(LLMHandle handle, const char* name)
    int ext_info "library.rkllm_ext_info"(LLMHandle handle, RKLLMExtInfo* info)
    const char* ext_metadata "library.rkllm_ext_metadata"(LLMHandle handle, const char* key)
    int ext_perf "library.rkllm_ext_perf"(LLMHandle handle, RKLLMExtPerf* perf)
    int ext_logits "library.rkllm_ext_logits"(LLMHandle handle, const RKLLMInput* given, float* out, size_t capacity,
                                              size_t* n_tokens)
    int ext_token_logprobs "library.rkllm_ext_token_logprobs"(LLMHandle handle, float* chosen, int32_t* ids,
                                                              float* logprobs, size_t capacity, size_t* count)
    int ext_set_mask "library.rkllm_ext_set_mask"(LLMHandle handle, RKLLMExtMask function, void* userdata)
    int ext_set_tap "library.rkllm_ext_set_tap"(LLMHandle handle, RKLLMExtTap function, void* userdata)
    int ext_hidden_states "library.rkllm_ext_hidden_states"(LLMHandle handle, const RKLLMInput* given, float* out,
                                                            size_t capacity, size_t* n_tokens)
    int ext_session_open "library.rkllm_ext_session_open"(LLMHandle handle, RKLLMExtSession** session)
    void ext_session_close "library.rkllm_ext_session_close"(RKLLMExtSession* session)
    int ext_session_prefill "library.rkllm_ext_session_prefill"(RKLLMExtSession* session, const RKLLMInput* given,
                                                                int flags, size_t* computed)
    int ext_session_prefill_part "library.rkllm_ext_session_prefill_part"(RKLLMExtSession* session,
                                                                          const RKLLMInput* given, size_t most,
                                                                          float* logits, size_t* computed, size_t* left)
    int ext_top_logprobs "library.rkllm_ext_top_logprobs"(const float* logits, int32_t n, int32_t token, int32_t k,
                                                          float* chosen, int32_t* ids, float* logprobs, size_t* count)
    int ext_session_step "library.rkllm_ext_session_step"(RKLLMExtSession** sessions, const int32_t* tokens, size_t n)
    int ext_session_decode "library.rkllm_ext_session_decode"(RKLLMExtSession** sessions, int32_t* tokens, size_t n,
                                                              const uint32_t** masks, RKLLMExtChosen function,
                                                              void* userdata)
    const float* ext_session_logits "library.rkllm_ext_session_logits"(RKLLMExtSession* session)
    const float* ext_session_hold_logits "library.rkllm_ext_session_hold_logits"(RKLLMExtSession* session,
                                                                                 RKLLMExtLogits** hold)
    void ext_logits_release "library.rkllm_ext_logits_release"(RKLLMExtLogits* hold)
    int ext_session_sample "library.rkllm_ext_session_sample"(RKLLMExtSession* session, const uint32_t* mask,
                                                              int32_t* token)
    int ext_session_set_option "library.rkllm_ext_session_set_option"(RKLLMExtSession* session, const char* name,
                                                                      const char* value)
    int ext_session_truncate "library.rkllm_ext_session_truncate"(RKLLMExtSession* session, size_t n)
    int ext_session_fork "library.rkllm_ext_session_fork"(RKLLMExtSession* session, RKLLMExtSession** fork)
    int ext_session_tokens "library.rkllm_ext_session_tokens"(RKLLMExtSession* session, int32_t* out, size_t capacity,
                                                              size_t* count)
    int ext_session_save "library.rkllm_ext_session_save"(RKLLMExtSession* session, const char* path)
    int ext_session_restore "library.rkllm_ext_session_restore"(LLMHandle handle, const char* path,
                                                                RKLLMExtSession** session)
    int ext_session_abort "library.rkllm_ext_session_abort"(RKLLMExtSession* session)
    int ext_tokenizer_open "library.rkllm_ext_tokenizer_open"(const char* path, RKLLMExtTokenizer** tokenizer)
    void ext_tokenizer_close "library.rkllm_ext_tokenizer_close"(RKLLMExtTokenizer* tokenizer)
    RKLLMExtTokenizer* ext_tokenizer "library.rkllm_ext_tokenizer"(LLMHandle handle)
    int ext_tokenize "library.rkllm_ext_tokenize"(const RKLLMExtTokenizer* tokenizer, const char* text, size_t n_bytes,
                                                  int flags, int32_t* out, size_t capacity, size_t* count)
    int ext_detokenize "library.rkllm_ext_detokenize"(const RKLLMExtTokenizer* tokenizer, const int32_t* ids,
                                                      size_t count, int flags, char* out, size_t capacity,
                                                      size_t* n_bytes)
    int32_t ext_vocab_size "library.rkllm_ext_vocab_size"(const RKLLMExtTokenizer* tokenizer)
    int32_t ext_token_id "library.rkllm_ext_token_id"(const RKLLMExtTokenizer* tokenizer, const char* text)
    const char* ext_token_bytes "library.rkllm_ext_token_bytes"(const RKLLMExtTokenizer* tokenizer, int32_t id,
                                                                size_t* n_bytes, int* special)
    uint64_t ext_packed_size "library.rkllm_ext_packed_size"(const char* format, int64_t rows, int64_t cols)
    int ext_pack "library.rkllm_ext_pack"(const char* format, int64_t rows, int64_t cols, const void* codes,
                                          const float* scales, void* out, uint64_t out_bytes)
    int ext_quantize "library.rkllm_ext_quantize"(const char* format, int64_t rows, int64_t cols, const char* type,
                                                  const void* data, uint64_t data_bytes, int n_threads, void* out,
                                                  uint64_t out_bytes)
    int ext_unpack "library.rkllm_ext_unpack"(const char* format, int64_t rows, int64_t cols, const void* packed,
                                              uint64_t packed_bytes, float* out)
    uint64_t ext_checksum "library.rkllm_ext_checksum"(const void* data, uint64_t n_bytes)
    int ext_matmul "library.rkllm_ext_matmul"(const char* format, int64_t rows, int64_t cols, const void* packed,
                                              uint64_t packed_bytes, const float* x, int64_t n, int n_threads,
                                              float* y)
    int ext_gguf_open "library.rkllm_ext_gguf_open"(const char* path, RKLLMExtGGUF** file)
    void ext_gguf_close "library.rkllm_ext_gguf_close"(RKLLMExtGGUF* file)
    int ext_gguf_value "library.rkllm_ext_gguf_value"(const RKLLMExtGGUF* file, uint64_t index, RKLLMExtGGUFValue* row)
    int ext_gguf_tensor "library.rkllm_ext_gguf_tensor"(const RKLLMExtGGUF* file, uint64_t index,
                                                        RKLLMExtGGUFTensor* row)


cdef extern from "_queue.h" nogil:
    ctypedef struct queue_side:
        size_t count
        int32_t* ids
        size_t* ends
        char* text
        float* logprobs
        int32_t* alternatives

    ctypedef struct queue_figures:
        double prefill_ms
        double generate_ms
        double memory_mb
        int32_t prefill_tokens
        int32_t generate_tokens

    ctypedef struct queue:
        queue_side sides[2]
        int reads_end
        int code
        int has_figures
        queue_figures figures
        size_t tokens
        int wants_rows
        float* rows
        size_t n_rows
        size_t n_cols
        int out_of_memory
        size_t top

    int QUEUE_HALF

    ctypedef int (*queue_logprobs)(LLMHandle handle, float* chosen, int32_t* ids, float* logprobs, size_t capacity,
                                   size_t* count)

    queue* queue_new()
    int queue_want_logprobs(queue* q, queue_logprobs read_logprobs, LLMHandle handle, size_t top)
    void queue_retain(queue* q)
    void queue_release(queue* q)
    void queue_put_end(queue* q, int state)
    int queue_wait(queue* q, int milliseconds, size_t entries)
    int queue_end(queue* q)
    queue_side* queue_take(queue* q)
    void queue_let_run_out(queue* q, int keeping)
    int queue_event(queue* q)


cdef extern from "_decoding.h" nogil:
    ctypedef struct decoding:
        size_t n
        int32_t* tokens
        size_t taken
        int32_t* ends
        size_t* begins

    decoding* decoding_new(size_t n, size_t most, size_t n_ends)
    void decoding_free(decoding* d)
    int decoding_put(const int32_t* tokens, size_t n, void* userdata) noexcept
    void decoding_end(decoding* d)
    void decoding_stop(decoding* d)
    size_t decoding_wait(decoding* d, int milliseconds, int* over)
    void decoding_rest(decoding* d, int milliseconds)


cdef extern from "_generation.h" nogil:
    int GENERATION_LOGITS
    int GENERATION_N_KEEP
    int GENERATION_CPUS
    int GENERATION_RUN_SETTINGS
    int GENERATION_CONVERSATION
    RKLLMInferMode RUN_LOGITS

    ctypedef struct model_settings:
        RKLLMParam param
        int32_t n_keep
        int32_t n_threads
        uint32_t cpus
        int raw_prompts

    ctypedef struct run_request:
        const RKLLMInput* input
        const RKLLMInferParam* how
        const RKLLMParam* settings
        size_t n_images
        const char* role
        int thinking
        int keep_history

    ctypedef void* (*generation_symbol)(const char* name) noexcept nogil

    ctypedef struct generation:
        unsigned int abilities
        const char* (*bind)(generation_symbol symbol) noexcept
        RKLLMParam (*defaults)() noexcept nogil
        int (*init)(LLMHandle* handle, const model_settings* settings) noexcept nogil
        int (*set_tools)(LLMHandle handle, const char* system, const char* tools) noexcept nogil
        int (*clear_cache)(LLMHandle handle) noexcept nogil
        int (*cache_size)(LLMHandle handle, int* tokens) noexcept nogil

    const generation generation_c
    const generation generation_f
    const generation generation_g

    int generation_start(const generation* library, LLMHandle handle, const run_request* request, queue* q)
