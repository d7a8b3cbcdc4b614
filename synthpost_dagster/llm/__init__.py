"""Teachers: models that write synthetic rows, found by the name of their backend."""
