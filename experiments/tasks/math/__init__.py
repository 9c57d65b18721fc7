"""GSM8K and MATH from a local copy, scored with math-verify."""
