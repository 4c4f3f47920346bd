"""Models: one file each, with its objective beside it where no other model shares that."""
