# SPDX-License-Identifier: Apache-2.0
# A loaded model: made, asked, started, closed.
import atexit
import weakref

from posix.unistd cimport usleep

cdef enum:
    PATIENCE_MS = 2000  # how long a foreign library that is idle may owe the end of a run

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
    "image_tokens": "",
}

_open_handles = weakref.WeakSet()


def _close_all():
    # The library's threads must be gone before the process takes their data away.
    for handle in list(_open_handles):
        handle.close()


atexit.register(_close_all)


ctypedef int (*compute_rows)(LLMHandle, const RKLLMInput*, float*, size_t, size_t*) noexcept nogil


cdef class BaseHandle:
    cdef LLMHandle llm
    cdef Job active      # the run that the library is on, or one whose end nobody has noticed yet
    cdef dict options    # as they are set in the library now
    cdef dict last_perf
    cdef int users       # calls in progress that close() must wait for
    cdef int dim         # 0: not known
    cdef int pid
    cdef bint closing
    cdef bint masked     # the library has a mask function
    cdef readonly str path
    cdef object __weakref__

    def __init__(self, path, **settings):
        cdef RKLLMParam param = rkllm_createDefaultParam()
        cdef bytes encoded = path_bytes(path)
        cdef LLMHandle opened = NULL
        cdef RKLLMExtInfo info
        cdef list texts = []
        cdef int code
        if self.llm != NULL or self.closing:
            raise InvalidArgumentError("the model is loaded already")
        if library_is_newer():
            raise UnsupportedModelError(
                f"{library_path()} is of SDK 1.2.0 or later; this module speaks the interface of 1.1.0 - 1.1.4")
        fill_param(&param, settings, texts)
        param.model_path = encoded
        with nogil:
            code = rkllm_init(&opened, &param, queue_callback)
        check(code, NULL, "rkllm_init")
        self.llm = opened
        self.path = os.fsdecode(path)
        self.pid = os.getpid()
        self.options = {**FIRST_OPTIONS, **settings}
        _open_handles.add(self)
        if <void*>ext_info != NULL and ext_info(self.llm, &info) == 0:
            self.dim = info.dim

    def __reduce__(self):
        raise TypeError("a loaded model cannot be pickled; pickle its path and load it in the other process")

    # ---- state ------------------------------------------------------------------------------------------------------

    cdef int enter(self) except -1:
        if self.llm == NULL or self.closing:
            raise InvalidArgumentError("the model is closed; load it again")
        if self.pid != os.getpid():
            raise InvalidArgumentError("the model was loaded by another process; load it after the fork")
        self.users += 1
        return 0

    cdef void leave(self) noexcept:
        self.users -= 1

    cdef int drain(self, Job job) except -1:
        # Abort a run and wait for its end: at most the step that the library is in.
        cdef LLMHandle llm = self.llm
        cdef queue* q = job.q
        cdef int ended = queue_end(q)
        cdef int waited = 0
        queue_let_run_out(q, 0)
        while not ended:
            with nogil:
                rkllm_abort(llm)
                ended = queue_wait(q, 50, 0)
            waited += 50
            if not ended and not is_extended() and waited >= PATIENCE_MS and rkllm_is_running(llm) != 0:
                # Idle, and still no end: this library does not report an aborted run. Its half of the queue is lost.
                queue_put_end(q, RKLLM_RUN_FINISH)
        self.retire(job)
        return 0

    cdef int retire(self, Job job) except -1:
        # After the end of a run: wait until the library has left its callback, and take what it says about the run.
        cdef LLMHandle llm = self.llm
        cdef int turn = 0
        # Of a foreign library it is not known what it returns when idle: the wait must not be long.
        cdef int turns = 1000 if is_extended() else 150
        if job.retired:
            return 0
        while llm != NULL and rkllm_is_running(llm) == 0 and turn < turns:
            with nogil:
                usleep(20 if turn < 100 else 1000)
            turn += 1
        if job.retired:  # by another thread, meanwhile
            return 0
        job.retired = True
        job.buffer = None
        if llm != NULL and queue_end(job.q) == RKLLM_RUN_ERROR and job.error is None:
            job.error = self.run_error()
        job.perf = self.read_perf()
        self.last_perf = job.perf
        if self.active is job:
            self.active = None
        return 0

    cdef object run_error(self):
        if <void*>ext_last_error_code == NULL:
            return RKLLMError("the run failed; RKLLM_LOG_LEVEL=1 makes the library say more")
        code = ext_last_error_code(self.llm)
        row = error_rows().get(code, (RKLLMError, f"the run failed with {code}"))
        return row[0](text_of(ext_last_error(self.llm)) or row[1])

    cdef dict read_perf(self):
        cdef RKLLMExtPerf perf
        if <void*>ext_perf == NULL or self.llm == NULL or ext_perf(self.llm, &perf) != 0:
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

    # ---- runs -------------------------------------------------------------------------------------------------------

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

    def start(self, given, options, stream_class, save_path="", constraint=None):
        """Start a run with these options set and return its stream, of a class derived from `BaseStream`.

        save_path: where the run saves the state of its input; "": nowhere.
        constraint(tokens): called before each token with those chosen since the last call, it returns a bit for each
        token that may come next, as bytes, or None when nothing may. Its attribute `cut` says that it has shortened the
        answer.
        """
        cdef Job job
        cdef LLMHandle llm
        cdef int code
        self.enter()
        try:
            job = job_for(given, self.dim)
            if save_path:
                save_state(job, path_bytes(save_path))
            self.settle()
            if options.get("lora") and not is_extended():
                choose_adapter(job, name_bytes(options["lora"], "lora"))
                options = {**options, "lora": ""}
            self.apply({**options, "image_tokens": job.image_tokens})
            job.constraint = constraint
            self.constrain(job)
            llm = self.llm
            if options.get("logprobs", -1) >= 0:
                if not queue_want_logprobs(job.q, ext_token_logprobs, llm, options["logprobs"]):
                    raise OutOfMemoryError("no memory for the log-probabilities of a run")
            self.active = job  # from here on the handle is busy for other threads
            queue_retain(job.q)  # the producer's reference, which the end of the run gives back
            with nogil:
                code = rkllm_run_async(llm, &job.given, &job.params, job.q)
            if code != 0:
                self.active = None
                queue_release(job.q)
                raise failure(code, llm, "rkllm_run_async")
            return new_stream(stream_class, self, job)
        finally:
            self.leave()

    def abort(self):
        """End the active run before its next token; what it has produced can still be read. From any thread."""
        cdef Job job = self.active
        cdef LLMHandle llm = self.llm
        if job is None or llm == NULL or self.pid != os.getpid() or queue_end(job.q):
            return
        job.aborted = True
        queue_let_run_out(job.q, 1)
        self.users += 1
        with nogil:
            rkllm_abort(llm)
        self.users -= 1

    @property
    def is_running(self):
        """Whether a run is active."""
        cdef Job job = self.active
        return job is not None and not queue_end(job.q)

    @property
    def perf(self):
        """Figures of the last run that ended, a dict; None before the first."""
        need(<void*>ext_perf, "perf")
        cdef Job job = self.active
        if job is not None and queue_end(job.q) and self.llm != NULL:
            self.retire(job)
        return self.last_perf

    def logits(self, given, options):
        """Return the logits of every position of an input, float32 [n, vocab_size]."""
        need(<void*>ext_logits, "logits()")
        return self.rows(ext_logits, "rkllm_ext_logits", "vocab_size", given, options)

    def hidden_states(self, given, options):
        """Return the final hidden state of every position of an input, float32 [n, dim]."""
        need(<void*>ext_hidden_states, "hidden_states()")
        return self.rows(ext_hidden_states, "rkllm_ext_hidden_states", "dim", given, options)

    def watch(self, given, wanted, function, options):
        """Compute an input and call function(name, x) with the rows x, float32 [n, cols], that enter linear layers.

        `wanted` holds the names of their weights; of layers that share an input the first one names it. A long input
        comes in several calls. Runs of other threads would be watched as well.
        """
        cdef Watcher watcher = Watcher()
        cdef int code
        need(<void*>ext_set_tap, "watch()")
        watcher.wanted = frozenset(wanted)
        watcher.function = function
        self.enter()
        try:
            self.settle()
            check(ext_set_tap(self.llm, on_tap, <void*>watcher), self.llm, "rkllm_ext_set_tap")
            try:
                self.hidden_states(given, options)
            finally:
                code = ext_set_tap(self.llm, NULL, NULL)
            check(code, self.llm, "rkllm_ext_set_tap")
        finally:
            self.leave()
        if watcher.error is not None:
            raise watcher.error

    cdef object rows(self, compute_rows compute, str call, str width, object given, object options):
        # A row of floats for every position of an input; `width` is the fact about the model that says how long.
        cdef Job job
        cdef Buffer out
        cdef size_t n = 0
        cdef int code
        cdef size_t capacity
        cdef LLMHandle llm
        self.enter()
        try:
            job = job_for(given, self.dim)
            self.settle()
            self.apply({**options, "image_tokens": job.image_tokens})
            llm = self.llm
            with nogil:
                code = compute(llm, &job.given, NULL, 0, &n)
            check(code, llm, call)
            array = new_array((n, self.info()[width]), "float32")
            out = writable(array)
            capacity = out.view.len // 4
            with nogil:
                code = compute(llm, &job.given, <float*>out.view.buf, capacity, &n)
            check(code, llm, call)
            return array
        finally:
            self.leave()

    def open_session(self, session_class, options, once, path=None):
        """Open a session, empty or as it was saved, of a class derived from `BaseSession`. The model need not be idle.
        `options` are those that every choice begins with, `once` is set at the beginning."""
        cdef bytes encoded = b"" if path is None else path_bytes(path)
        cdef const char* c_path = encoded
        cdef bint empty = path is None
        cdef RKLLMExtSession* opened = NULL
        cdef LLMHandle llm
        cdef BaseSession session
        cdef int code
        need(<void*>ext_session_open, "session()")
        facts = self.info()
        self.enter()
        try:
            llm = self.llm
            with nogil:
                code = ext_session_open(llm, &opened) if empty else ext_session_restore(llm, c_path, &opened)
            check(code, llm, "rkllm_ext_session_open" if empty else "rkllm_ext_session_restore")
            session = new_session(session_class, opened, self.path, facts["vocab_size"], facts["dim"], dict(options),
                                  {})
            session.apply({**options, **once, "image_tokens": "", "add_bos": "auto"})
            return session
        finally:
            self.leave()

    # ---- questions --------------------------------------------------------------------------------------------------

    def info(self):
        """Return facts about the model, a dict with the fields of RKLLMExtInfo."""
        need(<void*>ext_info, "info")
        cdef RKLLMExtInfo info
        cdef dict facts
        self.enter()
        try:
            check(ext_info(self.llm, &info), self.llm, "rkllm_ext_info")
            facts = info
        finally:
            self.leave()
        facts["format"] = text_of(info.format)
        facts["isa"] = text_of(info.isa)
        return facts

    def metadata(self, key):
        """Return a text key of the model's file, or None."""
        need(<void*>ext_metadata, "metadata()")
        self.enter()
        try:
            text = ext_metadata(self.llm, name_bytes(key, "key"))
            return None if text == NULL else text_of(text)
        finally:
            self.leave()

    cdef RKLLMExtTokenizer* tokenizer(self) except NULL:
        need(<void*>ext_tokenizer, "the model's tokenizer")
        cdef RKLLMExtTokenizer* found = ext_tokenizer(self.llm)
        if found == NULL:
            raise failure(ext_last_error_code(NULL), self.llm, "rkllm_ext_tokenizer")
        return found

    def tokenize(self, text, parse_special=True, add_bos=False):
        """Return the ids of a text, int32 [n], as `Tokenizer.encode`."""
        self.enter()
        try:
            return encode_text(self.tokenizer(), text, parse_special, add_bos)
        finally:
            self.leave()

    def detokenize(self, ids, skip_special=False):
        """Return the text of ids, as `Tokenizer.decode`."""
        self.enter()
        try:
            return decode_ids(self.tokenizer(), ids, skip_special)
        finally:
            self.leave()

    def token_table(self):
        """Return the bytes of each id, b"" where it has no token, and the ids of special tokens."""
        cdef size_t size = 0
        cdef int special = 0
        cdef const char* data
        need(<void*>ext_token_bytes, "the model's tokens")
        vocab_size = self.info()["vocab_size"]
        tokens = []
        specials = []
        self.enter()
        try:
            for index in range(vocab_size):
                data = ext_token_bytes(self.tokenizer(), index, &size, &special)
                tokens.append(b"" if data == NULL else data[:size])
                if data != NULL and special:
                    specials.append(index)
            return tokens, specials
        finally:
            self.leave()

    def token_id(self, text):
        """Return the id of a token's text, as `Tokenizer.token_id`."""
        cdef bytes encoded = name_bytes(text, "text")
        self.enter()
        try:
            found = ext_token_id(self.tokenizer(), encoded)
            return None if found < 0 else found
        finally:
            self.leave()

    # ---- adapters and prompt states ---------------------------------------------------------------------------------

    def load_lora(self, path, name, scale=1.0):
        """Load a LoRA adapter beside the model."""
        cdef RKLLMLoraAdapter adapter
        cdef bytes encoded = path_bytes(path)
        cdef bytes encoded_name = name_bytes(name, "name")
        cdef LLMHandle llm
        cdef int code
        self.enter()
        try:
            self.settle()
            llm = self.llm
            adapter.lora_adapter_path = encoded
            adapter.lora_adapter_name = encoded_name
            adapter.scale = scale
            with nogil:
                code = rkllm_load_lora(llm, &adapter)
            check(code, llm, "rkllm_load_lora")
        finally:
            self.leave()

    def release_lora(self, name):
        """Forget a LoRA adapter."""
        need(<void*>ext_release_lora, "release_lora()")
        cdef bytes encoded = name_bytes(name, "name")
        self.enter()
        try:
            self.settle()
            check(ext_release_lora(self.llm, encoded), self.llm, "rkllm_ext_release_lora")
            if self.options.get("lora") == name:
                self.options["lora"] = ""  # the library has done so, too
        finally:
            self.leave()

    def load_prompt_cache(self, path, name=""):
        """Load a saved prompt state under a name; only "" is known to every library."""
        cdef bytes encoded = path_bytes(path)
        cdef bytes encoded_name = name_bytes(name, "name")
        cdef const char* c_path = encoded
        cdef const char* c_name = encoded_name
        cdef LLMHandle llm
        cdef int code
        if name:
            need(<void*>ext_load_prompt_cache, "a name for a prompt cache")
        self.enter()
        try:
            self.settle()
            llm = self.llm
            with nogil:
                if c_name[0]:
                    code = ext_load_prompt_cache(llm, c_path, c_name)
                else:
                    code = rkllm_load_prompt_cache(llm, c_path)
            check(code, llm, "rkllm_load_prompt_cache")
        finally:
            self.leave()

    def release_prompt_cache(self, name=None):
        """Forget a loaded prompt state; None: all."""
        cdef bytes encoded = b"" if name is None else name_bytes(name, "name")
        cdef const char* c_name = NULL
        cdef int code
        if name is not None:
            need(<void*>ext_release_prompt_cache, "a name for a prompt cache")
            c_name = encoded
        self.enter()
        try:
            self.settle()
            if <void*>ext_release_prompt_cache != NULL:
                code = ext_release_prompt_cache(self.llm, c_name)
            else:
                code = rkllm_release_prompt_cache(self.llm)
            check(code, self.llm, "rkllm_release_prompt_cache")
        finally:
            self.leave()

    # ---- the end ----------------------------------------------------------------------------------------------------

    def close(self):
        """End the model; an active run is aborted first. A second call does nothing."""
        cdef LLMHandle llm = self.llm
        cdef Job job = self.active
        cdef int code
        if llm == NULL or self.closing:
            return
        self.closing = True
        if self.pid != os.getpid():  # a fork: the threads that the model needs are in the other process
            self.llm = NULL
            return
        if job is not None:
            job.aborted = True
            self.drain(job)
        while self.users > 0:
            with nogil:
                usleep(1000)
        self.llm = NULL
        with nogil:
            code = rkllm_destroy(llm)
        check(code, NULL, "rkllm_destroy")


class Handle(BaseHandle):
    """A loaded model. Used through `rkllm_ext.LLM`, which checks and documents the settings.

    Parameters
    ----------
    path : str or os.PathLike
    **settings : int, float or bool
        Fields of RKLLMParam; the library's defaults serve where none is given.
    """

    __slots__ = ()

    # A cdef class has no finalizer under the stable ABI; a class like this one has.
    def __del__(self):
        self.close()
