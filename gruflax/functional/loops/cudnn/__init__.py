"""cuDNN's GRU: its library through `ctypes`, its buffers and stream from XLA."""
