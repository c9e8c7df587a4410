# SPDX-License-Identifier: Apache-2.0
# GGUF files, mapped and validated by the library.
import struct
from collections.abc import Mapping
from types import MappingProxyType

GGUFTensor = namedtuple("GGUFTensor", "name type dims data")

cdef enum:
    GGUF_BOOL = 7
    GGUF_STRING = 8
    GGUF_ARRAY = 9

# GGUF value type -> (numpy element type, struct code)
cdef dict GGUF_NUMBERS = {
    0: ("<u1", "<B"), 1: ("<i1", "<b"), 2: ("<u2", "<H"), 3: ("<i2", "<h"), 4: ("<u4", "<I"), 5: ("<i4", "<i"),
    6: ("<f4", "<f"), GGUF_BOOL: ("?", "<?"), 10: ("<u8", "<Q"), 11: ("<i8", "<q"), 12: ("<f8", "<d"),
}


cdef class Mapped:
    # Owns the mapped file. Every view into it refers to it, so that closing a GGUFFile unmaps nothing that is in use.
    cdef RKLLMExtGGUF* file

    def __dealloc__(self):
        if self.file != NULL:
            ext_gguf_close(self.file)


cdef class Region:
    # Read-only bytes of a mapping.
    cdef Mapped mapping
    cdef const void* data
    cdef Py_ssize_t size

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, <void*>self.data, self.size, 1, flags)

    def __releasebuffer__(self, Py_buffer* view):
        pass


cdef object region_view(Mapped mapping, const void* data, uint64_t size):
    if size == 0:
        return memoryview(b"")
    cdef Region region = Region()
    region.mapping = mapping
    region.data = data
    region.size = <Py_ssize_t>size
    return memoryview(region)


cdef list gguf_strings(object data, uint64_t count):
    # A 64-bit length and the bytes, count times over.
    texts = []
    cdef Py_ssize_t at = 0
    for _ in range(count):
        size = int.from_bytes(data[at:at + 8], "little")
        texts.append(str(data[at + 8:at + 8 + size], "utf-8", "surrogateescape"))
        at += 8 + size
    return texts


cdef class ValueRow:
    # One key/value of a mapped file, not converted yet.
    cdef Mapped mapping
    cdef RKLLMExtGGUFValue row

    def value(self):
        data = region_view(self.mapping, self.row.data, self.row.n_bytes)
        if self.row.element == GGUF_STRING:
            texts = gguf_strings(data, self.row.count)
            return texts if self.row.type == GGUF_ARRAY else texts[0]
        if self.row.element not in GGUF_NUMBERS:
            raise ModelFileError(f"key '{text_of(self.row.key)}' holds elements of type {self.row.element}")
        element, code = GGUF_NUMBERS[self.row.element]
        if self.row.type != GGUF_ARRAY:
            return struct.unpack_from(code, data)[0]
        import numpy

        # A copy: the bytes lie unaligned, and the array may outlive the file.
        if self.row.element == GGUF_BOOL:
            return numpy.frombuffer(data, dtype="u1", count=self.row.count) != 0
        return numpy.frombuffer(data, dtype=element, count=self.row.count).copy()


class GGUFValues(Mapping):
    """The key/values of a file. A value is converted when it is asked for: vocabularies are large."""

    def __init__(self, rows):
        self._rows = rows
        self._values = {}

    def __getitem__(self, key):
        if key not in self._values:
            self._values[key] = self._rows[key].value()
        return self._values[key]

    def __iter__(self):
        return iter(self._rows)

    def __len__(self):
        return len(self._rows)


class GGUFFile:
    """A GGUF file, memory-mapped, every count and offset checked before use. A context manager.

    Views of tensors stay valid after `close`: the file is unmapped when the last of them is gone.

    Parameters
    ----------
    path : str or os.PathLike

    Attributes
    ----------
    path : str
    values : mapping of str to int, float, bool, str, list of str or numpy array
        The key/values in file order, each converted when it is asked for. Strings that are not UTF-8 are decoded with
        surrogateescape.
    tensors : mapping of str to GGUFTensor
        (name, type, dims, data) in file order: the GGML type number, dims fastest first, data a read-only memoryview of
        bytes into the mapping.

    Raises
    ------
    ModelFileError
        The file is missing or damaged; the sentence names what is wrong.

    Examples
    --------
    >>> with GGUFFile("model.gguf") as file:
    ...     file.values["general.architecture"]
    'llama'
    """

    def __init__(self, path):
        cdef RKLLMExtGGUFValue value
        cdef RKLLMExtGGUFTensor tensor
        cdef uint64_t index = 0
        cdef Mapped mapping = open_mapping(path)
        cdef ValueRow row
        rows = {}
        while ext_gguf_value(mapping.file, index, &value) == 0:
            row = ValueRow()
            row.mapping = mapping
            row.row = value
            rows[gguf_name(value.key)] = row
            index += 1
        tensors = {}
        index = 0
        while ext_gguf_tensor(mapping.file, index, &tensor) == 0:
            name = gguf_name(tensor.name)
            dims = tuple([tensor.dims[i] for i in range(tensor.n_dims)])
            tensors[name] = GGUFTensor(name, tensor.type, dims, region_view(mapping, tensor.data, tensor.n_bytes))
            index += 1
        self.path = os.fsdecode(path)
        self.values = GGUFValues(rows)
        self.tensors = MappingProxyType(tensors)

    def close(self):
        """Let go of the file. A second call does nothing."""
        self.values = GGUFValues({})
        self.tensors = MappingProxyType({})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


cdef str gguf_name(const char* text):
    return (<bytes>text).decode("utf-8", "surrogateescape")


cdef Mapped open_mapping(object path):
    need(<void*>ext_gguf_open, "reading GGUF files")
    cdef Mapped mapping = Mapped()
    cdef bytes encoded = path_bytes(path)
    cdef const char* c_path = encoded
    cdef int code
    with nogil:
        code = ext_gguf_open(c_path, &mapping.file)
    check(code, NULL, "rkllm_ext_gguf_open")
    return mapping
