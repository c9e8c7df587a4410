# SPDX-License-Identifier: Apache-2.0
"""hybrid_rate: a share of the layers has the neighbouring format, with groups where the others have none or without.

Asked for a format without groups, that share of the layers, those that lose most without them, gets groups; asked for
one with groups, that share, those that lose least, does without. A layer is one matrix of a block. What it loses is
measured: the error of its outputs when it is rounded to the nearest without groups, relative to their energy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..errors import InvalidArgumentError
from .calibration import Calibration
from .formats import formats
from .inputs import block_inputs
from .measure import Reference
from .quantizer import Weights

if TYPE_CHECKING:
    from .._rkllm import Format
    from ..arch.spec import ModelSpec


def neighbour(format: Format, cols: int) -> Format | None:
    """Return the format of the same bits that has groups where `format` has none, or none where it has.

    Groups are the smallest that divide `cols`. None: no group does, or the format has no neighbour.
    """
    rows = [
        row
        for row in formats().values()
        if row.offered
        and row.scale_bits
        and (row.bits, row.activation_bits) == (format.bits, format.activation_bits)
        and bool(row.group) != bool(format.group)
        and (not row.group or cols % row.group == 0)
    ]
    return min(rows, key=lambda row: row.group, default=None)


def losses(
    spec: ModelSpec,
    planned: Mapping[str, Format | None],
    source: Callable[[str], Weights],
    calibration: Calibration,
) -> dict[str, float]:
    """Return what each matrix of the blocks that has a neighbour loses without groups.

    Reads each matrix once; peak memory is one matrix and the statistics of a few blocks.
    """
    found = {}
    for layer in range(spec.size("n_layers")):
        for each in block_inputs(spec, planned, layer):
            for name in each.readers:
                format = planned[name]
                if format is None or not format.scale_bits:
                    continue
                weights = source(name).floats()
                other = neighbour(format, weights.shape[1])
                if other is None:
                    continue
                plain = other if format.group else format
                held = calibration.block(layer)[each.name].held
                found[name] = Reference(weights, held).error_of_nearest(plain, weights, held)
    return found


def mixed(
    planned: Mapping[str, Format | None], shapes: Mapping[str, tuple[int, ...]], loss: Mapping[str, float], rate: float
) -> dict[str, Format | None]:
    """Return the plan with a share of its layers in their neighbouring format.

    Parameters
    ----------
    planned
        Tensor name -> format.
    shapes
        Tensor name -> shape.
    loss
        Of each matrix that may change, see `losses`. Of equal ones the first in the model changes first.
    rate
        The share, of all that may change, from 0 to below 1; rounded to whole layers.

    Raises
    ------
    InvalidArgumentError
        No layer has a neighbouring format.
    """
    if not rate:
        return dict(planned)
    if not loss:
        raise InvalidArgumentError(
            f"hybrid_rate is {rate}, but no layer can change its format: the model is not quantized, or no group "
            "divides the input columns of its layers; use hybrid_rate 0"
        )
    out = dict(planned)
    grouped = any(format is not None and format.group for name, format in planned.items() if name in loss)
    ordered = sorted(loss, key=lambda name: loss[name] if grouped else -loss[name])
    for name in ordered[: round(rate * len(ordered))]:
        format = planned[name]
        out[name] = None if format is None else neighbour(format, shapes[name][1])
    return out
