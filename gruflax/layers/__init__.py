"""What linen and NNX share: the fields of a GRU, states, directions, any cell over a sequence."""
