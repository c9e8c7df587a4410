# SPDX-License-Identifier: Apache-2.0
"""Putting a model on a board and serving it there: what ``rkllm-ext deploy`` does.

`reach` gets commands and bytes to a board by the system's ssh or adb, `survey` is what a board says of itself, `files`
pushes models, `wheels` and `environment` put this package there, `service` keeps the server running, and `pipeline` is
the whole in its order.
"""

from .pipeline import Order, deploy
from .reach import Adb, Board, Reach, Ssh

__all__ = ["Adb", "Board", "Order", "Reach", "Ssh", "deploy"]
