"""The contestants: gruflax' loops, the libraries that are installed, and the limit."""

from gruflax.bench.peers.floor import FLOOR_PEER as FLOOR_PEER
from gruflax.bench.peers.in_jax import JAX_PEERS as JAX_PEERS
from gruflax.bench.peers.loops import (
    LOOP_PEERS as LOOP_PEERS,
    SUBJECT as SUBJECT,
    chunk_peer as chunk_peer,
)
from gruflax.bench.peers.outside_jax import OTHER_PEERS as OTHER_PEERS
from gruflax.bench.peers.peer import Peer as Peer, Program as Program
from gruflax.bench.peers.steps import STEP_PEERS as STEP_PEERS


LIBRARIES = {peer.name: peer for peer in (*JAX_PEERS, *OTHER_PEERS)}

__all__ = [
    "FLOOR_PEER",
    "JAX_PEERS",
    "LIBRARIES",
    "LOOP_PEERS",
    "OTHER_PEERS",
    "STEP_PEERS",
    "SUBJECT",
    "Peer",
    "Program",
    "chunk_peer",
]
