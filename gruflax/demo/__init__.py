"""Trains a masked GRU to tell nine speakers apart: `python -m gruflax.demo`.

Started in several processes, on one host or many (`gruflax.hosts` says how), it trains on all of
their devices, each batch spread over them, with the numbers of one process.
"""
