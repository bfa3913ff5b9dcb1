"""What ``optimize`` does, step by step: settings, pipeline, run, comparison with the source, artifact."""
