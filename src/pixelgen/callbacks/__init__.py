"""Written by the integrator."""
