# SPDX-License-Identifier: Apache-2.0
"""Weight formats, the plan of a conversion, and the algorithms that find codes and scales."""
