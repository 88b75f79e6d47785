"""How probable a model finds texts: alone, and beside a baseline on the same tokens."""
