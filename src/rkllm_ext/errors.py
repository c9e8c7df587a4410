# SPDX-License-Identifier: Apache-2.0
"""The exceptions of the package.

RKLLMError
├── ModelFileError (ValueError)                    a file is missing, damaged or of the wrong kind
├── UnsupportedModelError (NotImplementedError)    a family, feature or combination that is not supported
│   └── UnsupportedByRuntimeError                  the librkllmrt.so in use lacks it; rkllm_ext's own has it
├── InvalidArgumentError (ValueError)              an argument is wrong; also a closed model
├── ContextFullError                               the prompt does not fit the context
├── BusyError                                      a run is active on this model
├── AbortedError                                   the run was aborted
└── OutOfMemoryError (MemoryError)                 memory could not be had
"""

from __future__ import annotations


class RKLLMError(Exception):
    """Anything this package reports; the message says what is wrong and what to do."""


class ModelFileError(RKLLMError, ValueError):
    """A file is missing, damaged or of the wrong kind."""


class UnsupportedModelError(RKLLMError, NotImplementedError):
    """A model family, feature or combination is not supported."""


class UnsupportedByRuntimeError(UnsupportedModelError):
    """The librkllmrt.so in use cannot do this, or has an interface that is not driven."""


class InvalidArgumentError(RKLLMError, ValueError):
    """An argument is wrong."""


class ContextFullError(RKLLMError):
    """The prompt does not fit the context."""


class BusyError(RKLLMError):
    """A run is active on this model."""


class AbortedError(RKLLMError):
    """The run was aborted."""


class OutOfMemoryError(RKLLMError, MemoryError):
    """Memory could not be had."""
