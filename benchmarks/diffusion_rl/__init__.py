"""What the loop shapes of ``diffusion_rl_step.py`` share, the peers' loops and the library's."""
