"""Two small real data sets of sequences as NumPy arrays, which are part of the package."""

from gruflax.datasets.japanese_vowels import JapaneseVowels, Utterances, load_japanese_vowels
from gruflax.datasets.mauna_loa_co2 import WeeklyCO2, load_mauna_loa_co2


__all__ = [
    "JapaneseVowels",
    "Utterances",
    "WeeklyCO2",
    "load_japanese_vowels",
    "load_mauna_loa_co2",
]
