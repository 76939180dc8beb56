from agl.spans import *  # noqa
