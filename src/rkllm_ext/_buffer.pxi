# SPDX-License-Identifier: Apache-2.0
# Buffers in and arrays out. PyObject_GetBuffer rather than typed memoryviews: the sentence can say what was got, the
# object can hold the buffer as long as the library reads it, and the stable ABI has it.
from cpython.buffer cimport (
    PyBUF_FORMAT,
    PyBUF_STRIDES,
    PyBUF_WRITABLE,
    PyBuffer_FillInfo,
    PyBuffer_IsContiguous,
    PyBuffer_Release,
    PyObject_GetBuffer,
)

# What a caller may call an element: the struct codes that mean it on this machine, and its size in bytes.
cdef dict ELEMENTS = {"int8": ("b", 1), "int32": ("il", 4), "float32": ("f", 4)}


cdef class Buffer:
    # A held C-contiguous buffer; released with the object.
    cdef Py_buffer view
    cdef bint held

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)


cdef Buffer hold(object given, str what):
    # Hold any buffer, of whatever elements.
    cdef Buffer buffer = Buffer()
    try:
        PyObject_GetBuffer(given, &buffer.view, PyBUF_FORMAT | PyBUF_STRIDES)
    except (TypeError, BufferError, ValueError):
        raise InvalidArgumentError(f"{what} is a {type(given).__name__}, which is no array") from None
    buffer.held = True
    if not PyBuffer_IsContiguous(&buffer.view, b"C"):
        raise InvalidArgumentError(f"{what} is not C-contiguous; pass numpy.ascontiguousarray(...)")
    return buffer


cdef int check_array(Buffer buffer, str what, str element, int ndim) except -1:
    # Refuse a buffer that is not an array of the given element type and number of dimensions, or that is empty.
    codes, size = ELEMENTS[element]
    format = "B" if buffer.view.format == NULL else (<bytes>buffer.view.format).decode("latin-1")
    native = format[1:] if format[:1] in ("@", "=", "<") else format
    if len(native) != 1 or native not in codes or buffer.view.itemsize != size:
        raise InvalidArgumentError(
            f"{what} has elements '{format}' of {buffer.view.itemsize} bytes; {element} is needed")
    if buffer.view.ndim != ndim:
        raise InvalidArgumentError(f"{what} has {buffer.view.ndim} dimensions; {ndim} is needed")
    if buffer.view.len == 0:
        raise InvalidArgumentError(f"{what} is empty, of shape {shape_of(buffer)}; at least one row is needed")
    return 0


cdef Buffer hold_array(object given, str what, str element, int ndim):
    # Hold a non-empty array of the given element type and number of dimensions.
    cdef Buffer buffer = hold(given, what)
    check_array(buffer, what, element, ndim)
    return buffer


cdef tuple shape_of(Buffer buffer):
    return tuple([buffer.view.shape[i] for i in range(buffer.view.ndim)])


cdef Buffer writable(object array):
    # Hold the memory of an array made by new_array, to be filled by the library.
    cdef Buffer buffer = Buffer()
    PyObject_GetBuffer(array, &buffer.view, PyBUF_WRITABLE)
    buffer.held = True
    return buffer


cdef object new_array(tuple shape, str element):
    # An array that the library fills; where there is no numpy (Android), a memoryview of the same shape and elements.
    try:
        import numpy
    except ImportError:
        codes, size = ELEMENTS[element]
        count = 1
        for extent in shape:
            count *= extent
        return memoryview(bytearray(size * count)).cast(codes[0], shape)
    return numpy.empty(shape, dtype=element)


cdef object ids_array(const int32_t* ids, size_t count):
    # int32 ids as a numpy array; as array.array where there is no numpy (Android).
    cdef Buffer out
    try:
        import numpy

        array = numpy.empty(count, dtype="int32")
    except ImportError:
        from array import array as plain

        array = plain("i", bytes(4 * count))
    if count:
        out = writable(array)
        memcpy(out.view.buf, ids, count * sizeof(int32_t))
    return array
