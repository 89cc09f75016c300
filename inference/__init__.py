"""A conversation with a model: session, terminal, many questions."""
