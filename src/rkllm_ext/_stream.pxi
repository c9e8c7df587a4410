# SPDX-License-Identifier: Apache-2.0
# A run as its consumer sees it: pieces of text as they come.

cdef class Piece:
    """One token of an answer.

    Attributes
    ----------
    text : str
        Whole characters; "" while the bytes of a character are incomplete, or while the text could be the beginning of
        a stop string.
    token_id : int
        -1 for a piece that is no token: text that was still held back when the run ended.
    logprob : float or None
        Natural logarithm of the token's probability in the model's own distribution, before all sampling settings; None
        unless the run was asked for `logprobs`.
    top_logprobs : list of (int, float) or None
        The most probable tokens and theirs, best first.
    """

    cdef readonly str text
    cdef readonly int token_id
    cdef readonly object logprob
    cdef readonly object top_logprobs

    def __repr__(self):
        return f"Piece(text={self.text!r}, token_id={self.token_id})"


cdef class BaseStream:
    """What `rkllm_ext.Stream` is made of. Whoever derives from it adds `__del__`, which calls `close`: under the stable
    ABI a class like this one has no finalizer of its own."""

    cdef BaseRunner handle
    cdef Job job
    cdef queue_side* side  # the entries that were taken last; NULL before the first
    cdef size_t at         # the next one of them
    cdef size_t taken      # tokens of all sides
    cdef bint over
    cdef readonly object finish_reason
    cdef readonly list logprobs  # of the tokens that collect() has returned, as of pieces; None when not asked for

    def __cinit__(self):
        self.over = True  # until new_stream gives it a run

    def __init__(self):
        raise TypeError("a Stream is made by LLM.stream")

    def __iter__(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __reduce__(self):
        raise TypeError("a running stream cannot be pickled")

    cdef int check_process(self) except -1:
        # The library's threads are not there after a fork: nothing would ever come, and the queue may be locked.
        if not self.over and self.handle.pid != getpid():
            raise InvalidArgumentError("the run was started by another process; start one after the fork")
        return 0

    cdef bint take(self) except -1:
        # Take what is there, without waiting. Returns whether there is an entry.
        if self.side != NULL and self.at < self.side.count:
            return True
        self.side = queue_take(self.job.q)
        self.at = 0
        self.taken += self.side.count
        return self.side.count > 0

    cdef bint fill(self, size_t entries) except -1:
        # Wait for so many entries, or for some time if there is one then. Returns False at the end of the run. Raises
        # what a signal handler raises, and the run's error.
        cdef queue* q
        cdef int ready = 0
        self.check_process()
        while not self.over:
            try:
                PyErr_CheckSignals()
            except BaseException:
                self.close()
                raise
            # The end is asked for first: what the producer put before it is then seen by take().
            q = self.job.q
            ended = queue_end(q) != 0
            if self.take():
                return True
            if ended:
                self.finish()
                break
            if q.out_of_memory:
                self.close()
                raise OutOfMemoryError("no memory for the text of a run")
            if self.job.aborted and not is_extended():
                self.handle.stop_library()  # again: the vendor's may not have known of the run the first time
            with nogil:
                queue_wait(q, WAIT_MS, entries)
        return False

    cdef int finish(self) except -1:
        self.over = True
        self.handle.retire(self.job)
        if self.job.error is not None:
            self.finish_reason = "error"
            error, self.job.error = self.job.error, None  # its traceback refers to this object
            raise error
        if self.job.constraint is not None and self.job.constraint.cut and self.job.perf["finish_reason"] == "stop":
            self.job.perf["finish_reason"] = "length"  # the library cannot know why nothing may follow
        if self.job.perf is not None:
            self.finish_reason = self.job.perf["finish_reason"]
        else:
            self.finish_reason = self.job.reason
        return 0

    def __next__(self):
        cdef Piece piece
        cdef size_t begin
        if self.over or not (self.side != NULL and self.at < self.side.count or self.fill(1)):
            raise StopIteration
        begin = self.side.ends[self.at - 1] if self.at else 0
        piece = Piece.__new__(Piece)
        piece.text = self.side.text[begin:self.side.ends[self.at]].decode("utf-8", "replace")
        piece.token_id = self.side.ids[self.at]
        if self.side.logprobs != NULL and piece.token_id >= 0:
            piece.logprob, piece.top_logprobs = self.logprobs_at(self.at)
        self.at += 1
        return piece

    cdef tuple logprobs_at(self, size_t at):
        # Of an entry: that of its token, and [(id, that of an alternative)].
        cdef size_t top = self.job.q.top
        cdef float* logprobs = self.side.logprobs + at * (1 + top)
        cdef int32_t* ids = self.side.alternatives + at * top
        return logprobs[0], [(ids[i], logprobs[1 + i]) for i in range(top) if ids[i] >= 0]

    def collect(self):
        """Wait for the end and return (text, token ids int32 [n]) of all that is left; `logprobs` are then theirs."""
        cdef queue_side* side
        text = bytearray()
        ids = bytearray()
        if self.job.q.sides[0].logprobs != NULL:
            self.logprobs = []
        # Nobody sees the single tokens: waking up for each would only take time from the model.
        while self.fill(QUEUE_HALF):
            side = self.side
            begin = side.ends[self.at - 1] if self.at else 0
            text += side.text[begin:side.ends[side.count - 1]]
            ids += (<char*>(side.ids + self.at))[:4 * (side.count - self.at)]
            if self.logprobs is not None:
                self.logprobs += [self.logprobs_at(at) for at in range(self.at, side.count) if side.ids[at] >= 0]
            self.at = side.count
            if side.ids[side.count - 1] < 0:  # the run's last text, no token
                del ids[-4:]
        cdef bytes packed = bytes(ids)
        return text.decode("utf-8", "replace"), ids_array(<const int32_t*><const char*>packed, len(packed) // 4)

    @property
    def buffered(self):
        """Whether the next piece has been taken from the queue already."""
        return self.side != NULL and self.at < self.side.count

    def ready(self):
        """Return whether the next piece, or the end, can be had without waiting."""
        self.check_process()
        return self.over or queue_end(self.job.q) != 0 or self.take()

    def fileno(self):
        """Return a file descriptor that is readable while something waits in the queue, for an event loop."""
        self.check_process()
        cdef int event = queue_event(self.job.q)
        if event < 0:
            raise OSError("no eventfd can be had; too many files are open")
        return event

    @property
    def ended(self):
        """Whether the library has ended the run; its pieces may still wait to be read."""
        self.check_process()
        return queue_end(self.job.q) != 0

    @property
    def figures(self):
        """Figures of the run as a dict; None before its end."""
        return self.job.perf

    def cancel(self):
        """Abort the run and let go of it without waiting for its end. The model's next run waits for it."""
        if self.over:
            return
        self.over = True
        self.finish_reason = "abort"
        self.job.abandoned = True
        if self.handle.active is self.job:  # and not a later run
            self.handle.abort()

    def close(self):
        """Abort the run, if it lasts, and wait for its end. A second call does nothing."""
        if self.over:
            return
        self.over = True
        self.finish_reason = "abort"
        if self.handle.llm == NULL or self.handle.pid != getpid():
            return
        self.job.aborted = True
        self.job.abandoned = True
        self.handle.drain(self.job)


cdef BaseStream new_stream(object stream_class, BaseRunner handle, Job job):
    cdef BaseStream stream = stream_class.__new__(stream_class)
    stream.handle = handle
    stream.job = job
    stream.over = False
    return stream
