"""The replay buffer as a Lance dataset: opened, migrated, written, read and tidied."""
