"""The cuDNN loop: calls its library through `ctypes`, with buffers and a stream from XLA."""
