"""The report on a run: a JSON document, and its tables and pages in HTML, Markdown and on the terminal."""
