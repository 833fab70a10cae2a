"""What a run leaves for people to look at: logs, learning curves, comparisons, galleries of rollouts."""
