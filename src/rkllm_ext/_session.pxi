# SPDX-License-Identifier: Apache-2.0
# Sequences whose tokens the caller chooses.
import operator

from posix.unistd cimport getpid


cdef class LogitsMemory:
    # The logits behind one position, exported read-only. While it lives they stay as they are: the session writes its
    # next ones elsewhere.
    cdef RKLLMExtLogits* hold
    cdef const float* data
    cdef Py_ssize_t size

    def __dealloc__(self):
        if self.hold != NULL:
            ext_logits_release(self.hold)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, <void*>self.data, self.size, 1, flags)

    def __releasebuffer__(self, Py_buffer* view):
        pass


cdef class BaseSession:
    """What `rkllm_ext.Session` is made of. Calls of several threads at the same time are refused by the library."""

    cdef RKLLMExtSession* session
    cdef int users          # calls in progress; the last one frees a session that was closed meanwhile
    cdef int pid
    cdef int dim
    cdef int vocab_size
    cdef bint closed
    cdef dict first         # options that every choice begins with
    cdef dict options       # as they are set in the library now
    cdef readonly size_t moves  # changes with the logits
    cdef readonly str path  # of the model

    def __cinit__(self):
        self.closed = True  # until it is given a session

    def __init__(self):
        raise TypeError("a Session is made by LLM.session")

    def __dealloc__(self):
        if self.session != NULL and self.pid == getpid():
            ext_session_close(self.session)

    def __reduce__(self):
        raise TypeError("a session cannot be pickled; save() it")

    cdef RKLLMExtSession* enter(self) except NULL:
        if self.closed or self.session == NULL:
            raise InvalidArgumentError("the session is closed")
        if self.pid != getpid():
            raise InvalidArgumentError("the session was made by another process; make it after the fork")
        self.users += 1
        return self.session

    cdef void leave(self) noexcept:
        self.users -= 1
        if self.closed and self.users == 0:
            ext_session_close(self.session)
            self.session = NULL

    cdef int apply(self, object options) except -1:
        # Set what differs from what is set; a seed in any case, since it restarts the random numbers.
        cdef bytes text
        for name, value in options.items():
            if name != "seed" and self.options.get(name) == value:
                continue
            text = option_text(value)
            check(ext_session_set_option(self.session, name_bytes(name, "name"), text), NULL,
                  "rkllm_ext_session_set_option")
            self.options[name] = value
        return 0

    def append(self, given, whole):
        """Run an input behind the sequence, or as the whole of it. Return how many positions were computed."""
        cdef Job job = job_for(given, self.dim)
        cdef RKLLMExtSession* session = self.enter()
        cdef size_t computed = 0
        cdef int flags = RKLLM_EXT_WHOLE if whole else 0
        cdef int code
        try:
            self.apply({"image_tokens": job.image_tokens})
            with nogil:
                code = ext_session_prefill(session, &job.given, flags, &computed)
            if code == 0 or computed > 0:
                self.moves += 1
            check(code, NULL, "rkllm_ext_session_prefill")
            return computed
        finally:
            self.leave()

    def append_part(self, given, most, with_logits):
        """Compute at most `most` positions of an input that is the whole sequence. Return how many were computed, how
        many are left, and the logits behind the computed ones, float32 [n, vocab_size], or None."""
        cdef Job job = job_for(given, self.dim)
        cdef RKLLMExtSession* session
        cdef size_t limit = number_of(most, "most")
        cdef size_t computed = 0
        cdef size_t left = 0
        cdef Buffer rows = None
        cdef float* out = NULL
        cdef int code
        logits = None
        if with_logits:
            logits = new_array((limit, self.vocab_size), "float32")
            rows = writable(logits)
            out = <float*>rows.view.buf
        session = self.enter()
        try:
            self.apply({"image_tokens": job.image_tokens})
            with nogil:
                code = ext_session_prefill_part(session, &job.given, limit, out, &computed, &left)
            if code == 0 or computed > 0:
                self.moves += 1
            check(code, NULL, "rkllm_ext_session_prefill_part")
            return computed, left, None if logits is None else logits[:computed]
        finally:
            self.leave()

    def logprobs(self, token, k):
        """Return the log-probability of a token behind the last position, and the k (0 ... 20) most probable tokens
        with theirs, in the model's own distribution."""
        cdef RKLLMExtSession* session = self.enter()
        try:
            return logprobs_of(ext_session_logits(session), self.vocab_size, number_of(token, "the token"),
                               number_of(k, "k"))
        finally:
            self.leave()

    def step(self, token):
        """Append one token and compute it.

        Raises
        ------
        InvalidArgumentError
            The token is not in the vocabulary, or the session is closed.
        ContextFullError
            The sequence is as long as max_context_len allows.
        BusyError
            Another thread uses the session.
        """
        cdef RKLLMExtSession* session = self.enter()
        cdef int32_t id
        cdef int code
        try:
            id = number_of(token, "the token")
            with nogil:
                code = ext_session_step(&session, &id, 1)
            check(code, NULL, "rkllm_ext_session_step")
            self.moves += 1
        finally:
            self.leave()

    def hold_logits(self):
        """Return an object that exports the logits as bytes, read-only, while it lives; None when there are none."""
        cdef RKLLMExtSession* session = self.enter()
        cdef LogitsMemory memory = LogitsMemory()
        try:
            if ext_session_logits(session) == NULL:
                return None
            memory.data = ext_session_hold_logits(session, &memory.hold)
            if memory.data == NULL:
                raise failure(ext_last_error_code(NULL), NULL, "rkllm_ext_session_hold_logits")
            memory.size = 4 * self.vocab_size
            return memory
        finally:
            self.leave()

    def choose(self, mask, options):
        """Choose a token from the logits with these options beside the first ones. mask: None, or a buffer with a
        bit for each token, in words of 32."""
        cdef Buffer buffer = None
        cdef const uint32_t* words = NULL
        cdef int32_t token = -1
        cdef RKLLMExtSession* session = self.enter()
        cdef int code
        try:
            if mask is not None:
                buffer = mask_of(mask, self.vocab_size)
                words = <const uint32_t*>buffer.view.buf
            self.apply({**self.first, **options})
            with nogil:
                code = ext_session_sample(session, words, &token)
            check(code, NULL, "rkllm_ext_session_sample")
            return token
        finally:
            self.leave()

    def truncate(self, n):
        """Keep the first n positions. `logits` are None then, until the next `prefill` or `step`."""
        cdef RKLLMExtSession* session = self.enter()
        cdef size_t count
        cdef size_t kept
        try:
            if number_of(n, "n") < 0:
                raise InvalidArgumentError(f"n is {n}; 0 or more positions can be kept")
            kept = number_of(n, "n")
            check(ext_session_tokens(session, NULL, 0, &count), NULL, "rkllm_ext_session_tokens")
            check(ext_session_truncate(session, kept), NULL, "rkllm_ext_session_truncate")
            if kept < count:
                self.moves += 1
        finally:
            self.leave()

    def copy(self, session_class):
        """Return a second session in the same state, of a class derived from `BaseSession`."""
        cdef RKLLMExtSession* session = self.enter()
        cdef RKLLMExtSession* copy = NULL
        cdef int code
        try:
            with nogil:
                code = ext_session_fork(session, &copy)
            check(code, NULL, "rkllm_ext_session_fork")
            return new_session(session_class, copy, self.path, self.vocab_size, self.dim, self.first,
                               dict(self.options))
        finally:
            self.leave()

    def save(self, path):
        """Save the sequence with its keys and values to a file, for `LLM.restore` and `LLM.load_prompt_cache`.

        Raises
        ------
        InvalidArgumentError
            The session is empty or closed, or the folder does not exist.
        BusyError
            Another thread uses the session.
        """
        cdef RKLLMExtSession* session = self.enter()
        cdef bytes encoded
        cdef const char* c_path
        cdef int code
        try:
            encoded = path_bytes(path)
            c_path = encoded
            with nogil:
                code = ext_session_save(session, c_path)
            check(code, NULL, "rkllm_ext_session_save")
        finally:
            self.leave()

    @property
    def tokens(self):
        """Tokens of the sequence, int32 [n]; -1 where an embedding stands."""
        cdef RKLLMExtSession* session = self.enter()
        cdef int32_t* ids = NULL
        cdef size_t count = 0
        cdef size_t capacity
        try:
            check(ext_session_tokens(session, NULL, 0, &count), NULL, "rkllm_ext_session_tokens")
            capacity = count
            ids = <int32_t*>malloc(capacity * sizeof(int32_t) + 1)
            if ids == NULL:
                raise OutOfMemoryError(f"no memory for {capacity} token ids")
            check(ext_session_tokens(session, ids, capacity, &count), NULL, "rkllm_ext_session_tokens")
            return ids_array(ids, min(capacity, count))
        finally:
            free(ids)
            self.leave()

    def __len__(self):
        """Return the number of positions."""
        cdef RKLLMExtSession* session = self.enter()
        cdef size_t count = 0
        try:
            check(ext_session_tokens(session, NULL, 0, &count), NULL, "rkllm_ext_session_tokens")
            return count
        finally:
            self.leave()

    def __bool__(self):
        return True  # also an empty one

    def abort(self):
        """End a prefill that another thread is in."""
        if not self.closed and self.session != NULL and self.pid == getpid():
            ext_session_abort(self.session)

    def close(self):
        """Free the session; a prefill that another thread is in ends first. A second call does nothing."""
        if self.closed:
            return
        self.abort()
        self.closed = True
        self.moves += 1
        if self.users == 0 and self.pid == getpid():
            ext_session_close(self.session)
            self.session = NULL


cdef Buffer mask_of(object mask, int vocab_size):
    # Hold a mask of tokens.
    cdef Buffer buffer = hold(mask, "mask")
    cdef Py_ssize_t needed = 4 * ((vocab_size + 31) // 32)
    if buffer.view.len != needed:
        raise InvalidArgumentError(
            f"mask has {buffer.view.len} bytes; a bit for each of {vocab_size} tokens is {needed}")
    return buffer


cdef tuple logprobs_of(const float* logits, int32_t n, int32_t token, int32_t k):
    cdef float chosen = 0.0
    cdef int32_t ids[20]
    cdef float values[20]
    cdef size_t count = 0
    cdef size_t i
    cdef int code
    if logits == NULL:
        raise InvalidArgumentError("the session has no logits; prefill or step it first")
    if not 0 <= k <= 20:
        raise InvalidArgumentError(f"k is {k}; 0 ... 20 alternatives are possible")
    with nogil:
        code = ext_top_logprobs(logits, n, token, k, &chosen, ids, values, &count)
    check(code, NULL, "rkllm_ext_top_logprobs")
    return chosen, [(ids[i], values[i]) for i in range(count)]


def top_logprobs(logits, token, k):
    """Return what `BaseSession.logprobs` gives, of a row of logits, float32 [vocab_size]."""
    cdef Buffer row = hold_array(logits, "logits", "float32", 1)
    return logprobs_of(<const float*>row.view.buf, <int32_t>row.view.shape[0], number_of(token, "the token"),
                       number_of(k, "k"))


cdef int32_t number_of(object number, str what) except? -1:
    try:
        return operator.index(number)
    except (TypeError, OverflowError):
        raise InvalidArgumentError(f"{what} is {number!r}; an integer of 32 bits is needed") from None


cdef BaseSession new_session(object session_class, RKLLMExtSession* opened, str path, int vocab_size, int dim,
                             dict first, dict options):
    cdef BaseSession session = session_class.__new__(session_class)
    session.session = opened
    session.path = path
    session.vocab_size = vocab_size
    session.dim = dim
    session.first = first
    session.options = options
    session.pid = getpid()
    session.closed = False
    return session


def step_sessions(sessions, tokens):
    """Append one token to each of several sessions of one model, in one pass over the weights."""
    cdef size_t n = len(sessions)
    cdef size_t entered = 0
    cdef size_t i
    cdef int code
    cdef list all_of_them = list(sessions)
    cdef list ids = list(tokens)
    if len(ids) != n:
        raise InvalidArgumentError(f"{n} sessions but {len(ids)} tokens are given; each session takes one")
    if n == 0:
        return
    for session in all_of_them:
        if not isinstance(session, BaseSession):
            raise InvalidArgumentError(f"a {type(session).__name__} is given; sessions are made by LLM.session")
    cdef RKLLMExtSession** c_sessions = <RKLLMExtSession**>malloc(n * sizeof(void*))
    cdef int32_t* c_tokens = <int32_t*>malloc(n * sizeof(int32_t))
    try:
        if c_sessions == NULL or c_tokens == NULL:
            raise OutOfMemoryError(f"no memory to step {n} sessions")
        for i in range(n):
            c_tokens[i] = number_of(ids[i], f"token {i}")
        for i in range(n):
            c_sessions[i] = (<BaseSession>all_of_them[i]).enter()
            entered += 1
        with nogil:
            code = ext_session_step(c_sessions, c_tokens, n)
        check(code, NULL, "rkllm_ext_session_step")
        for i in range(n):
            (<BaseSession>all_of_them[i]).moves += 1
    finally:
        free(c_sessions)
        free(c_tokens)
        for i in range(entered):
            (<BaseSession>all_of_them[i]).leave()
