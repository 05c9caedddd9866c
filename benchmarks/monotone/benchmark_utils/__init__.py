"""What the quick harness and the benchopt files share."""
