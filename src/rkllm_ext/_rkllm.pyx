# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, binding=True, embedsignature=False
"""The binding: Python on top of include/rkllm.h and include/rkllm_ext.h, and on nothing else of the library.

Each part has one noun: the library and its errors, its generation, buffers, packing, GGUF files, tokenizers, a run's
input, a loaded model, its runs, the handle that has both, a session, a stream of pieces. numpy is imported only where
an array is returned; inputs are any object with the buffer protocol.
"""

from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

import os
from collections import namedtuple

from rkllm_ext import errors
from rkllm_ext.errors import (
    AbortedError,
    BusyError,
    InvalidArgumentError,
    ModelFileError,
    OutOfMemoryError,
    RKLLMError,
    UnsupportedByRuntimeError,
)

include "_library.pxi"
include "_generation.pxi"
include "_buffer.pxi"
include "_packing.pxi"
include "_gguf.pxi"
include "_tokenizer.pxi"
include "_multimodal.pxi"
include "_job.pxi"
include "_mask.pxi"
include "_tap.pxi"
include "_session.pxi"
include "_decoding.pxi"
include "_model.pxi"
include "_runner.pxi"
include "_handle.pxi"
include "_stream.pxi"
