"""Reading image files: folders, ZIP, LMDB, decoding, masks, and checks of unreadable files."""
