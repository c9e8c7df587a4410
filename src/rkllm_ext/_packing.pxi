# SPDX-License-Identifier: Apache-2.0
# Weights in the tile layout of docs/format.md: packing, unpacking, and the engine's own product with them.
from cpython.bytearray cimport PyByteArray_AsString, PyByteArray_FromStringAndSize


cdef object format_row(object name):
    for row in formats():
        if row.name == name:
            return row
    raise InvalidArgumentError(f"format {name!r} does not exist; there are {', '.join(r.name for r in formats())}")


cdef int64_t extent(object value, str what) except -1:
    try:
        number = int(value.__index__())
    except (AttributeError, TypeError):
        raise InvalidArgumentError(f"{what} is {value!r}; an integer is needed") from None
    if not 1 <= number < 2**31:
        raise InvalidArgumentError(f"{what} is {number}; 1 ... {2**31 - 1} is possible")
    return number


def packed_size(format, rows, cols):
    """Return the bytes of a [rows, cols] matrix in a format.

    Raises
    ------
    InvalidArgumentError
        The format does not exist or cannot hold the shape.
    """
    need(<void*>ext_packed_size, "packed_size()")
    row = format_row(format)
    cdef bytes name = row.name.encode()
    cdef uint64_t size = ext_packed_size(name, extent(rows, "rows"), extent(cols, "cols"))
    if size == 0:
        raise InvalidArgumentError(
            f"format {format} cannot hold a matrix of {rows} x {cols}"
            + (f"; its group of {row.group} must divide the columns" if row.group else ""))
    return size


cdef int check_packed(Buffer packed, object format, object rows, object cols) except -1:
    expected = packed_size(format, rows, cols)
    if packed.view.len != expected:
        raise InvalidArgumentError(
            f"packed has {packed.view.len} bytes; {expected} is the size of {rows} x {cols} in {format}")
    return 0


def pack(format, codes, scales=None):
    """Pack codes and scales into the tile layout of docs/format.md.

    Parameters
    ----------
    format : str
        A weight format.
    codes : buffer, [rows, cols]
        int8 codes of a quantized format (4 bits: 0 ... 15, 8 bits: -127 ... 127), float32 values of a float format.
    scales : buffer of float32, [rows] or [rows, cols / group], optional
        Of the quantized formats only.

    Returns
    -------
    bytearray

    Raises
    ------
    InvalidArgumentError
        A shape, an element type or a code does not fit the format.
    """
    need(<void*>ext_pack, "pack()")
    row = format_row(format)
    cdef Buffer held_codes = hold_array(codes, "codes", "int8" if row.scale_bits else "float32", 2)
    cdef Buffer held_scales = None
    cdef int64_t rows = held_codes.view.shape[0]
    cdef int64_t cols = held_codes.view.shape[1]
    cdef const float* scale_data = NULL
    cdef uint64_t size = packed_size(format, rows, cols)
    if row.scale_bits:
        if scales is None:
            raise InvalidArgumentError(
                f"format {format} has scales; pass one per row{' and group' if row.group else ''}")
        per_row = -(-cols // row.group) if row.group else 1
        held_scales = hold(scales, "scales")
        check_array(held_scales, "scales", "float32", held_scales.view.ndim)
        if held_scales.view.len != 4 * rows * per_row:
            raise InvalidArgumentError(
                f"{held_scales.view.len // 4} scales for {rows} rows of {per_row}; {rows * per_row} are needed")
        scale_data = <const float*>held_scales.view.buf
    elif scales is not None:
        raise InvalidArgumentError(f"format {format} has no scales; pass None")
    packed = PyByteArray_FromStringAndSize(NULL, size)
    cdef char* out = PyByteArray_AsString(packed)
    cdef bytes name = row.name.encode()
    cdef const char* c_name = name
    cdef const void* code_data = held_codes.view.buf
    cdef int code
    with nogil:
        code = ext_pack(c_name, rows, cols, code_data, scale_data, out, size)
    check(code, NULL, "rkllm_ext_pack")
    return packed


cdef dict NUMBER_TYPES = {"f": "f32", "e": "f16", "H": "bf16"}


def quantize(format, weights, n_threads=0):
    """Quantize a matrix by rounding to the nearest, and pack it as `pack` does. Float formats are only packed.

    Parameters
    ----------
    format : str
        A weight format; its group divides the columns.
    weights : buffer, [rows, cols]
        float32 or float16 numbers, or bfloat16 ones as uint16.
    n_threads : int
        0: the library's default. The bytes do not depend on it.

    Returns
    -------
    bytearray

    Raises
    ------
    ModelFileError
        A number is not finite, or beyond what fp16 holds; the row is given.
    InvalidArgumentError
        A shape or an element type does not fit.
    """
    need(<void*>ext_quantize, "quantize()")
    cdef Buffer held = hold(weights, "weights")
    element = "" if held.view.format == NULL else (<bytes>held.view.format).decode("latin-1").lstrip("@=<")
    if held.view.ndim != 2 or element not in NUMBER_TYPES:
        raise InvalidArgumentError(
            f"weights have {held.view.ndim} dimensions of elements '{element}'; "
            "2 of float32, float16 or uint16 are needed")
    cdef int64_t rows = held.view.shape[0]
    cdef int64_t cols = held.view.shape[1]
    cdef uint64_t size = packed_size(format, rows, cols)
    packed = PyByteArray_FromStringAndSize(NULL, size)
    cdef char* out = PyByteArray_AsString(packed)
    cdef bytes name = format.encode()
    cdef const char* c_name = name
    cdef bytes type = NUMBER_TYPES[element].encode()
    cdef const char* c_type = type
    cdef int threads = n_threads
    cdef int code
    with nogil:
        code = ext_quantize(c_name, rows, cols, c_type, held.view.buf, held.view.len, threads, out, size)
    check(code, NULL, "rkllm_ext_quantize")
    return packed


def unpack(format, rows, cols, packed):
    """Return the weights of packed bytes as float32 [rows, cols].

    Raises
    ------
    InvalidArgumentError
        The format does not exist, or the bytes are not of the size that the shape asks for.
    """
    need(<void*>ext_unpack, "unpack()")
    cdef Buffer held = hold(packed, "packed")
    check_packed(held, format, rows, cols)
    cdef int64_t n_rows = rows
    cdef int64_t n_cols = cols
    array = new_array((n_rows, n_cols), "float32")
    cdef Buffer out = writable(array)
    cdef bytes name = format.encode()
    cdef const char* c_name = name
    cdef int code
    with nogil:
        code = ext_unpack(c_name, n_rows, n_cols, held.view.buf, held.view.len, <float*>out.view.buf)
    check(code, NULL, "rkllm_ext_unpack")
    return array


def matmul(format, rows, cols, packed, x, n_threads=0):
    """Return x w^T as float32 [n, rows], computed by the engine's kernels.

    Parameters
    ----------
    format, rows, cols, packed
        The matrix w, as for `unpack`.
    x : buffer of float32, [n, cols]
    n_threads : int
        0: the library's default.

    Raises
    ------
    InvalidArgumentError
        A shape, size or element type does not fit.
    """
    need(<void*>ext_matmul, "matmul()")
    cdef Buffer held = hold(packed, "packed")
    cdef Buffer held_x = hold_array(x, "x", "float32", 2)
    check_packed(held, format, rows, cols)
    cdef int64_t n_rows = rows
    cdef int64_t n_cols = cols
    cdef int64_t n = held_x.view.shape[0]
    if held_x.view.shape[1] != n_cols:
        raise InvalidArgumentError(f"x has rows of {held_x.view.shape[1]}; the matrix has {n_cols} columns")
    array = new_array((n, n_rows), "float32")
    cdef Buffer out = writable(array)
    cdef bytes name = format.encode()
    cdef const char* c_name = name
    cdef int threads = n_threads
    cdef int code
    with nogil:
        code = ext_matmul(c_name, n_rows, n_cols, held.view.buf, held.view.len, <const float*>held_x.view.buf, n,
                          threads, <float*>out.view.buf)
    check(code, NULL, "rkllm_ext_matmul")
    return array


def checksum(buffer):
    """Return the 64-bit checksum of docs/format.md over the bytes of any C-contiguous buffer."""
    need(<void*>ext_checksum, "checksum()")
    cdef Buffer held = hold(buffer, "buffer")
    cdef uint64_t value
    with nogil:
        value = ext_checksum(held.view.buf, held.view.len)
    return value
