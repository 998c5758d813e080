"""Reading of image files from folders, ZIP files and LMDBs: decoding, masks, and handling of unreadable files."""
