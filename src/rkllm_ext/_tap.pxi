# SPDX-License-Identifier: Apache-2.0
# Watching the inputs of linear layers while the library computes: for calibration.


cdef class Watcher:
    cdef object wanted    # names of weights
    cdef object function
    cdef object error     # of the function; the library cannot pass it on


cdef void on_tap(const char* name, const float* x, int64_t rows, int64_t cols, int64_t stride,
                 void* userdata) noexcept with gil:
    cdef Watcher watcher = <Watcher>userdata
    cdef Buffer out
    cdef int64_t row
    if watcher.error is not None:
        return
    try:
        text = text_of(name)
        if text not in watcher.wanted:
            return
        array = new_array((rows, cols), "float32")
        out = writable(array)
        for row in range(rows):
            memcpy(<float*>out.view.buf + row * cols, x + row * stride, cols * sizeof(float))
        watcher.function(text, array)
    except BaseException as error:
        watcher.error = error
