"""NOUNS: the records, how they become JSON, and the errors. Imports no other room."""
