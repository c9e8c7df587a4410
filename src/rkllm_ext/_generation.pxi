# SPDX-License-Identifier: Apache-2.0
# Which generation of the interface the library underneath has, found out when it is first needed, and what it can do.
from rkllm_ext import vendor

cdef const generation* driven = NULL  # once it is found out
cdef object release = None


def library_release():
    """Return the release of the vendor's library in use, a `vendor.Release`, without a judgement.

    Raises
    ------
    InvalidArgumentError
        RKLLM_EXT_VENDOR_RELEASE contradicts the library's functions.
    """
    global release
    if release is None:
        with open(library_path(), "rb") as file:
            content = file.read()
        release = vendor.identify(has_symbol, content, os.environ.get(vendor.VARIABLE, ""))
    return release


def has_symbol(name):
    """Return whether the library in use exports a function."""
    cdef bytes encoded = name_bytes(name, "name")
    return library_symbol(encoded) != NULL


cdef const generation* the_generation() except NULL:
    # The interface that the library has, or a refusal. Nothing of the library is called before.
    global driven
    cdef const generation* found = NULL
    cdef const char* missing
    if driven != NULL:
        return driven
    letter = "C" if is_extended() else library_release().generation
    if letter == "C":
        found = &generation_c
    elif letter == "F":
        found = &generation_f
    elif letter == "G":
        found = &generation_g
    else:
        raise UnsupportedByRuntimeError(vendor.refusal(library_path(), library_release()))
    missing = found.bind(library_symbol)
    if missing != NULL:
        raise UnsupportedByRuntimeError(
            f"{library_path()} lacks {text_of(missing)}, so it is damaged or no RKLLM library")
    driven = found
    return driven


cdef bint can(unsigned int ability) except -1:
    # Whether a library that is not rkllm_ext's own has an ability of its generation.
    return not is_extended() and the_generation().abilities & ability != 0


def runs_take_settings():
    """Return whether a run can have sampling settings and max_new_tokens of its own."""
    return is_extended() or can(GENERATION_RUN_SETTINGS)


def keeps_conversations():
    """Return whether the library in use puts a chat template around prompts, and keeps what was said before."""
    return can(GENERATION_CONVERSATION)


cdef int take_settings(model_settings* wanted, dict settings) except -1:
    # What only some of the vendor's generations take when a model is loaded.
    wanted.n_keep = settings.get("n_keep", -1)
    wanted.n_threads = settings.get("n_threads", 0)
    if wanted.n_keep != -1 and not can(GENERATION_N_KEEP):
        need(NULL, f"n_keep={wanted.n_keep}")
    if "n_threads" not in settings:
        return 0
    if not can(GENERATION_CPUS):
        need(NULL, f"n_threads={wanted.n_threads}")
    cores = min(os.cpu_count() or 1, 32)
    if not 0 < wanted.n_threads <= cores:
        raise InvalidArgumentError(f"n_threads is {wanted.n_threads}; this machine has {cores} cores")
    wanted.cpus = ((1 << wanted.n_threads) - 1) << (cores - wanted.n_threads)  # big cores have the highest numbers
    return 0
