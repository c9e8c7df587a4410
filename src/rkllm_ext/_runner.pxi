# SPDX-License-Identifier: Apache-2.0
# A loaded model that runs: one input after the other, each with its options, its end and its figures.
from cpython.exc cimport PyErr_CheckSignals
from posix.unistd cimport usleep

cdef enum:
    WAIT_MS = 50  # how long a wait lasts before Python's signal handlers get a turn

FINISH_REASONS = {
    RKLLM_EXT_FINISH_STOP: "stop",
    RKLLM_EXT_FINISH_LENGTH: "length",
    RKLLM_EXT_FINISH_CONTEXT: "context",
    RKLLM_EXT_FINISH_ABORT: "abort",
    RKLLM_EXT_FINISH_ERROR: "error",
}

# What a new handle's options are where rkllm_init does not take them.
cdef dict FIRST_OPTIONS = {
    "seed": "random",
    "add_bos": "auto",
    "ignore_eos": False,
    "min_p": 0.0,
    "logit_bias": "",
    "stop": "",
    "logprobs": -1,
    "lora": "",
    "n_keep": -1,
    "draft": 0,
    "reuse_prefix": False,
    "keep_history": False,
    "image_tokens": "",
}

# What some libraries take with a run.
RUN_SETTINGS = (
    "max_new_tokens",
    "top_k",
    "top_p",
    "temperature",
    "repeat_penalty",
    "frequency_penalty",
    "presence_penalty",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
)


cdef class BaseRunner(BaseModel):
    cdef Job active      # the run that the library is on, or one whose end nobody has noticed yet
    cdef dict options    # as they are set in the library now
    cdef dict last_perf
    cdef int held        # tokens of the last run, which the cache still has
    cdef bint masked     # the library has a mask function
    cdef RKLLMParam param  # what the model was loaded with, less its texts

    cdef void stop_library(self) noexcept:
        cdef LLMHandle llm = self.llm
        if llm == NULL:
            return
        self.users += 1
        with nogil:
            rkllm_abort(llm)
        self.users -= 1

    cdef int drain(self, Job job) except -1:
        # Abort a run and wait for its end: at most the step that the library is in.
        cdef LLMHandle llm = self.llm
        cdef queue* q = job.q
        cdef int ended = queue_end(q)
        queue_let_run_out(q, 0)
        while not ended:
            with nogil:
                rkllm_abort(llm)
                ended = queue_wait(q, WAIT_MS, 0)
        self.retire(job)
        return 0

    cdef int retire(self, Job job) except -1:
        # After the end of a run: wait until the library has left its callback, and take what it says about the run.
        cdef LLMHandle llm = self.llm
        cdef int turn = 0
        if job.retired:
            return 0
        while is_extended() and llm != NULL and rkllm_is_running(llm) == 0 and turn < 1000:
            with nogil:
                usleep(20 if turn < 100 else 1000)
            turn += 1
        if job.retired:  # by another thread, meanwhile
            return 0
        job.retired = True
        job.buffer = None
        failed = queue_end(job.q) == RKLLM_RUN_ERROR
        if failed and not is_extended() and job.aborted:
            failed = False  # what the vendor's library calls an aborted run is not known
        if llm != NULL and failed and job.error is None:
            job.error = self.run_error(job)
        job.reason = self.reason(job, failed)
        job.perf = self.read_perf(job)
        self.last_perf = job.perf
        if is_extended() and not failed and job.perf is not None:
            self.held = job.perf["reused_tokens"] + job.perf["prefill_tokens"] + <int>job.q.tokens
        if self.active is job:
            self.active = None
        return 0

    cdef object run_error(self, Job job):
        if <void*>ext_last_error_code == NULL:
            code = f" with {job.q.code}" if job.q.code else ""
            return RKLLMError(f"the run failed{code}; RKLLM_LOG_LEVEL=1 makes the library say more")
        code = ext_last_error_code(self.llm)
        row = error_rows().get(code, (RKLLMError, f"the run failed with {code}"))
        return row[0](text_of(ext_last_error(self.llm)) or row[1])

    cdef str reason(self, Job job, bint failed):
        # As far as it can be seen from outside.
        if failed:
            return "error"
        if job.aborted:
            return "abort"
        return "length" if 0 <= job.limit <= <Py_ssize_t>job.q.tokens else "stop"

    cdef dict read_perf(self, Job job):
        cdef RKLLMExtPerf perf
        cdef queue_figures figures
        if not is_extended():
            if not job.q.has_figures:
                return None
            figures = job.q.figures
            return {
                "prefill_ms": figures.prefill_ms,
                "generate_ms": figures.generate_ms,
                "prefill_tokens": figures.prefill_tokens,
                "generate_tokens": figures.generate_tokens,
                "finish_reason": job.reason,
                "seed": None,
                "input_address": None,
                "peak_memory_mb": figures.memory_mb,
            }
        if self.llm == NULL or ext_perf(self.llm, &perf) != 0:
            return None
        return {
            "prefill_ms": perf.prefill_ms,
            "generate_ms": perf.generate_ms,
            "prefill_tokens": perf.prefill_tokens,
            "generate_tokens": perf.generate_tokens,
            "finish_reason": FINISH_REASONS.get(perf.finish),
            "seed": perf.seed,
            "input_address": None if perf.input_address == NULL else <size_t>perf.input_address,
            "peak_memory_mb": perf.peak_memory_mb,
            "reused_tokens": perf.reused_tokens,
            "drafted_tokens": perf.drafted_tokens,
            "accepted_tokens": perf.accepted_tokens,
        }

    cdef int settle(self) except -1:
        # Make the library idle for the next call, or refuse.
        cdef Job job = self.active
        if job is None:
            return 0
        if queue_end(job.q):
            self.retire(job)
        elif job.abandoned:
            self.drain(job)
        else:
            raise BusyError("a run is active on this model; read its stream to the end, close() it or abort() first")
        return 0

    cdef int apply(self, object options) except -1:
        # Set what differs from what is set.
        cdef bytes text
        for name, value in options.items():
            if self.options.get(name) == value:
                continue
            need(<void*>ext_set_option, f"option {name}={value}")
            text = option_text(value)
            check(ext_set_option(self.llm, name_bytes(name, "name"), text), self.llm, "rkllm_ext_set_option")
            self.options[name] = value
        return 0

    def set_options(self, options):
        """Set options of later runs, as rkllm_ext_set_option has them."""
        self.enter()
        try:
            self.settle()
            self.apply(options)
        finally:
            self.leave()

    cdef int constrain(self, Job job) except -1:
        # Let the library ask the run's constraint, or nobody. It keeps the job while it runs.
        if job.constraint is not None:
            need(<void*>ext_set_mask, "a constraint")
            check(ext_set_mask(self.llm, mask_callback, <void*>job), self.llm, "rkllm_ext_set_mask")
            self.masked = True
        elif self.masked:
            check(ext_set_mask(self.llm, NULL, NULL), self.llm, "rkllm_ext_set_mask")
            self.masked = False
        return 0

    cdef dict carry(self, Job job, dict options):
        # Let the run itself take along what this library takes with a run; return what is to be set before it.
        if is_extended():
            return {**options, "image_tokens": job.image_tokens}
        count_images(job)
        rest = dict(options)
        lora = rest.pop("lora", "")
        if lora:
            choose_adapter(job, name_bytes(lora, "lora"))
        if can(GENERATION_CONVERSATION):
            job.request.keep_history = rest.pop("keep_history", False)
            job.request.thinking = rest.pop("thinking", False)
            job.role = name_bytes(rest.pop("role", "user"), "role")
            job.request.role = job.role
        settings = {**self.options}
        if can(GENERATION_RUN_SETTINGS):
            settings.update({name: rest.pop(name) for name in RUN_SETTINGS if name in rest})
        job.limit = settings.get("max_new_tokens", -1)
        job.settings = self.param
        job.texts = []
        fill_param(&job.settings, settings, job.texts)
        if job.limit == 0 and self.options.get("max_new_tokens") != 0:
            raise InvalidArgumentError("max_new_tokens is 0, which the vendor's library takes for no limit of this run")
        if job.limit == self.options.get("max_new_tokens"):
            job.settings.max_new_tokens = 0
        return rest

    cdef int begin(self, Job job, dict options) except -1:
        # Start a run with these options set. Inside of enter() and leave().
        cdef LLMHandle llm
        cdef const generation* library = the_generation()
        cdef int code
        self.settle()
        self.apply(self.carry(job, options))
        self.constrain(job)
        llm = self.llm
        if options.get("logprobs", -1) >= 0:
            if not queue_want_logprobs(job.q, ext_token_logprobs, llm, options["logprobs"]):
                raise OutOfMemoryError("no memory for the log-probabilities of a run")
        self.active = job  # from here on the handle is busy for other threads
        queue_retain(job.q)  # the producer's reference, which the end of the run gives back
        if is_extended():
            with nogil:
                code = rkllm_run_async(llm, &job.given, &job.params, job.q)
        else:
            code = generation_start(library, llm, &job.request, job.q)
        if code != 0:
            self.active = None
            queue_release(job.q)
            if not is_extended():
                raise OutOfMemoryError(f"no thread can be started for a run: {os.strerror(code)}")
            raise failure(code, llm, "rkllm_run_async")
        return 0

    def start(self, given, options, stream_class, save_path="", constraint=None):
        """Start a run with these options set and return its stream, of a class derived from `BaseStream`.

        save_path: where the run saves the state of its input; "": nowhere.
        constraint(tokens): called before each token with those chosen since the last call, it returns a bit for each
        token that may come next, as bytes, or None when nothing may. Its attribute `cut` says that it has shortened the
        answer.
        """
        cdef Job job
        self.enter()
        try:
            job = job_for(given, self.dim)
            if save_path:
                save_state(job, path_bytes(save_path))
            job.constraint = constraint
            self.begin(job, options)
            return new_stream(stream_class, self, job)
        finally:
            self.leave()

    cdef object run_for_rows(self, RKLLMInferMode mode, object given, dict options):
        # The rows of floats that a run of this mode gives, float32 [n, columns]; where there is no function for them.
        cdef Job job
        cdef Buffer out
        cdef queue* q
        cdef int ended = 0
        self.enter()
        try:
            job = job_for(given, self.dim)
            q = job.q
            job.params.mode = mode
            q.wants_rows = <int>mode
            self.begin(job, options)
            while not ended:
                try:
                    PyErr_CheckSignals()
                except BaseException:
                    self.drain(job)
                    raise
                with nogil:
                    ended = queue_wait(q, WAIT_MS, 0)
            self.retire(job)
            if job.error is not None:
                raise job.error
            if job.aborted:
                raise AbortedError("the run was aborted")
            if q.rows == NULL:
                raise OutOfMemoryError("no memory for what the run gave") if q.out_of_memory else RKLLMError(
                    "the library gave nothing in this mode; RKLLM_LOG_LEVEL=1 makes it say more")
            array = new_array((q.n_rows, q.n_cols), "float32")
            out = writable(array)
            memcpy(out.view.buf, q.rows, out.view.len)
            return array
        finally:
            self.leave()

    def abort(self):
        """End the active run before its next token; what it has produced can still be read. From any thread.

        With this project's library also `logits` and `hidden_states`, within one chunk.
        """
        cdef Job job = self.active
        if self.llm == NULL or self.pid != os.getpid():
            return
        if job is not None and not queue_end(job.q):
            job.aborted = True
            queue_let_run_out(job.q, 1)
        elif not is_extended():
            return
        self.stop_library()

    @property
    def is_running(self):
        """Whether a run is active."""
        cdef Job job = self.active
        return job is not None and not queue_end(job.q)

    @property
    def perf(self):
        """Figures of the last run that ended, a dict; None before the first."""
        cdef Job job = self.active
        if job is not None and queue_end(job.q) and self.llm != NULL:
            self.retire(job)
        return self.last_perf
