"""Before Python 3.12 its own parser is not safe in several threads, and ranks may be threads.

Whoever reads an array's header, which NumPy leaves to that parser, or compiles a file, holds this lock meanwhile. What
happens else, now and then: "SystemError: AST constructor recursion depth mismatch".
"""

import threading

ONE_AT_A_TIME = threading.Lock()
