"""Published benchmarks, one file each: the layout of their files and their own rule of scoring."""
