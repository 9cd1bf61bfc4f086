"""Running notebooks: one, a sweep, all of them, and publishing them."""
