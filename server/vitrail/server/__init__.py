"""The coordinator: embeds, plans, fans out, merges, writes records to the store, serves the log."""
