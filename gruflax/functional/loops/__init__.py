"""The loops that run a GRU over time: each takes a `Call` and returns its outputs and last state.

`choice.py` chooses one of them. Without its kernel the native loop runs the chunked one.
"""
