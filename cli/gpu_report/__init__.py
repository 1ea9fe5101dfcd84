"""`jitney gpu-report`: compares a model on CPU, CUDA and TensorRT."""
