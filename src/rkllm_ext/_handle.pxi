# SPDX-License-Identifier: Apache-2.0
# A loaded model from its beginning to its end, with all that it can compute, and what is loaded beside it.
import atexit
import weakref

_open_handles = weakref.WeakSet()


def _close_all():
    # The library's threads must be gone before the process takes their data away.
    for handle in list(_open_handles):
        handle.close()


atexit.register(_close_all)


ctypedef int (*compute_rows)(LLMHandle, const RKLLMInput*, float*, size_t, size_t*) noexcept nogil


cdef class BaseHandle(BaseRunner):
    def __init__(self, path, *, raw_prompts=False, **settings):
        cdef const generation* library = the_generation()
        cdef model_settings wanted
        cdef bytes encoded = path_bytes(path)
        cdef LLMHandle opened = NULL
        cdef RKLLMExtInfo info
        cdef list texts = []
        cdef dict later = {}
        cdef int code
        if self.llm != NULL or self.closing:
            raise InvalidArgumentError("the model is loaded already")
        memset(&wanted, 0, sizeof(model_settings))
        wanted.param = library.defaults()
        fill_param(&wanted.param, settings, texts)
        wanted.param.model_path = encoded
        wanted.raw_prompts = raw_prompts
        if is_extended():
            later = {name: settings.pop(name) for name in ("n_keep", "n_threads") if name in settings}
        else:
            take_settings(&wanted, settings)
        with nogil:
            code = library.init(&opened, &wanted)
        check(code, NULL, "rkllm_init")
        self.llm = opened
        self.param = wanted.param
        self.param.model_path = NULL
        self.path = os.fsdecode(path)
        self.pid = os.getpid()
        self.options = {**FIRST_OPTIONS, **settings}
        _open_handles.add(self)
        if <void*>ext_info != NULL and ext_info(self.llm, &info) == 0:
            self.dim = info.dim
        try:
            self.apply(later)
        except BaseException:
            self.close()
            raise

    # ---- other things than answers -----------------------------------------------------------------------------------

    def logits(self, given, options):
        """Return the logits of every position of an input, float32 [n, vocab_size]."""
        if can(GENERATION_LOGITS):
            return self.run_for_rows(RUN_LOGITS, given, options)
        need(<void*>ext_logits, "logits()")
        return self.rows(ext_logits, "rkllm_ext_logits", "vocab_size", given, options)

    def hidden_states(self, given, options):
        """Return the final hidden state of every position of an input, float32 [n, dim]."""
        if not is_extended():
            return self.run_for_rows(RKLLM_INFER_GET_LAST_HIDDEN_LAYER, given, options)
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

    # ---- conversations that the library keeps -----------------------------------------------------------------------

    cdef const generation* conversing(self, str what) except NULL:
        # The interface of a library that has functions for conversations, or a refusal.
        if not can(GENERATION_CONVERSATION):
            need(NULL, what)
        return the_generation()

    def set_function_tools(self, system, tools):
        """Tell the vendor's library the functions that a model may call, a text of JSON, for all prompts from now on.

        system: the system prompt that they come with, in place of the template's own.
        """
        cdef const generation* library
        cdef bytes encoded_system = name_bytes(system, "the system message")
        cdef bytes encoded_tools = name_bytes(tools, "tools")
        self.enter()
        try:
            library = self.conversing("set_function_tools()")
            self.settle()
            check(library.set_tools(self.llm, encoded_system, encoded_tools), self.llm, "rkllm_set_function_tools")
        finally:
            self.leave()

    def clear_kv_cache(self):
        """Forget what earlier runs have left, kept histories included."""
        self.enter()
        try:
            if is_extended():
                self.settle()
                check(ext_set_option(self.llm, b"keep_history", b"0"), self.llm, "rkllm_ext_set_option")
                self.options["keep_history"] = False
                self.held = 0
                return
            library = self.conversing("clear_kv_cache()")
            self.settle()
            check(library.clear_cache(self.llm), self.llm, "rkllm_clear_kv_cache")
        finally:
            self.leave()

    def kv_cache_size(self):
        """Return how many tokens of earlier runs the KV cache holds."""
        cdef int tokens = 0
        self.enter()
        try:
            if is_extended():
                self.settle()
                return self.held
            library = self.conversing("kv_cache_size")
            self.settle()
            check(library.cache_size(self.llm, &tokens), self.llm, "rkllm_get_kv_cache_size")
            return tokens
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
    raw_prompts : bool
        Prompts are taken as they are, also by libraries that put a chat template around them.
    **settings : int, float or bool
        Fields of RKLLMParam, n_keep and n_threads; the library's defaults serve where none is given.
    """

    __slots__ = ()

    # A cdef class has no finalizer under the stable ABI; a class like this one has.
    def __del__(self):
        self.close()
