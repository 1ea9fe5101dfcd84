"""`jitney gpu-report`: a model measured by CPU, CUDA and TensorRT."""
