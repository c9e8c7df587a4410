# SPDX-License-Identifier: Apache-2.0
# The library under the module: which one it is, what it lists, and the one gate through which its errors pass.

library_resolve()

# Of LD_LIBRARY_PATH it may be relative to the folder that the program was started in.
cdef str LIBRARY_PATH = os.path.abspath(os.fsdecode(<bytes>library_file()))

Format = namedtuple("Format", "name bits group scale_bits activation_bits offered")
SpecField = namedtuple("SpecField", "type name default meaning")


cdef str text_of(const char* text):
    # Texts of the library are UTF-8; a file name inside a sentence may hold any byte.
    return "" if text == NULL else (<bytes>text).decode("utf-8", "backslashreplace")


cdef bytes path_bytes(object path):
    cdef bytes encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise InvalidArgumentError(f"path {path!r} holds a NUL character")
    return encoded


cdef bytes name_bytes(object text, str what):
    if not isinstance(text, str):
        raise InvalidArgumentError(f"{what} is a {type(text).__name__}; a str is needed")
    cdef bytes encoded = text.encode("utf-8", "surrogatepass")
    if b"\0" in encoded:
        raise InvalidArgumentError(f"{what} holds a NUL character")
    return encoded


cdef int need(void* function, str what) except -1:
    # Refuse what the library underneath does not have.
    if function == NULL:
        raise UnsupportedByRuntimeError(
            f"{what} needs rkllm_ext's own library; LD_LIBRARY_PATH puts another one first ({library_path()})")
    return 0


cdef dict error_rows():
    # {code: (exception class, sentence)}, asked of the library.
    cdef RKLLMExtError row
    cdef int index = 0
    rows = {}
    while <void*>ext_error != NULL and ext_error(index, &row) == 0:
        rows[row.code] = (getattr(errors, text_of(row.exception)), text_of(row.sentence))
        index += 1
    return rows


cdef object failure(int code, LLMHandle handle, str call):
    # The exception for a failed call. The calling thread's sentence is the fresher one; a handle's is that of its run.
    row = error_rows().get(code)
    cdef LLMHandle kept
    if row is None or <void*>ext_last_error == NULL or <void*>ext_last_error_code == NULL:
        return RKLLMError(f"{call} failed with {code}; RKLLM_LOG_LEVEL=1 makes the library say more")
    for place in range(2):
        kept = NULL if place == 0 else handle
        if ext_last_error_code(kept) == code:
            sentence = text_of(ext_last_error(kept))
            if sentence:
                return row[0](sentence)
    return row[0](row[1])


cdef int check(int code, LLMHandle handle, str call) except -1:
    # The one error gate: 0 passes, anything else is raised as what the library's list of errors calls it.
    if code != 0:
        raise failure(code, handle, call)
    return 0


def library_path():
    """Return the path of the library in use."""
    return LIBRARY_PATH


def is_extended():
    """Return whether the library in use is rkllm_ext's own, with the functions of rkllm_ext.h."""
    return <void*>ext_version != NULL


def version():
    """Return the library's version, "MAJOR.MINOR.PATCH"."""
    need(<void*>ext_version, "version()")
    return text_of(ext_version())


def formats():
    """Return the weight formats, in the library's order, as a list of `Format`."""
    cdef RKLLMExtFormat row
    cdef int index = 0
    need(<void*>ext_format, "the list of weight formats")
    rows = []
    while ext_format(index, &row) == 0:
        rows.append(Format(text_of(row.name), row.bits, row.group, row.scale_bits, row.activation_bits,
                           row.offered != 0))
        index += 1
    return rows


def spec_fields():
    """Return the fields of a model's spec as a list of `SpecField`; a default of None means required."""
    cdef RKLLMExtSpecField row
    cdef int index = 0
    need(<void*>ext_spec_field, "spec_fields()")
    rows = []
    while ext_spec_field(index, &row) == 0:
        rows.append(SpecField(text_of(row.type), text_of(row.name),
                              None if row.default_value == NULL else text_of(row.default_value),
                              text_of(row.meaning)))
        index += 1
    return rows


def isas():
    """Return the names of the instruction sets that this CPU runs, weakest first."""
    cdef const char* name
    need(<void*>ext_isa, "isas()")
    names = []
    while True:
        name = ext_isa(len(names))
        if name == NULL:
            return names
        names.append(text_of(name))


def active_isa():
    """Return the name of the instruction set in use.

    Raises
    ------
    InvalidArgumentError
        RKLLM_EXT_ISA names one that does not exist or that this CPU lacks.
    """
    need(<void*>ext_active_isa, "active_isa()")
    cdef const char* name = ext_active_isa()
    if name == NULL:
        raise InvalidArgumentError(
            f"RKLLM_EXT_ISA={os.environ.get('RKLLM_EXT_ISA', '')} is not among those of this CPU: {', '.join(isas())}")
    return text_of(name)


def limits(n_threads=0):
    """Measure what this machine can do at most a second: 10^9 (bytes read, 8-bit operations, float operations).

    n_threads 0: the library's default. Takes about a quarter of a second.
    """
    need(<void*>ext_limits, "limits()")
    cdef int threads = n_threads
    cdef double read = 0, integer = 0, floating = 0
    cdef int code
    with nogil:
        code = ext_limits(threads, &read, &integer, &floating)
    check(code, NULL, "rkllm_ext_limits")
    return read, integer, floating
