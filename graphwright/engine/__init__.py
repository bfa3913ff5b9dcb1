"""The compiler core: patterns, rewriting, pipelines, verification, explanation."""
