"""The measured figures: each beside what one would use instead, in one run."""
