# SPDX-License-Identifier: Apache-2.0
"""``python -m rkllm_ext``: the command line, where its program is not on the path."""

from .cli import main

if __name__ == "__main__":
    main()
