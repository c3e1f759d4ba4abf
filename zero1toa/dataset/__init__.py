"""Refined clips with cameras, expressions and landmarks as webdataset shards: writing them, and reading them back."""
