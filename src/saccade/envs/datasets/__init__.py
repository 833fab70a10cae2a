"""Task sets: seeded generators and users' own files."""
