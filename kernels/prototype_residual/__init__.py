"""Distance of a feature map to every prototype, and the squared residual to the nearest one."""
