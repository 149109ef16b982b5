"""The linear path, training times and samplers."""

from pixelgen.flow.path import (
    NotFinite,
    draw_noise,
    expand,
    interpolate,
    noise_like,
    to_float,
    to_uint8,
    velocity_from_x,
    x_from_velocity,
)
from pixelgen.flow.samplers import AdamsBashforth, Euler, Heun, Sampler
from pixelgen.flow.time import LogitNormalTime, TimeSampler, shift_time

__all__ = [
    "AdamsBashforth",
    "Euler",
    "Heun",
    "LogitNormalTime",
    "NotFinite",
    "Sampler",
    "TimeSampler",
    "draw_noise",
    "expand",
    "interpolate",
    "noise_like",
    "shift_time",
    "to_float",
    "to_uint8",
    "velocity_from_x",
    "x_from_velocity",
]
