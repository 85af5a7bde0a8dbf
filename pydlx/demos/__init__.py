"""Complete small training programs: ``pydlx demo NAME``."""
