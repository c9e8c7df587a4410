# SPDX-License-Identifier: Apache-2.0
# One run's input and settings, in the form and for as long as the library reads them.

cdef class Job:
    # One run: what the library reads and writes until the run's FINISH or ERROR. The handle holds it that long,
    # whatever becomes of the stream.
    cdef queue* q
    cdef RKLLMInput given
    cdef RKLLMInferParam params
    cdef RKLLMParam settings    # of this run, for libraries that take them with it
    cdef list texts             # of these settings
    cdef run_request request    # the above, for generation_start
    cdef RKLLMLoraParam lora
    cdef bytes lora_name
    cdef RKLLMPromptCacheParam cache
    cdef bytes cache_path
    cdef Buffer buffer
    cdef bytes prompt
    cdef bytes role        # who says it, for libraries that ask
    cdef str image_tokens  # the option of this name
    cdef int limit         # max_new_tokens
    cdef str reason        # why the run ended, where the library does not say
    cdef bint abandoned  # nobody reads it any more
    cdef bint aborted
    cdef bint retired    # the library is idle again, perf and error are taken
    cdef object error
    cdef object constraint  # called before each token with those chosen since; returns a mask, or None: the end
    cdef dict perf

    def __cinit__(self):
        self.q = queue_new()
        if self.q == NULL:
            raise OutOfMemoryError("no memory for the queue of a run")
        self.q.reads_end = is_extended()

    def __dealloc__(self):
        if self.q != NULL:
            queue_release(self.q)


cdef void choose_adapter(Job job, bytes name) noexcept:
    # By the vendor's own means, for libraries without options.
    job.lora_name = name
    job.lora.lora_adapter_name = job.lora_name
    job.params.lora_params = &job.lora


cdef void save_state(Job job, bytes path) noexcept:
    # Ask the run to save the state of its input.
    job.cache_path = path
    job.cache.save_prompt_cache = 1
    job.cache.prompt_cache_path = job.cache_path
    job.params.prompt_cache_params = &job.cache


cdef bytes option_text(object value):
    if isinstance(value, bool):
        return b"1" if value else b"0"
    return repr(value).encode() if isinstance(value, float) else str(value).encode()


cdef Buffer hold_input(object given):
    # Token ids or embeddings, told apart by their number of dimensions.
    cdef Buffer buffer
    try:
        buffer = hold(given, "the input")
        if buffer.view.ndim == 2:
            check_array(buffer, "the input", "float32", 2)
        else:
            check_array(buffer, "the input", "int32", 1)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(
            f"{error}; an input is a str, int32 [n] token ids, float32 [n, dim] embeddings or a Multimodal") from None
    return buffer


cdef bytes prompt_bytes(str text):
    cdef bytes encoded = name_bytes(text, "the prompt")
    if not encoded:
        raise InvalidArgumentError("the prompt is empty; at least one character is needed")
    return encoded


cdef int check_rows(size_t given, int dim) except -1:
    if dim and given != <size_t>dim:
        raise InvalidArgumentError(f"the embeddings have rows of {given}; the model's dimension is {dim}")
    return 0


cdef int fill_multimodal(Job job, Multimodal given, int dim) except -1:
    if given.prompt is None:
        raise InvalidArgumentError("the Multimodal has no prompt; call its __init__")
    check_rows(given.dim, dim)
    job.prompt = prompt_bytes(given.prompt)
    job.image_tokens = given.image_tokens
    job.buffer = given.buffer
    job.given.input_type = RKLLM_INPUT_MULTIMODAL
    job.given.multimodal_input.prompt = job.prompt
    job.given.multimodal_input.image_embed = <float*>given.buffer.view.buf
    job.given.multimodal_input.n_image_tokens = given.rows
    return 0


cdef int count_images(Job job) except -1:
    # For libraries that are told how many images of one size there are.
    counts = job.image_tokens.split(",") if job.image_tokens else []
    if len(set(counts)) > 1:
        need(NULL, f"images of different numbers of embeddings ({job.image_tokens})")
    if job.given.input_type != RKLLM_INPUT_MULTIMODAL:
        return 0
    job.request.n_images = len(counts) or max(1, (<bytes>job.prompt).count(b"<image>"))
    if job.given.multimodal_input.n_image_tokens % job.request.n_images:
        raise InvalidArgumentError(
            f"{job.given.multimodal_input.n_image_tokens} embeddings cannot be shared by {job.request.n_images} images")
    return 0


cdef Job job_for(object given, int dim):
    # The input as the library takes it: text is copied, arrays are used where they lie. dim 0: that of the model
    # is not known.
    cdef Job job = Job()
    memset(&job.given, 0, sizeof(RKLLMInput))
    memset(&job.params, 0, sizeof(RKLLMInferParam))
    memset(&job.settings, 0, sizeof(RKLLMParam))
    job.request.input = &job.given
    job.request.how = &job.params
    job.request.settings = &job.settings
    job.request.n_images = 1
    job.request.role = b"user"
    job.params.mode = RKLLM_INFER_GENERATE
    job.image_tokens = ""
    if isinstance(given, Multimodal):
        fill_multimodal(job, given, dim)
        return job
    if isinstance(given, str):
        job.prompt = prompt_bytes(given)
        job.given.input_type = RKLLM_INPUT_PROMPT
        job.given.prompt_input = job.prompt
        return job
    job.buffer = hold_input(given)
    if job.buffer.view.ndim == 1:
        job.given.input_type = RKLLM_INPUT_TOKEN
        job.given.token_input.input_ids = <int32_t*>job.buffer.view.buf
        job.given.token_input.n_tokens = job.buffer.view.shape[0]
        return job
    check_rows(job.buffer.view.shape[1], dim)
    job.given.input_type = RKLLM_INPUT_EMBED
    job.given.embed_input.embed = <float*>job.buffer.view.buf
    job.given.embed_input.n_tokens = job.buffer.view.shape[0]
    return job


cdef int fill_param(RKLLMParam* param, dict settings, list texts) except -1:
    # The settings of LLM(...) that are fields of RKLLMParam. `texts` keeps those that are texts.
    texts += [name_bytes(settings.get(name, ""), name) for name in ("img_start", "img_end", "img_content")]
    param.img_start, param.img_end, param.img_content = texts[0], texts[1], texts[2]
    param.max_context_len = settings.get("max_context_len", param.max_context_len)
    param.max_new_tokens = settings.get("max_new_tokens", param.max_new_tokens)
    param.top_k = settings.get("top_k", param.top_k)
    param.top_p = settings.get("top_p", param.top_p)
    param.temperature = settings.get("temperature", param.temperature)
    param.repeat_penalty = settings.get("repeat_penalty", param.repeat_penalty)
    param.frequency_penalty = settings.get("frequency_penalty", param.frequency_penalty)
    param.presence_penalty = settings.get("presence_penalty", param.presence_penalty)
    param.mirostat = settings.get("mirostat", param.mirostat)
    param.mirostat_tau = settings.get("mirostat_tau", param.mirostat_tau)
    param.mirostat_eta = settings.get("mirostat_eta", param.mirostat_eta)
    param.skip_special_token = settings.get("skip_special_token", param.skip_special_token)
    return 0
