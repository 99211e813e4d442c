"""What `write_sets` is made of: rows from anywhere, sets of them, one writer for each format, and a place to write in."""
