"""The histories of topics: what is kept, and how clients recover the messages that they have missed."""
