"""Mauna Loa: weekly carbon dioxide in the air, with missing weeks."""

from importlib import resources
from typing import NamedTuple

import numpy as np


class WeeklyCO2(NamedTuple):
    """A weekly series with gaps.

    Attributes:
        date: `[t]` datetime64[D], the Saturday of each week.
        ppm: `[t]` float32, CO2 in parts per million by volume; NaN where the week is missing.
        observed: `[t]` bool, False where the week is missing.
    """

    date: np.ndarray
    ppm: np.ndarray
    observed: np.ndarray


def load_mauna_loa_co2() -> WeeklyCO2:
    """Loads the weekly CO2 concentrations at Mauna Loa, Hawaii, March 1958 to December 2001.

    Returns:
        `date` `[t]`, `ppm` `[t]` and `observed` `[t]` of t = 2284 weeks, 59 of them missing. New
        arrays at each call.

    Source: Carbon Dioxide Information Analysis Center. Licence: public domain. Cite: C. D. Keeling,
    T. P. Whorf (2004), "Atmospheric CO2 Concentrations Derived from Flask Air Samples at Sites in
    the SIO Network", Carbon Dioxide Information Analysis Center.
    """
    path = resources.files("gruflax.datasets") / "mauna_loa_co2.npz"
    with path.open("rb") as file, np.load(file) as arrays:
        number, ppm = arrays["date"], arrays["ppm"]
    # Dates are stored as the integers yyyymmdd.
    months = (number // 10000 - 1970) * 12 + number // 100 % 100 - 1
    date = months.astype("datetime64[M]").astype("datetime64[D]") + (number % 100 - 1)
    return WeeklyCO2(date, ppm, ~np.isnan(ppm))
