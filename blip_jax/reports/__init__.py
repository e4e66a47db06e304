"""Tables, charts and HTML pages."""
