"""The router: each request to its home cell. Identify, resolve, decide, act; it keeps no personal value."""
