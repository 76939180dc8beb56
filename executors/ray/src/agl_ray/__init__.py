"""The executor `ray` for AGL: agents run on the machines of a Ray cluster."""

from agl_ray.executor import RayExecutor

__all__ = ["RayExecutor"]
