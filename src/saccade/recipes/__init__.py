"""Every method as one file: a function that returns a ``Recipe``, and the ablation that proves its mechanism."""
