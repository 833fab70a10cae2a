"""The vocabulary of the library: data types, the ``[N, T]`` table and the base classes of everything that varies."""
