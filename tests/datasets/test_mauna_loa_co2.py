"""Weekly CO2 at Mauna Loa: dates, values and gaps as in the file."""

from importlib import resources

import numpy as np

from gruflax.datasets import load_mauna_loa_co2


def test_counts_and_dtypes():
    date, ppm, observed = load_mauna_loa_co2()
    assert (date.shape, date.dtype) == ((2284,), np.dtype("datetime64[D]"))
    assert (ppm.shape, ppm.dtype) == ((2284,), np.float32)
    assert (observed.shape, observed.dtype) == ((2284,), np.bool_)
    assert (~observed).sum() == 59


def test_missing_weeks_are_nan_and_others_plausible():
    _, ppm, observed = load_mauna_loa_co2()
    assert np.isnan(ppm[~observed]).all()
    assert ppm[observed].min() > 310 and ppm[observed].max() < 375
    assert observed[0] and observed[-1]


def test_dates_are_the_saturdays_without_a_gap():
    date = load_mauna_loa_co2().date
    assert (date[0], date[-1]) == (np.datetime64("1958-03-29"), np.datetime64("2001-12-29"))
    assert (np.diff(date) == np.timedelta64(7, "D")).all()
    assert {day.weekday() for day in date.tolist()} == {5}


def test_values_are_the_files():
    date, ppm, _ = load_mauna_loa_co2()
    path = resources.files("gruflax.datasets") / "mauna_loa_co2.npz"
    with path.open("rb") as file, np.load(file) as stored:
        np.testing.assert_array_equal(ppm, stored["ppm"])
        written = [int(day.strftime("%Y%m%d")) for day in date.tolist()]
        np.testing.assert_array_equal(written, stored["date"])


def test_each_call_gives_new_arrays():
    before = load_mauna_loa_co2()
    before.date[...] = np.datetime64("2000-01-01")
    before.ppm[...] = 0
    before.observed[...] = False
    date, ppm, observed = load_mauna_loa_co2()
    assert len(np.unique(date)) == 2284 and (ppm != 0).all() and observed.any()
