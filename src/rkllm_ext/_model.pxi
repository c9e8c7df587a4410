# SPDX-License-Identifier: Apache-2.0
# A loaded model that is asked: whether it is open, facts about it, its tokens.


cdef class BaseModel:
    cdef LLMHandle llm
    cdef int users       # calls in progress that close() must wait for
    cdef int dim         # 0: not known
    cdef int pid
    cdef bint closing
    cdef readonly str path
    cdef object __weakref__

    def __reduce__(self):
        raise TypeError("a loaded model cannot be pickled; pickle its path and load it in the other process")

    cdef int enter(self) except -1:
        if self.llm == NULL or self.closing:
            raise InvalidArgumentError("the model is closed; load it again")
        if self.pid != os.getpid():
            raise InvalidArgumentError("the model was loaded by another process; load it after the fork")
        self.users += 1
        return 0

    cdef void leave(self) noexcept:
        self.users -= 1

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
