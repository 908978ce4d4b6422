"""What an aligner consists of: slides with images, heads and files."""
