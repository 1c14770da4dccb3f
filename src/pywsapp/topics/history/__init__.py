"""HistoryService of topics: what is kept, and how clients recover what they missed."""
