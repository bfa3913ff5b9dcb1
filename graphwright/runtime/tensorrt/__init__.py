"""TensorRT: how an engine is built, kept and run. Nothing here loads the library before it is needed."""
