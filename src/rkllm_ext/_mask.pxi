# SPDX-License-Identifier: Apache-2.0
# Constraints of runs: Python says before each token which may come next.


cdef int mask_callback(const int32_t* tokens, size_t n_tokens, uint32_t* mask, size_t n_words,
                       void* userdata) noexcept with gil:
    cdef Job job = <Job>userdata
    cdef Buffer allowed
    cdef size_t given
    try:
        bits = job.constraint([tokens[i] for i in range(n_tokens)])
        if bits is None:
            return 1
        allowed = hold(bits, "the mask")
        given = min(<size_t>allowed.view.len, 4 * n_words)
        memcpy(mask, allowed.view.buf, given)
        memset(<char*>mask + given, 0, 4 * n_words - given)
        return 0
    except BaseException as error:
        job.error = error
        return -1
