"""Pictures of gates, masks, training, forecasts and costs, for notebooks.

They need matplotlib (`pip install 'gruflax[notebooks]'`). The colour-blind can tell the colours
apart, and no line is told from another by its colour alone.
"""

from gruflax.plot.bars import ratios as ratios
from gruflax.plot.figure import (
    COLOURS as COLOURS,
    GREY as GREY,
    load_matplotlib as load_matplotlib,
)
from gruflax.plot.heat_maps import (
    confusion_matrix as confusion_matrix,
    gates as gates,
    mask as mask,
)
from gruflax.plot.lines import (
    costs as costs,
    forecast as forecast,
    learning_curves as learning_curves,
)


__all__ = [
    "COLOURS",
    "GREY",
    "confusion_matrix",
    "costs",
    "forecast",
    "gates",
    "learning_curves",
    "load_matplotlib",
    "mask",
    "ratios",
]
