"""Model repositories for Triton Inference Server: what its configuration says, and how a model gets into one."""
