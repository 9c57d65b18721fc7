"""Starting an attempt's processes fast, and leaving none of them behind."""
