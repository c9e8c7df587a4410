# SPDX-License-Identifier: Apache-2.0
"""The place where scripts written for the vendor's toolkit find its class: ``from rkllm_ext.api import RKLLM``."""

from __future__ import annotations

from .toolkit import RKLLM

__all__ = ["RKLLM"]
