from agl.transitions import *  # noqa
from agl.transitions import Row, Transition, rows_of  # noqa
