"""Forward passes on the IR of a model, beside generation: readings, trees of texts, and what is read along them."""
