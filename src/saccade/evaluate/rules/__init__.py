"""How outputs are read and scored where several benchmarks do it alike."""
