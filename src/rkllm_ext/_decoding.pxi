# SPDX-License-Identifier: Apache-2.0
# Sessions that decode together without coming back to Python between two passes.

cdef class Decoding:
    """Several sessions of one model that append a token each and choose the next one, pass after pass.

    One thread calls `run`, once; another one may `take` what has been chosen meanwhile, and any thread may `stop`. It
    ends behind the first pass that chooses an end for one of the sessions, behind `most` passes, or when it is stopped.

    Parameters
    ----------
    sessions : sequence of BaseSession
        With the settings of their last choice; nobody else may use them while it runs.
    tokens : sequence of int
        What each of them appends first.
    masks : sequence of buffers or None, optional
        For the choices of the first pass, as for `BaseSession.choose`.
    ends : sequence of collections of int, optional
        Tokens that end each one's answer.
    most : int
        Passes.
    """

    cdef decoding* state
    cdef list sessions
    cdef RKLLMExtSession** members
    cdef int32_t* tokens    # what is appended next
    cdef const uint32_t** masks
    cdef list held_masks
    cdef object error

    def __init__(self, sessions, tokens, masks=None, ends=None, most=1):
        cdef size_t i
        cdef size_t at = 0
        cdef Buffer mask
        cdef size_t n = len(sessions)
        if self.state != NULL:
            raise InvalidArgumentError("a Decoding is made once")
        for what, given in (("tokens", tokens), ("masks", masks), ("ends", ends)):
            if given is not None and len(given) != n:
                raise InvalidArgumentError(f"{n} sessions but {len(given)} {what} are given; each session takes one")
        if n == 0 or number_of(most, "most") < 1:
            raise InvalidArgumentError(f"{n} sessions and {most} passes are given; at least one of each is needed")
        for session in sessions:
            if not isinstance(session, BaseSession):
                raise InvalidArgumentError(f"a {type(session).__name__} is given; sessions are made by LLM.session")
        self.sessions = list(sessions)
        self.held_masks = []
        all_ends = [()] * n if ends is None else [tuple(each) for each in ends]
        self.state = decoding_new(n, number_of(most, "most"), sum(map(len, all_ends)))
        self.members = <RKLLMExtSession**>malloc(n * sizeof(void*))
        self.tokens = <int32_t*>malloc(n * sizeof(int32_t))
        self.masks = <const uint32_t**>malloc(n * sizeof(void*))
        if self.state == NULL or self.members == NULL or self.tokens == NULL or self.masks == NULL:
            raise OutOfMemoryError(f"no memory to decode {n} sessions")
        for i in range(n):
            self.tokens[i] = number_of(tokens[i], f"token {i}")
            if self.tokens[i] < 0:
                raise InvalidArgumentError(f"token {i} is {self.tokens[i]}, which is not in the vocabulary")
            self.masks[i] = NULL
            if masks is not None and masks[i] is not None:
                mask = mask_of(masks[i], (<BaseSession>self.sessions[i]).vocab_size)
                self.held_masks.append(mask)
                self.masks[i] = <const uint32_t*>mask.view.buf
            for end in all_ends[i]:
                self.state.ends[at] = number_of(end, "an end")
                at += 1
            self.state.begins[i + 1] = at

    def __dealloc__(self):
        if self.state != NULL:
            decoding_free(self.state)
        free(self.members)
        free(self.tokens)
        free(self.masks)

    def run(self):
        """Compute until the end; what goes wrong is raised by `take`."""
        cdef size_t entered = 0
        cdef size_t i
        cdef int code
        try:
            for i in range(self.state.n):
                self.members[i] = (<BaseSession>self.sessions[i]).enter()
                entered += 1
            with nogil:
                code = ext_session_decode(self.members, self.tokens, self.state.n, self.masks, decoding_put, self.state)
            for session in self.sessions:
                (<BaseSession>session).moves += 1
            check(code, NULL, "rkllm_ext_session_decode")
        except Exception as error:
            self.error = error
            if any([self.tokens[i] < 0 for i in range(entered)]):  # a pass whose choices failed in part
                decoding_put(self.tokens, self.state.n, self.state)
        finally:
            for i in range(entered):
                (<BaseSession>self.sessions[i]).leave()
            decoding_end(self.state)

    def rest(self, int milliseconds):
        """Wait for the last pass, at most so long: those before it wake nobody. `take` gives them together."""
        with nogil:
            decoding_rest(self.state, milliseconds)

    def take(self):
        """Wait for passes and return what each has chosen, a list of one token for each session; [] at the end.

        A token is -1 where nothing could be chosen; the next call says why.
        """
        cdef int over = 0
        cdef size_t waiting = 0
        cdef size_t i
        cdef size_t first
        while waiting == 0:
            with nogil:
                waiting = decoding_wait(self.state, WAIT_MS, &over)
            PyErr_CheckSignals()
            if waiting == 0 and over:
                if self.error is not None:
                    error, self.error = self.error, None
                    raise error
                return []
        passes = []
        for _ in range(waiting):
            first = self.state.taken * self.state.n
            passes.append([self.state.tokens[first + i] for i in range(self.state.n)])
            self.state.taken += 1
        return passes

    def stop(self):
        """Let the pass that is being computed be the last one. Any thread may call it, also before `run`."""
        decoding_stop(self.state)
