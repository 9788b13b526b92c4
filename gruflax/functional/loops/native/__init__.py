"""The loop that is one call of a C++ kernel forward and one backward, on CPUs."""
