"""How a request's next token is picked from its logits."""
