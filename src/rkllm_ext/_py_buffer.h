/* SPDX-License-Identifier: Apache-2.0
 *
 * Py_buffer for a stable ABI older than 3.11, whose headers hide it: the struct and these functions have been the same
 * since Python 3.3 (PEP 3118), and types are given their buffer functions by slot since 3.9. So one module serves 3.9
 * and everything after it, which a test loads on each version at hand. */
#ifndef RKLLM_EXT_PY_BUFFER_H
#define RKLLM_EXT_PY_BUFFER_H

#include <Python.h>

#if defined(Py_LIMITED_API) && Py_LIMITED_API + 0 < 0x030B0000

typedef struct {
  void* buf;
  PyObject* obj;
  Py_ssize_t len;
  Py_ssize_t itemsize;
  int readonly;
  int ndim;
  char* format;
  Py_ssize_t* shape;
  Py_ssize_t* strides;
  Py_ssize_t* suboffsets;
  void* internal;
} Py_buffer;

PyAPI_FUNC(int) PyObject_GetBuffer(PyObject* object, Py_buffer* view, int flags);
PyAPI_FUNC(void) PyBuffer_Release(Py_buffer* view);
PyAPI_FUNC(int) PyBuffer_FillInfo(Py_buffer* view, PyObject* owner, void* data, Py_ssize_t size, int readonly,
                                  int flags);
PyAPI_FUNC(int) PyBuffer_IsContiguous(const Py_buffer* view, char order);

#define PyBUF_WRITABLE 0x0001
#define PyBUF_FORMAT 0x0004
#define PyBUF_ND 0x0008
#define PyBUF_STRIDES (0x0010 | PyBUF_ND)

#define Py_bf_getbuffer 1
#define Py_bf_releasebuffer 2

#endif

#endif /* RKLLM_EXT_PY_BUFFER_H */
