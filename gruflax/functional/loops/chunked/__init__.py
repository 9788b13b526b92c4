"""The chunked loop: products over chunks of time, and one derivative rule for every mode."""
