"""The loop on Ray: actors, dispatch, staleness. The only package that imports Ray."""
