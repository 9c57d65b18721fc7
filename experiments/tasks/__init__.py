"""Tasks: where the problems of an experiment come from and how an answer is scored."""
