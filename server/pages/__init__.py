"""Web pages over the REST API."""
