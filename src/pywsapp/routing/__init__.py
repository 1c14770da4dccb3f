"""Routes: which component, page or folder is on which path."""
