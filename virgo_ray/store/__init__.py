"""The replay buffer's Lance dataset: opened, migrated, read and tidied. Writing is `store/buffer.py`."""
