"""Scripts of the repository; none is part of the package."""
