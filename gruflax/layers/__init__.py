"""What the linen and NNX layers share: fields, states, stacks, directions, the loop of a cell."""
