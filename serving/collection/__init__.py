"""Data collection: what clinicians contribute by the page, and its export."""
