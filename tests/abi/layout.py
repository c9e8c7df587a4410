# SPDX-License-Identifier: Apache-2.0
"""The structs of the vendor's SDK 1.1.0 as ctypes sees them, and the offsets measured from the vendor's own header.

Written down apart from include/rkllm.h, so that a mistake in one of the two does not go unnoticed.
"""

from __future__ import annotations

import ctypes as c

# What RKLLMParam and the sampling settings of rkllm_ext.h have in common, in this order.
SAMPLING = [
    ("temperature", c.c_float),
    ("repeat_penalty", c.c_float),
    ("frequency_penalty", c.c_float),
    ("presence_penalty", c.c_float),
    ("mirostat", c.c_int32),
    ("mirostat_tau", c.c_float),
    ("mirostat_eta", c.c_float),
]


class ExtendParam(c.Structure):
    _fields_ = [("base_domain_id", c.c_int32), ("reserved", c.c_uint8 * 112)]


class Param(c.Structure):
    _fields_ = [
        ("model_path", c.c_char_p),
        ("max_context_len", c.c_int32),
        ("max_new_tokens", c.c_int32),
        ("top_k", c.c_int32),
        ("top_p", c.c_float),
        *SAMPLING,
        ("skip_special_token", c.c_bool),
        ("is_async", c.c_bool),
        ("img_start", c.c_char_p),
        ("img_end", c.c_char_p),
        ("img_content", c.c_char_p),
        ("extend_param", ExtendParam),
    ]


class LoraAdapter(c.Structure):
    _fields_ = [("lora_adapter_path", c.c_char_p), ("lora_adapter_name", c.c_char_p), ("scale", c.c_float)]


class EmbedInput(c.Structure):
    _fields_ = [("embed", c.POINTER(c.c_float)), ("n_tokens", c.c_size_t)]


class TokenInput(c.Structure):
    _fields_ = [("input_ids", c.POINTER(c.c_int32)), ("n_tokens", c.c_size_t)]


class MultiModelInput(c.Structure):
    _fields_ = [("prompt", c.c_char_p), ("image_embed", c.POINTER(c.c_float)), ("n_image_tokens", c.c_size_t)]


class InputUnion(c.Union):
    _fields_ = [
        ("prompt_input", c.c_char_p),
        ("embed_input", EmbedInput),
        ("token_input", TokenInput),
        ("multimodal_input", MultiModelInput),
    ]


class Input(c.Structure):
    _anonymous_ = ("union",)
    _fields_ = [("input_type", c.c_int), ("union", InputUnion)]


class LoraParam(c.Structure):
    _fields_ = [("lora_adapter_name", c.c_char_p)]


class PromptCacheParam(c.Structure):
    _fields_ = [("save_prompt_cache", c.c_int), ("prompt_cache_path", c.c_char_p)]


class InferParam(c.Structure):
    _fields_ = [
        ("mode", c.c_int),
        ("lora_params", c.POINTER(LoraParam)),
        ("prompt_cache_params", c.POINTER(PromptCacheParam)),
    ]


class LastHiddenLayer(c.Structure):
    _fields_ = [("hidden_states", c.POINTER(c.c_float)), ("embd_size", c.c_int), ("num_tokens", c.c_int)]


class Result(c.Structure):
    _fields_ = [("text", c.c_char_p), ("token_id", c.c_int32), ("last_hidden_layer", LastHiddenLayer)]


# C name -> (ctypes class, size, {field: offset}) of generation C, releases 1.1.0 - 1.1.4.
LAYOUT: dict[str, tuple[type[c.Structure], int, dict[str, int]]] = {
    "RKLLMExtendParam": (ExtendParam, 116, {"base_domain_id": 0, "reserved": 4}),
    "RKLLMParam": (
        Param,
        200,
        {
            "model_path": 0,
            "max_context_len": 8,
            "max_new_tokens": 12,
            "top_k": 16,
            "top_p": 20,
            "temperature": 24,
            "repeat_penalty": 28,
            "frequency_penalty": 32,
            "presence_penalty": 36,
            "mirostat": 40,
            "mirostat_tau": 44,
            "mirostat_eta": 48,
            "skip_special_token": 52,
            "is_async": 53,
            "img_start": 56,
            "img_end": 64,
            "img_content": 72,
            "extend_param": 80,
        },
    ),
    "RKLLMLoraAdapter": (LoraAdapter, 24, {"lora_adapter_path": 0, "lora_adapter_name": 8, "scale": 16}),
    "RKLLMEmbedInput": (EmbedInput, 16, {"embed": 0, "n_tokens": 8}),
    "RKLLMTokenInput": (TokenInput, 16, {"input_ids": 0, "n_tokens": 8}),
    "RKLLMMultiModelInput": (MultiModelInput, 24, {"prompt": 0, "image_embed": 8, "n_image_tokens": 16}),
    "RKLLMInput": (
        Input,
        32,
        {"input_type": 0, "prompt_input": 8, "embed_input": 8, "token_input": 8, "multimodal_input": 8},
    ),
    "RKLLMLoraParam": (LoraParam, 8, {"lora_adapter_name": 0}),
    "RKLLMPromptCacheParam": (PromptCacheParam, 16, {"save_prompt_cache": 0, "prompt_cache_path": 8}),
    "RKLLMInferParam": (InferParam, 24, {"mode": 0, "lora_params": 8, "prompt_cache_params": 16}),
    "RKLLMResultLastHiddenLayer": (LastHiddenLayer, 16, {"hidden_states": 0, "embd_size": 8, "num_tokens": 12}),
    "RKLLMResult": (Result, 32, {"text": 0, "token_id": 8, "last_hidden_layer": 16}),
}

VALUES = {
    "RKLLM_RUN_NORMAL": 0,
    "RKLLM_RUN_WAITING": 1,
    "RKLLM_RUN_FINISH": 2,
    "RKLLM_RUN_ERROR": 3,
    "RKLLM_RUN_GET_LAST_HIDDEN_LAYER": 4,
    "RKLLM_INPUT_PROMPT": 0,
    "RKLLM_INPUT_TOKEN": 1,
    "RKLLM_INPUT_EMBED": 2,
    "RKLLM_INPUT_MULTIMODAL": 3,
    "RKLLM_INFER_GENERATE": 0,
    "RKLLM_INFER_GET_LAST_HIDDEN_LAYER": 1,
}

FUNCTIONS = [
    "rkllm_createDefaultParam",
    "rkllm_init",
    "rkllm_load_lora",
    "rkllm_load_prompt_cache",
    "rkllm_release_prompt_cache",
    "rkllm_destroy",
    "rkllm_run",
    "rkllm_run_async",
    "rkllm_abort",
    "rkllm_is_running",
]
