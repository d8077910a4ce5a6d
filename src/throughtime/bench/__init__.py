"""What `throughtime bench` measures, and the page that it writes."""
