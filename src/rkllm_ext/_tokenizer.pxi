# SPDX-License-Identifier: Apache-2.0
# The library's tokenizers: those of a file, and through a handle those of a loaded model.


cdef object encode_text(const RKLLMExtTokenizer* tokenizer, object text, bint parse_special, bint add_bos):
    # Text or UTF-8 bytes to int32 ids.
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogatepass")  # a lone surrogate is invalid UTF-8, which the library replaces
    elif not isinstance(text, bytes):
        raise InvalidArgumentError(f"text is a {type(text).__name__}; a str or bytes is needed")
    cdef bytes encoded = text
    cdef const char* data = encoded
    cdef size_t n_bytes = len(encoded)
    cdef size_t capacity = n_bytes + 16  # enough unless replaced bytes become several tokens each
    cdef size_t count = 0
    cdef int flags = (RKLLM_EXT_PARSE_SPECIAL if parse_special else 0) | (RKLLM_EXT_ADD_BOS if add_bos else 0)
    cdef int32_t* ids = NULL
    cdef int code = 0
    try:
        while True:
            free(ids)
            ids = <int32_t*>malloc(capacity * sizeof(int32_t))
            if ids == NULL:
                raise OutOfMemoryError(f"no memory for {capacity} token ids")
            with nogil:
                code = ext_tokenize(tokenizer, data, n_bytes, flags, ids, capacity, &count)
            if code == 0 or count <= capacity:
                break
            capacity = count
        check(code, NULL, "rkllm_ext_tokenize")
        return ids_array(ids, count)
    finally:
        free(ids)


cdef Buffer hold_ids(object ids):
    # An int32 buffer as it is; a sequence of ints through an array.
    if isinstance(ids, (list, tuple, range)):
        from array import array

        try:
            ids = array("i", ids)
        except (TypeError, OverflowError) as error:
            raise InvalidArgumentError(f"ids: {error}; integers of 32 bits are needed") from None
    return hold_array(ids, "ids", "int32", 1)


cdef str decode_ids(const RKLLMExtTokenizer* tokenizer, object ids, bint skip_special):
    # int32 ids to text.
    if hasattr(ids, "__len__") and len(ids) == 0:
        return ""
    cdef Buffer held = hold_ids(ids)
    cdef const int32_t* data = <const int32_t*>held.view.buf
    cdef size_t count = held.view.len // 4
    cdef size_t capacity = 16 * count + 64  # few tokens are longer
    cdef size_t n_bytes = 0
    cdef int32_t vocab_size = ext_vocab_size(tokenizer)
    cdef size_t index
    for index in range(count):
        if not 0 <= data[index] < vocab_size:
            raise InvalidArgumentError(f"id {index} is {data[index]}; the vocabulary is 0 ... {vocab_size - 1}")
    cdef int flags = RKLLM_EXT_SKIP_SPECIAL if skip_special else 0
    cdef char* text = NULL
    cdef int code = 0
    try:
        while True:
            free(text)
            text = <char*>malloc(capacity)
            if text == NULL:
                raise OutOfMemoryError(f"no memory for {capacity} bytes of text")
            with nogil:
                code = ext_detokenize(tokenizer, data, count, flags, text, capacity, &n_bytes)
            if code == 0 or n_bytes <= capacity:
                break
            capacity = n_bytes
        check(code, NULL, "rkllm_ext_detokenize")
        return text[:n_bytes].decode("utf-8", "replace")
    finally:
        free(text)


cdef class Tokenizer:
    """The tokenizer of a `.rkllm` file. A context manager, safe to use from any number of threads.

    Parameters
    ----------
    path : str or os.PathLike
        A model, or a file that holds a tokenizer only.

    Raises
    ------
    ModelFileError
        The file is missing, damaged or has no tokenizer.

    Examples
    --------
    >>> with Tokenizer("model.rkllm") as tokenizer:
    ...     tokenizer.decode(tokenizer.encode("good morning"))
    'good morning'
    """

    cdef RKLLMExtTokenizer* tokenizer
    cdef int users  # calls in progress; the last one frees a tokenizer that was closed meanwhile
    cdef bint closed

    def __init__(self, path):
        need(<void*>ext_tokenizer_open, "Tokenizer")
        if self.tokenizer != NULL:
            raise InvalidArgumentError("the tokenizer is open already")
        cdef bytes encoded = path_bytes(path)
        cdef const char* c_path = encoded
        cdef RKLLMExtTokenizer* opened = NULL
        cdef int code
        with nogil:
            code = ext_tokenizer_open(c_path, &opened)
        check(code, NULL, "rkllm_ext_tokenizer_open")
        self.tokenizer = opened

    def __dealloc__(self):
        if self.tokenizer != NULL:
            ext_tokenizer_close(self.tokenizer)

    cdef RKLLMExtTokenizer* enter(self) except NULL:
        if self.closed or self.tokenizer == NULL:
            raise InvalidArgumentError("the tokenizer is closed")
        self.users += 1
        return self.tokenizer

    cdef void leave(self) noexcept:
        self.users -= 1
        if self.closed and self.users == 0:
            ext_tokenizer_close(self.tokenizer)
            self.tokenizer = NULL

    def encode(self, text, parse_special=True, add_bos=False):
        """Return the ids of a text, int32 [n].

        Parameters
        ----------
        text : str or bytes
            Bytes are UTF-8; what is invalid is read as U+FFFD.
        parse_special : bool
            Special tokens written in the text become their ids.
        add_bos : bool
            Put the begin token first if the tokenizer asks for one.

        Raises
        ------
        InvalidArgumentError
            The tokenizer is closed, or text is neither str nor bytes.
        """
        cdef RKLLMExtTokenizer* tokenizer = self.enter()
        try:
            return encode_text(tokenizer, text, parse_special, add_bos)
        finally:
            self.leave()

    def decode(self, ids, skip_special=False):
        """Return the text of ids; incomplete characters become U+FFFD.

        Raises
        ------
        InvalidArgumentError
            The tokenizer is closed, or an id does not exist.
        """
        cdef RKLLMExtTokenizer* tokenizer = self.enter()
        try:
            return decode_ids(tokenizer, ids, skip_special)
        finally:
            self.leave()

    @property
    def vocab_size(self):
        """Number of ids."""
        cdef RKLLMExtTokenizer* tokenizer = self.enter()
        try:
            return ext_vocab_size(tokenizer)
        finally:
            self.leave()

    def token_id(self, text):
        """Return the id of a token's text, or None."""
        cdef bytes encoded = name_bytes(text, "text")
        cdef RKLLMExtTokenizer* tokenizer = self.enter()
        try:
            found = ext_token_id(tokenizer, encoded)
            return None if found < 0 else found
        finally:
            self.leave()

    def close(self):
        """Free the tokenizer. A second call does nothing."""
        if self.closed:
            return
        self.closed = True
        if self.users == 0 and self.tokenizer != NULL:
            ext_tokenizer_close(self.tokenizer)
            self.tokenizer = NULL

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __reduce__(self):
        raise TypeError("a Tokenizer cannot be pickled; pickle its path and open it again")
