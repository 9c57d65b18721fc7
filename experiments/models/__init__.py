"""A base model without loading it: its files, its sizes, the GPU memory that it needs."""
