"""What is drawn: the main figure of an ablation and those beside it."""
