"""The demo: a cast, a browser, a story and the evidence."""
