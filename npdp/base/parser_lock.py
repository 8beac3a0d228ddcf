"""A lock around Python's parser, which is not safe in several threads before Python 3.12; ranks may be threads.

Whoever reads an array's header, which NumPy leaves to that parser, or compiles a file, holds this lock meanwhile. What
happens else, now and then: "SystemError: AST constructor recursion depth mismatch".
"""

import threading

ONE_AT_A_TIME = threading.Lock()
