"""Whether an answer has the form that was asked for; no other text is needed, and nothing in it is ever executed."""
