"""The acceptance report: what was shown, as data, Markdown, a page and a chart."""
