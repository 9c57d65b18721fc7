"""What the two commands write: tables, CSV, Markdown, LaTeX, the HTML report."""
