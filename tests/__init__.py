"""The tests, and the browser that walks the slides: `python -m tests.browser`."""
