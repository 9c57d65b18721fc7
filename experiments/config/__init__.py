"""From the overrides of a command to the configs of its runs."""
