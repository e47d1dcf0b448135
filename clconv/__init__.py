"""clconv: trains and runs convolutional networks on any OpenCL device, inside the memory you have."""
