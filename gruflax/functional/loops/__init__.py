"""The loops: each takes a `Call` and returns its states in the caller's layout.

`choice.py` chooses one of them. The native loop is the chunked one where its kernel does not run.
"""
