"""The loops: each takes a `Call` and returns its states in the caller's layout.

None knows another.
"""
