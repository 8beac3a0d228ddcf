"""NumPy reads an array's header with Python's own parser, and before Python 3.12 that is not safe in several threads.

Ranks may be threads: whoever reads a file of arrays holds this lock meanwhile. (What happens else, now and then:
"SystemError: AST constructor recursion depth mismatch".)
"""

import threading

ONE_AT_A_TIME = threading.Lock()
